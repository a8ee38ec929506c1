"""End the commands that a worker left running when it died during a deployment.

Stage: before the first phase of every deployment, and around each command.
In: the environment's directory. Out: a held lock; a mark per running command.
Invariant: while a deployment runs, no other deployment of the environment runs on this machine, nor
any command of an earlier one. The database keeps deployments apart; these locks are for what the
database cannot see: a build that goes on although its worker was killed.

Both locks are `flock`s, which the kernel releases with their last holder; a process id alone could
have been reused. The worker holds `.lock`. `.command` is created for each command, which inherits
it; it holds the id of the process group and the command's token, and the worker removes it when the
command has ended. So a `.command` that exists *and* is locked belongs to a living orphan.
"""

import fcntl
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from worker.deployments.pipeline.errors import EnvironmentBusy, ReleaseError
from worker.deployments.pipeline.process_group import POLL_SECONDS, end_command, outside

LOCK_WAIT_SECONDS = 15.0
"""Longer than a worker needs to end its commands after it lost its lease."""
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
    """Yield whether the lock was acquired within the time. Creates the directory if needed."""
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

    def write(self, group: int, token: str) -> None:
        os.pwrite(self.fd, f"{group} {token}".encode(), 0)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.fd)


def mark_command(environment_dir: Path) -> CommandMark:
    """Mark the next command with a new, locked file.

    A server that an earlier command left running on purpose keeps the lock of the earlier file.
    """
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
        group, token = _marked(fd)
        if not _try_lock(fd) or await anyio.to_thread.run_sync(outside, group, token):
            groups = ({group} if group else set[int]()) | _groups_holding(fd)
            left: set[int] = set()
            for one in groups:
                left |= await end_command(one, token)
            if not await _locked_within(fd, ORPHAN_WAIT_SECONDS) or left:
                named = ", ".join(map(str, sorted(left or groups))) or "of unknown id"
                raise EnvironmentBusy(
                    environment_dir,
                    f"a command of an earlier deployment still runs (process {named})",
                )
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _marked(fd: int) -> tuple[int, str]:
    """The group and the token in the mark; 0 and "" if the worker died before it wrote them."""
    group, _, token = os.pread(fd, 64, 0).decode(errors="replace").partition(" ")
    return (int(group), token) if group.isdigit() and int(group) > 1 else (0, "")


def _groups_holding(fd: int) -> set[int]:
    """The groups, other than our own, of the processes that have this file open (Linux)."""
    mark = os.fstat(fd)
    groups: set[int] = set()
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # a process may have ended, or belong to another user
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
