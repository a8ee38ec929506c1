"""A process that a handler forks must not go on as a second worker.

In: `os.fork()` and `multiprocessing` in handlers, steps and threads. Out: a child that has signals
of its own and ends where its code comes back to the worker's. The child shares the worker's
sockets, its event loop's file descriptors and the descriptor by which Python wakes the loop for a
signal: without this, SIGTERM to the child drains the worker, and a child that returns from the
handler runs the worker's loop on the worker's connections.

multiprocessing's own children end by themselves, and are left alone. So is a child that becomes
another program (`exec`): uvloop calls Python's hooks in it, so those that the loop starts are told
by the function of the loop that starts them.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

ENDED_AT_EDGE = 70
LOOP = "WorkerLoop.run_until_complete"
PROGRAMS = ("WorkerLoop.subprocess_exec", "WorkerLoop.subprocess_shell")
OURS = ("AttemptState.run_in_thread.<locals>.safely",)
POOLS = ("anyio._backends._asyncio", "concurrent.futures.thread", "threading")
SIGNALS = {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGINT}


class _Process:
    """What this process is. One object for the process, as the fork's hook has no other way."""

    worker_pid: int | None = None
    is_child = False
    masks = threading.local()


@contextmanager
def children_end_here() -> Iterator[None]:
    """Called from the thread of the event loop, around its whole run."""
    _Process.worker_pid = os.getpid()
    _Process.is_child = False
    try:
        yield
    finally:
        if not _Process.is_child:
            _Process.worker_pid = None


def leave_if_child(error: BaseException | None = None) -> None:
    """End this process here if a handler forked it; `error` is what its code raised, if any."""
    if _Process.is_child:
        _leave(error)


def _leave(error: BaseException | None) -> None:
    code = 0
    with suppress(BaseException):
        if isinstance(error, SystemExit):
            code = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
        elif error is not None:
            code = 1
            traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(code)


def _after_fork_in_child() -> None:
    if _Process.worker_pid is None:
        return
    _Process.is_child = True
    _Process.worker_pid = None
    with suppress(ValueError, OSError):
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in SIGNALS - {signal.SIGINT}:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    # A coroutine that yields goes straight to the loop, which runs no Python code of ours before
    # the next callback; and a thread of a pool goes back to its pool. So the child's interpreter
    # tells when the last frame above that is left. (In a thread of ours, `leave_if_child` does.)
    forks = sys._getframe().f_back  # pyright: ignore[reportPrivateUsage]
    if forks is not None and forks.f_code.co_qualname in PROGRAMS:
        return
    edge = _edge(forks)
    if edge is not None:
        sys.setprofile(partial(_end_at, edge))
        # What a signal's handler raises within that function takes it away. Then this one is left.
        edge.f_trace = partial(_end_beyond, edge)
        sys.settrace(edge.f_trace)


def _edge(frame: FrameType | None) -> FrameType | None:
    """The innermost frame that is not the user's: of the loop or of a pool of threads."""
    while frame is not None and frame.f_code.co_qualname not in OURS:
        if frame.f_globals.get("__name__") in POOLS or frame.f_code.co_qualname == LOOP:
            return frame
        frame = frame.f_back
    return None


def _end_at(edge: FrameType, frame: FrameType, event: str, _argument: Any) -> None:
    if event == "call" and frame.f_code is BaseProcess._bootstrap.__code__:  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType]
        sys.setprofile(None)
        sys.settrace(None)
    elif event == "return" and frame.f_back is edge:
        os._exit(ENDED_AT_EDGE)


def _end_beyond(edge: FrameType, frame: FrameType, event: str, _argument: Any) -> None:
    if frame is edge or (event == "call" and frame.f_back is edge):
        os._exit(ENDED_AT_EDGE)


# A signal that reaches the child before it has handlers of its own would be lost.


def _before_fork() -> None:
    if _Process.worker_pid is not None:
        _Process.masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork_in_parent() -> None:
    if _Process.worker_pid is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _Process.masks.before)


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
