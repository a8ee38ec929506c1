"""End the processes of a command, and find those that are left.

Stage: used by the worker that started the command, and by a later one that finds it left behind.
In: the command's process group, and its token. Out: the processes that could not be ended.
Invariant: waiting is bounded; a process that ignores SIGTERM gets SIGKILL.

A process may leave the group (`setsid`, a daemon). It keeps the environment that it was started
with, and in it the token, which is new for each command: on Linux it is found by that.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread

TOKEN_VARIABLE = "JOBSWORTH_DEPLOY_COMMAND"
TERM_GRACE_SECONDS = 2.0
"""The time between SIGTERM and SIGKILL, in which processes may clean up."""
KILL_SECONDS = 2.0
"""How long SIGKILL may take; a process in an uninterruptible sleep outlives it."""
POLL_SECONDS = 0.02
PROC = Path("/proc")
SCAN_SECONDS = 0.1
"""Between two looks at all processes, which take some milliseconds each."""


async def end_command(
    group: int, token: str, while_waiting: Callable[[], None] = lambda: None
) -> set[int]:
    """End the group, and what has left it; returns the processes outside that could not be ended.

    `while_waiting` is called meanwhile, to drain the output pipe.
    """
    for number, seconds in ((signal.SIGTERM, TERM_GRACE_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        signal_group(group, number)
        told: set[int] = set()
        with anyio.move_on_after(seconds):
            while await anyio.to_thread.run_sync(group_exists, group):
                while_waiting()
                await anyio.sleep(POLL_SECONDS)
            while found := await anyio.to_thread.run_sync(outside, group, token):
                _signal(found - told, number)
                told |= found
                while_waiting()
                await anyio.sleep(SCAN_SECONDS)
            return set()
    return await anyio.to_thread.run_sync(outside, group, token)


def outside(group: int, token: str) -> set[int]:
    """The processes of the command with this token that are not in its group."""
    if not token:
        return set()
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    found: set[int] = set()
    for process in PROC.glob("[0-9]*"):
        with suppress(OSError):  # it may have ended, or belong to another user
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                pid = int(process.name)
                if os.getpgid(pid) != group:
                    found.add(pid)
    return found


def signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def group_exists(group: int) -> bool:
    """Whether the group has a living process.

    A zombie does nothing any more. In a container whose first process reaps nobody, the orphans of
    a command stay zombies for ever.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not PROC.is_dir() or any(_lives_in(group, stat) for stat in PROC.glob("[0-9]*/stat"))


def _lives_in(group: int, stat: Path) -> bool:
    try:
        # After the name in brackets: state, parent, group. See proc(5).
        state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return int(its_group) == group and state not in "ZX"


def _signal(processes: set[int], number: signal.Signals) -> None:
    """Signal these with their groups: a shell whose child alone ended goes on with its script."""
    groups: set[int] = set()
    for pid in processes:
        with suppress(ProcessLookupError):
            groups.add(os.getpgid(pid))
    for group in groups - {os.getpgrp()}:
        signal_group(group, number)
