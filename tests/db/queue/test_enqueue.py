"""Enqueueing one job: every option, unique keys and their races, the caller's transaction."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from psycopg.rows import dict_row

from db.errors import Contended, InvalidInput, Refused
from db.ids import uuidv7
from db.migrate import migrate
from db.pool import Connection, Database, fetch_val
from db.queue import jobs
from db.queue.jobs import Job, JobStatus, WaitReason, enqueue, enqueue_sync
from tests.db.racing import until_blocked
from tests.support import direct_url

pytestmark = pytest.mark.both

TRACE_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def added(conn: Connection, mode: str = "answer", **options: Any) -> Job:
    return await jobs.get_by_id(conn, (await enqueue(conn, mode, **options)).job_id)


async def count(conn: Connection) -> int:
    return await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs")


async def finish(conn: psycopg.AsyncConnection[Any], job_id: UUID) -> None:
    await conn.execute(
        "update jobsworth.reactive_jobs set status = 'done', finished_at = now() where id = %s",
        [job_id],
    )


async def test_a_job_without_options_is_queued_with_the_defaults(conn: Connection) -> None:
    enqueued = await enqueue(conn, "answer")

    job = await jobs.get_by_id(conn, enqueued.job_id)
    assert enqueued.created
    assert (job.status, job.waiting_for, job.mode, job.payload) == ("queued", None, "answer", {})
    assert (job.queue, job.priority, job.lane, job.run_at) == ("default", 3, None, None)
    assert (job.failures_max, job.crashes_max, job.timeout_seconds) == (None, None, None)
    assert job.created_at.tzinfo is not None


async def test_every_plain_option_reaches_the_row(conn: Connection) -> None:
    wanted: dict[str, Any] = {
        "queue": "research",
        "priority": 1,
        "trigger_message_id": uuid4(),
        "unique_key": "weekly report",
        "failures_max": 7,
        "crashes_max": 2,
        "timeout_seconds": 1.5,
        "trace_parent": TRACE_PARENT,
        "request_id": "order-17",
        "expires_at": datetime(2090, 1, 2, 3, 4, 6, tzinfo=UTC),
        "team_id": uuid4(),
        "agent_id": uuid4(),
        "holds_lane": True,
        "id": uuidv7(),
    }
    job = await added(conn, payload={"url": "https://example.org/ä", "n": 1}, **wanted)

    assert job.payload == {"url": "https://example.org/ä", "n": 1}
    assert {name: getattr(job, name) for name in wanted} == wanted


async def test_priority_1_and_4_are_accepted(conn: Connection) -> None:
    assert (await added(conn, priority=1)).priority == 1
    assert (await added(conn, priority=4)).priority == 4


async def test_a_job_for_later_waits_for_its_timer(conn: Connection) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    at = await added(conn, run_at=later)
    in_seconds = await added(conn, delay=3600)
    in_timedelta = await added(conn, delay=timedelta(hours=1))

    for job in (at, in_seconds, in_timedelta):
        assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.TIMER)
        assert job.run_at is not None
        assert abs(job.run_at - later) < timedelta(minutes=1)
    assert at.run_at == later


async def test_a_time_that_has_come_is_no_wait(conn: Connection) -> None:
    past = await added(conn, run_at=datetime.now(UTC) - timedelta(seconds=1))
    no_delay = await added(conn, delay=0)

    assert [past.status, no_delay.status] == ["queued", "queued"]
    assert [past.run_at, no_delay.run_at] == [None, None]


async def test_the_second_job_of_a_lane_waits_for_it(conn: Connection) -> None:
    first, second = await added(conn, lane="L"), await added(conn, lane="L")
    other = await added(conn, lane="M")

    assert (first.status, other.status) == ("queued", "queued")
    assert (second.status, second.waiting_for) == ("waiting", "lane")


async def test_a_thread_is_the_default_lane_and_an_empty_lane_is_none(conn: Connection) -> None:
    thread_id = uuid4()
    first, second = await added(conn, thread_id=thread_id), await added(conn, thread_id=thread_id)
    free = await added(conn, thread_id=thread_id, lane="")

    assert (first.lane, first.thread_id) == (str(thread_id), thread_id)
    assert (second.status, second.waiting_for) == ("waiting", "lane")
    assert (free.lane, free.status, free.thread_id) == (None, "queued", thread_id)


async def test_a_job_after_open_ones_waits_for_its_parents(conn: Connection) -> None:
    a, b = await added(conn), await added(conn)
    child = await added(conn, after=[a.id, b.id, a.id])

    assert (child.status, child.waiting_for) == ("waiting", "parents")
    await jobs.cancel(conn, a.id)
    assert (await jobs.get_by_id(conn, child.id)).status == "waiting"
    await jobs.cancel(conn, b.id)
    ended = await jobs.get_by_id(conn, child.id)
    assert ended.status == "canceled"
    assert str(a.id) in (ended.error or "")


@pytest.mark.usefixtures("unguarded")
async def test_a_job_after_done_ones_is_queued_at_once(conn: Connection) -> None:
    a = await added(conn)
    await finish(conn, a.id)

    assert (await added(conn, after=[a.id])).status == "queued"


async def test_a_job_after_an_unknown_one_is_refused(conn: Connection) -> None:
    unknown = uuid4()
    with pytest.raises(InvalidInput, match=f"job {unknown} in after does not exist"):
        await enqueue(conn, "answer", after=[unknown])
    assert await count(conn) == 0


@pytest.mark.usefixtures("unguarded")
async def test_a_scheduled_job_after_others_waits_for_both(conn: Connection) -> None:
    parent = await added(conn)
    child = await added(conn, after=[parent.id], delay=3600, lane="L")
    assert child.waiting_for == "parents"
    await finish(conn, parent.id)
    await conn.execute("select jobsworth.unblock(array[%s])", [parent.id])

    child = await jobs.get_by_id(conn, child.id)
    assert (child.status, child.waiting_for) == ("waiting", "timer")


async def test_a_taken_unique_key_gives_the_open_job(conn: Connection) -> None:
    first = await enqueue(conn, "answer", {"n": 1}, unique_key="k")
    second = await enqueue(conn, "plan", {"n": 2}, unique_key="k")

    assert (second.job_id, second.created) == (first.job_id, False)
    assert await count(conn) == 1
    assert (await jobs.get_by_id(conn, first.job_id)).payload == {"n": 1}


@pytest.mark.parametrize("status", ["queued", "waiting", "running"])
async def test_a_unique_key_is_held_in_every_open_status(conn: Connection, status: str) -> None:
    delay = 60 if status == "waiting" else None
    first = await enqueue(conn, "answer", unique_key="k", delay=delay)
    if status == "running":
        await conn.execute(
            "update jobsworth.reactive_jobs set status = 'running', lease_no = 1, worker_id = id"
        )
    assert not (await enqueue(conn, "answer", unique_key="k")).created
    assert await jobs.get_by_id(conn, first.job_id)


async def test_a_unique_key_is_free_again_when_its_job_has_ended(conn: Connection) -> None:
    first = await enqueue(conn, "answer", unique_key="k")
    await jobs.cancel(conn, first.job_id)

    assert (await enqueue(conn, "answer", unique_key="k")).created


async def test_each_team_has_its_own_unique_keys(conn: Connection) -> None:
    team = uuid4()
    assert (await enqueue(conn, "answer", unique_key="k")).created
    assert (await enqueue(conn, "answer", unique_key="k", team_id=team)).created
    assert not (await enqueue(conn, "answer", unique_key="k", team_id=team)).created


async def test_a_repeated_call_with_the_same_id_adds_nothing(conn: Connection) -> None:
    own = uuidv7()
    first = await enqueue(conn, "answer", id=own)
    again = await enqueue(conn, "answer", id=own)

    assert first == again
    assert first.job_id == own
    assert await count(conn) == 1


async def test_of_two_racing_for_a_key_both_get_the_same_job(
    database: Database, conn: Connection
) -> None:
    results: list[jobs.Enqueued] = []

    async def second(other: Connection) -> None:
        results.append(await enqueue(other, "answer", unique_key="k"))

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        results.append(await enqueue(conn, "answer", unique_key="k"))
        tasks.start_soon(second, other)
        await until_blocked(database, other)
    assert [result.created for result in results] == [True, False]
    assert results[0].job_id == results[1].job_id
    assert await count(conn) == 1


async def test_the_key_of_a_rolled_back_job_goes_to_who_waited(
    database: Database, conn: Connection
) -> None:
    results: list[jobs.Enqueued] = []

    async def second(other: Connection) -> None:
        results.append(await enqueue(other, "answer", unique_key="k"))

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction() as transaction,
    ):
        await enqueue(conn, "answer", unique_key="k")
        tasks.start_soon(second, other)
        await until_blocked(database, other)
        raise psycopg.Rollback(transaction)
    assert results[0].created
    assert await count(conn) == 1


@pytest.mark.usefixtures("unguarded")
async def test_a_key_whose_holder_ends_at_that_moment_is_taken_anew(
    database: Database, conn: Connection
) -> None:
    """The holder's finish is open; the enqueue waits for it, then takes the freed key."""
    results: list[jobs.Enqueued] = []
    holder = await enqueue(conn, "answer", unique_key="k")

    async def second(other: Connection) -> None:
        results.append(await enqueue(other, "answer", unique_key="k"))

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        await finish(conn, holder.job_id)
        tasks.start_soon(second, other)
        await until_blocked(database, other)
    assert results[0].created
    assert results[0].job_id != holder.job_id


