"""Resolve a commit with git, and export its files.

Stage: before a deployment is recorded (`resolve_sha`) and in its export phase (`write_tree`).
In: a repository as deploy.toml names it (a path, bare or not, or a URL), a sha or ref.
Out: a full sha; the commit's files in a directory.
Invariant: the named repository is only read. A URL is read through a bare mirror below the releases
directory, refreshed only when the commit asked for is not in it yet.

Files are exported with `checkout-index` from a temporary index, not with `git archive`, which
leaves out the files marked `export-ignore` in `.gitattributes` (often the tests).
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import anyio

from worker.deployments.pipeline.commands import (
    OUTPUT_BYTES_MAX,
    CommandResult,
    command_environment,
    run_command,
)
from worker.deployments.pipeline.errors import RepositoryAway, RepositoryError, UnknownCommit
from worker.deployments.pipeline.orphans import file_lock
from worker.masking import mask

FULL_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
SCP_LIKE = re.compile(r"[^/:]+:(?!//)")
"""`host:path`; like git, it looks for a colon before the first slash."""
ABBREVIATED_SHA = re.compile(r"[0-9a-f]{4,39}")
SUBMODULE_MODE = "160000"
IN_LFS = ": filter: lfs"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES_MAX = 1024
POINTERS_MAX = 100
PATHS_SHOWN = 3
LISTING_BYTES_MAX = 64 * 1024 * 1024
GIT_TIMEOUT_SECONDS = 60.0
# Starts no hook and no file monitor from the repository's own configuration, but its filters, which
# git-lfs needs; never collects garbage in the background.
GIT = (
    "git",
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"),
    *("-c", "gc.autoDetach=false", "-c", "advice.detachedHead=false"),
)
GIT_VARIABLES = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "file:https:ssh",
}
CREDENTIAL_NAMES = re.compile(
    r"SSH_AUTH_SOCK|SSH_ASKPASS|GIT_SSH|GIT_SSH_COMMAND|GIT_SSH_VARIANT|GIT_ASKPASS"
    r"|GIT_CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+)|XDG_CONFIG_HOME"
    r"|(HTTPS|ALL|NO)_PROXY",
    re.IGNORECASE,
)
"""Variables for credentials and proxies that git inherits; builds and tests do not."""


def is_url(repository: str) -> bool:
    return "://" in repository or SCP_LIKE.match(repository) is not None


async def resolve_sha(
    repository: str,
    sha_or_ref: str,
    releases_dir: Path,
    *,
    timeout_seconds: float = GIT_TIMEOUT_SECONDS,
) -> str:
    """The full sha. A ref can move: record the answer before anything is done with it."""
    _check_ref(repository, sha_or_ref)
    git_dir = await _git_dir_with(repository, sha_or_ref, releases_dir, timeout_seconds)
    sha = await _find(git_dir, sha_or_ref, timeout_seconds)
    if sha is None:
        raise UnknownCommit(
            sha_or_ref,
            without_password(repository),
            "the repository has no such commit, branch or tag",
            "push it there first, or check the spelling",
        )
    await _refuse_ambiguous(git_dir, repository, sha_or_ref, timeout_seconds)
    return sha


async def write_tree(
    repository: str,
    sha: str,
    into: Path,
    releases_dir: Path,
    *,
    timeout_seconds: float = GIT_TIMEOUT_SECONDS,
) -> None:
    """Write the commit's files into the new directory `into`, modes and symlinks as committed."""
    git_dir = await _git_dir_with(repository, sha, releases_dir, timeout_seconds)
    if await _find(git_dir, sha, timeout_seconds) is None:
        raise UnknownCommit(
            sha, without_password(repository), "it no longer exists", "push it again"
        )
    os.makedirs(into)
    index = into.with_name(f"{into.name}.index")
    try:
        for arguments in (("read-tree", sha), ("checkout-index", "--all")):
            result = await _git(
                f"--git-dir={git_dir}",
                f"--work-tree={into}",
                *arguments,
                cwd=into,
                timeout_seconds=timeout_seconds,
                variables={"GIT_INDEX_FILE": str(index)},
            )
            _require(result, repository, f"git {arguments[0]} failed")
        await _refuse_incomplete(git_dir, repository, into, index, timeout_seconds)
    finally:
        index.unlink(missing_ok=True)


