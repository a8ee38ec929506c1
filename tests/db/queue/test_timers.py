"""Timers: what is due goes on, oldest first, and nothing that is not due is in the way."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import anyio
import pytest

from db.pool import Connection, Database, execute, fetch_all
from db.queue import promote
from db.queue.finish import Finish
from tests.db.protocol import (
    add,
    claim,
    finish,
    parked,
    register,
    row,
    running,
    settle,
    state,
    states,
    tried_again,
)

pytestmark = pytest.mark.both

OVERDUE: LiteralString = """
update jobsworth.reactive_jobs set run_at = now() - %(seconds)s * interval '1 second'
where id = %(id)s
"""

LISTEN: LiteralString = 'listen "jobsworth.wake"'


async def overdue(conn: Connection, seconds: float, lane: str | None = None) -> UUID:
    job_id = await add(conn, delay=3600, lane=lane)
    await execute(conn, OVERDUE, {"id": job_id, "seconds": seconds})
    return job_id


async def test_a_scheduled_job_waits_for_its_time(conn: Connection) -> None:
    job_id = await add(conn, delay=3600)
    assert await state(conn, job_id) == ("waiting", "timer")
    assert await promote.promote_due(conn, 10) == 0
    assert await state(conn, job_id) == ("waiting", "timer")
    seconds = await promote.next_due_seconds(conn)
    assert seconds is not None
    assert 3500 < seconds <= 3600


async def test_a_time_in_the_past_is_now(conn: Connection) -> None:
    job_id = await add(conn, delay=0)
    assert await state(conn, job_id) == ("queued", None)
    assert (await row(conn, job_id))["run_at"] is None


async def test_without_a_timer_nothing_is_due(conn: Connection) -> None:
    await add(conn)
    assert await promote.next_due_seconds(conn) is None


async def test_overdue_jobs_are_promoted_in_batches_oldest_first(conn: Connection) -> None:
    jobs = [await overdue(conn, seconds) for seconds in (10, 50, 20, 40, 30)]
    in_order = [jobs[1], jobs[3], jobs[4], jobs[2], jobs[0]]
    assert await promote.promote_due(conn, 2) == 2
    assert await states(conn, *in_order) == [("queued", None)] * 2 + [("waiting", "timer")] * 3
    assert await promote.promote_due(conn, 3) == 3
    assert await promote.promote_due(conn, 3) == 0
    got = await claim(conn, await register(conn))
    assert [job.id for job in got.jobs] == in_order


async def test_a_backoff_that_is_over_is_a_timer_like_any_other(conn: Connection) -> None:
    lease = await running(conn)
    await finish(conn, tried_again(lease, 0))
    assert await promote.promote_due(conn, 10) == 1
    assert await state(conn, lease.job_id) == ("queued", None)


async def test_a_wait_for_a_signal_ends_with_its_time(conn: Connection) -> None:
    lease = await running(conn)
    await settle(conn, parked(lease, "signal", "go", 3600))
    assert await promote.promote_due(conn, 10) == 0
    await execute(conn, OVERDUE, {"id": lease.job_id, "seconds": 1})
    assert await promote.promote_due(conn, 10) == 1
    assert await state(conn, lease.job_id) == ("queued", None)


async def test_an_overdue_job_that_needs_others_is_not_due_and_starves_no_timer(
    conn: Connection,
) -> None:
    needed = await running(conn)
    waiting = await add(conn, after=[needed.job_id], delay=3600)
    await execute(conn, OVERDUE, {"id": waiting, "seconds": 60})
    assert await promote.next_due_seconds(conn) is None
    timer = await overdue(conn, 1)
    assert await promote.promote_due(conn, 1) == 1
    assert await states(conn, timer, waiting) == [("queued", None), ("waiting", "parents")]
    await settle(conn, Finish(needed, "done"))
    assert await state(conn, waiting) == ("queued", None)


async def test_a_due_job_that_somebody_holds_is_left_and_its_neighbours_go_on(
    database: Database, conn: Connection
) -> None:
    held, free = await overdue(conn, 20), await overdue(conn, 10)
    async with database.transaction() as holder:
        await execute(
            holder,
            "select id from jobsworth.reactive_jobs where id = %(id)s for update",
            {"id": held},
        )
        with anyio.fail_after(5):
            await promote.promote_due(conn, 10)
        assert await states(conn, held, free) == [("waiting", "timer"), ("queued", None)]
    await promote.promote_due(conn, 10)
    assert await state(conn, held) == ("queued", None)


async def test_two_daemons_promote_a_timer_once(database: Database, conn: Connection) -> None:
    job_id = await overdue(conn, 10)
    async with database.transaction() as other:
        await promote.promote_due(other, 10)
        await promote.promote_due(conn, 10)
    position = (await row(conn, job_id))["position"]
    await promote.promote_due(conn, 10)
    assert (await row(conn, job_id))["position"] == position


@pytest.mark.direct("a pooler passes no notifications on")
async def test_an_insert_due_within_a_second_notifies_and_a_later_one_does_not(
    database: Database, conn: Connection
) -> None:
    async with database.connection() as listener:
        await execute(listener, LISTEN)
        await add(conn, delay=3600)
        await add(conn, delay=0.5)
        heard = [one.payload async for one in listener.notifies(timeout=10, stop_after=1)]
        await execute(listener, "unlisten *")
    assert heard == ["timer"]


@pytest.mark.direct("a pooler passes no notifications on")
async def test_promotion_wakes_an_idle_worker_by_name_and_no_other(
    database: Database, conn: Connection
) -> None:
    worker_id = await register(conn)
    await register(conn)
    async with database.connection() as listener:
        await execute(listener, LISTEN)
        await overdue(conn, 10)
        await promote.promote_due(conn, 10)
        await execute(
            conn, "update jobsworth.workers set idle = true where id = %(id)s", {"id": worker_id}
        )
        await overdue(conn, 10)
        await execute(conn, "select pg_notify('jobsworth.wake', 'before')")
        await promote.promote_due(conn, 10)
        await execute(conn, "select pg_notify('jobsworth.wake', 'after')")
        heard: list[str] = []
        async for one in listener.notifies(timeout=10):
            heard.append(one.payload)
            if heard[-1] == "after":
                break
        await execute(listener, "unlisten *")
    # Those of inserts name nobody; those of the promotion without an idle worker are not there.
    assert heard == ["", "before", str(worker_id), "after"]


async def test_promotion_leaves_all_others_alone(conn: Connection) -> None:
    await overdue(conn, 10)
    later = await add(conn, delay=60)
    before = await row(conn, later)
    await promote.promote_due(conn, 10)
    assert await row(conn, later) == before
    assert len(await fetch_all(conn, "select 1 from jobsworth.reactive_jobs")) == 2
