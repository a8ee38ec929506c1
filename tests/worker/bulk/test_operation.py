"""`bulk_operation` is a job: it goes on after a death where it was, and a cancel stops it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import LiteralString

import pytest

from db.queue import jobs
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob
from tests.support import until
from tests.worker.job_api import JobApi, registered
from worker.bulk import operation
from worker.handlers import registry

STATES: LiteralString = """
select j.status::text, count(*)::int as jobs, count(distinct j.error)::int as errors
from jobsworth.reactive_jobs j
where j.mode = 'old'
group by 1 order by 1
"""
APPLIED: LiteralString = """
select (s.output ->> 'applied')::int from jobsworth.steps s where s.name = 'progress'
"""
CANCEL = {"operation": "cancel", "filter": {"mode": "old"}, "reason": "not needed"}


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Batches of fifty, long pauses: there is always a middle to be hit."""
    known = registry["bulk_operation"]
    for name in ("PAGE_FIRST", "PAGE_MIN", "PAGE_MAX"):
        monkeypatch.setattr(operation, name, 50)
    monkeypatch.setattr(operation, "PAUSE_SHARE", 2.0)
    with registered() as handlers:
        handlers["bulk_operation"] = known
        yield


async def many(api: JobApi, jobs: int) -> None:
    async with api.database.connection() as connection:
        await enqueue_many(connection, [NewJob("old", {"n": n}) for n in range(jobs)])


@pytest.mark.usefixtures("small_batches")
async def test_a_death_in_the_middle_repeats_and_skips_nothing(database_url: str) -> None:
    async with JobApi.open(database_url) as api:
        await many(api, 1_000)
        job_id = await api.enqueue("bulk_operation", CANCEL)
        async with api.dying() as worker:

            async def is_on_its_way() -> bool:
                return (await api.value(APPLIED) or 0) >= 100

            await until(is_on_its_way, 60, "some are canceled")
            worker.kill()
        assert 100 <= await api.value(APPLIED) < 1_000
        await api.work()
        job = await api.job(job_id)
        assert (job.status, job.attempt) == ("done", 2)
        assert job.result == {"applied": 1_000, "refused": {}, "looked": 1_001}
        assert await api.rows(STATES) == [{"status": "canceled", "jobs": 1_000, "errors": 1}]
        assert await api.violations() == []


@pytest.mark.usefixtures("small_batches")
async def test_a_cancel_ends_it_between_two_batches(database_url: str) -> None:
    async with JobApi.open(database_url) as api:
        await many(api, 2_000)
        job_id = await api.enqueue("bulk_operation", CANCEL)
        async with api.working():

            async def is_on_its_way() -> bool:
                return (await api.value(APPLIED) or 0) >= 100

            await until(is_on_its_way, 60, "some are canceled")
            async with api.database.connection() as connection:
                await jobs.cancel(connection, job_id)

            async def has_ended() -> bool:
                return (await api.job(job_id)).finished_at is not None

            await until(has_ended, 60, "it has ended")
        assert (await api.job(job_id)).status == "canceled"
        applied = await api.value(APPLIED)
        jobs_by_status = {row["status"]: row["jobs"] for row in await api.rows(STATES)}
        assert jobs_by_status.pop("canceled") == applied
        assert sum(jobs_by_status.values()) == 2_000 - applied > 0


@pytest.mark.usefixtures("small_batches")
async def test_a_job_that_others_hold_is_done_when_they_let_it_go(database_url: str) -> None:
    async with JobApi.open(database_url) as api, contextlib.AsyncExitStack() as stack:
        await many(api, 3)
        other = await stack.enter_async_context(api.database.transaction())
        await other.execute(
            "select 1 from jobsworth.reactive_jobs where mode = 'old' limit 1 for no key update"
        )
        job_id = await api.enqueue("bulk_operation", CANCEL)
        async with api.working():

            async def waits_for_one() -> bool:
                return await api.value(APPLIED) == 2

            await until(waits_for_one, 60, "two are canceled")
            await stack.aclose()
            await api.idle()
        assert (await api.job(job_id)).result == {"applied": 3, "refused": {}, "looked": 4}


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"operation": "cancel", "filter": {}}, "the filter is empty"),
        ({"operation": "erase", "filter": {"mode": "old"}}, "operation"),
        ({"operation": "move", "filter": {"mode": "old"}}, "a move needs a queue"),
    ],
)
async def test_a_payload_that_says_nothing_fails_at_once(
    database_url: str, payload: dict[str, object], says: str
) -> None:
    async with JobApi.open(database_url) as api:
        await many(api, 1)
        job = await api.run("bulk_operation", payload)
        assert (job.status, job.attempt) == ("failed", 1)
        assert says in (job.error or "")
        [untouched] = await api.rows(STATES)
        assert untouched["status"] in ("queued", "waiting"), "nobody knows its mode"
