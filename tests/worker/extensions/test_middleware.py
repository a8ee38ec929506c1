"""Middleware: it surrounds each attempt, sees its ending, and cannot undo an ending on purpose."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import anyio
import pytest

from db.errors import InvalidInput
from db.queue import enqueue_middleware as enqueueing
from jobsworth import (
    CallNext,
    Cancel,
    Fail,
    HandlerError,
    Job,
    NewJob,
    Retry,
    Snooze,
    enqueue,
    enqueue_many,
    enqueue_middleware,
    handler,
    middleware,
)
from tests.worker.job_api import JobApi, claimed_job, registered
from tests.worker.queue.attempts import attempt_of, tools
from worker.extensions import middleware as around
from worker.outcomes import Canceled, Done, Failed, Outcome, Parked, ParkSignal
from worker.queue.attempt import Attempt, run_attempt

Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    with registered():
        yield


async def ran(attempt: Attempt, *middlewares: Any) -> Outcome:
    """The outcome of the attempt with these around it, as a runner runs it."""
    with anyio.fail_after(10), anyio.CancelScope() as scope:
        return await run_attempt(scope, attempt, replace(tools(), middlewares=middlewares), ())
    raise AssertionError("a cancellation came out of the attempt")


async def swallowing(job: Job, call_next: CallNext) -> Any:
    try:
        return await call_next(job)
    except BaseException:
        return "swallowed"


async def passing(job: Job, call_next: CallNext) -> Any:
    return await call_next(job)


async def test_the_first_declared_is_the_outermost_and_each_sees_what_came_of_it() -> None:
    seen: list[object] = []

    @middleware
    async def outer(job: Job, call_next: CallNext) -> Any:
        seen.append("outer begins")
        seen.append(await call_next(job))
        return "changed"

    @middleware
    async def inner(job: Job, call_next: CallNext) -> Any:
        seen.append("inner begins")
        return await call_next(job)

    async def work(n: int) -> int:
        seen.append("handler")
        return n + 1

    outcome = await ran(attempt_of(work, payload={"n": 1}), *around.declared)
    assert outcome == Done('"changed"')
    assert seen == ["outer begins", "inner begins", "handler", 2]


@pytest.mark.parametrize("plain", [False, True])
async def test_context_and_effects_of_middleware_are_the_attempts(plain: bool) -> None:
    async def measuring(job: Job, call_next: CallNext) -> Any:
        result = await call_next(job)
        job.metric("length", len(result))
        return result

    async def async_work(job: Job) -> str:
        job.metric("own", 1)
        return "four"

    def plain_work(job: Job) -> str:
        job.metric("own", 1)
        return "four"

    outcome = await ran(attempt_of(plain_work if plain else async_work), measuring)
    assert isinstance(outcome, Done)
    assert [getattr(one, "name", None) for one in outcome.effects] == ["own", "length"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Fail("no"), Failed("no", final=True)),
        (Cancel("enough"), Canceled("enough")),
        (Retry(3, "later"), Failed("later", after_seconds=3)),
        (Snooze(4), Parked("timer", "snoozed", 4)),
        (ParkSignal(Parked("signal", "x")), Parked("signal", "x")),
        (ExceptionGroup("both", [Fail("no")]), Failed("no", final=True)),
    ],
    ids=repr,
)
async def test_an_ending_on_purpose_that_is_swallowed_counts_all_the_same(
    error: BaseException, expected: Outcome
) -> None:
    async def work() -> None:
        raise error

    assert await ran(attempt_of(work), passing, swallowing) == expected


async def test_a_stop_that_is_swallowed_counts_all_the_same() -> None:
    started = anyio.Event()

    async def work() -> None:
        started.set()
        await anyio.sleep_forever()

    attempt = attempt_of(work)
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await ran(attempt, swallowing))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await started.wait()
        attempt.stop(Canceled("by Ann"))
    assert outcomes == [Canceled("by Ann")]


async def test_an_error_can_be_translated_or_replaced_by_a_result() -> None:
    async def work() -> None:
        raise KeyError("x")

    async def translating(job: Job, call_next: CallNext) -> Any:
        try:
            return await call_next(job)
        except KeyError as error:
            raise Fail("no such thing") from error

    assert await ran(attempt_of(work), translating) == Failed("no such thing", final=True)
    assert await ran(attempt_of(work), swallowing) == Done('"swallowed"')


async def test_a_middleware_that_does_not_call_on_refuses_the_handler() -> None:
    async def work() -> None:
        raise AssertionError("it ran")

    async def closing(job: Job, call_next: CallNext) -> Any:
        raise Snooze(60)

    assert await ran(attempt_of(work), closing) == Parked("timer", "snoozed", 60)


async def test_a_payload_that_does_not_fit_is_an_ending_that_middleware_sees() -> None:
    seen: list[str] = []

    async def telling(job: Job, call_next: CallNext) -> Any:
        try:
            return await call_next(job)
        except Exception as error:
            seen.append(str(error))
            raise

    async def work(n: int) -> None: ...

    outcome = await ran(attempt_of(work, payload={"n": "many"}), telling)
    assert isinstance(outcome, Failed)
    assert outcome.final
    assert "valid integer" in seen[0]


def hostile() -> Iterator[tuple[str, Any, str]]:
    async def raises(job: Job, call_next: CallNext) -> Any:
        raise ValueError("mine")

    async def exits(job: Job, call_next: CallNext) -> Any:
        await call_next(job)
        sys.exit(3)

    async def cancels(job: Job, call_next: CallNext) -> Any:
        task: Any = asyncio.current_task()
        task.cancel()
        return await call_next(job)

    async def twice(job: Job, call_next: CallNext) -> Any:
        await call_next(job)
        return await call_next(job)

    async def other(job: Job, call_next: Any) -> Any:
        return await call_next("another")

    async def not_json(job: Job, call_next: CallNext) -> Any:
        return object()

    yield "raises", raises, "ValueError: mine"
    yield "exits", exits, "sys.exit(3)"
    yield "cancels", cancels, "canceled from within"
    yield "twice", twice, "called call_next twice"
    yield "other", other, "call_next was given str"
    yield "not_json", not_json, "cannot be written as JSON"


@pytest.mark.parametrize(
    ("function", "error"), [pytest.param(f, error, id=name) for name, f, error in hostile()]
)
async def test_what_a_middleware_does_is_its_attempts_trouble(
    function: Function, error: str
) -> None:
    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        return "done"

    outcome = await ran(attempt_of(work), function)
    assert isinstance(outcome, Failed)
    assert error in outcome.error


async def test_a_deadline_covers_middleware() -> None:
    async def blocking(job: Job, call_next: CallNext) -> Any:
        await anyio.sleep_forever()

    async def work() -> None: ...

    outcome = await ran(attempt_of(work, timeout_seconds=0.05), blocking)
    assert outcome == Failed("its deadline passed: it may take 0.05 s")


def test_what_is_no_middleware_is_refused_where_it_is_declared() -> None:
    def plain(job: Job, call_next: CallNext) -> Any: ...

    async def alone(job: Job) -> Any: ...

    async def named(job: Job, call_next: CallNext, *, more: int) -> Any: ...

    for function in (plain, alone, named):
        with pytest.raises(HandlerError, match="async def middleware\\(job, call_next\\)"):
            middleware(function)  # pyright: ignore[reportArgumentType]
    middleware(passing)
    middleware(passing)
    assert around.declared == [passing]


async def test_a_real_worker_runs_it_around_steps_waits_and_processes(api: JobApi) -> None:
    """A wait that it swallows waits all the same, and what a process returned or raised is seen."""
    seen: list[tuple[str, int, object]] = []

    @middleware
    async def telling(job: Job, call_next: CallNext) -> Any:
        try:
            result = await call_next(job)
        except BaseException as error:
            seen.append((job.mode, job.attempt, type(error).__name__))
            return "swallowed"
        seen.append((job.mode, job.attempt, result))
        return result

    @handler("waits")
    async def waits(job: Job) -> str:
        await job.step("one", lambda: 1)
        await job.sleep(0.4)
        return "slept"

    from tests.worker import endings  # its handlers have processes of their own

    handler("process.return", isolate="process")(endings.process_return)
    handler("process.raise", isolate="process", failures_max=1)(endings.process_raise)
    assert (await api.run("waits")).result == "slept"
    ids = [await api.enqueue("process.return", {"n": 7}), await api.enqueue("process.raise")]
    await api.work()
    returned, raised = [await api.job(one) for one in ids]
    assert (returned.status, returned.result["n"]) == ("done", 7)
    assert await api.value("select count(*) from jobsworth.artifacts") == 1
    assert raised.status == "failed"
    assert "ValueError: boom in a process" in str(raised.error)
    assert seen[:2] == [("waits", 1, "ParkSignal"), ("waits", 2, "slept")]
    assert ("process.raise", 1, "Ended") in seen


# Around enqueueing.


async def test_each_way_of_enqueueing_goes_through_middleware(api: JobApi) -> None:
    @enqueue_middleware
    def tagging(job: NewJob) -> NewJob:
        return replace(job, payload={**(job.payload or {}), "tag": 1}, priority=2)

    @handler("parent")
    async def parent(job: Job, tag: int) -> object:
        job.enqueue("child", {"by": "enqueue"})
        return await job.gather(job.spawn("child", {"by": "spawn"}))

    @handler("child")
    async def child(by: str, tag: int) -> str:
        return by

    async with api.database.connection() as connection:
        await enqueue(connection, "child", {"by": "hand"})
        assert await enqueue_many(connection, [NewJob("child", {"by": "many"})]) == 1
    await enqueue(api.database, "parent", {})
    with pytest.raises(InvalidInput, match="not a NewJob"):
        async with api.database.connection() as connection:
            await enqueue_many(connection, ["child"])  # pyright: ignore[reportArgumentType]
    await api.work()
    rows = await api.rows(
        "select payload->>'by' as by, payload->'tag' as tag, priority, status::text"
        " from jobsworth.reactive_jobs where mode = 'child' order by 1"
    )
    assert [row["by"] for row in rows] == ["enqueue", "hand", "many", "spawn"]
    assert all((row["tag"], row["priority"], row["status"]) == (1, 2, "done") for row in rows)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (None, "returned None, not a NewJob"),
        ({"id": claimed_job().id}, "changed the id"),
        ({"priority": 9}, "priority 9 is not 1 to 4"),
    ],
)
def test_what_an_enqueue_middleware_may_not_return(
    changes: dict[str, Any] | None, error: str
) -> None:
    @enqueue_middleware
    def wrong(job: NewJob) -> Any:
        return None if changes is None else replace(job, **changes)

    assert enqueueing.declared == [wrong]
    with pytest.raises(InvalidInput, match=error):
        enqueueing.through(NewJob("work", id=claimed_job().id))


def test_an_async_enqueue_middleware_is_refused() -> None:
    async def wrong(job: NewJob) -> NewJob:
        return job

    with pytest.raises(InvalidInput, match="not a plain function"):
        enqueue_middleware(wrong)  # pyright: ignore[reportArgumentType]
