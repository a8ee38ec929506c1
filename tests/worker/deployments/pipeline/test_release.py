"""A release directory is complete or absent, and `current` is never missing during a switch."""

import os
import threading
import uuid
from pathlib import Path

import anyio
import pytest

from tests.worker.deployments.pipeline.support import commit, git, is_gone, make_repository
from worker.deployments.pipeline.errors import ReleaseError, RepositoryError, UnknownCommit
from worker.deployments.pipeline.release import (
    current_release,
    export,
    prune,
    release_path,
    switch_to,
)
from worker.deployments.pipeline.repository import resolve_sha, without_password, write_tree


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "site")


async def exported(repository: Path | str, sha: str, releases: Path) -> Path:
    release = release_path(releases, "staging", sha, uuid.uuid4())
    await export(str(repository), sha, release, releases)
    return release


async def test_a_branch_a_tag_and_a_short_sha_become_the_full_sha(
    repository: Path, tmp_path: Path
) -> None:
    sha = commit(repository, {"a": "1"})
    git(repository, "tag", "--annotate", "--message=v1", "v1")
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), str(bare))
    for place in (str(repository), str(bare), f"file://{bare}"):
        for name in ("main", "v1", sha[:10], sha):
            assert await resolve_sha(place, name, tmp_path / "releases") == sha


async def test_an_unknown_commit_is_told_from_a_bad_name(repository: Path, tmp_path: Path) -> None:
    commit(repository, {"a": "1"})
    with pytest.raises(UnknownCommit, match="'f{40}' of .*/site: .*no such commit.*push it"):
        await resolve_sha(str(repository), "f" * 40, tmp_path)
    for name in ("--help", "-h"):
        with pytest.raises(UnknownCommit, match="begins with '-'"):
            await resolve_sha(str(repository), name, tmp_path)
    for name in ("", "a b", "HEAD:a", "a\x00b", "a\nb"):
        with pytest.raises(UnknownCommit, match="not the name of a commit"):
            await resolve_sha(str(repository), name, tmp_path)


async def test_a_machine_without_git_is_told_so(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RepositoryError, match="git cannot be run: cannot start 'git'"):
        await resolve_sha(str(repository), "main", tmp_path)


async def test_a_tree_is_no_commit(repository: Path, tmp_path: Path) -> None:
    commit(repository, {"a": "1"})
    tree = git(repository, "rev-parse", "HEAD^{tree}")
    with pytest.raises(UnknownCommit):
        await resolve_sha(str(repository), tree, tmp_path)


async def test_a_place_without_a_repository_is_named_and_none_is_searched_above(
    repository: Path, tmp_path: Path
) -> None:
    commit(repository, {"inner/a": "1"})
    with pytest.raises(RepositoryError, match=r"inner: it is not a git repository \(correct"):
        await resolve_sha(str(repository / "inner"), "main", tmp_path)
    with pytest.raises(RepositoryError, match="gone: the directory does not exist"):
        await resolve_sha(str(tmp_path / "gone"), "main", tmp_path)
    with pytest.raises(RepositoryError, match="cannot be fetched"):
        await resolve_sha(f"file://{tmp_path}/gone", "main", tmp_path)


async def test_a_url_is_fetched_again_only_for_what_is_not_in_its_mirror(
    repository: Path, tmp_path: Path
) -> None:
    first = commit(repository, {"a": "1"})
    url = f"file://{repository}"
    assert await resolve_sha(url, "main", tmp_path / "releases") == first
    second = commit(repository, {"a": "2"})
    assert await resolve_sha(url, "main", tmp_path / "releases") == second
    os.rename(repository, tmp_path / "away")
    assert await resolve_sha(url, second, tmp_path / "releases") == second
    release = await exported(url, second, tmp_path / "releases")
    assert (release / "a").read_text() == "2"


