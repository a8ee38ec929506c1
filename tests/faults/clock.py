"""A PostgreSQL server whose clock can be set: its processes run under libfaketime.

`make faketime` installs the library. Only the wall clock is set; the monotonic one goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from db.server.embedded import Embedded

LIBRARIES = "/usr/lib/*/faketime/libfaketime.so.1"


class Clock:
    """The wall clock of a server."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set_off(0)
        file.chmod(0o644)

    def set_off(self, seconds: int) -> None:
        """Let it be ahead of the machine's by so much (behind, if negative)."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}s\n")
        new.chmod(0o644)
        new.replace(self._file)

    @contextmanager
    def preloaded(self) -> Iterator[None]:
        """Servers that are started within run by this clock."""
        surroundings = {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        before = {name: os.environ.get(name) for name in surroundings}
        os.environ.update(surroundings)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def restart(self, server: Embedded, mode: str = "fast") -> None:
        """Restart the server, by this clock from then on."""
        with self.preloaded():
            server.restart("immediate" if mode == "immediate" else "fast")


def library() -> Path:
    """Where libfaketime is. Raises an AssertionError that says how to get it."""
    found = sorted(Path("/").glob(LIBRARIES.lstrip("/")))
    assert found, "libfaketime is not installed; run: make faketime"
    return found[0]


def reachable(directory: Path) -> Path:
    """A file that the server's account may read."""
    for step in (directory, *directory.parents[:-1]):
        step.chmod(step.stat().st_mode | 0o011)
    return directory / "clock"
