"""An attempt is total: whatever a handler does becomes exactly one outcome that can be stored."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Never, cast
from uuid import UUID

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from db.errors import Contended, Exhausted, JobsworthError, Refused, Unavailable
from db.fence import Lease, LeaseLost
from db.pool import Database
from db.queue.jobs import JobStatus, WaitReason
from jobsworth import Cancel, Fail, Job, Retry, Snooze, handler
from tests.worker.job_api import JobApi, claimed_job, registered
from worker.attempt_state import Tools
from worker.memory.embedders import HashingEmbedder
from worker.money.spool import Spool
from worker.money.spool_folder import SpoolFolder
from worker.outcomes import (
    Canceled,
    Done,
    Failed,
    Lost,
    Outcome,
    Parked,
    ParkSignal,
    Released,
)
from worker.queue.attempt import Attempt, run_attempt
from worker.queue.interpret import ERROR_CHARACTERS_MAX, outcome_of

NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"
PARKED = Parked("signal", "go")
LOST = LeaseLost(Lease(UUID(int=1), 1, UUID(int=2)))

Function = Callable[..., Any]


def attempt_of(function: Function, **job: Any) -> Attempt:
    """An attempt at a job whose handler is this function."""
    with registered() as registry:
        handler("work")(function)
        claimed = claimed_job(**job)
        return Attempt(claimed, Lease(claimed.id, 1, UUID(int=2)), registry["work"])


def tools() -> Tools:
    """No database answers here: these attempts do not need one, or see what comes of that."""
    database = Database(NOBODY, pool_min=0, acquire_seconds=0.05)
    return Tools(
        database=database,
        embedder=HashingEmbedder(8),
        threads=anyio.CapacityLimiter(4),
        payload_bytes_max=1000,
        deployer=cast(Any, None),
        spool=Spool(database, SpoolFolder(Path("/nonexistent"), 0)),
    )


async def attempted(attempt: Attempt) -> Outcome:
    """As a runner does, which leaves the scope before it takes the next attempt."""
    with anyio.CancelScope() as scope:
        return await run_attempt(scope, attempt, tools(), ())
    raise AssertionError("a cancellation came out of the attempt")


async def outcome_from(function: Function, **job: Any) -> Outcome:
    with anyio.fail_after(10):
        return await attempted(attempt_of(function, **job))


def raising(error: BaseException, *, plain: bool = False) -> Function:
    """A handler that raises this."""

    async def fail() -> None:
        raise error

    def fail_plainly() -> None:
        raise error

    return fail_plainly if plain else fail


class Unspeakable(BaseException):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise self


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
    assert outcome.error.startswith(f"ValueError: wrong ({Path(__file__)}:")


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


# Stops.


async def stopped(
    function: Function, *causes: Outcome, started: anyio.Event, **job: Any
) -> Outcome:
    """The outcome of an attempt that is stopped, for these causes, once it has started."""
    attempt = attempt_of(function, **job)
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await attempted(attempt))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            for cause in causes:
                attempt.stop(cause)
    return outcomes[0]


@pytest.mark.parametrize(
    "cause", [Released(), Canceled("by Ann"), Lost("no heartbeat"), Failed("x")], ids=repr
)
async def test_a_stopped_attempt_ends_with_the_first_cause(cause: Outcome) -> None:
    started = anyio.Event()

    async def work() -> None:
        started.set()
        await anyio.sleep_forever()

    assert await stopped(work, cause, Failed("too late"), started=started) == cause


async def test_work_that_finished_all_the_same_beats_a_late_stop() -> None:
    started = anyio.Event()

    async def work() -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        return "finished"

    assert await stopped(work, Released(), started=started) == Done('"finished"')


@pytest.mark.parametrize("error", [ValueError("cleaning"), Retry(1), SystemExit(1)], ids=repr)
async def test_an_exception_raised_while_being_stopped_does_not_hide_the_cause(
    error: BaseException,
) -> None:
    started = anyio.Event()

    async def work() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    assert await stopped(work, Canceled("by Ann"), started=started) == Canceled("by Ann")


async def test_an_attempt_that_is_stopped_before_it_runs_ends_with_its_cause() -> None:
    async def work() -> None:
        await anyio.sleep_forever()

    attempt = attempt_of(work)
    attempt.stop(Released())
    assert await attempted(attempt) == Released()


async def test_a_plain_function_cannot_be_stopped_and_its_work_counts() -> None:
    started, go_on = anyio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> str:
        loop.call_soon_threadsafe(started.set)
        assert go_on.wait(10)
        return "finished"

    attempt = attempt_of(work)
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await attempted(attempt))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await started.wait()
        assert attempt.in_thread
        attempt.stop(Released())
        go_on.set()
    assert outcomes == [Done('"finished"')]
    assert not attempt.in_thread


@pytest.mark.parametrize("where", ["job", "handler"])
async def test_a_deadline_that_passes_is_a_failure(where: str) -> None:
    async def work() -> None:
        await anyio.sleep_forever()

    with registered() as registry:
        handler("work", timeout_seconds=0.02 if where == "handler" else 600)(work)
        claimed = claimed_job(timeout_seconds=0.02 if where == "job" else None)
        attempt = Attempt(claimed, Lease(claimed.id, 1, UUID(int=2)), registry["work"])
    with anyio.fail_after(10):
        outcome = await attempted(attempt)
    assert outcome == Failed("its deadline passed: it may take 0.02 s")


async def test_a_deadline_that_passed_first_is_not_hidden_by_a_later_stop() -> None:
    cleaning, go_on = anyio.Event(), anyio.Event()

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                cleaning.set()
                await go_on.wait()

    attempt = attempt_of(work, timeout_seconds=0.01)
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await attempted(attempt))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await cleaning.wait()
            attempt.stop(Released())
            go_on.set()
    assert outcomes == [Failed("its deadline passed: it may take 0.01 s")]


async def test_a_task_that_cancels_itself_fails_and_its_neighbours_go_on() -> None:
    async def suicide() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep(1)

    async def work() -> str:
        await anyio.sleep(0.01)
        return "finished"

    outcomes: dict[str, Outcome] = {}

    async def run(name: str, function: Function) -> None:
        outcomes[name] = await outcome_from(function)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "one", suicide)
        tasks.start_soon(run, "other", work)
    assert isinstance(outcomes["one"], Failed)
    assert outcomes["other"] == Done('"finished"')


async def test_a_daemon_that_is_cancelled_takes_its_attempts_along_without_an_outcome() -> None:
    started = anyio.Event()
    outcomes: list[Outcome] = []

    async def work() -> None:
        started.set()
        await anyio.sleep_forever()

    async def run() -> None:
        outcomes.append(await attempted(attempt_of(work)))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            tasks.cancel_scope.cancel()
    assert outcomes == []


async def test_a_payload_that_does_not_fit_fails_for_good_before_the_handler_runs() -> None:
    ran: list[int] = []

    async def work(n: int) -> None:
        ran.append(n)

    outcome = await outcome_from(work, payload={"n": "many"})
    assert isinstance(outcome, Failed)
    assert outcome.final
    assert "n: " in outcome.error
    assert ran == []


# The database.


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", [Unavailable, Contended, Exhausted])
async def test_a_database_error_that_may_pass_parks_the_job_for_a_while(
    kind: type[Unavailable | Contended | Exhausted], grouped: bool
) -> None:
    error = kind("away")
    function = raising(ExceptionGroup("tasks", [error]) if grouped else error)
    assert await outcome_from(function, attempt=1) == Parked("timer", "away", 2)
    assert await outcome_from(function, attempt=99) == Parked("timer", "away", 60)


async def test_a_statement_that_cannot_succeed_is_the_handlers_failure() -> None:
    outcome = await outcome_from(raising(Refused("no such column", sqlstate="42703")))
    assert isinstance(outcome, Failed)
    assert "no such column" in outcome.error


async def test_a_step_without_a_database_parks_the_job() -> None:
    async def work(job: Job) -> None:
        await job.step("first", lambda: 1)

    outcome = await outcome_from(work)
    assert isinstance(outcome, Parked)
    assert (outcome.reason, outcome.after_seconds) == ("timer", 2)


@pytest.fixture
def handlers_of_test() -> Iterator[None]:
    with registered():
        yield


@pytest.mark.usefixtures("handlers_of_test")
async def test_what_is_hard_to_store_is_stored_and_no_neighbour_suffers(database_url: str) -> None:
    messages = ["a\0b", "half \ud800", "x" * 100_000, ""]
    results: list[Any] = ["a\0b", float("nan"), 10**400, "x" * 2_000_000]

    @handler("raise")
    def fail(n: int) -> None:
        raise ValueError(messages[n])

    @handler("away")
    async def away() -> None:
        raise Unavailable("the \0 database is away")

    @handler("return")
    async def give(n: int) -> object:
        return results[n]

    async with JobApi.open(database_url) as api:
        failing = [await api.enqueue("raise", {"n": n}, failures_max=2) for n in range(4)]
        giving = [await api.enqueue("return", {"n": n}) for n in range(4)]
        parked_id = await api.enqueue("away")
        await api.work()
        failed = [await api.job(job_id) for job_id in failing]
        given_back = [(await api.job(job_id)).result for job_id in giving]
        parked = await api.job(parked_id)
        assert await api.violations() == []
    assert [job.failures for job in failed] == [2, 2, 2, 2]
    assert (failed[0].error or "").startswith("ValueError: a␀b")
    assert (failed[1].error or "").startswith("ValueError: half \ufffd")
    assert given_back == ["a␀b", None, 10**400, "x" * 2_000_000]
    assert (parked.status, parked.waiting_for) == (JobStatus.WAITING, WaitReason.TIMER)
    assert (parked.failures, parked.waiting_detail) == (0, "the ␀ database is away")
