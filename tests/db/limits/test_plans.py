"""What waits at gates costs nobody anything, however much it is: blocks touched."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import pytest

from db.limits import gates, job_limits
from db.pool import Connection, execute
from db.queue import upkeep
from tests.db.protocol import add, claim, done, lease_of, register, settle, state
from tests.db.queue.plans.scene import Meter
from tests.db.rows import past_the_guards

pytestmark = pytest.mark.both

WAITERS = 20_000
LOAD: LiteralString = """
insert into jobsworth.reactive_jobs (mode, status, waiting_for, waiting_detail)
select 'answer', 'waiting', 'limit', 'limit one' from generate_series(1, %(most)s)
"""
VACUUM: LiteralString = "vacuum analyze jobsworth.reactive_jobs"
IDLE_BLOCKS = 40
NEXT_BLOCKS = 900


async def test_thousands_that_wait_at_a_gate_cost_an_idle_worker_nothing(
    conn: Connection, database_url: str
) -> None:
    worker_id = await register(conn)
    await job_limits.set_limit(conn, "one", slots=1)
    first = await add(conn)
    [job] = (await claim(conn, worker_id)).jobs
    assert job.id == first
    meter = Meter(conn, database_url)

    async def look() -> None:
        assert (await claim(conn, worker_id)).jobs == []

    async def due() -> None:
        assert (await upkeep.due_work(conn)).gates

    async def sweep() -> None:
        assert await gates.sweep(conn, gates.FIRST_GATE, 100) == gates.FIRST_GATE

    async with past_the_guards(conn):
        await execute(conn, LOAD, {"most": WAITERS})
    await conn.execute(VACUUM)
    for work, most in ((look, IDLE_BLOCKS), (due, 4 * IDLE_BLOCKS), (sweep, 3 * IDLE_BLOCKS)):
        await work()  # plans, and what the catalog has to say, are kept from here on
        touched = await meter.touched(work)
        assert touched <= most, f"{work.__name__}: {touched} blocks"

    taken: list[UUID] = []

    async def next_one() -> None:
        await settle(conn, done(lease_of(job, worker_id)))
        taken.extend(one.id for one in (await claim(conn, worker_id)).jobs)

    assert await meter.touched(next_one) <= NEXT_BLOCKS
    assert len(taken) == 1
    assert await state(conn, taken[0]) == ("running", None)
