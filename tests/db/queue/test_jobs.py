"""Jobs as rows: found, listed and counted."""

from typing import Any
from uuid import uuid4

import pytest

from db.errors import InvalidInput, NotFound
from db.pool import Connection, execute, fetch_all, fetch_val
from db.queue import jobs, signals
from db.queue.jobs import Job, JobStatus, WaitReason
from tests.db.queue.job_rows import (
    FINAL,
    added,
    park,
    put,
    state,
)

pytestmark = [
    pytest.mark.both,
    pytest.mark.direct("single statements, as through any connection"),
]


async def test_an_unknown_job_is_not_found(conn: Connection) -> None:
    unknown = uuid4()
    for call in (jobs.get_by_id, jobs.cancel, jobs.retry, jobs.run_now, jobs.why):
        with pytest.raises(NotFound, match=f"there is no job {unknown}") as caught:
            await call(conn, unknown)
        assert caught.value.remedy


async def test_jobs_are_listed_newest_first_page_by_page(conn: Connection) -> None:
    made = [await added(conn) for _ in range(5)]

    first = await jobs.list_jobs(conn, limit=2)
    second = await jobs.list_jobs(conn, limit=2, before_id=first[-1].id)
    third = await jobs.list_jobs(conn, limit=2, before_id=second[-1].id)
    assert [job.id for job in [*first, *second, *third]] == made[::-1]
    assert await jobs.list_jobs(conn, before_id=made[0]) == []


async def test_jobs_are_listed_by_each_filter_and_by_all_together(conn: Connection) -> None:
    thread_id = uuid4()
    wanted = await added(conn, "plan", queue="q", thread_id=thread_id, delay=60)
    others = [
        await added(conn, "answer", queue="q", thread_id=thread_id, delay=60),
        await added(conn, "plan", thread_id=thread_id, delay=60),
        await added(conn, "plan", queue="q", delay=60),
        await added(conn, "plan", queue="q", thread_id=thread_id),
    ]
    filters: dict[str, Any] = {
        "mode": "plan",
        "queue": "q",
        "thread_id": thread_id,
        "status": JobStatus.WAITING,
    }
    left_out = dict(zip(filters, others, strict=True))
    for name, value in filters.items():
        found = {job.id for job in await jobs.list_jobs(conn, **{name: value})}
        assert found == {wanted, *others} - {left_out[name]}
    assert [job.id for job in await jobs.list_jobs(conn, **filters)] == [wanted]


async def test_jobs_are_listed_by_what_they_wait_for(conn: Connection) -> None:
    await added(conn)
    timer = await added(conn, delay=60)
    assert [j.id for j in await jobs.list_jobs(conn, waiting_for=WaitReason.TIMER)] == [timer]
    assert await jobs.list_jobs(conn, waiting_for=WaitReason.LANE) == []


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_a_bound(conn: Connection, limit: int) -> None:
    with pytest.raises(InvalidInput, match=f"limit {limit} is not 1 to 1,000"):
        await jobs.list_jobs(conn, limit=limit)


async def test_the_enums_say_the_same_as_the_database(conn: Connection) -> None:
    statuses = await fetch_val(conn, "select enum_range(null::jobsworth.job_status)::text[]")
    reasons = await fetch_val(conn, "select enum_range(null::jobsworth.wait_reason)::text[]")
    assert statuses == list(JobStatus)
    assert reasons == list(WaitReason)


async def test_a_row_has_no_column_unknown_to_the_model_but_the_queues_own(
    conn: Connection,
) -> None:
    columns = await fetch_all(
        conn,
        """
        select a.attname from pg_attribute a
        where a.attrelid = 'jobsworth.reactive_jobs'::regclass and a.attnum > 0
        """,
    )
    internal = {"position", "lane_position", "effect_key", "limited"}
    assert {row["attname"] for row in columns} - internal == set(Job.model_fields)


async def test_an_empty_queue_counts_nothing(conn: Connection) -> None:
    counts = await jobs.counts(conn)
    assert (counts.queued, counts.running, counts.waiting) == (0, 0, {})
    assert counts.oldest_queued_seconds is None


async def test_unfinished_jobs_are_counted_by_status_and_reason(conn: Connection) -> None:
    for _ in range(3):
        await added(conn, delay=60)
    await added(conn, lane="L")
    await added(conn, lane="L")
    await added(conn, queue="other", priority=1)
    await put(conn, await added(conn), "running")
    for status in FINAL:
        await put(conn, await added(conn), status)

    counts = await jobs.counts(conn)
    assert (counts.queued, counts.running) == (2, 1)
    assert counts.waiting == {WaitReason.TIMER: 3, WaitReason.LANE: 1}


async def test_the_eldest_head_of_a_queue_is_found_whatever_its_queue_and_priority(
    conn: Connection,
) -> None:
    ages = {("a", 1): 10, ("a", 3): 20, ("b", 2): 300, ("c", 4): 40}
    for (queue, priority), seconds in ages.items():
        job_id = await added(conn, queue=queue, priority=priority)
        await added(conn, queue=queue, priority=priority)
        await execute(
            conn,
            """
            update jobsworth.reactive_jobs set created_at = now() - %s * interval '1 second'
            where id = %s
            """,
            [seconds, job_id],
        )
    seconds = (await jobs.counts(conn)).oldest_queued_seconds
    assert seconds is not None
    assert 300 <= seconds < 330


@pytest.mark.usefixtures("unguarded")
async def test_counting_reads_no_ended_job_even_with_stale_statistics(conn: Connection) -> None:
    """50,000 jobs that were queued at the last analyze have ended since."""
    await execute(conn, "alter table jobsworth.reactive_jobs set (autovacuum_enabled = false)")
    await execute(
        conn,
        "insert into jobsworth.reactive_jobs (mode) select 'answer' from generate_series(1, 50000)",
    )
    await execute(conn, "analyze jobsworth.reactive_jobs")
    await execute(conn, "update jobsworth.reactive_jobs set status = 'done', finished_at = now()")
    for _ in range(10):
        await added(conn)
    await jobs.counts(conn)  # which lets the index forget its dead entries

    async with conn.transaction():
        await execute(conn, jobs.PIN_COUNTS)
        (row,) = (await fetch_val(conn, "explain (analyze, buffers, format json)" + jobs.COUNTS),)
    plan = row[0]["Plan"]
    pages = await fetch_val(conn, "select pg_relation_size('jobsworth.reactive_jobs') / 8192")
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < pages / 2


async def test_a_signal_resumes_who_waits_for_it(conn: Connection) -> None:
    job_id = await added(conn)
    await park(conn, job_id, "signal", detail="paid")
    await signals.send(conn, job_id, "other")
    assert await state(conn, job_id) == ("waiting", "signal")
    await signals.send(conn, job_id, "paid")
    assert await state(conn, job_id) == ("queued", None)


async def test_a_bad_enum_value_is_refused(conn: Connection) -> None:
    wrong: Any = "asleep"
    with pytest.raises(InvalidInput, match="status cannot be 'asleep'"):
        await jobs.list_jobs(conn, status=wrong)
