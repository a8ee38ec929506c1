"""A lock between processes that the kernel drops when its holder dies.

In: the path of a file that is never removed. Out: a shared or exclusive lock on it (`flock`).

Invariant: only living processes that asked for the lock hold it. Programs started here do not
inherit the descriptor, and a forked child closes its copy at once, so neither keeps the lock of a
killed parent.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from pathlib import Path

POLL_SECONDS = 0.05


class LockBusyError(Exception):
    """Another process held the lock for the whole time that the caller was willing to wait."""


class FileLock:
    """A lock on one file, shared or exclusive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        itself = weakref.ref(self)

        def after_fork() -> None:
            if (lock := itself()) is not None:
                lock.release()

        os.register_at_fork(after_in_child=after_fork)

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def share(self) -> None:
        """Take the lock together with others; waits for an exclusive holder."""
        fcntl.flock(self._open(), fcntl.LOCK_SH)

    def exclusive(self, seconds_max: float) -> None:
        """Take the lock alone; raises `LockBusyError` after `seconds_max`."""
        give_up = time.monotonic() + seconds_max
        while not self.try_exclusive():
            if time.monotonic() > give_up:
                self.release()
                raise LockBusyError(str(self._path))
            time.sleep(POLL_SECONDS)

    def try_exclusive(self) -> bool:
        """Take the lock alone if no other process holds it, without waiting.

        On False a shared lock held before may be gone: the kernel converts by releasing first.
        """
        try:
            fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let go of the lock, if it is held."""
        # Closing drops the lock only with the last copy of the descriptor: a forked child that
        # closes its copy leaves the parent's lock alone; an explicit unlock would not.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o666)
        return self._descriptor
