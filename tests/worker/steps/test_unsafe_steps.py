"""Steps that are unsafe to repeat: begun in the database first, never repeated without a person."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, LiteralString
from uuid import UUID

import anyio
import pytest

from db.errors import Unavailable
from db.queue import jobs
from db.queue.jobs import JobStatus, Why
from db.steps import steps, unsafe
from jobsworth import Fail, Job, Retry, Snooze, handler
from tests.support import connect, until
from tests.worker.job_api import JobApi
from tests.worker.steps.rows import STEPS


class Till:
    """Charges, and counts; what it does in its first charge is up to the test."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.charges: list[Any] = []
        self.error = error

    async def charge(self, amount: Any = 1) -> str:
        self.charges.append(amount)
        if len(self.charges) == 1 and self.error is not None:
            raise self.error
        return f"receipt {len(self.charges)}"


async def decide(api: JobApi, job_id: UUID, decision: Any, output: Any = None) -> str:
    async with api.database.connection() as connection:
        return await unsafe.decide(
            connection, job_id, "pay", decision, output=output, decided_by="Ann"
        )


async def why(api: JobApi, job_id: UUID) -> Why:
    async with api.database.connection() as connection:
        return await jobs.why(connection, job_id)


def waits_for_a_person(job: jobs.Job) -> bool:
    return (job.status, job.waiting_for) == ("waiting", "person")


async def test_an_unsafe_step_is_marked_as_begun_before_it_runs(api: JobApi) -> None:
    seen: list[dict[str, Any]] = []

    @handler("work")
    async def work(job: Job) -> int:
        async def pay(amount: int) -> int:
            seen.extend(await job.database.fetch_all(STEPS))
            return amount

        return await job.step("pay", pay, 5, effect="unsafe")

    job = await api.run("work")
    assert job.result == 5
    [during] = seen
    [after] = await api.rows(STEPS)
    assert (during["effect"], during["recorded"], during["output"]) == ("unsafe", False, None)
    assert "process" in during["begun_by"]
    assert (after["effect"], after["recorded"], after["output"]) == ("unsafe", True, 5)
    assert after["input_hash"] == during["input_hash"]


async def _killed_in_the_step(api: JobApi) -> tuple[UUID, list[int]]:
    """A job whose worker was killed in its unsafe step; the next attempt has ended."""
    attempts: list[int] = []
    began = anyio.Event()

    @handler("work")
    async def work(job: Job) -> str:
        async def pay() -> str:
            attempts.append(job.attempt)
            if job.attempt == 1:
                began.set()
                await anyio.sleep_forever()
            return f"paid in attempt {job.attempt}"

        return await job.step("pay", pay, effect="unsafe")

    job_id = await api.enqueue("work")
    async with api.dying() as worker:
        await began.wait()
        worker.kill()
    await api.work()
    return job_id, attempts


async def test_a_step_whose_worker_died_in_it_waits_for_a_person(api: JobApi) -> None:
    job_id, attempts = await _killed_in_the_step(api)
    job = await api.job(job_id)
    assert waits_for_a_person(job)
    assert attempts == [1]
    said = await why(api, job_id)
    assert said.detail is not None
    assert said.remedy is not None
    assert said.detail.startswith("step pay was begun at ")
    assert "by attempt 1 on " in said.detail
    assert "process" in said.detail
    assert f"jobsworth step done {job_id} pay" in said.remedy
    assert f"jobsworth step again {job_id} pay" in said.remedy


async def test_done_gives_the_step_its_output_and_the_job_goes_on(api: JobApi) -> None:
    job_id, attempts = await _killed_in_the_step(api)
    assert await decide(api, job_id, "done", {"receipt": 7}) == "queued"
    await api.work()
    job = await api.job(job_id)
    assert (job.status, job.result, attempts) == (JobStatus.DONE, {"receipt": 7}, [1])


