"""What the tests of the protocol share: workers, claims, endings, races, and what must hold always.

Every helper takes a connection, so that a test decides which transaction does what.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString, Unpack
from uuid import UUID, uuid4

import anyio

from db.fence import Lease
from db.limits import fairness
from db.pool import Connection, Database, execute, fetch_all, fetch_one, fetch_val
from db.queue import claim as claiming
from db.queue import finish as finishing
from db.queue import promote
from db.queue import rescue as rescuing
from db.queue.claim import Claim, Claimed
from db.queue.enqueue import enqueue
from db.queue.finish import Finish, Finished, lease_states
from db.queue.new_job import EnqueueOptions
from tests.db.racing import until_blocked

End = Callable[[Lease], Finish]

MODES = ("answer", "classify", "plan")
PRIORITIES = (1, 2, 3, 4)
CRASHES_MAX = 3

REGISTER: LiteralString = """
insert into jobsworth.workers (id, host, pid, version, modes, queues, slots)
values (%(id)s, 'here', 1, '0', %(modes)s, '{default}', 10)
"""

DIE: LiteralString = """
update jobsworth.workers set beaten_at = now() - interval '1 hour' where id = %(id)s
"""
DEAD: LiteralString = """
select w.id, w.beats from jobsworth.workers w where w.beaten_at < now() - interval '1 minute'
"""

ROW: LiteralString = "select * from jobsworth.reactive_jobs where id = %(id)s"

STATES: LiteralString = """
select id, status::text as status, waiting_for::text as waiting_for
from jobsworth.reactive_jobs
where id = any(%(ids)s)
"""

ASK: LiteralString = """
insert into jobsworth.approvals (job_id, proposal_text, shown_hash, deadline)
values (%(id)s, 'may I?', '', now() + %(seconds)s::float8 * interval '1 second')
returning id
"""

# The `violations` view forgives what is young; these do not.
BREACHES: LiteralString = """
select 'two running in a lane' as breach, j.id
from jobsworth.reactive_jobs j
where j.status = 'running' and exists (
  select 1 from jobsworth.reactive_jobs o
  where o.lane = j.lane and o.status = 'running' and o.id <> j.id)
union all
select 'waiting though its reason is gone', j.id
from jobsworth.reactive_jobs j
where j.status = 'waiting' and jobsworth.reason_gone(j)
union all
select 'ended with an open approval', j.id
from jobsworth.approvals a
join jobsworth.reactive_jobs j on j.id = a.job_id
where a.status = 'pending' and j.finished_at is not null
union all
select 'ended with a child that goes on', j.id
from jobsworth.reactive_jobs c
join jobsworth.reactive_jobs j on j.id = c.parent_id
where c.is_child and c.finished_at is null and not c.cancel_requested and j.finished_at is not null
union all
select v.invariant, v.subject_id
from jobsworth.violations v
"""


async def register(conn: Connection, modes: Sequence[str] = MODES) -> UUID:
    """A living worker."""
    worker_id = uuid4()
    await execute(conn, REGISTER, {"id": worker_id, "modes": list(modes)})
    return worker_id


async def die(conn: Connection, worker_id: UUID) -> None:
    """Let the worker's last heartbeat be long ago."""
    await execute(conn, DIE, {"id": worker_id})


async def add(conn: Connection, mode: str = "answer", **options: Unpack[EnqueueOptions]) -> UUID:
    return (await enqueue(conn, mode, **options)).job_id


async def claim(
    conn: Connection,
    worker_id: UUID,
    wanted: int = 10,
    *,
    beyond: int = 0,
    modes: Sequence[str] = MODES,
    queues: Sequence[str] = ("default",),
    suspect_wanted: bool = True,
    alone: bool = False,
) -> Claim:
    """Claim in every priority, beyond one position."""
    return await claiming.claim(
        conn,
        worker_id=worker_id,
        probes=[(name, priority, beyond) for priority in PRIORITIES for name in queues],
        modes=modes,
        wanted=wanted,
        crashes_max=CRASHES_MAX,
        suspect_wanted=suspect_wanted,
        alone=alone,
    )


async def fair_claim(
    conn: Connection,
    worker_id: UUID,
    wanted: int = 1,
    *,
    rescan: bool = False,
    modes: Sequence[str] = MODES,
    suspect_wanted: bool = True,
    alone: bool = False,
) -> Claim:
    """Claim from the queue `default`, which is fair."""
    return await fairness.claim_fair(
        conn,
        worker_id=worker_id,
        queue="default",
        modes=modes,
        wanted=wanted,
        crashes_max=CRASHES_MAX,
        suspect_wanted=suspect_wanted,
        alone=alone,
        rescan=rescan,
    )


async def take(conn: Connection, worker_id: UUID) -> tuple[Claimed, Lease]:
    """Claim one job, which there must be."""
    [job] = (await claim(conn, worker_id, 1)).jobs
    return job, lease_of(job, worker_id)


async def running(conn: Connection, **options: Unpack[EnqueueOptions]) -> Lease:
    """A new job, held by a new worker."""
    job_id = await add(conn, **options)
    _, lease = await take(conn, await register(conn))
    assert lease.job_id == job_id
    return lease


def lease_of(job: Claimed, worker_id: UUID) -> Lease:
    return Lease(job.id, job.lease_no, worker_id)


