"""The promoter looks after every commit, and again where it may have looked too early."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import LiteralString
from uuid import UUID

import anyio
import pytest

from db.fence import Lease
from db.pool import Connection, Database, execute, fetch_all
from db.queue import effects
from db.queue.effects import JobEffect, Origin
from tests.db.protocol import (
    add,
    cancel,
    claim,
    done,
    finish,
    lease_of,
    parked,
    register,
    running,
    state,
)
from tests.support import connect, until
from tests.worker.queue.standins import CountedWake
from worker.queue import promote
from worker.queue.promote import Promoter

pytestmark = pytest.mark.both

# Moving on a job in a lane waits for an advisory lock.
WAIT_IN_LANE: LiteralString = """
create function jobsworth.wait_here() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock(7);
  return new;
end $$;
create trigger wait_here before update on jobsworth.reactive_jobs
  for each row when (new.lane is not null) execute function jobsworth.wait_here()
"""

BLOCKED: LiteralString = """
select pid from pg_stat_activity
where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0
"""


class Desk:
    """A promoter at work."""

    def __init__(self, database: Database) -> None:
        self.work = CountedWake()
        self.promoter = Promoter(database, self.work)

    @property
    def moved(self) -> int:
        """How many looks were taken."""
        return self.work.times


@asynccontextmanager
async def at_work(database: Database) -> AsyncGenerator[Desk]:
    desk = Desk(database)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.promoter.run)
        yield desk
        tasks.cancel_scope.cancel()


@pytest.fixture
async def desk(database: Database) -> AsyncGenerator[Desk]:
    async with at_work(database) as desk:
        yield desk


async def until_queued(conn: Connection, job_id: UUID) -> None:
    async def queued() -> bool:
        return await state(conn, job_id) == ("queued", None)

    await until(queued)


async def until_somebody_is_blocked(conn: Connection) -> None:
    async def blocked() -> bool:
        return bool(await fetch_all(conn, BLOCKED))

    await until(blocked)


async def _spawn(conn: Connection, lease: Lease) -> UUID:
    child = JobEffect("child:1", "plan", is_child=True)
    await effects.write(conn, [(Origin(lease.job_id), child)])
    [row] = await fetch_all(conn, "select id from jobsworth.reactive_jobs where is_child")
    return row["id"]


async def test_what_an_end_unblocks_goes_on_and_the_claimer_is_woken(
    desk: Desk, conn: Connection
) -> None:
    lease = await running(conn, lane="a")
    behind = await add(conn, lane="a")
    await finish(conn, done(lease))
    desk.promoter.ended([lease.job_id])
    await until_queued(conn, behind)
    await desk.promoter.wait_idle()
    assert desk.moved == 1


async def test_a_lane_whose_member_was_put_off_is_looked_at(desk: Desk, conn: Connection) -> None:
    lease = await running(conn, lane="a")
    behind = await add(conn, lane="a")
    await finish(conn, done(lease))
    desk.promoter.deferred(["a"])
    await until_queued(conn, behind)


async def test_what_somebody_holds_is_looked_at_again_until_they_let_go(
    desk: Desk, database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    await finish(conn, parked(lease, "children"))
    async with database.transaction() as holder:
        await execute(
            holder,
            "select id from jobsworth.reactive_jobs where id = %(id)s for update",
            {"id": lease.job_id},
        )
        desk.promoter.ended([lease.job_id])

        async def looked_twice() -> bool:
            return desk.moved >= 2

        await until(looked_twice)
        assert await state(conn, lease.job_id) == ("waiting", "children")
    await until_queued(conn, lease.job_id)


async def test_a_second_look_is_taken_at_what_ended_again_during_the_first(
    desk: Desk, database_url: str, conn: Connection
) -> None:
    """The look at the job is over, the look at a lane is not: what is told now must not be lost."""
    parent = await running(conn)
    child = await _spawn(conn, parent)
    await finish(conn, parked(parent, "children"))
    worker_id = await register(conn)
    [job] = (await claim(conn, worker_id)).jobs
    assert job.id == child
    lane = await running(conn, lane="a")
    behind = await add(conn, lane="a")
    await finish(conn, done(lane))
    await execute(conn, WAIT_IN_LANE)
    # On the server itself: behind a pooler, no session keeps a lock.
    with connect(database_url) as gate:
        gate.execute("select pg_advisory_lock(7)")
        desk.promoter.ended([parent.job_id])
        desk.promoter.deferred(["a"])
        await until_somebody_is_blocked(conn)
        await finish(conn, done(lease_of(job, worker_id)))
        desk.promoter.ended([parent.job_id])
        gate.execute("select pg_advisory_unlock(7)")
    await until_queued(conn, parent.job_id)
    await until_queued(conn, behind)


async def test_an_orphan_that_somebody_held_is_stopped_once_they_let_go(
    desk: Desk, database: Database, conn: Connection
) -> None:
    lease = await running(conn)
    child = await _spawn(conn, lease)
    worker_id = await register(conn)
    async with database.transaction() as open_claim:
        assert [job.id for job in (await claim(open_claim, worker_id)).jobs] == [child]
        await finish(conn, done(lease))
        desk.promoter.ended([lease.job_id])

        async def looked_twice() -> bool:
            return desk.moved >= 2

        await until(looked_twice)

    async def stopped() -> bool:
        asked = await fetch_all(
            conn, "select 1 from jobsworth.reactive_jobs where cancel_requested"
        )
        return bool(asked)

    await until(stopped)


async def test_what_is_held_for_long_is_left_to_the_sweep(
    database: Database, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promote, "AGAIN_SECONDS", 0.001)
    lease = await running(conn)
    await finish(conn, parked(lease, "children"))
    async with at_work(database) as desk:
        async with database.transaction() as holder:
            await execute(
                holder,
                "select id from jobsworth.reactive_jobs where id = %(id)s for update",
                {"id": lease.job_id},
            )
            desk.promoter.ended([lease.job_id])

            async def gave_up() -> bool:
                return desk.moved > promote.AGAIN_TIMES

            await until(gave_up)
        assert desk.moved <= promote.AGAIN_TIMES + 2
        assert await state(conn, lease.job_id) == ("waiting", "children")


async def test_a_look_that_fails_is_taken_again(
    desk: Desk, database: Database, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promote, "ERROR_PAUSE_SECONDS", 0.01)
    lease = await running(conn, lane="a")
    behind = await add(conn, lane="a")
    await finish(conn, done(lease))
    async with database.connection() as gate:
        await gate.execute("begin")
        await gate.execute("lock table jobsworth.job_edges in access exclusive mode")
        desk.promoter.ended([lease.job_id])
        await until_somebody_is_blocked(conn)
        await fetch_all(
            conn,
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0",
        )
        await gate.execute("commit")
    await until_queued(conn, behind)


async def test_idle_means_that_everything_was_looked_at(desk: Desk, conn: Connection) -> None:
    lease = await running(conn, lane="a")
    behind = await add(conn, lane="a")
    await cancel(conn, lease.job_id)
    await finish(conn, done(lease))
    desk.promoter.ended([lease.job_id])
    await desk.promoter.wait_idle()
    assert await state(conn, behind) == ("queued", None)


async def test_nothing_to_look_at_wakes_nobody(desk: Desk) -> None:
    desk.promoter.ended([])
    desk.promoter.deferred([])
    await desk.promoter.wait_idle()
    assert desk.moved == 0
