"""What a handler's exception or return value means, whatever it is."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Never, cast
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from db.errors import JobsworthError, Unavailable
from db.fence import Lease, LeaseLost
from jobsworth import Cancel, Fail, Retry, Snooze
from tests.worker.queue import attempts
from tests.worker.queue.attempts import (
    Function,
    outcome_from,
    raising,
)
from worker.outcomes import (
    Canceled,
    Done,
    Failed,
    Lost,
    Outcome,
    Parked,
    ParkSignal,
)
from worker.queue.interpret import ERROR_CHARACTERS_MAX, outcome_of

PARKED = Parked("signal", "go")

LOST = LeaseLost(Lease(UUID(int=1), 1, UUID(int=2)))


class Unspeakable(BaseException):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise self


UNSPOKEN = "(a Unspeakable without a text: its __str__ raised Unspeakable)"


class Unprintable:
    def __repr__(self) -> str:
        raise GeneratorExit


class Mute(Exception):
    def __str__(self) -> str:
        return cast(str, None)


def nested(error: BaseException, depth: int) -> BaseException:
    for _ in range(depth):
        error = BaseExceptionGroup("deeper", [error, ValueError("beside")])
    return error


# What handlers raise.


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Retry(7, "busy"), Failed("busy", after_seconds=7)),
        (Retry(), Failed("retry asked for")),
        (Fail("hopeless"), Failed("hopeless", final=True)),
        (Cancel("nothing to do"), Canceled("nothing to do")),
        (Snooze(5), Parked("timer", "snoozed", 5)),
        (ParkSignal(PARKED), PARKED),
        (LOST, Lost(str(LOST))),
        (ExceptionGroup("tasks", [Fail("hopeless")]), Failed("hopeless", final=True)),
        (ExceptionGroup("a", [ExceptionGroup("b", [Retry(7, "x")])]), Failed("x", False, 7)),
        (BaseExceptionGroup("tasks", [ValueError(), ParkSignal(PARKED)]), PARKED),
        (BaseExceptionGroup("tasks", [ValueError(), LOST]), Lost(str(LOST))),
        (SystemExit(3), Failed("the handler called sys.exit(3)")),
        (Retry(reason="a\0b\ud800"), Failed("a␀b\ufffd")),
        (Fail("x" * 10_000), Failed("x" * ERROR_CHARACTERS_MAX, final=True)),
        (Fail(" "), Failed("no reason was given", final=True)),
        (Cancel(""), Canceled("no reason was given")),
        (Fail(cast(str, Unspeakable())), Failed(UNSPOKEN, final=True)),
        (Cancel(cast(str, Unspeakable())), Canceled(UNSPOKEN)),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_a_handler_raises_on_purpose(
    error: BaseException, outcome: Outcome, plain: bool
) -> None:
    assert await outcome_from(raising(error, plain=plain)) == outcome


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(1),
        StopAsyncIteration(),
        asyncio.CancelledError(),
        BaseException("bare"),
        RecursionError("too deep"),
        MemoryError(),
        SystemExit(Unprintable()),
        Unspeakable(),
        Mute(),
        nested(ValueError("leaf"), 3),
        nested(ValueError("leaf"), 3000),
        ExceptionGroup("both", [Fail("one"), ValueError("two")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_everything_else_that_is_raised_is_a_failure_to_be_retried(
    error: BaseException, plain: bool
) -> None:
    outcome = await outcome_from(raising(error, plain=plain))
    assert isinstance(outcome, Failed)
    assert not outcome.final
    assert outcome.error


async def test_a_failure_says_the_type_the_message_and_the_place() -> None:
    outcome = await outcome_from(raising(ValueError("wrong")))
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith(f"ValueError: wrong ({attempts.__file__}:")


async def test_endless_recursion_is_a_failure() -> None:
    def again() -> Never:
        again()

    async def work() -> None:
        again()

    outcome = await outcome_from(work)
    assert isinstance(outcome, Failed)
    assert "RecursionError" in outcome.error


texts = st.text(max_size=20) | st.sampled_from(["a\0b", "\ud800", "x" * 10_000])


leaves: st.SearchStrategy[BaseException] = st.one_of(
    st.builds(ValueError, texts),
    st.builds(BaseException, texts),
    st.builds(Retry, st.none(), texts),
    st.builds(Fail, texts),
    st.builds(Cancel, texts),
    st.builds(SystemExit, texts | st.none() | st.integers()),
    st.builds(ParkSignal, st.builds(Parked, st.just("signal"), st.text(max_size=5))),
    st.builds(Unavailable, texts),
    st.builds(JobsworthError, texts, texts),
    st.sampled_from([Unspeakable(), Mute(), LOST, KeyboardInterrupt(), GeneratorExit()]),
)


errors = st.recursive(
    leaves,
    lambda inner: st.builds(
        BaseExceptionGroup,
        texts,
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


@given(error=errors, attempt_no=st.integers(1, 10_000))
@settings(max_examples=150, deadline=None)
def test_any_exception_is_an_outcome_whose_text_can_be_stored(
    error: BaseException, attempt_no: int
) -> None:
    outcome = outcome_of(error, attempt_no)
    assert isinstance(outcome, Outcome)
    match outcome:
        case Failed(text) | Canceled(text):
            text.encode()
            assert "\0" not in text
            assert 0 <= len(text) <= ERROR_CHARACTERS_MAX
        case _:
            assert isinstance(outcome, Parked | Lost)


# What handlers return.


@dataclass
class Point:
    x: int


class Model(BaseModel):
    at: datetime


def broken_generator() -> Generator[int]:
    yield 1
    raise ValueError("half-way")


def circle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (None, "null"),
        ((1, {2}), "[1,[2]]"),
        (float("nan"), "null"),
        (float("inf"), "null"),
        ("a\0b", r'"a\u2400b"'),
        ("half \ud800", '"half \ufffd"'),
        ({"a\0": 1}, r'{"a\u2400":1}'),
        (Point(1), '{"x":1}'),
        (Model(at=datetime(2030, 1, 2, tzinfo=UTC)), '{"at":"2030-01-02T00:00:00Z"}'),
        (10**400, str(10**400)),
        ("x" * 2_000_000, f'"{"x" * 2_000_000}"'),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_what_a_handler_returns_becomes_json(value: object, result: str) -> None:
    async def work() -> object:
        return value

    assert await outcome_from(work) == Done(result)


@pytest.mark.parametrize(
    "value",
    [object(), threading.Lock(), print, circle(), b"\xff", sys],
    ids=lambda value: type(value).__name__,
)
async def test_a_result_that_cannot_be_json_fails_for_good_and_says_why(value: object) -> None:
    """Another try would return the same."""

    def work() -> object:
        return value

    outcome = await outcome_from(work)
    assert isinstance(outcome, Failed)
    assert outcome.final
    assert "the result of 'work' cannot be written as JSON" in outcome.error


@pytest.mark.parametrize("make", [broken_generator, lambda: nested_list(100_000)])
async def test_a_result_that_breaks_its_reader_is_a_failure(make: Function) -> None:
    async def work() -> object:
        return make()

    outcome = await outcome_from(work)
    assert isinstance(outcome, Failed)


def nested_list(depth: int) -> list[Any]:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    return deep
