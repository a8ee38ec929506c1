"""The approvals' upkeep on real rows."""

from __future__ import annotations

from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.support import until
from tests.worker.job_api import JobApi
from tests.worker.upkeep_at_work import status_is, upkeep, woken


async def test_an_approval_past_its_deadline_takes_its_default(api: JobApi) -> None:
    @handler("ask")
    async def ask(job: Job) -> None:
        await job.ask("Go on?", deadline_seconds=3600)

    job = await api.run("ask")
    await api.database.execute("update jobsworth.approvals set deadline = now()")
    async with upkeep(api) as kept:
        await until(status_is(api, job.id, JobStatus.QUEUED))
        await woken(kept)
    [approval] = await api.rows("select status::text, chosen_option from jobsworth.approvals")
    assert approval == {"status": "expired", "chosen_option": "reject"}