@pytest.mark.usefixtures("unguarded")
async def test_a_holder_that_ends_before_it_is_looked_up_makes_enqueue_try_again(
    database: Database, conn: Connection
) -> None:
    """A trigger stops the enqueue between its conflict with the holder and its look for it."""
    results: list[jobs.Enqueued] = []
    holder = await enqueue(conn, "answer", unique_key="k")
    await conn.execute(
        """
        create function stop_here() returns trigger language plpgsql as
          'begin perform pg_advisory_xact_lock(1); return null; end';
        create trigger stop after insert on jobsworth.reactive_jobs
          for each statement execute function stop_here();
        """
    )

    async def second(other: Connection) -> None:
        results.append(await enqueue(other, "answer", unique_key="k"))

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        await conn.execute("select pg_advisory_xact_lock(1)")
        tasks.start_soon(second, other)
        await until_blocked(database, other)
        async with database.connection() as third:
            await finish(third, holder.job_id)
    assert results[0].created
    assert results[0].job_id != holder.job_id


async def test_a_key_taken_after_the_snapshot_is_a_retriable_error(
    database: Database, conn: Connection
) -> None:
    await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    async with database.connection() as other, conn.transaction(force_rollback=True):
        assert await count(conn) == 0
        await enqueue(other, "answer", unique_key="k")
        with pytest.raises(Contended) as caught:
            await enqueue(conn, "answer", unique_key="k")
    assert caught.value.retriable


