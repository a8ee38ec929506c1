"""What a job waits for: a person, a timer, a signal. It holds nothing meanwhile, and goes on where
it stood."""

from __future__ import annotations

from typing import Any, LiteralString

import pytest

from db.queue import signals
from db.queue.jobs import JobStatus, WaitReason
from jobsworth import Job, handler
from tests.worker.job_api import JobApi

AN_HOUR_PASSES: LiteralString = """
with waited as (
  update jobsworth.steps set started_at = started_at - interval '1 hour'
), asked as (
  update jobsworth.approvals set deadline = deadline - interval '1 hour'
)
update jobsworth.reactive_jobs set run_at = run_at - interval '1 hour' where status = 'waiting'
"""


async def send(api: JobApi, job_id: Any, name: str, payload: object = None) -> None:
    async with api.database.connection() as connection:
        await signals.send(connection, job_id, name, payload)


def register_question(**options: Any) -> None:
    """The mode `ask`: its result is the decision."""

    @handler("ask")
    async def ask(job: Job) -> list[Any]:
        decision = await job.ask("Ship it?", **options)
        return [decision.approved, decision.option, decision.comment, decision.decided_by]


# A person.


@pytest.mark.parametrize(
    ("options", "decided", "approved"),
    [
        ({}, "approve", True),
        ({}, "reject", False),
        ({"options": ("ship", "hold")}, "hold", True),
        ({"options": ("ship", "hold")}, "reject", False),
    ],
)
async def test_a_decision_comes_back_with_who_decided_and_why(
    api: JobApi, options: dict[str, Any], decided: str, approved: bool
) -> None:
    register_question(**options)
    job = await api.run("ask")
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.APPROVAL)
    assert job.waiting_detail == "Ship it?"
    await api.decide(job.id, decided, comment="because")
    await api.work()
    assert (await api.job(job.id)).result == [approved, decided, "because", "Ann"]


async def test_nothing_runs_while_a_job_waits_for_a_person(api: JobApi) -> None:
    register_question()
    job = await api.run("ask")
    await api.work()
    waiting = await api.job(job.id)
    assert (waiting.attempt, waiting.status, waiting.failures) == (1, JobStatus.WAITING, 0)


@pytest.mark.parametrize(("on_timeout", "approved"), [("reject", False), ("approve", True)])
async def test_a_deadline_decides_when_nobody_does(
    api: JobApi, on_timeout: str, approved: bool
) -> None:
    register_question(deadline_seconds=1800, on_timeout=on_timeout)
    job = await api.run("ask")
    await api.database.execute(AN_HOUR_PASSES)
    await api.work()
    assert (await api.job(job.id)).result == [approved, on_timeout, None, "deadline"]


async def test_a_default_that_is_no_option_is_refused(api: JobApi) -> None:
    register_question(on_timeout="explode")
    error = (await api.run("ask", failures_max=1)).error or ""
    assert "on_timeout='explode' is not one of the options approve, reject" in error


@pytest.mark.parametrize("options", [(), ("reject",)])
async def test_a_question_that_nobody_can_say_yes_to_is_refused(
    api: JobApi, options: tuple[str, ...]
) -> None:
    register_question(options=options)
    job = await api.run("ask", failures_max=1)
    assert job.status is JobStatus.FAILED
    assert "has no option that says yes" in (job.error or "")


async def test_what_was_shown_is_kept_with_the_question(api: JobApi) -> None:
    register_question(shows={"diff": "+1"})
    job = await api.run("ask")
    approval = await api.approval(job.id)
    assert approval.shown == {"diff": "+1"}
    assert len(approval.shown_hash) == 64


async def test_each_question_is_asked_once_over_all_replays(api: JobApi) -> None:
    @handler("ask")
    async def ask(job: Job) -> list[str]:
        first = await job.ask("First?")
        await job.sleep(0.01)
        second = await job.ask("Second?", options=("left", "right"))
        return [first.option, second.option]

    job = await api.run("ask")
    await api.decide(job.id, "approve")
    await api.work()
    assert (await api.approval(job.id)).proposal_text == "Second?"
    await api.decide(job.id, "left")
    await api.work()
    assert (await api.job(job.id)).result == ["approve", "left"]
    assert await api.value("select count(*) from jobsworth.approvals") == 2


@pytest.mark.parametrize("proposal", ["a\0b", "a\ud800b"], ids=["NUL", "a lone surrogate"])
async def test_a_proposal_with_characters_postgres_cannot_hold_is_asked_all_the_same(
    api: JobApi, proposal: str
) -> None:
    @handler("ask")
    async def ask(job: Job) -> bool:
        return (await job.ask(proposal)).approved

    job = await api.run("ask")
    assert job.status is JobStatus.WAITING
    await api.decide(job.id, "approve")
    await api.work()
    assert (await api.job(job.id)).result is True