def done(lease: Lease, result: str = "null") -> Finish:
    return Finish(lease, "done", result=result)


def failed(lease: Lease, error: str = "it broke") -> Finish:
    return Finish(lease, "failed", failed=True, error=error)


def tried_again(lease: Lease, delay_seconds: float = 60, error: str = "it broke") -> Finish:
    return Finish(
        lease,
        "waiting",
        waiting_for="timer",
        delay_seconds=delay_seconds,
        failed=True,
        error=error,
    )


def parked(
    lease: Lease, reason: str, detail: str | None = None, delay_seconds: float | None = None
) -> Finish:
    return Finish(
        lease, "waiting", waiting_for=reason, waiting_detail=detail, delay_seconds=delay_seconds
    )


def released(lease: Lease) -> Finish:
    return Finish(lease, "queued")


def canceled(lease: Lease, reason: str = "nothing to do") -> Finish:
    return Finish(lease, "canceled", error=reason)


async def finish(conn: Connection, *finishes: Finish) -> list[Finished]:
    """One finishing transaction, without the look at what it unblocked."""
    async with conn.transaction():
        return await finishing.finish(conn, finishes)


async def finish_all(conn: Connection, *finishes: Finish) -> list[Finished]:
    """Finish, again and again what somebody held (a claim may, for an instant)."""
    applied: list[Finished] = []
    left = list(finishes)
    while left:
        applied += await finish(conn, *left)
        states = await lease_states(conn, [one.lease for one in left])
        left = [one for one in left if states.get(one.lease.job_id) == "held"]
    return applied


async def settle(conn: Connection, *finishes: Finish) -> list[Finished]:
    """A finishing transaction, and the look after its commit."""
    applied = await finish_all(conn, *finishes)
    await promote.unblock(conn, [one.id for one in applied if one.unblocks])
    return applied


async def dead_workers(conn: Connection) -> dict[UUID, int]:
    """Those that were let `die`."""
    return {row["id"]: row["beats"] for row in await fetch_all(conn, DEAD)}


async def rescue(conn: Connection, most: int = 100) -> list[dict[str, Any]]:
    return await rescuing.rescue(
        conn,
        await dead_workers(conn),
        rowless=True,
        crashes_max=CRASHES_MAX,
        retry_base_seconds=10,
        retry_max_seconds=300,
        most=most,
    )


async def cancel(conn: Connection, job_id: UUID) -> str:
    return await fetch_val(conn, "select jobsworth.cancel(%(id)s)", {"id": job_id})


async def retry(conn: Connection, job_id: UUID) -> str:
    return await fetch_val(conn, "select jobsworth.retry(%(id)s)", {"id": job_id})


async def signal(conn: Connection, job_id: UUID, name: str = "go") -> UUID:
    return await fetch_val(
        conn, "select jobsworth.send_signal(%(id)s, %(name)s)", {"id": job_id, "name": name}
    )


async def ask(conn: Connection, job_id: UUID, deadline_seconds: float | None = None) -> UUID:
    """An open approval of the job."""
    values = {"id": job_id, "seconds": deadline_seconds}
    return await fetch_val(conn, ASK, values)


async def resolve(conn: Connection, approval_id: UUID, option: str = "approve") -> dict[str, Any]:
    row = await fetch_one(
        conn,
        "select * from jobsworth.resolve(%(id)s, %(option)s, 'somebody')",
        {"id": approval_id, "option": option},
    )
    assert row is not None
    return row


async def row(conn: Connection, job_id: UUID) -> dict[str, Any]:
    """The job as it stands."""
    found = await fetch_one(conn, ROW, {"id": job_id})
    assert found is not None
    return found


async def state(conn: Connection, job_id: UUID) -> tuple[str, str | None]:
    """Its status, and what it waits for."""
    return (await states(conn, job_id))[0]


async def states(conn: Connection, *job_ids: UUID) -> list[tuple[str, str | None]]:
    """The status of each, and what it waits for, in this order."""
    rows = await fetch_all(conn, STATES, {"ids": list(job_ids)})
    found = {one["id"]: (one["status"], one["waiting_for"]) for one in rows}
    return [found[job_id] for job_id in job_ids]


async def breaches(conn: Connection) -> list[tuple[str, UUID]]:
    """What must never be, however young it is."""
    return [tuple(one.values()) for one in await fetch_all(conn, BREACHES)]


async def run_dry(database: Database, worker_id: UUID, wanted: int) -> list[Claimed]:
    """Claim, finish and promote like a daemon, until nothing is left to claim; in claim order."""
    ran: list[Claimed] = []
    async with database.connection() as conn:
        while True:
            got = await claim(conn, worker_id, wanted)
            ran += got.jobs
            await settle(conn, *(done(lease_of(job, worker_id)) for job in got.jobs))
            await promote.promote_lanes(conn, got.deferred_lanes)
            if not got.jobs and not got.deferred_lanes:
                return ran


@asynccontextmanager
async def blocking(
    database: Database, waiting: Connection, statement: Awaitable[Any]
) -> AsyncGenerator[list[Any]]:
    """Start `statement` (an awaitable on `waiting`) and enter once it waits for a lock.

    Leave after having set it free: its result, or what it raised, is in the list then.
    """
    result: list[Any] = []

    async def run() -> None:
        try:
            result.append(await statement)
        except Exception as error:
            result.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until_blocked(database, waiting)
        yield result
