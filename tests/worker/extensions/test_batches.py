"""Batches: one call for several jobs, each of which ends on its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import pytest
from pydantic import BaseModel

from db.fence import Lease
from jobsworth import (
    CallNext,
    Cancel,
    Fail,
    HandlerError,
    Job,
    Retry,
    Snooze,
    handler,
    middleware,
    worker_lifespan,
)
from tests.support import until
from tests.worker.job_api import JobApi, claimed_job, registered
from tests.worker.queue.attempts import tools
from worker.attempt_state import Tools
from worker.extensions.batches import Batches
from worker.handlers import registry
from worker.outcomes import Canceled, Done, Failed, Outcome, Parked, Released
from worker.queue.attempt import Attempt, run_attempt


class Note(BaseModel):
    text: str
    loud: bool = False


class Client:
    pass


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    with registered():
        yield


def attempt(**payload: Any) -> Attempt:
    job = claimed_job(payload=payload)
    return Attempt(job, Lease(job.id, 1, UUID(int=2)), registry["work"])


def many(texts: str) -> list[Attempt]:
    return [attempt(text=text) for text in texts]


async def run(attempt: Attempt, tools: Tools, outcomes: dict[Attempt, Outcome]) -> None:
    with anyio.CancelScope() as scope:
        outcomes[attempt] = await run_attempt(scope, attempt, tools, ())


async def ran(
    attempts: list[Attempt], beside: Callable[[], Any] | None = None, slots: int = 10
) -> list[Outcome]:
    """Their outcomes, run at the same time; `beside` runs meanwhile."""
    outcomes: dict[Attempt, Outcome] = {}
    shared = replace(tools(), batches=Batches(slots))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for one in attempts:
                tasks.start_soon(run, one, shared, outcomes)
            if beside is not None:
                tasks.start_soon(beside)
    return [outcomes[one] for one in attempts]


@pytest.mark.parametrize("plain", [False, True])
async def test_payloads_and_jobs_come_in_one_order_and_each_has_its_own_outcome(
    plain: bool,
) -> None:
    def handle(notes: list[Note], jobs: list[Job]) -> list[object]:
        assert [job.payload["text"] for job in jobs] == [note.text for note in notes]
        jobs[0].metric("seen", len(jobs))
        endings: dict[str, object] = {
            "f": Fail("no"),
            "r": Retry(3, "later"),
            "c": Cancel("enough"),
            "s": Snooze(4),
            "e": ValueError("odd"),
            "x": asyncio.CancelledError(),
            "o": object(),
        }
        return [endings.get(note.text, note.text.upper()) for note in notes]

    async def handle_async(notes: list[Note], jobs: list[Job]) -> list[object]:
        return handle(notes, jobs)

    handler("work", batch=10, batch_seconds=0.2)(handle if plain else handle_async)
    done, failed, retried, canceled, snoozed, error, cut, odd, bad = await ran(
        [*many("afrcsexo"), attempt(loud=True)]
    )
    assert isinstance(done, Done)
    assert (done.result, len(done.effects)) == ('"A"', 1)
    assert failed == Failed("no", final=True)
    assert retried == Failed("later", after_seconds=3)
    assert canceled == Canceled("enough")
    assert snoozed == Parked("timer", "snoozed", 4)
    assert error == Failed("ValueError: odd")
    assert cut == Failed("the handler was canceled from within")
    assert isinstance(odd, Failed)
    assert "the result of 'work'" in odd.error
    # It was refused before it could join.
    assert bad == Failed("the payload does not fit work(text, loud): text: Field required", True)


async def test_no_batch_is_larger_than_it_may_be_and_a_full_one_does_not_wait() -> None:
    sizes: list[int] = []

    @handler("work", batch=3, batch_seconds=60)
    async def work(jobs: list[Job]) -> None:
        sizes.append(len(jobs))

    assert set(await ran(many("abcdef"))) == {Done("null")}
    assert sizes == [3, 3]
    sizes.clear()
    await ran(many("abcd"), slots=2)  # with two slots, no third job can come
    assert sizes == [2, 2]


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        (ValueError("all of you"), "ValueError: all of you"),
        (SystemExit(3), "the handler called sys.exit(3)"),
        (GeneratorExit("x"), "GeneratorExit: x"),
        (asyncio.CancelledError(), "the handler was canceled from within"),
        ([1], "returned 1 outcomes for 2 jobs"),
        ("two", "returned a str for 2 jobs"),
    ],
    ids=repr,
)
async def test_a_handler_that_raises_or_returns_nonsense_fails_all(
    ending: object, error: str
) -> None:
    @handler("work", batch=2)
    async def work(jobs: list[Job]) -> object:
        if isinstance(ending, BaseException):
            raise ending
        return ending

    for outcome in await ran(many("ab")):
        assert isinstance(outcome, Failed)
        assert error in outcome.error
        assert not outcome.final
        assert outcome.traceback is None or outcome.traceback.count("in work: ") <= 1


async def test_one_that_cancels_itself_and_leaves_a_scope_fails_no_other_batch() -> None:
    @handler("work", batch=2)
    async def work(notes: list[Note]) -> None:
        anyio.CancelScope().__enter__()
        if notes[0].text == "a":
            task: Any = asyncio.current_task()
            task.cancel()
            await anyio.sleep(1)

    outcomes = await ran(many("abcd"))
    assert outcomes[2:] == [Done("null"), Done("null")]
    assert outcomes[:2] == [Failed("the handler was canceled from within")] * 2


async def test_a_member_that_is_canceled_is_told_and_its_result_discarded() -> None:
    began, stop_seen = anyio.Event(), anyio.Event()

    @handler("work", batch=2)
    async def work(jobs: list[Job]) -> list[str]:
        began.set()
        while not jobs[0].is_stopped:
            await anyio.sleep(0.005)
        assert not jobs[1].is_stopped
        stop_seen.set()
        return ["a", "b"]

    first, second = many("ab")

    async def cancel() -> None:
        await began.wait()
        first.stop(Canceled("by Ann"))

    assert await ran([first, second], cancel) == [Canceled("by Ann"), Done('"b"')]
    assert stop_seen.is_set()


async def test_no_member_ends_before_the_call_has() -> None:
    """Else a member that ran out of time would be retried beside the call that works for it."""
    began, go_on = anyio.Event(), anyio.Event()
    outcomes: dict[Attempt, Outcome] = {}

    @handler("work", batch=2)
    async def work(jobs: list[Job]) -> None:
        began.set()
        await go_on.wait()

    first, second = many("ab")
    shared = replace(tools(), batches=Batches(10))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, first, shared, outcomes)
            tasks.start_soon(run, second, shared, outcomes)
            await began.wait()
            first.stop(Failed("its deadline passed"))
            await anyio.wait_all_tasks_blocked()
            assert not outcomes
            go_on.set()
    assert [outcomes[first], outcomes[second]] == [Failed("its deadline passed"), Done("null")]


async def test_a_call_is_canceled_when_all_its_members_are_stopped() -> None:
    began = anyio.Event()
    said: list[str] = []

    @handler("work", batch=2, timeout_seconds=0.2)
    async def work(jobs: list[Job]) -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            said.append("canceled")

    first, second = many("ab")

    async def stop() -> None:
        await began.wait()
        first.stop(Released())

    assert await ran([first, second], stop) == [
        Released(),
        Failed("its deadline passed: it may take 0.2 s"),
    ]
    assert said == ["canceled"]


async def test_a_member_that_is_stopped_while_the_batch_fills_is_not_handled() -> None:
    seen: list[str] = []

    @handler("work", batch=3, batch_seconds=0.3)
    async def work(notes: list[Note]) -> None:
        seen.extend(note.text for note in notes)

    first, second = many("ab")

    async def stop() -> None:
        await anyio.wait_all_tasks_blocked()
        first.stop(Canceled("by Ann"))

    assert await ran([first, second], stop) == [Canceled("by Ann"), Done("null")]
    assert seen == ["b"]


async def test_one_that_comes_after_all_others_left_has_a_batch_that_is_not_canceled() -> None:
    @handler("work", batch=2, batch_seconds=0.2)
    async def work(jobs: list[Job]) -> list[int]:
        await anyio.sleep(0.01)
        return [len(jobs)] * len(jobs)

    outcomes: dict[Attempt, Outcome] = {}
    first, second = many("ab")
    shared = replace(tools(), batches=Batches(10))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, first, shared, outcomes)
            await anyio.wait_all_tasks_blocked()
            first.stop(Canceled("by Ann"))
            while first not in outcomes:
                await anyio.lowlevel.checkpoint()
            tasks.start_soon(run, second, shared, outcomes)
    assert outcomes[second] == Done("1")


async def test_a_suspect_has_a_batch_to_itself() -> None:
    """So a job that kills its worker takes no other along when it is found out."""
    sizes: dict[str, int] = {}

    @handler("work", batch=5, batch_seconds=0.1)
    async def work(notes: list[Note]) -> None:
        sizes.update((note.text, len(notes)) for note in notes)

    job = claimed_job(payload={"text": "s"}, suspect=True)
    suspect = Attempt(job, Lease(job.id, 1, UUID(int=2)), registry["work"])
    one, two = many("ab")
    await ran([one, suspect, two])
    assert sizes == {"s": 1, "a": 2, "b": 2}


async def test_what_a_member_cannot_do_is_refused_by_name() -> None:
    @handler("work", batch=2)
    async def work(jobs: list[Job]) -> list[BaseException | None]:
        errors: list[BaseException | None] = []
        for call in (
            lambda: jobs[0].sleep(1),
            lambda: jobs[0].ask("?"),
            lambda: jobs[0].step("x", len, []),
            lambda: jobs[0].spawn("other"),
        ):
            with pytest.raises(Exception, match="cannot be used in a batch") as caught:
                call()
            errors.append(caught.value)
        return errors[:2]

    for outcome in await ran(many("ab")):
        assert isinstance(outcome, Failed)
        assert "cannot be used in a batch: 'work' has several jobs" in outcome.error


def test_what_no_batch_can_be_is_refused_where_it_is_declared() -> None:
    async def text(text: str) -> None: ...

    async def neither(client: int = 1) -> None: ...

    async def jobs(jobs: list[Job]) -> None: ...

    def plain(jobs: list[Job]) -> None: ...

    async def twice(notes: list[Note], more: list[Note]) -> None: ...

    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (text, {"batch": 5}, "an argument 'text' that gets nothing"),
        (neither, {"batch": 5}, "an argument 'client' that gets nothing"),
        (twice, {"batch": 5}, "that gets nothing"),
        (jobs, {"batch": 0}, "batch=0"),
        (jobs, {"batch": True}, "batch=True"),
        (jobs, {"batch": 5, "batch_seconds": 0}, "batch_seconds=0"),
        (jobs, {"batch": 5, "batch_seconds": float("nan")}, "batch_seconds=nan"),
        (jobs, {"batch_seconds": 1}, "batch_seconds without batch"),
        (plain, {"batch": 5, "isolate": "process"}, "a process is for one job"),
    ]
    for function, options, error in wrong:
        with pytest.raises(HandlerError, match=error):
            handler("work", **options)(function)


async def test_a_real_worker_batches_and_each_job_has_its_own_row(api: JobApi) -> None:
    """With lanes (one job of a lane is in a batch), retries, middleware and a resource."""
    batches: list[list[str]] = []
    around: list[str] = []

    @worker_lifespan
    async def client() -> AsyncIterator[Client]:
        yield Client()

    @middleware
    async def telling(job: Job, call_next: CallNext) -> Any:
        result = await call_next(job)
        around.append(job.payload["text"])
        return result

    @handler("embed", batch=100, batch_seconds=0.3)
    async def embed(notes: list[Note], jobs: list[Job], client: Client) -> list[object]:
        assert type(client) is Client
        batches.append([note.text for note in notes])
        for job in jobs:
            job.remember(job.payload["text"])
        return [
            ValueError("once") if note.text == "odd" and job.attempt == 1 else note.text.upper()
            for note, job in zip(notes, jobs, strict=True)
        ]

    ids = [
        await api.enqueue("embed", {"text": text}, lane=lane)
        for text, lane in [("a", None), ("odd", None), ("first", "l"), ("second", "l")]
    ]
    await api.work()
    ended = [await api.job(one) for one in ids]
    assert [(job.status, job.result) for job in ended] == [
        ("done", text) for text in ("A", "ODD", "FIRST", "SECOND")
    ]
    assert [job.failures for job in ended] == [0, 1, 0, 0]
    assert sorted(batches[0]) == ["a", "first", "odd"]
    assert not any({"first", "second"} <= set(texts) for texts in batches)
    assert sorted(around) == ["a", "first", "odd", "second"]
    assert await api.value("select count(*) from jobsworth.embeddings") == 4


async def test_a_cancel_of_one_member_reaches_a_real_worker(api: JobApi) -> None:
    began = anyio.Event()

    @handler("slow", batch=2)
    async def slow(jobs: list[Job]) -> list[str]:
        began.set()
        while not any(job.is_stopped for job in jobs):
            await anyio.sleep(0.01)
        return ["finished"] * len(jobs)

    ids = [await api.enqueue("slow", {}) for _ in range(2)]
    async with api.working():
        await began.wait()
        await api.value("select jobsworth.cancel(%(id)s, 'not wanted')::text", id=ids[0])
        await until(partial(_ended, api, ids), 30)
    canceled, done = [await api.job(one) for one in ids]
    assert (canceled.status, canceled.error) == ("canceled", "not wanted")
    assert (done.status, done.result) == ("done", "finished")


async def _ended(api: JobApi, ids: list[UUID]) -> bool:
    return all([(await api.job(one)).status in ("done", "canceled") for one in ids])