def without_password(repository: str) -> str:
    if "://" not in repository:
        return repository
    parts = urlsplit(repository)
    host = parts.netloc.rpartition("@")[2]
    # A password with a slash in it is no part of what Python takes for the host.
    return mask(parts._replace(netloc=host).geturl())


def _check_ref(repository: str, ref: str) -> None:
    named = without_password(repository)
    if ref.startswith("-"):
        raise UnknownCommit(ref, named, "it begins with '-'", "write a sha, a branch or a tag")
    if not ref or not ref.isprintable() or any(mark in ref for mark in " ~^:?*[\\"):
        raise UnknownCommit(
            ref, named, "this is not the name of a commit", "write a sha, a branch or a tag"
        )


async def _git_dir_with(
    repository: str, ref: str, releases_dir: Path, timeout_seconds: float
) -> Path:
    """The git directory to read; a URL's mirror is fetched first unless it has the commit."""
    if not is_url(repository):
        return _local_git_dir(repository)
    mirror = _mirror(repository, releases_dir)
    async with file_lock(mirror.with_suffix(".lock"), timeout_seconds) as held:
        if not held:
            raise RepositoryAway(
                without_password(repository),
                "another deployment is fetching its mirror",
                "try again later",
            )
        known = FULL_SHA.fullmatch(ref) and await _find(mirror, ref, timeout_seconds)
        if not known:
            await _fetch(repository, mirror, timeout_seconds)
    return mirror


async def _refuse_ambiguous(
    git_dir: Path, repository: str, ref: str, timeout_seconds: float
) -> None:
    """Raise `UnknownCommit` for a name of several commits: git would take one of them silently."""
    if FULL_SHA.fullmatch(ref):
        return  # git takes it as a sha, whatever branches there are
    found: dict[str, str] = {}
    for kind, full in (("a branch", f"refs/heads/{ref}"), ("a tag", f"refs/tags/{ref}")):
        sha = await _find(git_dir, full, timeout_seconds)
        if sha is not None:
            found[f"{kind} ({full}, {sha[:12]})"] = sha
    if found and ABBREVIATED_SHA.fullmatch(ref):
        result = await _git(
            f"--git-dir={git_dir}",
            *("rev-parse", f"--disambiguate={ref}"),
            cwd=git_dir.parent,
            timeout_seconds=timeout_seconds,
        )
        for sha in result.output.split():
            if await _find(git_dir, sha, timeout_seconds) == sha:
                found[f"the beginning of commit {sha}"] = sha
    if len(set(found.values())) > 1:
        raise UnknownCommit(
            ref,
            without_password(repository),
            f"it is the name of different commits: {' and '.join(found)}",
            "write the full name of the branch or the tag, or the full sha",
        )


async def _refuse_incomplete(
    git_dir: Path, repository: str, into: Path, index: Path, timeout_seconds: float
) -> None:
    """Raise `RepositoryError` for submodules, and for files of Git LFS that are only pointers."""

    async def asked(*arguments: str) -> str:
        result = await _git(
            f"--git-dir={git_dir}",
            f"--work-tree={into}",
            *arguments,
            cwd=into,
            timeout_seconds=timeout_seconds,
            variables={"GIT_INDEX_FILE": str(index)},
            output_bytes_max=LISTING_BYTES_MAX,
        )
        _require(result, repository, f"git {arguments[0]} failed")
        return result.output

    listed = (await asked("ls-files", "--stage")).splitlines()
    submodules = [one.partition("\t")[2] for one in listed if one.startswith(SUBMODULE_MODE)]
    if submodules:
        raise RepositoryError(
            without_password(repository),
            f"the commit has submodules, whose files would be missing: {_some(submodules)}",
            "commit their files themselves, or have the build command fetch them and remove the"
            " submodules from the commit",
        )
    pointers = await anyio.to_thread.run_sync(_lfs_pointers, into)
    if pointers:
        told = (await asked("check-attr", "--cached", "filter", "--", *pointers)).splitlines()
        pointers = [one.removesuffix(IN_LFS) for one in told if one.endswith(IN_LFS)]
    if pointers:
        raise RepositoryError(
            without_password(repository),
            f"files of the commit are in Git LFS, and only their pointers came: {_some(pointers)}",
            "install git-lfs for the user of this worker, and run: git lfs install",
        )


