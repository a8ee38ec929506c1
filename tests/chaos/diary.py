"""What handlers really did, written by themselves: a file that no database and no kill can undo.

In: entries from any process, one `write` each, so they neither mix nor get lost with the process.
Out: the entries in the order of their times. A kill in the middle of a write leaves the part of a
line that fits the page before: what it was to say has not happened yet, and is passed over. Times
are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: `what` happened in which attempt of which job; `name` says more."""

    what: str
    job: str
    attempt: int
    name: str
    pid: int
    at_ns: int


def write(path: Path, what: str, job: object, attempt: int, name: str = "") -> None:
    """Append an entry; it is there when this returns."""
    entry: dict[str, Any] = {
        "what": what,
        "job": str(job),
        "attempt": attempt,
        "name": name,
        "pid": os.getpid(),
        "at_ns": time.monotonic_ns(),
    }
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, b"\n" + json.dumps(entry).encode() + b"\n")
    finally:
        os.close(file)


def read(path: Path) -> list[Entry]:
    """All entries so far, oldest first."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    entries = [Entry(**json.loads(line)) for line in lines if line.endswith("}")]
    return sorted(entries, key=lambda entry: entry.at_ns)