async def test_a_rolled_back_transaction_leaves_nothing(conn: Connection) -> None:
    async with conn.transaction() as transaction:
        await enqueue(conn, "answer")
        assert await count(conn) == 1
        raise psycopg.Rollback(transaction)
    assert await count(conn) == 0


async def test_a_job_commits_with_the_callers_own_rows(
    database: Database, conn: Connection
) -> None:
    await conn.execute("create table orders (id int)")
    async with database.connection() as other:
        async with conn.transaction():
            await conn.execute("insert into orders values (1)")
            await enqueue(conn, "answer")
            assert await count(other) == 0
        assert await count(other) == 1


async def test_a_plain_async_connection_enqueues_in_its_open_transaction(
    database_url: str, conn: Connection
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as foreign:
        foreign.row_factory = dict_row  # pyright: ignore[reportAttributeAccessIssue]
        enqueued = await enqueue(foreign, "answer", {"n": 1})
        assert enqueued.created
        assert await count(conn) == 0
        await foreign.commit()
    assert (await jobs.get_by_id(conn, enqueued.job_id)).payload == {"n": 1}


async def test_a_plain_blocking_connection_enqueues_in_its_open_transaction(
    database_url: str, conn: Connection
) -> None:
    with psycopg.connect(database_url) as foreign:
        enqueued = enqueue_sync(foreign, "answer", {"n": 1}, unique_key="k", priority=1)
        assert not enqueue_sync(foreign, "answer", unique_key="k").created
        assert await count(conn) == 0
    job = await jobs.get_by_id(conn, enqueued.job_id)
    assert (job.payload, job.priority, job.unique_key) == ({"n": 1}, 1, "k")


async def test_sql_enqueues_with_defaults_and_options(conn: Connection) -> None:
    made = await fetch_val(conn, "select jobsworth.enqueue('answer')")
    assert (await jobs.get_by_id(conn, made)).payload == {}
    urgent = await fetch_val(
        conn, """select jobsworth.enqueue('answer', '{"n": 1}', priority => 1, delay => '1 hour')"""
    )
    job = await jobs.get_by_id(conn, urgent)
    assert (job.payload, job.priority, job.waiting_for) == ({"n": 1}, 1, "timer")


async def test_a_mistake_leaves_the_callers_transaction_intact(conn: Connection) -> None:
    async with conn.transaction():
        for mistake in ({"priority": 7}, {"delay": -1}, {"unique_key": "a\0"}):
            arguments: dict[str, Any] = mistake
            with pytest.raises(InvalidInput):
                await enqueue(conn, "answer", **arguments)
        with pytest.raises(InvalidInput):
            await enqueue(conn, "answer", {"text": "x" * 10_000_000})
        await enqueue(conn, "answer")
    assert await count(conn) == 1


async def test_a_lower_payload_limit_can_be_given(conn: Connection) -> None:
    with pytest.raises(InvalidInput, match="at most 10 are allowed"):
        await enqueue(conn, "answer", {"text": "0123456789"}, payload_bytes_max=10)


async def test_a_payload_too_large_as_jsonb_is_refused_by_the_database(conn: Connection) -> None:
    """A list of small numbers is several times larger as jsonb than as text."""
    with pytest.raises(InvalidInput, match="the payload of a answer job has .* bytes"):
        await enqueue(conn, "answer", {"numbers": [1] * 500_000})
    assert await count(conn) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("jobsworth.enqueue('')", "a job needs a mode"),
        ("jobsworth.enqueue(null)", "a job needs a mode"),
        ("jobsworth.enqueue('m', priority => 7)", "priority 7 is not 1 to 4"),
        ("jobsworth.enqueue('m', '[]')", "payload_is_an_object"),
        ("jobsworth.enqueue('m', failures_max => 0)", "failures_max 0 is not a number from 1"),
        ("jobsworth.enqueue('m', crashes_max => 0)", "crashes_max 0 is not a number from 1"),
        ("jobsworth.enqueue('m', timeout_seconds => 0)", "timeout_seconds 0 is not above 0"),
        ("jobsworth.enqueue('m', delay => '-1 hour')", "is negative"),
        ("jobsworth.enqueue('m', delay => '1 hour', run_at => now())", "with run_at"),
        ("jobsworth.enqueue('m', expires_in => '-1 hour')", "is not positive"),
        ("jobsworth.enqueue('m', expires_in => '1 s', delay => '2 s')", "expires before it may"),
        ("jobsworth.enqueue('m', expires_at => 'infinity')", "must be from 1900 to 2199"),
        ("jobsworth.enqueue('m', '{\"a\": \"\\u0000\"}')", "unsupported Unicode escape"),
    ],
)
async def test_a_mistake_in_sql_is_refused(conn: Connection, call: str, message: str) -> None:
    with pytest.raises((InvalidInput, Refused), match=message):
        await fetch_val(conn, f"select {call}")  # pyright: ignore[reportArgumentType]
    assert await count(conn) == 0