def _lfs_pointers(root: Path) -> list[str]:
    """The files that look like pointers of Git LFS, at most `POINTERS_MAX`."""
    found: list[str] = []
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if path.is_symlink() or path.stat().st_size > POINTER_BYTES_MAX:
                continue
            if path.read_bytes().startswith(LFS_POINTER):
                found.append(str(path.relative_to(root)))
                if len(found) == POINTERS_MAX:
                    return found
    return found


def _some(paths: Sequence[str]) -> str:
    more = len(paths) - PATHS_SHOWN
    return ", ".join(paths[:PATHS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _mirror(repository: str, releases_dir: Path) -> Path:
    name = hashlib.sha256(repository.encode()).hexdigest()[:16]
    return releases_dir.absolute() / ".mirrors" / f"{name}.git"


def _local_git_dir(repository: str) -> Path:
    """The git directory of a path; named to git, so that it does not search parent directories."""
    root = Path(repository)
    for candidate in (root / ".git", root):
        if candidate.is_file() or (candidate / "objects").is_dir():
            return candidate.absolute()
    reason = "it is not a git repository" if root.exists() else "the directory does not exist"
    raise RepositoryError(repository, reason, "correct `repository` in deploy.toml")


async def _fetch(repository: str, mirror: Path, timeout_seconds: float) -> None:
    result = await _fetch_into(repository, mirror, timeout_seconds)
    if not result.passed and "File exists" in result.output:
        # Lock files of a killed git: this process holds the mirror, so no other git uses them.
        await anyio.to_thread.run_sync(shutil.rmtree, mirror)
        result = await _fetch_into(repository, mirror, timeout_seconds)
    _require(result, repository, "it cannot be fetched", RepositoryAway)


async def _fetch_into(repository: str, mirror: Path, timeout_seconds: float) -> CommandResult:
    git_dir = f"--git-dir={mirror}"
    # A mirror's HEAD is not the remote's HEAD: an unknown name is better than a wrong commit.
    for arguments in (
        ("init", "--quiet", "--bare"),
        (git_dir, "symbolic-ref", "HEAD", "refs/jobsworth/none"),
    ):
        os.makedirs(mirror, exist_ok=True)
        result = await _git(*arguments, cwd=mirror, timeout_seconds=timeout_seconds)
        if not result.passed:
            return result
    return await _git(
        git_dir,
        *("fetch", "--quiet", "--prune", "--force", "--no-write-fetch-head"),
        *("--no-recurse-submodules", "--", repository),
        *("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"),
        cwd=mirror,
        timeout_seconds=timeout_seconds,
    )


async def _find(git_dir: Path, ref: str, timeout_seconds: float) -> str | None:
    if not os.access(git_dir, os.F_OK):
        return None
    result = await _git(
        f"--git-dir={git_dir}",
        *("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"),
        cwd=git_dir.parent,
        timeout_seconds=timeout_seconds,
    )
    if result.exit_code is None:
        reason = f"git cannot be run: {result.detail}"
        raise RepositoryError(
            str(git_dir), reason, "install git on this machine, or see why it hangs"
        )
    lines = result.output.split()
    return lines[0] if result.passed and lines and FULL_SHA.fullmatch(lines[0]) else None


def _require(
    result: CommandResult,
    repository: str,
    what: str,
    error: type[RepositoryError] = RepositoryError,
) -> None:
    if result.passed:
        return
    said = " ".join(result.output.replace(repository, without_password(repository)).split())
    raise error(
        without_password(repository),
        f"{what}: {said or result.detail}",
        "check that it is there and that this user may read it",
    )


async def _git(
    *arguments: str,
    cwd: Path,
    timeout_seconds: float,
    variables: Mapping[str, str] | None = None,
    output_bytes_max: int = OUTPUT_BYTES_MAX,
) -> CommandResult:
    told = {name: os.environ[name] for name in os.environ if CREDENTIAL_NAMES.fullmatch(name)}
    env = command_environment(os.environ, told, GIT_VARIABLES, variables or {})
    return await run_command(
        (*GIT, *arguments),
        cwd=cwd,
        env=env,
        timeout_seconds=timeout_seconds,
        output_bytes_max=output_bytes_max,
    )
