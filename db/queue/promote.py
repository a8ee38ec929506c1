"""Promotion: waiting jobs whose reason is gone are queued, or wait for their next reason.

In: ids of jobs that ended or parked, lanes, times. Out: promoted jobs. `unblock` and `reconsider`,
functions of the schema, decide; the functions here choose which jobs to look at, in bounded
batches, and never wait for another transaction. One goes the other way: `shelve_unknown` lets
queued jobs that no worker can run wait for a handler.
"""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

from db.money import budgets
from db.pool import Connection, fetch_all, fetch_one, fetch_val

NEWEST_MAX = 200


class Claimant(NamedTuple):
    """A worker that looks for jobs after a promotion, and how many it can take.

    It is not told of so many of the promoted jobs; for each of the others, one idle worker is.
    """

    worker_id: UUID | None = None
    room: int = 0


NOBODY = Claimant()

UNBLOCK: LiteralString = "select jobsworth.unblock(%(ids)s::uuid[], %(worker_id)s, %(room)s)"


async def unblock(conn: Connection, ids: Sequence[UUID], claimant: Claimant = NOBODY) -> list[UUID]:
    """After the commit that ended or parked these jobs, promote what that unblocks.

    Returns jobs that another transaction holds: pass them to `reconsider` later.
    """
    return list(await fetch_val(conn, UNBLOCK, {"ids": list(ids), **claimant._asdict()}))


RECONSIDER: LiteralString = "select jobsworth.reconsider(%(ids)s::uuid[])"


