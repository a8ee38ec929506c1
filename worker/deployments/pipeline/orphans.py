"""What a worker that died in the middle of a deployment leaves running, and how it is ended.

Stage: before the first phase of every deployment, and around each command.
In: the environment's directory. Out: a held lock; a mark per running command.
Invariant: while a deployment runs, no other deployment of the environment runs on this machine, nor
any command of an earlier one. The database already keeps deployments apart; these locks are for
what it cannot see: a build that goes on although its worker was killed.

Both are `flock`s, so the kernel drops them with their last holder; a process id alone could by now
be somebody else's. `.lock` is held by the worker. `.command` is created for each command and
inherited by it; it holds the group's id, and is removed when the worker has seen the command's end.
A mark that is still there *and* still locked is therefore a living orphan.
"""

import fcntl
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

from worker.deployments.pipeline.errors import EnvironmentBusy, ReleaseError
from worker.deployments.pipeline.process_group import POLL_SECONDS, end_group

LOCK_WAIT_SECONDS = 15.0
"""Longer than a worker that lost its lease takes to end its commands."""
ORPHAN_WAIT_SECONDS = 5.0


@asynccontextmanager
async def exclusive(environment_dir: Path) -> AsyncGenerator[None]:
    """Hold the environment on this machine; orphans of earlier deployments are ended first."""
    async with file_lock(environment_dir / ".lock", LOCK_WAIT_SECONDS) as held:
        if not held:
            raise EnvironmentBusy(environment_dir, "another deployment of it runs on this machine")
        await _end_orphan(environment_dir)
        yield


@asynccontextmanager
async def file_lock(path: Path, wait_seconds: float) -> AsyncGenerator[bool]:
    """Yields whether the lock was got within the time. The directory is made if need be."""
    try:
        os.makedirs(path.parent, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = f"nothing can be written there: {error.strerror or error}"
        raise ReleaseError(
            path.parent, reason, "see JOBSWORTH_RELEASES_DIR, and its disk"
        ) from None
    try:
        yield await _locked_within(fd, wait_seconds)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class CommandMark:
    path: Path
    fd: int

    def write_group(self, group: int) -> None:
        os.pwrite(self.fd, str(group).encode(), 0)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.fd)


def mark_command(environment_dir: Path) -> CommandMark:
    """A new file each time: a server that an earlier command left running on purpose keeps the old
    file's lock, which says nothing about the next command."""
    path = environment_dir / ".command"
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return CommandMark(path, fd)


async def _end_orphan(environment_dir: Path) -> None:
    path = environment_dir / ".command"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not _try_lock(fd):
            groups = _marked_group(fd) or _groups_holding(fd)
            for group in groups:
                await end_group(group)
            if not await _locked_within(fd, ORPHAN_WAIT_SECONDS):
                named = ", ".join(map(str, sorted(groups))) or "of unknown id"
                raise EnvironmentBusy(
                    environment_dir,
                    f"a command of an earlier deployment still runs (process group {named})",
                )
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _marked_group(fd: int) -> set[int]:
    """Empty when its worker died between starting the command and writing down its id."""
    digits = os.pread(fd, 32, 0)
    return {int(digits)} if digits.isdigit() and int(digits) > 1 else set()


def _groups_holding(fd: int) -> set[int]:
    """The groups, other than our own, of the processes that have this file open (Linux)."""
    mark = os.fstat(fd)
    groups: set[int] = set()
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # processes end while we look, and others' are not ours to see
            if os.path.samestat(opened.stat(), mark):
                groups.add(os.getpgid(int(opened.parts[2])))
    return groups - {os.getpgid(0)}


async def _locked_within(fd: int, wait_seconds: float) -> bool:
    with anyio.move_on_after(wait_seconds):
        while True:
            if _try_lock(fd):
                return True
            await anyio.sleep(POLL_SECONDS)
    return False


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
