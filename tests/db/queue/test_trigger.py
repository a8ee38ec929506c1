"""Plain SQL into the job table behaves like `enqueue`: what is not ready becomes waiting."""

from typing import Any
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from psycopg import sql

from db.pool import Connection, Database, fetch_all, fetch_val
from db.queue import jobs, workers
from db.queue.jobs import Job, enqueue
from tests.db.racing import until_blocked

pytestmark = [
    pytest.mark.both,
    pytest.mark.direct("what triggers do; and a pooler passes no notifications on"),
]


async def inserted(conn: Connection, **columns: Any) -> Job:
    """A row inserted with these columns, and the mode answer."""
    columns = {"mode": "answer"} | columns
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    values = sql.SQL(", ").join(map(sql.Placeholder, columns))
    query = sql.SQL("insert into jobsworth.reactive_jobs ({}) values ({}) returning id")
    cursor = await conn.execute(query.format(names, values), columns)
    row = await cursor.fetchone()
    assert row is not None
    return await jobs.get_by_id(conn, row[0])


async def test_a_ready_row_is_queued(conn: Connection) -> None:
    job = await inserted(conn)
    assert (job.status, job.lane, job.payload, job.attempt) == ("queued", None, {}, 0)


async def test_a_scheduled_row_waits_for_its_timer(conn: Connection) -> None:
    await conn.execute(
        """
        insert into jobsworth.reactive_jobs (mode, run_at, lane)
        values ('answer', now() + interval '1 hour', 'L')
        """
    )
    (job,) = await jobs.list_jobs(conn)
    assert (job.status, job.waiting_for) == ("waiting", "timer")
    assert await fetch_val(conn, "select lane_position from jobsworth.reactive_jobs") is None


async def test_a_row_behind_another_of_its_lane_waits_for_it(conn: Connection) -> None:
    first, second = await inserted(conn, lane="L"), await inserted(conn, lane="L")
    assert first.status == "queued"
    assert (second.status, second.waiting_for) == ("waiting", "lane")


async def test_a_row_behind_one_that_runs_waits_for_it(conn: Connection) -> None:
    first = await inserted(conn, lane="L")
    await conn.execute(
        "update jobsworth.reactive_jobs set status = 'running', lease_no = 1, worker_id = %s",
        [first.id],
    )
    assert (await inserted(conn, lane="L")).waiting_for == "lane"


@pytest.mark.usefixtures("unguarded")
async def test_a_row_behind_finished_ones_is_queued(conn: Connection) -> None:
    await inserted(conn, lane="L")
    await conn.execute("update jobsworth.reactive_jobs set status = 'done', finished_at = now()")
    assert (await inserted(conn, lane="L")).status == "queued"


@pytest.mark.parametrize(
    ("holds_lane", "status"), [(False, "queued"), (True, "waiting")], ids=["aside", "holds"]
)
@pytest.mark.parametrize("reason", ["approval", "signal"])
async def test_one_parked_for_a_person_or_a_signal_steps_aside_unless_it_holds_its_lane(
    conn: Connection, reason: str, holds_lane: bool, status: str
) -> None:
    await inserted(conn, lane="L", holds_lane=holds_lane)
    await conn.execute(
        "update jobsworth.reactive_jobs set status = 'waiting', waiting_for = %s", [reason]
    )
    assert (await inserted(conn, lane="L")).status == status


async def test_one_that_waits_for_its_children_keeps_its_lane(conn: Connection) -> None:
    await inserted(conn, lane="L")
    await conn.execute(
        "update jobsworth.reactive_jobs set status = 'waiting', waiting_for = 'children'"
    )
    assert (await inserted(conn, lane="L")).waiting_for == "lane"


async def test_the_thread_is_the_lane_of_a_row(conn: Connection) -> None:
    thread_id = uuid4()
    first, second = (
        await inserted(conn, thread_id=thread_id),
        await inserted(conn, thread_id=thread_id),
    )
    assert first.lane == str(thread_id)
    assert (second.status, second.waiting_for) == ("waiting", "lane")


async def test_two_open_inserts_into_an_idle_lane_are_both_queued_and_wait_for_nobody(
    database: Database, conn: Connection
) -> None:
    async with database.connection() as other, conn.transaction():
        first = await inserted(conn, lane="L")
        second = await inserted(other, lane="L")
    assert [first.status, second.status] == ["queued", "queued"]


@pytest.mark.parametrize("status", ["waiting", "running", "done", "failed", "canceled"])
async def test_a_row_with_another_status_than_queued_is_refused(
    conn: Connection, status: str
) -> None:
    columns = {"finished_at": "now"} if status in ("done", "failed", "canceled") else {}
    if status == "waiting":
        columns = {"waiting_for": "timer", "run_at": "tomorrow"}
    with pytest.raises(psycopg.errors.CheckViolation, match=f"inserted as queued, not as {status}"):
        await inserted(conn, status=status, **columns)


async def test_a_row_that_waits_without_a_reason_is_refused(conn: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="waiting_has_its_reason"):
        await inserted(conn, status="waiting")
    with pytest.raises(psycopg.errors.CheckViolation, match="waiting_has_its_reason"):
        await inserted(conn, waiting_for="lane")


async def test_a_row_with_a_taken_unique_key_is_refused(conn: Connection) -> None:
    await enqueue(conn, "answer", unique_key="k")
    with pytest.raises(psycopg.errors.UniqueViolation, match="jobs_unique_key"):
        await inserted(conn, unique_key="k")
    assert (await inserted(conn, unique_key="k", team_id=uuid4())).status == "queued"


