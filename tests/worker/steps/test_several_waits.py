"""Branches that wait for different things: whatever comes first, its branch goes on."""

from __future__ import annotations

from itertools import combinations
from typing import Any
from uuid import UUID

import pytest

from db.queue import signals
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.worker.job_api import JobApi
from tests.worker.steps.beside import gathered

KINDS = ("question", "another question", "signal", "another signal", "children")


async def wait_for(job: Job, kind: str) -> Any:
    match kind:
        case "question" | "another question":
            return (await job.ask(f"{kind}?")).approved
        case "signal" | "another signal":
            return await job.wait(kind)
        case _:
            return await job.gather(job.spawn("child"))


async def deliver(api: JobApi, job_id: UUID, kind: str) -> None:
    match kind:
        case "question" | "another question":
            [asked] = await api.rows(
                "select id from jobsworth.approvals where proposal_text = %(text)s", text=f"{kind}?"
            )
            await api.rows("select jobsworth.resolve(%(id)s, 'approve', 'ada')", id=asked["id"])
        case "signal" | "another signal":
            async with api.database.connection() as connection:
                await signals.send(connection, job_id, kind)
        case _:
            await api.rows(
                "update jobsworth.reactive_jobs set run_at = now()"
                " where mode = 'child' and status = 'waiting' returning id"
            )


@pytest.mark.parametrize(("first", "second"), list(combinations(KINDS, 2)))
async def test_the_branch_goes_on_whose_wait_ends_first(
    api: JobApi, first: str, second: str
) -> None:
    passed: list[str] = []

    @handler("child")
    async def child(job: Job) -> None:
        if job.attempt == 1:
            await job.sleep(3600)

    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        async def branch(kind: str) -> None:
            await wait_for(job, kind)
            await job.step(f"after {kind}", lambda: passed.append(kind))

        await gathered(lambda: branch(first), lambda: branch(second))

    job = await api.run("work")
    assert passed == []
    for kind in (second, first):
        await deliver(api, job.id, kind)
        await api.work()
        assert passed[-1:] == [kind]
    job = await api.job(job.id)
    assert job.status is JobStatus.DONE
    # One more than needed if the claim that took the job began before the child ended.
    assert 3 <= job.attempt <= 4
    assert await api.violations() == []


async def test_a_signal_that_no_branch_waits_for_wakes_the_job_once(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        await gathered(lambda: job.ask("Go on?"), lambda: job.wait("go"))

    job = await api.run("work")
    await deliver(api, job.id, "another signal")
    await api.work()
    job = await api.job(job.id)
    assert (job.status, job.attempt) == (JobStatus.WAITING, 2)


async def test_a_job_with_one_wait_sleeps_on_beside_other_signals(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        await job.ask("Go on?")

    job = await api.run("work")
    await deliver(api, job.id, "signal")
    await api.work()
    job = await api.job(job.id)
    assert (job.status, job.attempt) == (JobStatus.WAITING, 1)
