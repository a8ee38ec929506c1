"""Forks and a person's yes: it is asked again for what runs again, and for nothing else."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from db.queue.jobs import Job as JobRow
from db.queue.jobs import JobStatus, WaitReason
from jobsworth import Job, handler
from tests.worker.job_api import JobApi
from tests.worker.runs.test_forks import forked, jobs_of, start


def consenting(paid: list[str]) -> None:
    """Registers a job that asks before each of its two payments, and then counts."""

    @handler("ship")
    async def ship(job: Job, to: str = "ann", last: int = 1) -> Any:
        def pay(to: str) -> str:
            paid.append(to)
            return f"paid {to}"

        said = await job.approved_step("pay", pay, to, proposal="Pay?", effect="unsafe")
        await job.ask("Send it?", for_step="send")
        sent = await job.step("send", pay, f"{to} again", effect="unsafe")
        return [said, sent, await job.step("count", int, last)]


async def shipped(api: JobApi) -> UUID:
    """The run of such a job, done after two decisions."""
    run_id = await start(api, {"ship": ("ship", {})})
    for _ in range(2):
        await api.work()
        await api.decide((await only(api, run_id)).id, "approve")
    await api.work()
    assert (await only(api, run_id)).result == ["paid ann", "paid ann again", 1]
    return run_id


async def only(api: JobApi, run_id: UUID) -> JobRow:
    return (await jobs_of(api, run_id))["ship"]


async def test_a_fork_past_approved_steps_asks_nobody_for_what_will_not_run(api: JobApi) -> None:
    paid: list[str] = []
    consenting(paid)
    run_id = await shipped(api)
    branch, jobs = await forked(api, run_id, step="count", changes={"ship": {"last": 2}})
    assert jobs["ship"].result == ["paid ann", "paid ann again", 2]
    # A fork of the fork finds the yes where it was given.
    _, jobs = await forked(api, branch, step="count", changes={"ship": {"last": 3}})
    assert jobs["ship"].result == ["paid ann", "paid ann again", 3]
    assert paid == ["ann", "ann again"]


async def test_a_fork_before_an_approved_step_asks_for_it_again(api: JobApi) -> None:
    paid: list[str] = []
    consenting(paid)
    run_id = await shipped(api)
    _, jobs = await forked(api, run_id, step="send")
    assert (jobs["ship"].waiting_for, paid) == (WaitReason.APPROVAL, ["ann", "ann again"])


async def test_a_fork_past_an_approved_step_with_other_arguments_is_told(api: JobApi) -> None:
    """Neither the old yes nor the old result is for these arguments."""
    paid: list[str] = []
    consenting(paid)
    run_id = await shipped(api)
    _, jobs = await forked(api, run_id, step="count", changes={"ship": {"to": "bob"}})
    job = jobs["ship"]
    assert (job.status, paid) == (JobStatus.FAILED, ["ann", "ann again"]), (
        job.waiting_for,
        job.waiting_detail,
        job.error,
    )
    assert "step 'pay', recorded before the fork, is met with another input" in (job.error or "")


async def test_a_fork_with_another_payload_of_a_named_child_is_told(api: JobApi) -> None:
    @handler("double")
    def double(n: int) -> int:
        return 2 * n

    @handler("ship")
    async def ship(job: Job, n: int = 1, last: int = 1) -> Any:
        doubled = await job.gather(job.spawn("double", {"n": n}, name="it"))
        return [*doubled, await job.step("count", int, last)]

    run_id = await start(api, {"ship": ("ship", {})})
    await api.work()
    _, jobs = await forked(api, run_id, node="ship", step="count", changes={"ship": {"last": 5}})
    assert jobs["ship"].result == [2, 5]
    _, jobs = await forked(api, run_id, node="ship", step="count", changes={"ship": {"n": 2}})
    assert "'child:it' of an earlier attempt, or from before a fork" in (jobs["ship"].error or "")


async def test_a_fork_with_another_payload_of_a_child_spawns_it_anew(api: JobApi) -> None:
    @handler("double")
    def double(n: int) -> int:
        return 2 * n

    @handler("ship")
    async def ship(job: Job, n: int = 1) -> Any:
        doubled = await job.gather(job.spawn("double", {"n": n}))
        return [*doubled, await job.step("count", int, "1")]

    run_id = await start(api, {"ship": ("ship", {})})
    await api.work()
    _, jobs = await forked(api, run_id, node="ship", step="count", changes={"ship": {"n": 2}})
    assert jobs["ship"].result == [4, 1]


async def test_a_fork_keeps_the_checkpoint_that_the_other_run_replaces_later(api: JobApi) -> None:
    states: dict[UUID, Any] = {}

    @handler("ship")
    async def ship(job: Job, more: int = 0) -> Any:
        await job.checkpoint("place", 1)
        if job.attempt > 1:
            await job.checkpoint("place", 2)
        await job.sleep(0.01, name="nap")
        await job.wait("go")
        found = await job.checkpoint_at("place")
        states[job.id] = found and found.state
        return states[job.id]

    run_id = await start(api, {"ship": ("ship", {})})
    await api.work()
    old = await only(api, run_id)
    branch, jobs = await forked(api, run_id, node="ship")
    assert await api.value("select count(*) from jobsworth.branches") == 1
    for job_id in (old.id, jobs["ship"].id):
        await api.rows("select jobsworth.send_signal(%(id)s, 'go')", id=job_id)
    await api.work()
    assert (await only(api, run_id)).status is JobStatus.DONE
    assert (await only(api, branch)).status is JobStatus.DONE
    assert states[old.id] == 2