async def reconsider(conn: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Promote those of these waiting jobs whose reason is gone; returns those that are held."""
    return list(await fetch_val(conn, RECONSIDER, {"ids": list(ids)}))


PROMOTE_LANES: LiteralString = """
select jobsworth.reconsider(
  array_remove(array(
    select jobsworth.lane_head(l.lane) from unnest(%(lanes)s::text[]) as l (lane)), null),
  false, %(worker_id)s, %(room)s)
"""


async def promote_lanes(
    conn: Connection, lanes: Sequence[str], claimant: Claimant = NOBODY
) -> list[UUID]:
    """Look again at lanes whose jobs a claim set to wait; returns the jobs that are held."""
    values = {"lanes": list(set(lanes)), **claimant._asdict()}
    return list(await fetch_val(conn, PROMOTE_LANES, values))


DUE: LiteralString = """
select j.id
from jobsworth.reactive_jobs j
where j.status = 'waiting' and j.waiting_for not in ('lane', 'parents', 'handler')
  and j.run_at <= clock_timestamp()
order by j.run_at
limit %(most)s
"""


async def promote_due(conn: Connection, most: int) -> int:
    """Promote up to `most` jobs whose time has come, the longest due first; returns how many.

    Jobs that another transaction holds right now are left for the next call.
    """
    due = [row["id"] for row in await fetch_all(conn, DUE, {"most": most})]
    return len(due) - len(await reconsider(conn, due)) if due else 0


NEXT_DUE: LiteralString = """
select extract(epoch from j.run_at - clock_timestamp())::float8
from jobsworth.reactive_jobs j
where j.status = 'waiting' and j.waiting_for not in ('lane', 'parents', 'handler')
  and j.run_at is not null
order by j.run_at
limit 1
"""


async def next_due_seconds(conn: Connection) -> float | None:
    """Seconds until the next timer is due (0 or less: it is due), or None without timers."""
    return await fetch_val(conn, NEXT_DUE)


SWEEP: LiteralString = """
with stalled as materialized (
  select s.ids, s.next
  from jobsworth.stalled_waits(
    %(reason)s::jobsworth.wait_reason, %(after)s::uuid, %(most)s, %(newest)s) s
)
-- Nothing is locked for a job that has to go on waiting.
select (
    select cardinality(jobsworth.reconsider(s.ids)) from stalled s where s.ids <> '{}'
  ) as held,
  (select s.next from stalled s) as next
"""


async def sweep(conn: Connection, reason: str, after: UUID, most: int) -> UUID | None:
    """Look again at the newest jobs that wait for this reason, and at a slice of the others.

    Only needed after crashes and late commits: otherwise the transaction that unblocks a job
    promotes it. Returns the id after which the next slice begins, None when the end was reached.
    """
    if reason == "budget":
        # No transaction unblocks jobs when a new window begins.
        await budgets.wake(conn)
    values = {"reason": reason, "after": after, "most": most, "newest": min(most, NEWEST_MAX)}
    row = await fetch_one(conn, SWEEP, values)
    assert row is not None
    return row["next"]


SWEEP_LANES: LiteralString = """
with stalled as materialized (
  select s.heads, s.next from jobsworth.stalled_lanes(%(after)s, %(most)s) s
)
select (
    select cardinality(jobsworth.reconsider(s.heads)) from stalled s where s.heads <> '{}'
  ) as held,
  (select s.next from stalled s) as next
"""


async def sweep_lanes(conn: Connection, after: str, most: int) -> str | None:
    """Look at up to `most` lanes after this one, and move on the heads that nothing blocks.

    Only needed after crashes and late commits. Returns the lane after which the next look goes on,
    None when the last one was reached.
    """
    row = await fetch_one(conn, SWEEP_LANES, {"after": after, "most": most})
    assert row is not None
    return row["next"]


SWEEP_RUNS: LiteralString = """
with recent as (
  select r.id from jobsworth.runs r
  where r.finished_at is null
  order by r.id desc
  limit %(most)s
), slice as (
  select r.id from jobsworth.runs r
  where r.finished_at is null and r.id > %(after)s::uuid
  order by r.id
  limit %(most)s
), looked as (
  select jobsworth.move_runs(array(select id from recent union select id from slice)) as held
)
select (
  select (array_agg(s.id order by s.id desc))[1] from slice s having count(*) = %(most)s
) as next
from looked
"""


async def sweep_runs(conn: Connection, after: UUID, most: int) -> UUID | None:
    """Bring the status of the newest open runs, and of a slice of the others, up to their jobs.

    Only needed after crashes, and for runs that were held. Returns the id after which the next
    slice begins, None when the end was reached.
    """
    return await fetch_val(conn, SWEEP_RUNS, {"after": after, "most": most})


CLOSE_ORPHANS: LiteralString = """
select o.closed, o.next from jobsworth.close_orphans(%(after)s::uuid, %(most)s) o
"""


async def close_orphans(conn: Connection, after: UUID, most: int) -> tuple[int, UUID | None]:
    """Close what is still open on ended jobs: the newest ones, and a slice of the others.

    Only needed after crashes: `unblock` does the same right after a job's end. Returns how many
    such jobs there were, and the id after which the next slice begins (None: the end was reached).
    """
    row = await fetch_one(conn, CLOSE_ORPHANS, {"after": after, "most": most})
    assert row is not None
    return row["closed"], row["next"]


SHELVE_UNKNOWN: LiteralString = """
with first as materialized (
  -- Jobs that no worker can run end up at the head, so a bounded look from the start finds them.
  -- Nothing is locked yet: claims would skip the most urgent jobs meanwhile.
  select q.id, q.mode
  from jobsworth.reactive_jobs q
  where q.status = 'queued'
  order by q.queue, q.priority, q.position
  limit %(most)s
), unknown as materialized (
  select f.id
  from first f
  where not exists (select 1 from jobsworth.workers w where f.mode = any(w.modes))
    and exists (select 1 from jobsworth.workers w)
)
update jobsworth.reactive_jobs j
set status = 'waiting', waiting_for = 'handler', run_at = null
where j.id = any(array(
  select r.id
  from jobsworth.reactive_jobs r
  where r.id = any(array(select u.id from unknown u)) and r.status = 'queued'
  for no key update skip locked))
returning j.mode
"""


async def shelve_unknown(conn: Connection, most: int) -> list[str]:
    """Of the first `most` queued jobs, let those whose mode no worker knows wait for a handler.

    Returns these modes.
    """
    return sorted({row["mode"] for row in await fetch_all(conn, SHELVE_UNKNOWN, {"most": most})})