async def test_a_lock_left_by_a_killed_git_does_not_stop_the_mirror(
    repository: Path, tmp_path: Path
) -> None:
    commit(repository, {"a": "1"})
    url = f"file://{repository}"
    await resolve_sha(url, "main", tmp_path / "releases")
    (mirror,) = (tmp_path / "releases" / ".mirrors").glob("*.git")
    (mirror / "refs" / "heads" / "main.lock").touch()
    sha = commit(repository, {"a": "2"})
    assert await resolve_sha(url, "main", tmp_path / "releases") == sha


async def test_git_is_told_of_its_own_configuration_in_the_environment(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = commit(repository, {"a": "1"})
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{repository}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://git.example.org/site.git")
    assert await resolve_sha("https://git.example.org/site.git", "main", tmp_path / "r") == sha


async def test_a_fetch_takes_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_SSH_COMMAND", f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600'")
    with pytest.raises(RepositoryError, match=r"ssh://host/a.git: it cannot be fetched: timed out"):
        await resolve_sha("ssh://me@host/a.git", "main", tmp_path / "r", timeout_seconds=0.5)
    assert is_gone(int(await anyio.Path(tmp_path / "pid").read_text()))


async def test_what_git_says_of_credentials_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "fatal: https://me:hunter2hunter2@host/a.git refused ghp_0123456789abcdefghij"
    monkeypatch.setenv("GIT_SSH_COMMAND", f"sh -c 'echo {said} >&2; exit 1'")
    with pytest.raises(RepositoryError) as refused:
        await resolve_sha("ssh://host/a.git", "main", tmp_path / "r")
    assert "refused •••" in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_a_submodule_is_not_fetched_but_refused(repository: Path, tmp_path: Path) -> None:
    commit(repository, {"a": "1"})
    modules = f'[submodule "sub"]\n  path = sub\n  url = {tmp_path}/nowhere\n'
    (repository / ".gitmodules").write_text(modules)
    git(repository, "add", ".gitmodules")
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    git(repository, "commit", "--quiet", "--message=sub")
    sha = git(repository, "rev-parse", "HEAD")
    with pytest.raises(RepositoryError, match="submodules.*: sub .commit their files"):
        await exported(f"file://{repository}", sha, tmp_path / "releases")


def test_a_password_in_a_url_is_not_shown() -> None:
    assert without_password("https://me:secret@host:1/a.git") == "https://host:1/a.git"
    assert without_password("/srv/a@b") == "/srv/a@b"


async def test_a_release_is_the_commit_with_modes_links_and_export_ignored_files(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "link").symlink_to("dir/run")
    sha = commit(
        repository,
        {
            "dir/run": "#!/bin/sh\n",
            "plain": "x\n",
            "tests/t": "needed\n",
            "ünï\ncode": "y",
            ".gitattributes": "tests export-ignore\nplain export-subst\n",
        },
    )
    (repository / "plain").write_text("not committed")
    release = await exported(repository, sha, tmp_path / "releases")
    assert release.name.startswith(sha[:12] + "-")
    assert os.access(release / "dir" / "run", os.X_OK)
    assert not os.access(release / "plain", os.X_OK)
    assert (release / "plain").read_text() == "x\n"
    assert (release / "link").readlink() == Path("dir/run")
    assert (release / "tests" / "t").exists()
    assert (release / "ünï\ncode").exists()
    assert not (release / ".git").exists()
    assert [entry.name for entry in release.parent.iterdir()] == [release.name]


async def test_exporting_again_changes_nothing(repository: Path, tmp_path: Path) -> None:
    sha = commit(repository, {"a": "1"})
    release = await exported(repository, sha, tmp_path / "releases")
    (release / "built").touch()
    await export(str(repository), sha, release, tmp_path / "releases")
    assert (release / "built").exists()


async def test_what_an_interrupted_export_left_is_replaced(
    repository: Path, tmp_path: Path
) -> None:
    sha = commit(repository, {"a": "1"})
    release = release_path(tmp_path, "staging", sha, uuid.uuid4())
    leftover = release.with_name(f".export-{release.name}")
    leftover.mkdir(parents=True)
    (leftover / "half").touch()
    await export(str(repository), sha, release, tmp_path)
    assert [entry.name for entry in release.iterdir()] == ["a"]
    assert not leftover.exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "dir/../../x"])
