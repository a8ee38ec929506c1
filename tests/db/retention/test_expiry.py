"""A job that has not started by its `expires_at` never starts; it ends as canceled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import pytest

from db.limits import fairness, job_limits
from db.pool import Connection, Database, execute, fetch_val
from db.queue import jobs
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob
from db.retention import expiry
from tests.db.protocol import BREACHES, add, claim, fair_claim, register, row, state

pytestmark = pytest.mark.both

LATE: LiteralString = """
update jobsworth.reactive_jobs set expires_at = clock_timestamp() - interval '1 minute'
where id = %(id)s
"""
PLAN: LiteralString = """
explain (analyze, format json)
select 1 from jobsworth.reactive_jobs j
where j.expires_at is not null and j.expires_at <= clock_timestamp() and j.attempt = 0
  and j.status in ('queued', 'waiting')
"""


async def late(conn: Connection, **options: Any) -> UUID:
    """A job whose time is over."""
    job_id = await add(conn, **options)
    await execute(conn, LATE, {"id": job_id})
    return job_id


@pytest.mark.parametrize("limited", [False, True], ids=["", "limited"])
@pytest.mark.parametrize("fair", [False, True], ids=["", "fair"])
async def test_an_expired_job_is_never_claimed_and_ends_as_canceled(
    conn: Connection, *, fair: bool, limited: bool
) -> None:
    """Also before anything has swept it, and whether or not a worker knows its mode."""
    if fair:
        await fairness.set_fair(conn, "default")
    if limited:
        await job_limits.set_limit(conn, "ten", mode="answer", slots=10)
    expired, unknown = await late(conn), await late(conn, mode="nobody knows it")
    waits = await late(conn, delay=3600)
    in_time = await add(conn, expires_in=3600)
    worker = await register(conn)

    claimed = await (fair_claim(conn, worker, 10) if fair else claim(conn, worker))
    assert [job.id for job in claimed.jobs] == [in_time]
    assert await expiry.expire_jobs(conn, 10) == 3
    for job_id in (expired, unknown, waits):
        job = await row(conn, job_id)
        assert (job["status"], job["attempt"]) == ("canceled", 0)
        assert job["error"].startswith("expired: it had not started")
    assert await expiry.expire_jobs(conn, 10) == 0
    assert await fetch_val(conn, f"select count(*) from ({BREACHES}) b") == 0


async def test_a_job_that_has_started_in_time_does_not_expire(conn: Connection) -> None:
    """Its retries and waits go on."""
    job_id = await add(conn, expires_in=3600)
    worker = await register(conn)
    [job] = (await claim(conn, worker)).jobs
    await execute(
        conn,
        "update jobsworth.reactive_jobs set status = 'queued', position = position + 1 "
        "where id = %(id)s",
        {"id": job_id},
    )
    await execute(conn, LATE, {"id": job_id})
    assert await expiry.expire_jobs(conn, 10) == 0
    assert [again.id for again in (await claim(conn, worker)).jobs] == [job.id]


async def test_what_an_expired_job_held_up_goes_on(conn: Connection) -> None:
    """Its lane, and the jobs that need it, which are skipped."""
    first = await late(conn, lane="L")
    second = await add(conn, lane="L")
    needs_it = await add(conn, after=[first])
    assert await state(conn, second) == ("waiting", "lane")
    assert await expiry.expire_jobs(conn, 10) == 1
    assert await state(conn, second) == ("queued", None)
    assert await state(conn, needs_it) == ("canceled", None)


async def test_a_retry_by_a_person_does_not_expire_again(conn: Connection) -> None:
    job_id = await late(conn)
    await expiry.expire_jobs(conn, 10)
    assert await jobs.retry(conn, job_id) == "queued"
    assert (await row(conn, job_id))["expires_at"] is None


async def test_a_row_that_another_holds_expires_later(conn: Connection, database: Database) -> None:
    held, free = await late(conn), await late(conn)
    async with database.transaction() as other:
        await execute(
            other,
            "select 1 from jobsworth.reactive_jobs where id = %(id)s for no key update",
            {"id": held},
        )
        assert await expiry.expire_jobs(conn, 10) == 1
    assert await state(conn, free) == ("canceled", None)
    assert await expiry.expire_jobs(conn, 10) == 1


async def test_every_way_in_keeps_the_time(conn: Connection) -> None:
    at = datetime.now(UTC) + timedelta(hours=2)
    await enqueue_many(conn, [NewJob("a", expires_at=at), NewJob("b", expires_in=7200)])
    await execute(
        conn, "insert into jobsworth.reactive_jobs (mode, expires_at) values ('c', now())"
    )
    found = {job.mode: job.expires_at for job in await jobs.list_jobs(conn)}
    assert found["a"] == at
    for instant in (
        found["b"],
        (await jobs.get_by_id(conn, await add(conn, expires_in=7200))).expires_at,
    ):
        assert instant is not None
        assert abs(instant - at) < timedelta(minutes=1)
    assert await expiry.expire_jobs(conn, 10) == 1


async def test_a_look_reads_only_jobs_that_may_expire(conn: Connection) -> None:
    """The index holds no other: not those without the option, not those that have ended."""
    await enqueue_many(conn, [NewJob("answer") for _ in range(5_000)])
    await enqueue_many(conn, [NewJob("answer", expires_in=3600) for _ in range(100)])
    await execute(conn, "analyze jobsworth.reactive_jobs")
    [plan] = await fetch_val(conn, PLAN)
    assert "jobs_expiring" in str(plan)
