"""An attempt is total: whatever a handler does becomes exactly one outcome that can be stored."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import anyio
import pytest

from db.errors import Contended, Exhausted, Refused, Unavailable
from db.fence import Lease
from db.queue.jobs import JobStatus, WaitReason
from jobsworth import Job, Retry, handler
from tests.worker.job_api import JobApi, claimed_job, registered
from tests.worker.queue.attempts import (
    Function,
    attempt_of,
    attempted,
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
    Released,
)
from worker.queue.attempt import Attempt


async def test_an_ended_attempt_leaves_the_collector_nothing_to_free() -> None:
    async def work(job: Job) -> None:
        job.say("half")

    attempt = attempt_of(work)
    gc.collect()
    gc.disable()
    try:
        await attempted(attempt)
        state = weakref.ref(attempt.state)
        del attempt
        assert state() is None
    finally:
        gc.enable()


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
