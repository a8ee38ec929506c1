"""What a bad handler may do, as a table: names and functions. It runs inside the daemon under test.

Plain functions, which an async handler, a step, a thread or a process can do. A deed takes no
argument. `loop_deeds` are those that need the worker's event loop.
"""

from __future__ import annotations

import asyncio
import gc
import locale
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Never, cast

from tests.hostile.exceptions import EXCEPTIONS, GROUPED, OwnError, raiser

BLOCK_SECONDS = 0.3
CHILD_SECONDS = 20.0


class DiesLoudly:
    """What the collector finds of it raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


def recurse() -> Never:
    recurse()


def exhaust_memory() -> int:
    return len(bytearray(2**62))


def block() -> None:
    time.sleep(BLOCK_SECONDS)


def spin() -> None:
    until = time.monotonic() + BLOCK_SECONDS
    while time.monotonic() < until:
        pass


def _forked(child: Callable[[], object]) -> None:
    """Fork; the child goes on in the handler after `child`, the parent waits for its end."""
    pid = os.fork()
    if pid == 0:
        child()
        return
    see_end(pid)


def see_end(pid: int) -> None:
    give_up = time.monotonic() + CHILD_SECONDS
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > give_up:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise RuntimeError("the forked child did not end by itself")
        time.sleep(0.01)


def fork_and_exit() -> None:
    _forked(lambda: sys.exit(5))


def fork_and_return() -> None:
    _forked(lambda: None)


def fork_and_raise() -> None:
    _forked(raiser(lambda: ValueError("in the child")))


def fork_and_profile() -> None:
    """The child ends Python's profiling, as a signal's exception does within a profile function."""
    _forked(lambda: sys.setprofile(None))


def fork_and_be_terminated() -> None:
    """The child is sent SIGTERM, SIGINT and SIGHUP, which are for nobody else."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(told, b"x")
            time.sleep(CHILD_SECONDS)
            os._exit(0)
        os.read(ready, 1)
        os.close(ready)
        os.close(told)
        os.kill(pid, number)
        see_end(pid)


def _sleep_in_a_child() -> None:
    time.sleep(CHILD_SECONDS)


def multiprocessing_terminated() -> None:
    process = multiprocessing.get_context("fork").Process(target=_sleep_in_a_child)
    process.start()
    process.terminate()
    process.join(CHILD_SECONDS)
    assert process.exitcode is not None


def multiprocessing_left_behind() -> None:
    multiprocessing.get_context("fork").Process(target=_sleep_in_a_child).start()


def _ignore(*numbers: signal.Signals) -> Callable[[], None]:
    def do() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    return do


def _unheard(*_: object) -> None:
    """Takes a signal and does nothing."""


def own_signal_handlers() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _unheard)


def default_signal_handlers() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def no_wakeup_fd() -> None:
    signal.set_wakeup_fd(-1)


# No signal's handler that raises is here: Python runs it in whatever code the main thread is in, so
# it may strike a neighbour, which is then tried again. `isolate="process"` is for such code.


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def raise_in_del() -> None:
    for make in (SystemExit, KeyboardInterrupt, lambda: OwnError("in __del__")):
        thing = DiesLoudly(make())
        del thing
    circle: list[Any] = [DiesLoudly(SystemExit(1))]
    circle.append(circle)
    del circle
    gc.collect()


def null_over_stdout() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    os.close(null)


def close_standard_streams() -> None:
    for number in (0, 1, 2):
        with suppress(OSError):
            os.close(number)


def no_standard_streams() -> None:
    sys.stdin = sys.stdout = sys.stderr = cast(Any, None)


def close_stream_objects() -> None:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if cast(Any, stream) is not None:
            stream.close()


def elsewhere() -> None:
    os.chdir("/")


def nowhere() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)


def odd_umask() -> None:
    os.umask(0o777)


def no_environment() -> None:
    os.environ.clear()


def odd_environment() -> None:
    os.environ |= {"PGDATESTYLE": "German", "PGCLIENTENCODING": "LATIN1", "TZ": "Asia/Kathmandu"}
    time.tzset()


def odd_locale() -> None:
    for name in ("de_DE.UTF-8", "tr_TR.UTF-8", "C"):
        with suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, name)


def warnings_are_errors() -> None:
    warnings.simplefilter("error")


def no_collector() -> None:
    gc.disable()
    gc.unfreeze()


def thread_that_exits() -> None:
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()


def thread_left_behind() -> None:
    threading.Thread(target=time.sleep, args=(CHILD_SECONDS,)).start()


def event_loop_of_its_own() -> None:
    """Fine in a thread; refused within the worker's own loop."""

    async def nothing() -> None:
        await asyncio.sleep(0)

    asyncio.run(nothing())


def returns_what_is_no_json() -> object:
    return object()


def returns_a_circle() -> object:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def returns_what_raises() -> object:
    return (1 / n for n in (1, 0))


def returns_a_coroutine() -> object:
    async def never_awaited() -> None: ...

    return never_awaited()


ANYWHERE: dict[str, Callable[[], object]] = {
    **{f"raise {name}": raiser(make) for name, make in (EXCEPTIONS | GROUPED).items()},
    **{
        do.__name__.replace("_", " "): do
        for do in (
            recurse,
            exhaust_memory,
            block,
            spin,
            fork_and_exit,
            fork_and_return,
            fork_and_raise,
            fork_and_be_terminated,
            fork_and_profile,
            multiprocessing_terminated,
            multiprocessing_left_behind,
            own_signal_handlers,
            default_signal_handlers,
            no_wakeup_fd,
            block_signals,
            raise_in_del,
            null_over_stdout,
            close_standard_streams,
            no_standard_streams,
            close_stream_objects,
            elsewhere,
            nowhere,
            odd_umask,
            no_environment,
            odd_environment,
            odd_locale,
            warnings_are_errors,
            no_collector,
            thread_that_exits,
            thread_left_behind,
            event_loop_of_its_own,
            returns_what_is_no_json,
            returns_a_circle,
            returns_what_raises,
            returns_a_coroutine,
        )
    },
    "ignore sigterm": _ignore(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    "ignore sigchld": _ignore(signal.SIGCHLD),
}
