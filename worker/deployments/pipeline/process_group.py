"""End a process group, and look whether one is still there.

Stage: used by whoever started the group, and by a later worker that finds one left behind.
In: the group's id. Out: nothing; the group is gone, or was told to go and did not in time.
Invariant: waiting is bounded; a member that ignores SIGTERM gets SIGKILL.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

import anyio

TERM_GRACE_SECONDS = 2.0
"""How long a group may tidy up after SIGTERM before SIGKILL."""
POLL_SECONDS = 0.02


async def end_group(group: int, while_waiting: Callable[[], None] = lambda: None) -> None:
    """`while_waiting` is called between looks (to keep the group's output pipe from filling up)."""
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
    """True also while only zombies are left that nobody has waited for."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