async def test_again_runs_the_step_once_more(api: JobApi) -> None:
    job_id, attempts = await _killed_in_the_step(api)
    assert await decide(api, job_id, "again") == "queued"
    await api.work()
    job = await api.job(job_id)
    assert (job.status, job.result) == (JobStatus.DONE, f"paid in attempt {attempts[-1]}")
    assert len(attempts) == 2


async def test_a_retry_by_a_person_does_not_repeat_an_undecided_step(api: JobApi) -> None:
    job_id, attempts = await _killed_in_the_step(api)
    await api.database.execute("select jobsworth.cancel(%(id)s)", {"id": job_id})
    assert (await api.job(job_id)).status is JobStatus.CANCELED
    await api.database.execute("select jobsworth.retry(%(id)s)", {"id": job_id})
    await api.work()
    assert waits_for_a_person(await api.job(job_id))
    assert attempts == [1]


async def test_what_a_canceled_job_is_told_of_its_step_counts_when_it_is_retried(
    api: JobApi,
) -> None:
    job_id, attempts = await _killed_in_the_step(api)
    await api.database.execute("select jobsworth.cancel(%(id)s)", {"id": job_id})
    assert await decide(api, job_id, "done", "by hand") == "canceled"
    await api.database.execute("select jobsworth.retry(%(id)s)", {"id": job_id})
    await api.work()
    assert (await api.job(job_id)).result == "by hand"
    assert attempts == [1]


@pytest.mark.parametrize("error", [ValueError("no money"), SystemExit(3), TimeoutError()], ids=repr)
async def test_an_error_leaves_the_step_begun_and_the_next_attempt_asks(
    api: JobApi, error: BaseException
) -> None:
    till = Till(error)

    @handler("work")
    async def work(job: Job) -> str:
        return await job.step("pay", till.charge, effect="unsafe")

    job = await api.run("work")
    assert waits_for_a_person(job)
    assert (job.failures, till.charges) == (1, [1])
    [step] = await api.rows(STEPS)
    assert (step["recorded"], step["attempt"]) == (False, 1)
    assert step["error"].startswith(type(error).__name__)
    assert step["error"] in str((await why(api, job.id)).detail)


async def test_an_error_that_the_handler_catches_does_not_repeat_the_step(api: JobApi) -> None:
    till = Till(ValueError("no money"))

    @handler("work")
    async def work(job: Job) -> str:
        for _ in range(3):
            try:
                return await job.step("pay", till.charge, effect="unsafe")
            except ValueError:
                continue
        return "never"

    assert waits_for_a_person(await api.run("work"))
    assert till.charges == [1]


@pytest.mark.parametrize(
    "error", [Retry(0), Snooze(0.01), ExceptionGroup("both", [Retry(0), Retry(0)])], ids=repr
)
async def test_an_ending_raised_in_a_step_says_that_it_did_not_happen(
    api: JobApi, error: Exception
) -> None:
    till = Till(error)

    @handler("work")
    async def work(job: Job) -> str:
        return await job.step("pay", till.charge, effect="unsafe")

    job = await api.run("work")
    assert (job.status, job.result) == (JobStatus.DONE, "receipt 2")


async def test_an_ending_beside_another_error_says_nothing(api: JobApi) -> None:
    till = Till(ExceptionGroup("both", [Retry(0), ValueError("half of it was paid")]))

    @handler("work")
    async def work(job: Job) -> str:
        return await job.step("pay", till.charge, effect="unsafe")

    assert waits_for_a_person(await api.run("work"))
    assert len(till.charges) == 1


async def test_fail_in_a_step_leaves_nothing_to_decide(api: JobApi) -> None:
    till = Till(Fail("the card is gone"))

    @handler("work")
    async def work(job: Job) -> str:
        return await job.step("pay", till.charge, effect="unsafe")

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert await api.rows(STEPS) == []


