"""A commit that would ship incomplete, or a name of several commits, is refused with the reason."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.worker.deployments.pipeline.support import commit, git, make_repository
from worker.deployments.pipeline.errors import RepositoryError, UnknownCommit
from worker.deployments.pipeline.release import export, release_path
from worker.deployments.pipeline.repository import resolve_sha

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "site")


async def exported(repository: Path, sha: str, releases: Path) -> Path:
    release = release_path(releases, "staging", sha, uuid.uuid4())
    await export(str(repository), sha, release, releases)
    return release


async def test_a_commit_with_submodules_is_refused_with_their_paths(
    repository: Path, tmp_path: Path
) -> None:
    inner = commit(repository, {"a": "1"})
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{inner},vendor/lib")
    git(repository, "commit", "--quiet", "--message=submodule")
    sha = git(repository, "rev-parse", "HEAD")
    with pytest.raises(RepositoryError, match="submodules.*vendor/lib"):
        await exported(repository, sha, tmp_path / "releases")
    assert not list((tmp_path / "releases" / "staging").glob("[0-9a-f]*"))


async def test_a_commit_whose_lfs_files_are_only_pointers_is_refused(
    repository: Path, tmp_path: Path
) -> None:
    sha = commit(
        repository, {".gitattributes": "*.bin filter=lfs\n", "data/model.bin": POINTER, "b": "2"}
    )
    with pytest.raises(RepositoryError, match=r"Git LFS.*data/model\.bin.*git lfs install"):
        await exported(repository, sha, tmp_path / "releases")


async def test_a_file_that_only_looks_like_a_pointer_is_shipped(
    repository: Path, tmp_path: Path
) -> None:
    sha = commit(repository, {"tests/pointer.txt": POINTER})
    release = await exported(repository, sha, tmp_path / "releases")
    assert (release / "tests" / "pointer.txt").read_text() == POINTER


async def test_a_branch_and_a_tag_of_one_name_are_refused_unless_they_are_one_commit(
    repository: Path, tmp_path: Path
) -> None:
    first = commit(repository, {"a": "1"})
    git(repository, "tag", "v1")
    git(repository, "branch", "v1")
    assert await resolve_sha(str(repository), "v1", tmp_path) == first
    second = commit(repository, {"a": "2"})
    git(repository, "branch", "--force", "v1", second)
    for place in (str(repository), f"file://{repository}"):
        with pytest.raises(UnknownCommit, match=r"refs/heads/v1.*refs/tags/v1.*full"):
            await resolve_sha(place, "v1", tmp_path / "releases")
        assert await resolve_sha(place, "refs/heads/v1", tmp_path / "releases") == second
        assert await resolve_sha(place, "refs/tags/v1", tmp_path / "releases") == first


async def test_a_branch_named_as_another_commit_begins_is_refused(
    repository: Path, tmp_path: Path
) -> None:
    first = commit(repository, {"a": "1"})
    second = commit(repository, {"a": "2"})
    git(repository, "branch", first[:8], second)
    with pytest.raises(UnknownCommit, match=f"refs/heads/{first[:8]}.*the beginning of commit"):
        await resolve_sha(str(repository), first[:8], tmp_path)
    assert await resolve_sha(str(repository), first, tmp_path) == first
