"""Any sequence of operations keeps within the limits, and loses neither a job nor a slot."""

from __future__ import annotations

import random
from typing import LiteralString
from uuid import UUID

import pytest

from db.diagnosis import violations
from db.fence import Lease
from db.limits import gates, job_limits
from db.pool import Connection, execute, fetch_all, fetch_val
from db.queue import promote
from db.queue.finish import Finish
from tests.db.protocol import (
    End,
    add,
    cancel,
    claim,
    die,
    done,
    failed,
    finish,
    lease_of,
    parked,
    register,
    released,
    rescue,
    settle,
    signal,
)

OPERATIONS = 60
KEYS = (None, "a", "b")
ALL, EACH, BURST = 4, 1, 3

RUNNING: LiteralString = """
select j.limit_key as key, count(*) as running
from jobsworth.reactive_jobs j
where j.status = 'running'
group by j.limit_key
"""
OPEN: LiteralString = """
select j.id, j.status::text, j.waiting_for::text, j.waiting_detail, j.lane, j.limit_key, j.crashes
from jobsworth.reactive_jobs j
where j.finished_at is null
order by j.id
"""
DELETE: LiteralString = "delete from jobsworth.reactive_jobs where id = %(id)s"
# Nobody has to wait for the end of a turn that is not used.
OLDER: LiteralString = "update jobsworth.job_limit_slots set turn_at = now() - interval '6 s'"
DUE: LiteralString = """
update jobsworth.reactive_jobs set run_at = now() - interval '1 s' where waiting_for = 'timer'
"""
ROOM: LiteralString = "select jobsworth.room_at(%(name)s, %(key)s)"


def step_aside(lease: Lease) -> Finish:
    return parked(lease, "signal", "go")


class Play:
    """Workers that claim, end, die and come back, drawn by a seed."""

    def __init__(self, conn: Connection, seed: int) -> None:
        self.conn = conn
        self.draw = random.Random(seed)
        self.workers: list[UUID] = []
        self.leases: list[Lease] = []
        self.stale: list[Lease] = []

    async def begin(self) -> None:
        self.workers = [await register(self.conn) for _ in range(2)]
        await job_limits.set_limit(self.conn, "all", slots=ALL)
        await job_limits.set_limit(self.conn, "each", per="key", slots=EACH, burst=BURST)

    async def enqueue(self) -> None:
        for _ in range(self.draw.randint(1, 4)):
            await add(
                self.conn,
                limit_key=self.draw.choice(KEYS),
                lane=self.draw.choice((None, None, "x")),
                priority=self.draw.choice((1, 3)),
            )

    async def claim(self, *, look: bool = True) -> int:
        worker_id = self.draw.choice(self.workers)
        wanted, idle = self.draw.randint(1, 4), not self.leases
        got = await claim(self.conn, worker_id, wanted, alone=idle)
        self.leases += [lease_of(job, worker_id) for job in got.jobs]
        if look:
            await promote.promote_lanes(self.conn, got.deferred_lanes)
            await promote.unblock(self.conn, got.held_up)
        return len(got.jobs)

    async def end(self) -> None:
        if not self.leases:
            return
        lease = self.leases.pop(self.draw.randrange(len(self.leases)))
        self.stale.append(lease)
        endings: tuple[End, ...] = (done, failed, released, step_aside)
        ending = self.draw.choice(endings)
        # At times the look after the commit is lost with its worker.
        await self.draw.choice((settle, settle, finish))(self.conn, ending(lease))

    async def end_again(self) -> None:
        if self.stale:
            await settle(self.conn, done(self.draw.choice(self.stale)))

    async def claim_and_die(self) -> None:
        await self.claim(look=False)

    async def kill(self) -> None:
        victim = self.workers.pop(0)
        await die(self.conn, victim)
        await promote.unblock(self.conn, [one["id"] for one in await rescue(self.conn)])
        self.stale += [lease for lease in self.leases if lease.worker_id == victim]
        self.leases = [lease for lease in self.leases if lease.worker_id != victim]
        self.workers.append(await register(self.conn))

    async def touch_some_job(self) -> None:
        found = await fetch_all(self.conn, OPEN)
        if not found:
            return
        job_id = self.draw.choice(found)["id"]
        match self.draw.randrange(3):
            case 0:
                await cancel(self.conn, job_id)
            case 1:
                await signal(self.conn, job_id)
            case _:
                await execute(self.conn, DELETE, {"id": job_id})

    async def sweep(self) -> None:
        await gates.sweep(self.conn, gates.FIRST_GATE, 100)

    async def check(self) -> None:
        running = {row["key"]: row["running"] for row in await fetch_all(self.conn, RUNNING)}
        assert sum(running.values()) <= ALL
        assert max((running.get(key, 0) for key in KEYS[1:]), default=0) <= BURST

    async def drain(self) -> None:
        """Whatever was lost on the way is found: all jobs end, and all slots are free."""
        for _ in range(200):
            await execute(self.conn, OLDER)
            await execute(self.conn, DUE)
            await promote.promote_due(self.conn, 100)
            await self.sweep()
            await promote.sweep_lanes(self.conn, "", 100)
            for row in await fetch_all(self.conn, OPEN):
                await signal(self.conn, row["id"])
            await self.claim()
            await settle(self.conn, *(done(lease) for lease in self.leases))
            self.leases = []
            if not await fetch_all(self.conn, OPEN):
                return
        raise AssertionError(f"still open: {await fetch_all(self.conn, OPEN)}")


@pytest.mark.parametrize("seed", range(2))
async def test_any_sequence_keeps_within_the_limits(conn: Connection, seed: int) -> None:
    play = Play(conn, seed)
    await play.begin()
    operations = (
        *(play.enqueue, play.enqueue, play.claim, play.claim, play.claim, play.end, play.end),
        *(play.end_again, play.claim_and_die, play.kill, play.touch_some_job, play.sweep),
    )
    for _ in range(OPERATIONS):
        await play.draw.choice(operations)()
        await play.check()
    await play.drain()
    assert await fetch_val(conn, ROOM, {"name": "all", "key": ""}) == ALL
    assert await fetch_val(conn, ROOM, {"name": "each", "key": "a"}) == BURST
    assert await violations.list_violations(conn) == []
