"""The exceptions that a handler may raise, and groups of each: a name and what makes it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Never, cast

from jobsworth import Cancel, Fail, Retry, Snooze
from worker.outcomes import Parked, ParkSignal


class OwnError(BaseException):
    """A BaseException of the user's own, as libraries use to unwind everything."""


class Mute(Exception):
    """Its text is no text."""

    def __str__(self) -> str:
        return cast(str, None)


class Unspeakable(BaseException):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise self

    __repr__ = __str__


class Exits(Exception):
    """Whoever asks for its text ends the process."""

    def __str__(self) -> str:
        sys.exit(9)
        return "unreachable"

    __repr__ = __str__


def raiser(make: Callable[[], BaseException]) -> Callable[[], Never]:
    """A deed that raises a new exception."""

    def do() -> Never:
        raise make()

    return do


def _circular() -> BaseException:
    error = ValueError("my own cause")
    error.__cause__ = error
    return error


def _deep(depth: int) -> BaseException:
    error: BaseException = ValueError("leaf")
    for _ in range(depth):
        pair: list[BaseException] = [error, OwnError("beside")]
        error = BaseExceptionGroup("deeper", pair)
    return error


def _long_chain() -> BaseException:
    error = ValueError("0")
    for n in range(2_000):
        following = ValueError(str(n))
        following.__context__ = error
        error = following
    return error


EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "value error": lambda: ValueError("wrong"),
    "exit": lambda: SystemExit(3),
    "exit with a text": lambda: SystemExit("bye"),
    "exit with nothing": SystemExit,
    "exit with an object": lambda: SystemExit(Unspeakable()),
    "keyboard interrupt": KeyboardInterrupt,
    "own base exception": lambda: OwnError("mine"),
    "bare base exception": lambda: BaseException("bare"),
    "stop iteration": lambda: StopIteration(1),
    "stop async iteration": StopAsyncIteration,
    "generator exit": GeneratorExit,
    "cancelled by hand": lambda: asyncio.CancelledError("by hand"),
    "memory error": MemoryError,
    "recursion error": lambda: RecursionError("too deep"),
    "huge text": lambda: ValueError("x" * 10_000_000),
    "nul and surrogates": lambda: ValueError("a\0b\ud800"),
    "mute": Mute,
    "unspeakable": Unspeakable,
    "exits when shown": Exits,
    "its own cause": _circular,
    "a long chain": _long_chain,
    "retry": lambda: Retry(0.01, "again"),
    "retry after never": lambda: Retry(float("inf"), "again"),
    "retry after nan": lambda: Retry(float("nan"), "again"),
    "snooze": lambda: Snooze(0.01),
    "snooze for ages": lambda: Snooze(1e300),
    "fail": lambda: Fail("hopeless"),
    "cancel": lambda: Cancel("nothing to do"),
    "park by hand": lambda: ParkSignal(Parked("timer", "by hand", 0.01)),
    "park for no reason": lambda: ParkSignal(Parked("whim", "by hand")),
    "os error": lambda: OSError(24, "Too many open files"),
    "timeout error": TimeoutError,
    "deep groups": lambda: _deep(50),
    "very deep groups": lambda: _deep(3_000),
}


def _grouped(make: Callable[[], BaseException]) -> Callable[[], BaseException]:
    def make_group() -> BaseException:
        return BaseExceptionGroup("group", [make(), ValueError("beside")])

    return make_group


GROUPED = {f"group of {name}": _grouped(make) for name, make in EXCEPTIONS.items()}
