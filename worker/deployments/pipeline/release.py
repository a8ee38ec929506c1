"""Release directories, and the symlink `current` to the live one.

Stage: the export, switch and rollback phases; pruning at the end.
In: a commit of a repository. Out: `<releases>/<environment>/<sha12>-<deployment>/`, beside it the
symlink `current`.
Invariant: a directory with a release's name is complete, and `current` is replaced atomically: both
are made under another name and renamed.
"""

import os
import re
import shutil
import uuid
from collections.abc import Collection
from pathlib import Path

import anyio

from worker.deployments.pipeline.errors import ReleaseError
from worker.deployments.pipeline.repository import GIT_TIMEOUT_SECONDS, write_tree

RELEASE_NAME = re.compile(r"[0-9a-f]{12}-[0-9a-f]{12}")
CURRENT = "current"


def release_path(releases_dir: Path, environment: str, sha: str, deployment_id: uuid.UUID) -> Path:
    """The directory of a release; it ends with the random digits of the id, the last ones."""
    return releases_dir.absolute() / environment / f"{sha[:12]}-{deployment_id.hex[-12:]}"


async def export(
    repository: str,
    sha: str,
    release: Path,
    releases_dir: Path,
    *,
    timeout_seconds: float = GIT_TIMEOUT_SECONDS,
) -> None:
    """Export a commit into `release`, unless it exists. Raises `DeployError`, `OSError`."""
    if _exists(release):
        return
    # The git of a killed worker may still be writing into one of these: never use them.
    for leftover in release.parent.glob(f".export-{release.name}*"):
        await anyio.to_thread.run_sync(shutil.rmtree, leftover, True)
    unfinished = release.with_name(f".export-{release.name}-{uuid.uuid4().hex[:8]}")
    await write_tree(repository, sha, unfinished, releases_dir, timeout_seconds=timeout_seconds)
    await anyio.to_thread.run_sync(_refuse_escapes, unfinished)
    unfinished.rename(release)
    _sync_directory(release.parent)


async def discard(release: Path) -> None:
    """Remove a release; it is renamed first, so a half-removed one never looks complete."""
    await anyio.to_thread.run_sync(_discard, release)


def current_release(environment_dir: Path) -> Path | None:
    """The absolute path that `current` points to; None if it or its target does not exist."""
    link = environment_dir / CURRENT
    if not link.exists():
        return None
    _require_symlink(link)
    return Path(os.path.normpath(environment_dir / link.readlink()))


def switch_to(release: Path, environment_dir: Path) -> None:
    if not release.is_dir():
        raise ReleaseError(release, "the release does not exist", "deploy its commit again")
    link = environment_dir / CURRENT
    _require_symlink(link)
    target = release.name if release.parent == environment_dir else str(release)
    unfinished = environment_dir / f".current-{uuid.uuid4().hex[:8]}"
    unfinished.symlink_to(target)
    unfinished.replace(link)
    _sync_directory(environment_dir)


async def prune(environment_dir: Path, keep: int, protected: Collection[Path] = ()) -> list[Path]:
    """Remove all but the `keep` newest releases; the live and the protected ones stay.

    Removes what interrupted exports left, too, so the caller must hold the environment
    (`orphans.exclusive`). Returns the removed releases.
    """
    return await anyio.to_thread.run_sync(_prune, environment_dir, keep, protected)


def _exists(release: Path) -> bool:
    return release.is_dir()


def _discard(release: Path) -> None:
    if release.is_dir():
        doomed = release.with_name(f".trash-{release.name}-{uuid.uuid4().hex[:8]}")
        release.rename(doomed)
        _remove(doomed)


def _prune(environment_dir: Path, keep: int, protected: Collection[Path]) -> list[Path]:
    current = current_release(environment_dir)
    entries = [entry for entry in environment_dir.iterdir() if not entry.is_symlink()]
    releases = sorted(
        (entry for entry in entries if RELEASE_NAME.fullmatch(entry.name)),
        key=lambda release: (release.stat().st_mtime_ns, release.name),
        reverse=True,
    )
    spared = {*protected, current}
    surplus = [release for release in releases[keep:] if release not in spared]
    for release in surplus:
        _discard(release)
    for entry in entries:
        if entry.name.startswith((".export-", ".trash-")):
            _remove(entry)
    return surplus


def _refuse_escapes(root: Path) -> None:
    """Refuse symlinks that leave the release: all releases would share `data -> /srv/data`."""
    inside = Path(os.path.realpath(root))
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(directory, name)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                raise ReleaseError(
                    path.relative_to(root),
                    f"this symlink of the commit leaves the release, to {path.readlink()}",
                    "commit a relative link, or make it in the build command",
                )


def _require_symlink(link: Path) -> None:
    if link.exists() and not link.is_symlink():
        raise ReleaseError(
            link, "it is not a symlink", "move it away: Jobsworth replaces it at each switch"
        )


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for directory, _, _ in os.walk(path):
        Path(directory).chmod(0o700)  # build tools write-protect their caches
    shutil.rmtree(path)


def _sync_directory(directory: Path) -> None:
    """Make a rename durable: a power cut must not undo what the database has recorded."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