async def test_a_symlink_that_leads_out_is_refused_and_no_release_is_made(
    repository: Path, tmp_path: Path, target: str
) -> None:
    (repository / "bad").symlink_to(target)
    sha = commit(repository, {"dir/a": "1"})
    with pytest.raises(ReleaseError, match="bad: this symlink of the commit leaves"):
        await exported(repository, sha, tmp_path / "releases")
    names = [entry.name for entry in (tmp_path / "releases" / "staging").iterdir()]
    assert all(name.startswith(".export-") for name in names)


async def test_a_tree_that_climbs_out_writes_nothing(repository: Path, tmp_path: Path) -> None:
    commit(repository, {"a": "1"})
    blob = git(repository, "hash-object", "-w", "--stdin", stdin=b"evil")
    entry = b"100644 evil\x00" + bytes.fromhex(blob)
    inner = git(
        repository, "hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=entry
    )
    climb = b"40000 ..\x00" + bytes.fromhex(inner)
    tree = git(repository, "hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=climb)
    sha = git(repository, "commit-tree", tree, "-m", "bad")
    into = tmp_path / "deep" / "into"
    with pytest.raises(RepositoryError, match="git read-tree failed"):
        await write_tree(str(repository), sha, into, tmp_path / "releases")
    assert "evil" not in {name for _, _, files in os.walk(tmp_path) for name in files}


def make_release(environment_dir: Path, name: str, age: int) -> Path:
    release = environment_dir / name
    release.mkdir(parents=True)
    (release / "name").write_text(name)
    os.utime(release, (1_000_000 - age, 1_000_000 - age))
    return release


def test_switching_replaces_the_symlink(tmp_path: Path) -> None:
    one, two = make_release(tmp_path, "1", 0), make_release(tmp_path, "2", 0)
    assert current_release(tmp_path) is None
    switch_to(one, tmp_path)
    assert current_release(tmp_path) == one
    switch_to(two, tmp_path)
    assert current_release(tmp_path) == two
    assert (tmp_path / "current").readlink() == Path("2")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["1", "2", "current"]


def test_a_reader_never_sees_current_missing_while_it_is_switched(tmp_path: Path) -> None:
    releases = [make_release(tmp_path, name, 0) for name in ("1", "2")]
    switch_to(releases[0], tmp_path)
    seen: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                seen.append((tmp_path / "current" / "name").read_text())
            except OSError as error:
                seen.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    for round_number in range(300):
        switch_to(releases[round_number % 2], tmp_path)
    stop.set()
    reader.join()
    assert len(seen) > 100
    assert set(seen) == {"1", "2"}


def test_switching_to_what_is_not_there_or_over_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="the release does not exist"):
        switch_to(tmp_path / "gone", tmp_path)
    assert current_release(tmp_path) is None
    release = make_release(tmp_path, "1", 0)
    (tmp_path / "current").mkdir()
    with pytest.raises(ReleaseError, match=r"current: it is not a symlink \(move it away"):
        switch_to(release, tmp_path)


async def test_pruning_keeps_the_newest_the_live_and_the_protected(tmp_path: Path) -> None:
    names = [f"{number:012x}-{number:012x}" for number in range(6)]
    releases = [make_release(tmp_path, name, age=number) for number, name in enumerate(names)]
    (releases[3] / "locked").mkdir(mode=0o500)
    os.utime(releases[3], (1_000_000 - 3, 1_000_000 - 3))
    make_release(tmp_path, "not-a-release", age=99)
    make_release(tmp_path, f".export-{names[0]}", age=99)
    switch_to(releases[4], tmp_path)
    removed = await prune(tmp_path, 2, {releases[5]})
    assert sorted(removed) == sorted([releases[2], releases[3]])
    assert set(os.listdir(tmp_path)) == {
        names[0],
        names[1],
        names[4],
        names[5],
        "current",
        "not-a-release",
    }
