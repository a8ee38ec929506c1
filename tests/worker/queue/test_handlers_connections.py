"""Statements and connections of handlers: they hold up no other job, and their timeouts count."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest

from db.pool import Connection
from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.support import until
from tests.worker.job_api import JobApi, registered


@pytest.fixture
async def api(database_url: str) -> AsyncGenerator[JobApi]:
    """Workers with few connections, whose handlers' statements may take half a second."""
    with registered():
        async with JobApi.open(
            database_url, slots=30, pool_max=3, handler_pool_max=3, statement_seconds=2.0
        ) as api:
            yield api
            assert await api.violations() == []


async def test_handlers_that_hold_every_connection_of_theirs_hold_up_no_other_job(
    api: JobApi,
) -> None:
    go_on, holding = anyio.Event(), 0

    @handler("holds")
    async def holds(job: Job) -> None:
        nonlocal holding
        async with job.database.connection():
            holding += 1
            await go_on.wait()

    @handler("neighbour")
    async def neighbour(job: Job) -> int:
        return await job.step("one", lambda: 1)

    async def all_held() -> bool:
        return holding == 3

    async with api.working():
        holders = [await api.enqueue("holds") for _ in range(10)]
        await until(all_held, 30)
        other = await api.enqueue("neighbour")

        async def done() -> bool:
            return (await api.job(other)).status is JobStatus.DONE

        await until(done, 30)
        assert holding == 3
        go_on.set()
        await api.idle(60)
    assert {(await api.job(job)).status for job in holders} == {JobStatus.DONE}


async def test_a_statement_that_always_times_out_in_a_transaction_fails_its_job(
    api: JobApi,
) -> None:
    @handler("slow")
    async def slow(job: Job) -> None:
        async def run(connection: Connection) -> None:
            await connection.execute("set local statement_timeout = '50ms'")
            await connection.execute("select pg_sleep(5)")

        await job.transaction("slow", run)

    ended = await api.run("slow", failures_max=2)
    assert (ended.status, ended.failures) == (JobStatus.FAILED, 2)
    assert "statement timeout" in (ended.error or "")


async def test_a_statement_of_a_handler_that_is_always_late_fails_its_job(api: JobApi) -> None:
    @handler("late")
    async def late(job: Job) -> None:
        await job.database.fetch_val("select pg_sleep(30)")

    ended = await api.run("late", failures_max=1)
    assert (ended.status, ended.failures) == (JobStatus.FAILED, 1)
    assert "PostgreSQL did not answer within 2 s" in (ended.error or "")