async def test_a_question_inside_a_step_says_that_it_did_not_happen_yet(api: JobApi) -> None:
    till = Till()

    @handler("work")
    async def work(job: Job) -> str:
        async def pay() -> str:
            decision = await job.ask("Pay?")
            return await till.charge(decision.option)

        return await job.step("pay", pay, effect="unsafe")

    job = await api.run("work")
    assert job.waiting_for == "approval"
    assert [step["name"] for step in await api.rows(STEPS)] == []
    await api.decide(job.id, "approve")
    await api.work()
    assert (await api.job(job.id)).result == "receipt 1"
    assert till.charges == ["approve"]


async def test_a_step_that_is_over_its_time_stays_begun(api: JobApi) -> None:
    attempts: list[int] = []

    @handler("work", timeout_seconds=0.2)
    async def work(job: Job) -> None:
        async def pay() -> None:
            attempts.append(job.attempt)
            await anyio.sleep_forever()

        await job.step("pay", pay, effect="unsafe")

    job = await api.run("work")
    assert waits_for_a_person(job)
    assert attempts == [1]
    [step] = await api.rows(STEPS)
    assert step["error"] == "it was stopped while it ran"


async def test_a_step_that_ends_after_the_stop_is_recorded_all_the_same(api: JobApi) -> None:
    """What cannot be interrupted, like a thread, has happened: that is kept."""
    ran: list[int] = []

    @handler("work", timeout_seconds=1)
    async def work(job: Job) -> str:
        def pay() -> str:
            ran.append(job.attempt)
            time.sleep(1.3)
            return "paid"

        return await job.step("pay", pay, effect="unsafe")

    job = await api.run("work")
    assert (job.status, job.result, ran) == (JobStatus.DONE, "paid", [1])


async def test_a_result_that_cannot_be_kept_leaves_the_step_begun(api: JobApi) -> None:
    till = Till()

    @handler("work")
    async def work(job: Job) -> object:
        async def pay() -> object:
            await till.charge()
            return till

        return await job.step("pay", pay, effect="unsafe")

    assert waits_for_a_person(await api.run("work"))
    assert till.charges == [1]
    [step] = await api.rows(STEPS)
    assert "cannot be written as JSON" in step["error"]


BREAK: LiteralString = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
"""


async def test_a_step_outlives_the_connections_that_were_lost_while_it_ran(api: JobApi) -> None:
    ran: list[int] = []

    @handler("work")
    async def work(job: Job) -> str:
        async def pay() -> str:
            ran.append(job.attempt)
            with connect(api.url) as conn:
                conn.execute(BREAK)
            return "paid"

        return await job.step("pay", pay, effect="unsafe")

    job_id = await api.enqueue("work")
    async with api.working():
        await until(partial(_ended, api.url))
    assert ran == [1]
    with connect(api.url) as conn:
        row = conn.execute(
            "select result from jobsworth.reactive_jobs where id = %s", [job_id]
        ).fetchone()
    assert row == {"result": "paid"}
    await until(partial(_answers, api))


async def _ended(url: str) -> bool:
    query = "select from jobsworth.reactive_jobs where finished_at is null"
    with connect(url) as conn:
        return conn.execute(query).fetchone() is None


async def _answers(api: JobApi) -> bool:
    try:
        return await api.value("select true")
    except Unavailable:
        return False


async def test_a_mark_whose_commit_was_not_answered_is_the_attempts_own(
    api: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt begins it; whether that was committed, it does not learn."""
    begin = steps.begin
    lost: list[bool] = []
    till = Till()

    async def unanswered(*args: Any, **kwargs: Any) -> bool:
        begun = await begin(*args, **kwargs)
        if not lost:
            lost.append(begun)
            raise Unavailable("the connection broke")
        return begun

    monkeypatch.setattr(steps, "begin", unanswered)

    @handler("work")
    async def work(job: Job) -> str:
        return await job.step("pay", till.charge, effect="unsafe")

    job = await api.run("work")
    assert (job.result, job.attempt, lost) == ("receipt 1", 1, [True])
