"""End a process group, and check whether one exists.

Stage: used by the worker that started the group, and by a later one that finds it left behind.
In: the group's id. Out: nothing; the group has ended, or did not end in time after SIGKILL.
Invariant: waiting is bounded; a member that ignores SIGTERM gets SIGKILL.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

import anyio

TERM_GRACE_SECONDS = 2.0
"""The time between SIGTERM and SIGKILL, in which a group may clean up."""
POLL_SECONDS = 0.02


async def end_group(group: int, while_waiting: Callable[[], None] = lambda: None) -> None:
    """End a group; `while_waiting` is called while it ends, to drain its output pipe."""
    signal_group(group, signal.SIGTERM)
    with anyio.move_on_after(TERM_GRACE_SECONDS):
        while group_exists(group):
            while_waiting()
            await anyio.sleep(POLL_SECONDS)
    signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def group_exists(group: int) -> bool:
    """Whether the group has a process; a zombie that was not reaped yet counts."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