async def test_a_row_waits_for_an_open_transaction_with_its_unique_key(
    database: Database, conn: Connection
) -> None:
    errors: list[Exception] = []

    async def second(other: Connection) -> None:
        try:
            await inserted(other, unique_key="k")
        except psycopg.errors.UniqueViolation as error:
            errors.append(error)

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        await inserted(conn, unique_key="k")
        tasks.start_soon(second, other)
        await until_blocked(database, other)
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ({"mode": ""}, "mode_is_named"),
        ({"priority": 0}, "priority_is_1_to_4"),
        ({"priority": 5}, "priority_is_1_to_4"),
        ({"payload": "[1]"}, "payload_is_an_object"),
        ({"payload": '"text"'}, "payload_is_an_object"),
        ({"payload": '{"text": "' + "x" * 1_048_577 + '"}'}, "payload_is_at_most_1_mib"),
        ({"failures_max": 0}, "failures_max_is_positive"),
        ({"crashes_max": 0}, "crashes_max_is_positive"),
        ({"timeout_seconds": 0}, "timeout_is_positive"),
    ],
)
async def test_a_row_that_makes_no_sense_is_refused_by_name(
    conn: Connection, columns: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        await inserted(conn, **columns)


async def test_copy_into_the_table_gates_timers_and_lanes(conn: Connection) -> None:
    statement = "copy jobsworth.reactive_jobs (mode, lane, run_at) from stdin"
    async with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for lane, run_at in (
            ("L", None),
            ("L", None),
            ("M", None),
            (None, "tomorrow"),
            (None, None),
        ):
            await copy.write_row(("answer", lane, run_at))
    rows = await fetch_all(
        conn,
        """
        select j.status::text || coalesce(' ' || j.waiting_for, '') as state
        from jobsworth.reactive_jobs j order by j.position
        """,
    )
    assert [row["state"] for row in rows] == [
        "queued",
        "waiting lane",
        "queued",
        "waiting timer",
        "queued",
    ]


async def test_an_insert_of_many_rows_gates_its_lanes(conn: Connection) -> None:
    await conn.execute(
        """
        insert into jobsworth.reactive_jobs (mode, lane)
        select 'answer', 'L' || n % 3 from generate_series(1, 30) n
        """
    )
    assert len(await jobs.list_jobs(conn, status=jobs.JobStatus.QUEUED)) == 3
    assert len(await jobs.list_jobs(conn, waiting_for=jobs.WaitReason.LANE)) == 27


async def test_a_ready_row_calls_no_trigger_function(conn: Connection) -> None:
    await conn.execute(
        """
        create or replace function jobsworth.arrive() returns trigger language plpgsql as
          $$ begin raise exception 'called'; end $$
        """
    )
    await inserted(conn)
    with pytest.raises(psycopg.errors.RaiseException, match="called"):
        await inserted(conn, lane="L")


async def test_an_insert_wakes_idle_workers_only(conn: Connection) -> None:
    async def notified() -> bool:
        await inserted(conn)
        return bool([notice async for notice in conn.notifies(timeout=0.2, stop_after=1)])

    await conn.execute('listen "jobsworth.wake"')
    assert not await notified()
    await add_worker(conn, idle=False)
    assert not await notified()
    await add_worker(conn, idle=True)
    assert await notified()


async def test_a_worker_that_leaves_or_is_busy_again_is_not_woken(conn: Connection) -> None:
    first, second = await add_worker(conn, idle=True), await add_worker(conn, idle=True)
    counts = [await idle_workers(conn)]
    await workers.set_idle(conn, first, False)
    counts.append(await idle_workers(conn))
    await workers.leave(conn, second)
    counts.append(await idle_workers(conn))
    assert counts == [2, 1, 0]


async def test_workers_that_change_at_once_are_counted_one_after_the_other(
    database: Database, conn: Connection
) -> None:
    first, second = await add_worker(conn, idle=False), await add_worker(conn, idle=True)
    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        await workers.set_idle(conn, first, True)
        tasks.start_soon(workers.set_idle, other, second, False)
        await until_blocked(database, other)
    assert await idle_workers(conn) == 1


async def test_a_count_that_was_rolled_back_is_corrected_when_it_is_asked_for_again(
    conn: Connection,
) -> None:
    worker = await add_worker(conn, idle=False)
    async with conn.transaction(force_rollback=True):
        await workers.set_idle(conn, worker, True)
    assert await idle_workers(conn) == 1
    await workers.set_idle(conn, worker, False)
    assert await idle_workers(conn) == 0


async def test_a_row_due_within_a_second_notifies_at_once(conn: Connection) -> None:
    await conn.execute('listen "jobsworth.wake"')
    await conn.execute(
        """
        insert into jobsworth.reactive_jobs (mode, run_at)
        values ('answer', clock_timestamp() + interval '0.5 seconds')
        """
    )
    notice = await anext(aiter(conn.notifies(timeout=5)))
    assert notice.payload == "timer"


async def idle_workers(conn: Connection) -> int:
    return await fetch_val(conn, "select last_value from jobsworth.idle_workers")


async def add_worker(conn: Connection, *, idle: bool) -> UUID:
    worker_id = uuid4()
    await conn.execute(
        """
        insert into jobsworth.workers (id, host, pid, version, modes, queues, slots, idle)
        values (%s, 'host', 1, '0', '{answer}', '{default}', 1, %s)
        """,
        [worker_id, idle],
    )
    return worker_id