async def test_an_approved_job_that_fails_later_is_not_asked_again(api: JobApi) -> None:
    @handler("ask")
    async def ask(job: Job) -> bool:
        decision = await job.ask("Ship it?")
        if job.attempt == 2:
            raise ConnectionError("just now")
        return decision.approved

    job = await api.run("ask")
    await api.decide(job.id, "approve")
    await api.work()
    ended = await api.job(job.id)
    assert (ended.result, ended.failures, ended.attempt) == (True, 1, 3)


# A timer.


async def test_sleep_waits_since_the_line_was_first_reached(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> int:
        await job.sleep(1800)
        await job.sleep(0.3, name="short")
        return job.attempt

    job = await api.run("work")
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.TIMER)
    await api.work()
    assert (await api.job(job.id)).attempt == 1
    await api.database.execute(AN_HOUR_PASSES)
    await api.work()
    ended = await api.job(job.id)
    assert (ended.status, ended.result, ended.failures) == (JobStatus.DONE, 3, 0)


async def test_a_retry_does_not_sleep_again(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> int:
        await job.sleep(1800)
        if job.attempt == 2:
            raise ConnectionError("after the sleep")
        return job.attempt

    job = await api.run("work")
    await api.database.execute(AN_HOUR_PASSES)
    await api.work()
    assert (await api.job(job.id)).result == 3


# A signal.


def register_wait(**options: Any) -> None:
    """The mode `wait`: its result is the payload of the signal `go`."""

    @handler("wait")
    async def wait(job: Job) -> Any:
        return {"got": await job.wait("go", **options)}


async def test_a_signal_that_comes_before_the_wait_is_found(api: JobApi) -> None:
    register_wait()
    job_id = await api.enqueue("wait")
    await send(api, job_id, "go", {"n": 1})
    await api.work()
    job = await api.job(job_id)
    assert (job.result, job.attempt) == ({"got": {"n": 1}}, 1)


async def test_a_signal_that_comes_after_the_wait_resumes_the_job(api: JobApi) -> None:
    register_wait()
    job = await api.run("wait")
    assert (job.waiting_for, job.waiting_detail) == (WaitReason.SIGNAL, "go")
    await send(api, job.id, "stop", "another name")
    await api.work()
    assert (await api.job(job.id)).status is JobStatus.WAITING
    await send(api, job.id, "go", [1, 2])
    await api.work()
    assert (await api.job(job.id)).result == {"got": [1, 2]}


async def test_a_wait_whose_time_is_up_gets_nothing(api: JobApi) -> None:
    register_wait(timeout_seconds=1800)
    job = await api.run("wait")
    assert job.status is JobStatus.WAITING
    await api.database.execute(AN_HOUR_PASSES)
    await api.work()
    assert (await api.job(job.id)).result == {"got": None}


async def test_a_signal_without_payload_is_not_a_timeout(api: JobApi) -> None:
    register_wait(timeout_seconds=1800)
    job = await api.run("wait")
    await send(api, job.id, "go")
    await api.work()
    assert (await api.job(job.id)).result == {"got": True}


async def test_a_signal_beats_a_timeout_that_is_up_as_well(api: JobApi) -> None:
    register_wait(timeout_seconds=1800)
    job = await api.run("wait")
    await api.database.execute(AN_HOUR_PASSES)
    await send(api, job.id, "go", "in time")
    await api.work()
    assert (await api.job(job.id)).result == {"got": "in time"}


async def test_each_wait_takes_one_signal_in_the_order_they_were_sent(api: JobApi) -> None:
    @handler("wait")
    async def wait(job: Job) -> list[Any]:
        first = await job.wait("go")
        await job.sleep(0.01)
        return [first, await job.wait("go")]

    job_id = await api.enqueue("wait")
    for n in (1, 2, 3):
        await send(api, job_id, "go", n)
    await api.work()
    assert (await api.job(job_id)).result == [1, 2]
    unread = "select count(*) from jobsworth.signals where received_at is null"
    assert await api.value(unread) == 1


async def test_a_signal_that_was_read_is_kept_for_the_retry(api: JobApi) -> None:
    @handler("wait")
    async def wait(job: Job) -> Any:
        got = await job.wait("go")
        if job.attempt == 1:
            raise ConnectionError("after the wait")
        return got

    job_id = await api.enqueue("wait")
    await send(api, job_id, "go", "once")
    await api.work()
    assert (await api.job(job_id)).result == "once"
