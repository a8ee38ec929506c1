"""A lock between processes that the kernel drops when its holder dies.

In: the path of a file that is never removed. Out: shared or exclusive hold of it (`flock`).

Invariant: nobody holds it but living processes that asked for it. The descriptor is not inherited
by programs started here, and a forked child closes its copy at once, so neither keeps the lock of
a killed parent.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from pathlib import Path

POLL_SECONDS = 0.05


class LockBusyError(Exception):
    """Somebody else held the lock for as long as we were willing to wait."""


class FileLock:
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
        """Hold it together with others; waits for an exclusive holder."""
        fcntl.flock(self._open(), fcntl.LOCK_SH)

    def exclusive(self, seconds_max: float) -> None:
        """Hold it alone; raises `LockBusyError` after `seconds_max`."""
        give_up = time.monotonic() + seconds_max
        while not self.try_exclusive():
            if time.monotonic() > give_up:
                self.release()
                raise LockBusyError(str(self._path))
            time.sleep(POLL_SECONDS)

    def try_exclusive(self) -> bool:
        """Hold it alone if nobody else holds it at all, without waiting.

        On False a shared hold may be gone too (the kernel converts by releasing first).
        """
        try:
            fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        # Closing drops the hold only when this was the last copy of the descriptor: a forked child
        # that closes its own leaves the parent's hold alone, an explicit unlock would not.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o666)
        return self._descriptor
