"""What the health statements say of real databases, and what they cost in large ones."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import DictRow

from db.diagnosis.health import (
    INDEXES_ONLY,
    JOBS,
    NO_JOINS_OF_ALL,
    OUTBOX,
    VIOLATIONS,
    Readiness,
    check_ready,
    count_violations,
    sample_jobs,
    sample_outbox,
    sample_snapshots,
)
from db.diagnosis.violations import count
from db.errors import DatabaseError
from db.pool import Database
from tests.support import connect

pytestmark = pytest.mark.anyio

WORKER = UUID(int=1)
DONE = 50_000


@pytest.mark.both
async def test_a_migrated_database_is_ready(database_url: str) -> None:
    async with Database(database_url) as database, database.connection() as conn:
        assert await check_ready(conn) == Readiness()


async def test_a_database_without_schema_names_the_command(empty_database_url: str) -> None:
    async with Database(empty_database_url) as database, database.connection() as conn:
        schema, extension = (await check_ready(conn)).reasons
    assert "jobsworth migrate" in schema
    assert "jobsworth migrate" in extension


async def test_a_read_only_session_is_not_ready(database_url: str) -> None:
    async with Database(database_url) as database, database.connection() as conn:
        await conn.execute("set default_transaction_read_only = on")
        (reason,) = (await check_ready(conn)).reasons
        assert "read-only" in reason
        assert await sample_jobs(conn)


@pytest.mark.usefixtures("unguarded")
@pytest.mark.both
async def test_open_jobs_are_counted_by_state_and_reason(database_url: str) -> None:
    with connect(database_url) as conn:
        _queue(conn, 3, age_seconds=10)
        _queue(conn, 2, age_seconds=700, priority=4, queue="slow")
        _queue(conn, 1, age_seconds=900, priority=1, status="running")
        _finish(conn, 5)
        conn.execute("select jobsworth.enqueue('m', delay => '1 hour') from generate_series(1, 4)")
        conn.execute("select jobsworth.enqueue('m', lane => 'l') from generate_series(1, 2)")
    async with Database(database_url) as database, database.connection() as conn:
        jobs = await sample_jobs(conn)
    assert (jobs.queued, jobs.running) == (6, 1)
    assert {reason: n for reason, n in jobs.waiting.items() if n} == {"timer": 4, "lane": 1}
    assert len(jobs.waiting) == 10
    assert jobs.oldest_queued_seconds == pytest.approx(700, abs=60)


async def test_an_empty_database_has_zeros(database_url: str) -> None:
    async with Database(database_url) as database, database.connection() as conn:
        jobs, outbox = await sample_jobs(conn), await sample_outbox(conn)
        assert await count_violations(conn) == {}
    assert (jobs.queued, jobs.running, jobs.oldest_queued_seconds) == (0, 0, 0)
    assert set(jobs.waiting.values()) == {0}
    assert (outbox.texts, outbox.oldest_seconds) == (0, 0)


async def test_a_job_that_is_ready_again_counts_from_then(database_url: str) -> None:
    with connect(database_url) as conn:
        _queue(conn, 1, age_seconds=86_400)
        conn.execute("update jobsworth.reactive_jobs set run_at = now() - interval '20 seconds'")
    async with Database(database_url) as database, database.connection() as conn:
        jobs = await sample_jobs(conn)
    assert jobs.oldest_queued_seconds == pytest.approx(20, abs=15)


async def test_the_outbox_is_counted_with_its_oldest(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute(
            "insert into jobsworth.memories (source_kind, text)"
            " select 'note', 'text' from generate_series(1, 3)"
        )
        conn.execute(
            "update jobsworth.embedding_outbox o set created_at = now() - n * interval '1 second'"
            " from (select memory_id, 400 - row_number() over (order by memory_id) as n"
            "  from jobsworth.embedding_outbox) x where o.memory_id = x.memory_id"
        )
    async with Database(database_url) as database, database.connection() as conn:
        outbox = await sample_outbox(conn)
    assert outbox.texts == 3
    assert outbox.oldest_seconds == pytest.approx(399, abs=60)


@pytest.mark.both
async def test_an_open_snapshot_and_an_open_transaction_are_seen(database_url: str) -> None:
    async with Database(database_url) as database, database.connection() as conn:
        assert (await sample_snapshots(conn)).oldest_transactions == 0
        for begin in (_hold_snapshot, _hold_transaction):
            with connect(database_url) as other, other.transaction():
                begin(other)
                with connect(database_url) as busy:
                    for _ in range(20):
                        busy.execute("select pg_current_xact_id()")
                held = await sample_snapshots(conn)
            assert held.oldest_transactions >= 20
            assert held.oldest_seconds > 0


async def test_a_snapshot_of_another_database_does_not_count(
    database_url: str, empty_database_url: str
) -> None:
    with connect(empty_database_url) as other, other.transaction():
        _hold_snapshot(other)
        async with Database(database_url) as database, database.connection() as conn:
            assert (await sample_snapshots(conn)).oldest_transactions == 0


async def test_violations_are_counted_by_invariant(database_url: str) -> None:
    with connect(database_url) as conn:
        _queue(conn, 2, age_seconds=600, status="running")
    async with Database(database_url) as database, database.connection() as conn:
        assert await count_violations(conn) == {"running without a living worker": 2}


async def test_a_sample_that_takes_too_long_is_ended_by_the_server(database_url: str) -> None:
    async with Database(database_url, pool_min=1) as database:
        with connect(database_url) as other, other.transaction():
            other.execute("lock table jobsworth.reactive_jobs in access exclusive mode")
            async with database.connection() as conn:
                with pytest.raises(DatabaseError) as ended:
                    await sample_jobs(conn)
                assert ended.value.sqlstate == "57014"
        async with database.connection() as conn:
            assert (await sample_jobs(conn)).queued == 0
            row = await (await conn.execute("show statement_timeout")).fetchone()
            assert row == ("0",)


@pytest.mark.usefixtures("unguarded")
@pytest.mark.both
async def test_finished_jobs_cost_a_sample_nothing(database_url: str) -> None:
    """Whatever the statistics say: none, of an empty table, of a backlog that is gone."""
    with connect(database_url) as conn:
        _queue(conn, DONE)
        conn.execute("analyze jobsworth.reactive_jobs")
        conn.execute("update jobsworth.reactive_jobs set status = 'done', finished_at = now()")
        conn.execute("vacuum jobsworth.reactive_jobs")
        _queue(conn, 40)
        _queue(conn, 40, queue="slow", priority=1)
        conn.execute("select jobsworth.enqueue('m', delay => '1 hour') from generate_series(1, 40)")
        stale = _buffers(conn, JOBS)
        conn.execute("analyze jobsworth.reactive_jobs")
        fresh = _buffers(conn, JOBS)
        table = conn.execute("select pg_relation_size('jobsworth.reactive_jobs') / 8192 as pages")
        assert _only(table)["pages"] > 1_000
    assert stale < 400
    assert fresh < 400


async def test_a_backlog_is_counted_from_its_indexes(database_url: str) -> None:
    with connect(database_url) as conn:
        # Vacuum marks a page only once the commits on it are on disk.
        conn.execute("set synchronous_commit = on")
        _queue(conn, DONE)
        conn.execute(
            "insert into jobsworth.memories (source_kind, text)"
            " select 'note', repeat('text ', 100) from generate_series(1, %s)",
            [DONE],
        )
        conn.execute("vacuum analyze jobsworth.reactive_jobs, jobsworth.embedding_outbox")
        assert _buffers(conn, JOBS) < DONE / 100
        assert _buffers(conn, OUTBOX) < DONE / 100


@pytest.mark.both
async def test_many_jobs_are_estimated_and_never_below_what_was_counted(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute("alter table jobsworth.reactive_jobs set (autovacuum_enabled = off)")
        _queue(conn, 9_999)
        conn.execute("update jobsworth.reactive_jobs set priority = 4")
    async with Database(database_url) as database, database.connection() as sampler:
        assert (await sample_jobs(sampler)).queued == 9_999
        with connect(database_url) as conn:
            _queue(conn, DONE)
            conn.execute(
                "insert into jobsworth.reactive_jobs (mode, run_at)"
                " select 'm', now() + interval '1 hour' from generate_series(1, 30000)"
            )
        jobs = await sample_jobs(sampler)  # there are no statistics yet
        assert (jobs.queued, jobs.waiting["timer"]) == (10_000, 10_000)
        with connect(database_url) as conn:
            conn.execute("analyze jobsworth.reactive_jobs")
        jobs = await sample_jobs(sampler)
    assert jobs.queued == pytest.approx(DONE + 9_999, rel=0.05)
    assert jobs.waiting["timer"] == pytest.approx(30_000, rel=0.05)
    assert jobs.waiting["lane"] == 0


async def test_the_count_of_violations_leaves_out_the_books_of_the_past(database_url: str) -> None:
    settled = (
        "insert into jobsworth.llm_calls (provider, model, status, request_id, settled_at)"
        " values ('offline', 'rules', 'ok', %s, now() - %s * interval '1 minute')"
    )
    with connect(database_url) as conn:
        for request_id, minutes in (("late", 90), ("recent", 30)):
            conn.execute(settled, [request_id, minutes])
    async with Database(database_url) as database, database.connection() as conn:
        assert await count_violations(conn) == {"settled call without its ledger entry": 1}
        assert await count(conn, 10) == 2


@pytest.mark.usefixtures("unguarded")
@pytest.mark.both
async def test_the_count_of_violations_reads_neither_ended_jobs_nor_old_calls(
    database_url: str,
) -> None:
    """Nor timers that are not due; whatever the statistics say."""
    with connect(database_url) as conn:
        _queue(conn, DONE)
        conn.execute("update jobsworth.reactive_jobs set status = 'done', finished_at = now()")
        conn.execute(
            "insert into jobsworth.llm_calls (provider, model, status, request_id, settled_at)"
            " select 'offline', 'rules', 'ok', n::text, now() - interval '1 day'"
            " from generate_series(1, 20000) n"
        )
        conn.execute(
            "insert into jobsworth.token_ledger (call_id, entry, provider, model, occurred_at)"
            " select c.id, 'settle', c.provider, c.model, c.settled_at from jobsworth.llm_calls c"
        )
        conn.execute("select jobsworth.enqueue('m', delay => '1 hour') from generate_series(1, 99)")
        conn.execute(
            "insert into jobsworth.approvals (proposal_text, shown_hash, job_id)"
            " select 'May I?', '', j.id from jobsworth.reactive_jobs j where j.status = 'waiting'"
        )
        conn.execute("vacuum jobsworth.reactive_jobs, jobsworth.llm_calls")
        values = {"books_seconds": 3600}
        stale = _buffers(conn, VIOLATIONS, NO_JOINS_OF_ALL, values)
        conn.execute("analyze")
        fresh = _buffers(conn, VIOLATIONS, NO_JOINS_OF_ALL, values)
    assert stale < 1_000
    assert fresh < 1_000


def _queue(
    conn: psycopg.Connection[DictRow],
    jobs: int,
    *,
    age_seconds: int = 0,
    queue: str = "default",
    priority: int = 3,
    status: str = "queued",
) -> None:
    # A job is inserted as queued; what is running was claimed.
    conn.execute(
        """
        with inserted as (
          insert into jobsworth.reactive_jobs (mode, queue, priority, created_at)
          select 'm', %(queue)s, %(priority)s, now() - %(age)s * interval '1 second'
          from generate_series(1, %(jobs)s)
          returning id)
        select count(*) from inserted
        """,
        {"queue": queue, "priority": priority, "age": age_seconds, "jobs": jobs},
    )
    if status == "running":
        conn.execute(
            """
            update jobsworth.reactive_jobs
            set status = 'running', worker_id = %(worker)s, started_at = created_at,
                lease_no = nextval('jobsworth.lease_no')
            where priority = %(priority)s and queue = %(queue)s and status = 'queued'
            """,
            {"worker": WORKER, "priority": priority, "queue": queue},
        )


def _finish(conn: psycopg.Connection[DictRow], jobs: int) -> None:
    _queue(conn, jobs, queue="finished")
    conn.execute(
        "update jobsworth.reactive_jobs set status = 'done', finished_at = now()"
        " where queue = 'finished'"
    )


def _hold_snapshot(conn: psycopg.Connection[DictRow]) -> None:
    conn.execute("set transaction isolation level repeatable read")
    conn.execute("select 1")


def _hold_transaction(conn: psycopg.Connection[DictRow]) -> None:
    conn.execute("select pg_current_xact_id()")


def _buffers(
    conn: psycopg.Connection[DictRow],
    query: LiteralString,
    limits: LiteralString = INDEXES_ONLY,
    values: dict[str, Any] | None = None,
) -> int:
    """Pages that a statement touches, planned as it is in use.

    It runs twice: the first time a session calls a function, it reads the catalogue for it.
    """
    with conn.transaction():
        conn.execute(limits, {"timeout": "60s"})
        conn.execute(query, values)
        row = _only(conn.execute("explain (analyze, buffers, format json) " + query, values))
    plan: dict[str, Any] = row["QUERY PLAN"][0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def _only(cursor: psycopg.Cursor[DictRow]) -> DictRow:
    row = cursor.fetchone()
    assert row is not None
    return row