async def test_two_schemas_in_one_database_do_not_touch_each_other(
    database_url: str, conn: Connection
) -> None:
    migrate(direct_url(database_url), "second")
    async with await psycopg.AsyncConnection.connect(database_url) as foreign:
        first = await enqueue(foreign, "answer", unique_key="k")
        second = await enqueue(foreign, "plan", unique_key="k", schema="second")
    assert first.created
    assert second.created
    assert (await jobs.list_jobs(conn))[0].id == first.job_id
    async with Database(database_url, schema="second") as database, database.connection() as other:
        assert [job.id for job in await jobs.list_jobs(other)] == [second.job_id]
        third = await enqueue(other, "answer")
        assert len(await jobs.list_jobs(other)) == 2
    with psycopg.connect(database_url) as foreign:
        assert not enqueue_sync(foreign, "plan", unique_key="k", schema="second").created
    assert third.job_id not in {job.id for job in await jobs.list_jobs(conn)}
    assert await count(conn) == 1


async def test_a_schema_that_needs_quotes_is_refused(conn: Connection) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a schema"):
        await enqueue(conn, "answer", schema='x"; drop table users; --')


async def test_the_databases_own_ids_are_version_7_and_near_ours(conn: Connection) -> None:
    before = uuidv7()
    made = await fetch_val(conn, "select jobsworth.uuidv7()")
    assert made.version == 7
    assert abs((made.int >> 80) - (before.int >> 80)) < 5_000
