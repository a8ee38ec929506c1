"""Whether another process of this machine has ended, told from its pid and its start.

In: what a worker wrote down of itself at its start. Out: whether that process is gone for good.
Invariant: "gone" is never said of a process that runs. A pid means one process only within one boot
of one kernel and one namespace of pids, and a pid is given out again, so the start counts, too.
Whatever the system does not tell (no Linux, `/proc` of another namespace, no right to look) counts
as running.
"""

import os
import socket
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process: the space in which its pid is unique, and its start in ticks since the boot."""

    pid_space: str
    start: int


def own_process() -> Process | None:
    """This process; None if the system does not tell enough to find it again."""
    try:
        # /proc may show another namespace of pids than the one we are in.
        if Path("/proc/self").readlink().name != str(os.getpid()):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = Path("/proc/self/ns/pid").readlink()
        # The start of a process is told in the reader's time.
        times = Path("/proc/self/ns/time").readlink()
        start = _status(os.getpid()).start
    except (OSError, ValueError, IndexError):
        return None
    return Process(f"{socket.gethostname()} {boot} {pids} {times}", start) if boot else None


def has_ended(pid: int, start: int) -> bool:
    """Whether the process with this pid and start, in our own space, is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is another user's
    try:
        status = _status(pid)
        # A thread may outlive the first one, which then looks like an ended process.
        ended = status.state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except (OSError, ValueError, IndexError):
        return False
    return ended or status.start != start


class _Status(NamedTuple):
    state: str
    start: int


def _status(pid: int) -> _Status:
    # The name in parentheses may contain anything; the fields after it are counted from the third.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return _Status(fields[0], int(fields[19]))
