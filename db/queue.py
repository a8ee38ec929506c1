"""The hot path: claim, fence, finish, rescue.

In: what a worker can run, and how its attempts ended. Out: leases, and the transitions that were
really applied. The invariant is the fence: a claim draws `lease_no` and writes it with `worker_id`;
every later write of that attempt locks the job's row under both and `status = 'running'`, in the
same statement or transaction. No row means that the lease is lost and nothing may be written.

The planner is kept on the primary key (`PIN_PLAN`): with stale statistics, or an empty table when
the statement was first planned, the join with the batch turned into a hash join over a scan of the
whole table (70,000 jobs/s became 9,000), and the claim read and sorted the whole backlog.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg.rows import args_row, tuple_row

from db.errors import JobsworthError, translated
from db.pool import BEGIN, Connection, bounded, fetch_all, fetch_val
from db.schema import render


# Named tuples where one is made for each job: a frozen dataclass takes several times as long.
class Lease(NamedTuple):
    """Proof of a claim; the fence of every write of that attempt."""

    job_id: UUID
    lease_no: int
    worker_id: UUID


class LeaseLost(JobsworthError):
    """The job belongs to somebody else now, or has ended; this attempt must stop."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(
            f"lease {lease.lease_no} of job {lease.job_id} is lost",
            "nothing was written; another attempt has the job",
        )
        self.lease = lease


class Claimed(NamedTuple):
    """A job as its attempt gets it."""

    id: UUID
    lease_no: int
    queue: str
    priority: int
    position: int
    mode: str
    payload: dict[str, Any]
    attempt: int
    failures: int
    failures_max: int | None
    timeout_seconds: float | None
    team_id: UUID | None
    thread_id: UUID | None
    trigger_message_id: UUID | None
    parent_id: UUID | None
    is_child: bool
    lane: str | None
    trace_parent: str | None
    waited_seconds: float


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim brought: jobs to run, and lanes whose surplus members were put off."""

    jobs: list[Claimed]
    deferred_lanes: list[str]
    positions: dict[tuple[str, int], int]


class Finish(NamedTuple):
    """One transition, as `finish` writes it. Documents are JSON text; delays are seconds."""

    lease: Lease
    status: str
    waiting_for: str | None = None
    waiting_detail: str | None = None
    delay_seconds: float | None = None
    failed: bool = False
    result: str | None = None
    error: str | None = None


class Finished(NamedTuple):
    """A transition that was applied; `status` differs from the asked one if a cancel came first."""

    id: UUID
    status: str
    unblocks: bool


_claim_order = attrgetter("priority", "position")

PIN_PLAN: LiteralString = """
select set_config('enable_seqscan', 'off', true),
  set_config('enable_hashjoin', 'off', true),
  set_config('enable_mergejoin', 'off', true), set_config('enable_bitmapscan', 'off', true),
  set_config('plan_cache_mode', 'force_generic_plan', true)
"""

# The same for a finishing transaction, which begins with it (no parameters: one round trip).
PINNED: LiteralString = (
    BEGIN
    + """;
set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off;
set local enable_bitmapscan = off; set local plan_cache_mode = force_generic_plan
"""
)

CLAIM: LiteralString = """
with ready as materialized (
  -- The next jobs of each queue and priority, from the remembered position on, urgent first. Rows
  -- that other workers hold are passed over. The lateral keeps the order of the probes.
  select j.id, j.queue, j.priority, j.position, j.lane, j.lane_position
  from unnest(%(queues)s::text[], %(priorities)s::smallint[], %(positions)s::bigint[])
    as probe (queue, priority, position)
  cross join lateral (
    select r.id, r.queue, r.priority, r.position, r.lane, r.lane_position
    from jobsworth.reactive_jobs r
    where r.status = 'queued' and r.queue = probe.queue and r.priority = probe.priority
      and r.position > probe.position and r.mode = any(%(modes)s::text[])
    order by r.position
    limit %(wanted)s
    -- Not plain `for update`: that would pass over a job while a transaction that enqueued one
    -- after it (its foreign key holds `for key share`) stays open.
    for no key update skip locked
  ) j
  where exists (select 1 from jobsworth.workers w where w.id = %(worker_id)s)
    and not exists (select 1 from jobsworth.queues q where q.name = probe.queue and q.paused)
  limit %(wanted)s
), heads as materialized (
  -- Of a lane only its lowest open job, alone, and only by one claimer at a time (never waits).
  select r.id, r.lane, (
      row_number() over (partition by r.lane order by r.lane_position, r.id) = 1
      and not jobsworth.lane_blocked(r.lane, r.lane_position, r.id)
      and pg_try_advisory_xact_lock(hashtextextended('jobsworth.' || r.lane, 0))
    ) as is_head
  from ready r
  where r.lane is not null
), deferred as (
  update jobsworth.reactive_jobs j
  set status = 'waiting', waiting_for = 'lane', run_at = null
  where j.id = any(array(select h.id from heads h where not h.is_head))
  returning j.id, j.lane
), taken as (
  update jobsworth.reactive_jobs j
  set status = 'running', attempt = j.attempt + 1, lease_no = nextval('jobsworth.lease_no'),
    worker_id = %(worker_id)s, started_at = now()
  where j.id = any(array(
    select r.id from ready r where r.lane is null
    union all
    select h.id from heads h where h.is_head))
  returning j.id, j.lease_no, j.queue, j.priority, j.position, j.mode, j.payload, j.attempt,
    j.failures, j.failures_max, j.timeout_seconds, j.team_id, j.thread_id, j.trigger_message_id,
    j.parent_id, j.is_child, j.lane, j.trace_parent,
    greatest(0, date_part('epoch', now() - coalesce(j.run_at, j.created_at))) as waited_seconds
)
select t.id, t.lease_no, t.queue, t.priority, t.position, t.mode, t.payload, t.attempt,
  t.failures, t.failures_max, t.timeout_seconds, t.team_id, t.thread_id, t.trigger_message_id,
  t.parent_id, t.is_child, t.lane, t.trace_parent, t.waited_seconds
from taken t
union all
select d.id, null, r.queue, r.priority, r.position, null, null, null, null, null, null, null, null,
  null, null, null, d.lane, null, null
from deferred d join ready r on r.id = d.id
"""


async def claim(
    conn: Connection,
    *,
    worker_id: UUID,
    probes: Sequence[tuple[str, int, int]],
    modes: Sequence[str],
    wanted: int,
) -> Claim:
    """Take up to `wanted` queued jobs; committed on return.

    `probes` are (queue, priority, position): where to look, in this order, each only beyond its
    position. The worker's own row must exist, or nothing is claimed. Raises `Refused` with
    SQLSTATE 23505 when two claimers met in a lane: simply try again.
    """
    values = {
        "worker_id": worker_id,
        "queues": [queue for queue, _, _ in probes],
        "priorities": [priority for _, priority, _ in probes],
        "positions": [position for _, _, position in probes],
        "modes": list(modes),
        "wanted": wanted,
    }
    rows = await _pinned(conn, CLAIM, values)
    rows.sort(key=_claim_order)
    return Claim(
        jobs=[row for row in rows if row.lease_no],
        deferred_lanes=[row.lane for row in rows if not row.lease_no and row.lane],
        positions={(row.queue, row.priority): row.position for row in rows},
    )


FINISH: LiteralString = """
with ended as materialized (
  -- A column in which no job says anything is sent as null: nothing to write, to send or to read.
  select e.n, e.id, e.lease_no, e.worker_id, coalesce(e.status, 'done') as status, e.waiting_for,
    e.waiting_detail, e.delay_seconds, coalesce(e.failed, false) as failed, e.result, e.error
  from unnest(
    %(ids)s::uuid[], %(lease_nos)s::bigint[], %(worker_ids)s::uuid[],
    %(statuses)s::jobsworth.job_status[], %(waiting_fors)s::jobsworth.wait_reason[],
    %(waiting_details)s::text[], %(delays)s::float8[], %(faileds)s::boolean[],
    %(results)s::jsonb[], %(errors)s::text[])
    with ordinality as e (id, lease_no, worker_id, status, waiting_for, waiting_detail,
      delay_seconds, failed, result, error, n)
), locked as materialized (
  -- By the primary key alone: the planner believes the index of running jobs to be empty, and would
  -- walk all of it for each job. A row that somebody is delivering to is left for the next batch.
  select e.n, e.id, e.status, e.waiting_for, e.waiting_detail, e.delay_seconds, e.failed, e.result,
    e.error,
    j.status = 'running' and j.lease_no = e.lease_no and j.worker_id = e.worker_id as ours
  from ended e
  cross join lateral (
    select r.status, r.lease_no, r.worker_id
    from jobsworth.reactive_jobs r
    where r.id = e.id
    for no key update skip locked
  ) j
), held as materialized (
  -- The fence.
  select l.n, l.id, l.status, l.waiting_for, l.waiting_detail, l.delay_seconds, l.failed, l.result,
    l.error
  from locked l
  where l.ours
)
-- `any(array[…])` can only be looked up by the primary key, from each held row; a plain equality
-- was planned the other way round, over the whole index, while the table was empty. (By `ctid` it
-- would be 1 µs a job quicker, and blind to a row that changed between our snapshot and our lock.)
-- The target's own columns are read after the lock, so a cancel that came just before is seen; a
-- subquery would still see the snapshot from before it.
update jobsworth.reactive_jobs j
set status = case when j.cancel_requested and h.status in ('queued', 'waiting') then 'canceled'
    else h.status end,
  waiting_for = case when not j.cancel_requested then h.waiting_for end,
  waiting_detail = case when not j.cancel_requested then h.waiting_detail end,
  run_at = case when j.cancel_requested then null
    when h.status = 'waiting' then now() + h.delay_seconds * interval '1 second'
    when h.status = 'queued' then now() end,
  position = case when h.status = 'queued' then nextval('jobsworth.job_position')
    else j.position end,
  finished_at = case when j.cancel_requested or h.status in ('done', 'failed', 'canceled')
    then now() end,
  failures = j.failures + h.failed::int,
  result = case when h.status = 'done' then coalesce(h.result, 'null') else j.result end,
  error = case when h.status = 'done' then null
    when j.cancel_requested then coalesce(j.error, h.error)
    else coalesce(h.error, j.error) end
from held h
where j.id = any(array[h.id])
returning h.n, j.status::text, (
  -- Scalar subqueries: `exists` may become a hash of a scan over the whole table. Approvals and
  -- children come with an attempt that parked, so the first one has none.
  j.lane is not null or j.is_child or j.status = 'waiting'
  or (select true from jobsworth.job_edges e where e.needs_job_id = j.id limit 1) is not null
  or (j.attempt > 1 and (
    (select true from jobsworth.approvals a
      where a.job_id = j.id and a.status = 'pending' limit 1) is not null
    or (select true from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null limit 1) is not null))
  ) as unblocks
"""


async def finish(conn: Connection, finishes: Sequence[Finish]) -> list[Finished]:
    """Apply these transitions under their fences, inside the caller's transaction (`PINNED`).

    Returns those that were applied; `fates` tells what became of the others. Never waits for
    another transaction.
    """
    with translated():
        cursor = conn.cursor(row_factory=tuple_row, binary=True)
        await cursor.execute(render(FINISH, conn.schema), _columns(finishes), prepare=True)
        rows: list[tuple[int, str, bool]] = await cursor.fetchall()
    return [
        Finished(finishes[n - 1].lease.job_id, status, unblocks) for n, status, unblocks in rows
    ]


def _columns(finishes: Sequence[Finish]) -> dict[str, object]:
    """The transitions by column. (The driver's lists of UUIDs and numbers take 8 µs more a job.)"""
    columns: list[tuple[Any, ...]] = list(zip(*finishes, strict=True))
    leases, statuses, waits, details, delays, faileds, results, errors = columns
    job_ids, lease_nos, worker_ids = zip(*leases, strict=True)
    return {
        "ids": uuid_array(job_ids),
        "lease_nos": "{" + ",".join(map(str, lease_nos)) + "}",
        "worker_ids": uuid_array(worker_ids),
        "statuses": _unless_all("done", statuses),
        "waiting_fors": _unless_all(None, waits),
        "waiting_details": _unless_all(None, details),
        "delays": _unless_all(None, delays),
        "faileds": _unless_all(False, faileds),
        "results": _unless_all("null", results),
        "errors": _unless_all(None, errors),
    }


def _unless_all(usual: object, column: tuple[Any, ...]) -> list[Any] | None:
    return None if column.count(usual) == len(column) else list(column)


def uuid_array(ids: Iterable[UUID]) -> str:
    """A `uuid[]` as PostgreSQL reads it."""
    return "{" + ",".join([one.hex for one in ids]) + "}"


FATES: LiteralString = """
select j.id, case
    when j.lease_no is distinct from l.lease_no or j.worker_id is distinct from l.worker_id
      then 'lost'
    when j.status = 'running' then 'held'
    else 'ended'
  end as fate
from unnest(%(ids)s::uuid[], %(lease_nos)s::bigint[], %(worker_ids)s::uuid[])
  as l (job_id, lease_no, worker_id)
cross join lateral (
  select r.id, r.lease_no, r.worker_id, r.status
  from jobsworth.reactive_jobs r
  where r.id = l.job_id
  offset 0
) j
"""


async def fates(conn: Connection, leases: Sequence[Lease]) -> dict[UUID, str]:
    """What became of jobs that `finish` did not return, by id.

    held: still ours, somebody holds the row; try again. ended: no longer running under our lease,
    so either our own commit whose answer was lost, or a rescue. lost: another attempt has it. An id
    that is missing was deleted.
    """
    values = {
        "ids": [lease.job_id for lease in leases],
        "lease_nos": [lease.lease_no for lease in leases],
        "worker_ids": [lease.worker_id for lease in leases],
    }
    rows = await fetch_all(conn, FATES, values)
    return {row["id"]: row["fate"] for row in rows}


UNBLOCK: LiteralString = "select jobsworth.unblock(%(ids)s::uuid[])"


async def unblock(conn: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """After the commit that ended or parked these jobs, move on whatever that unblocks.

    Returns jobs that somebody holds and that `reconsider` must look at again.
    """
    return list(await fetch_val(conn, UNBLOCK, {"ids": list(ids)}))


RECONSIDER: LiteralString = "select jobsworth.reconsider(%(ids)s::uuid[])"


async def reconsider(conn: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Move on those of these waiting jobs whose reason is gone; returns the held ones."""
    return list(await fetch_val(conn, RECONSIDER, {"ids": list(ids)}))


PROMOTE_LANES: LiteralString = """
select jobsworth.reconsider(array_remove(array(
  select jobsworth.lane_head(l.lane) from unnest(%(lanes)s::text[]) as l (lane)), null))
"""


async def promote_lanes(conn: Connection, lanes: Sequence[str]) -> list[UUID]:
    """Look again at lanes whose members a claim put off; returns the held ones."""
    return list(await fetch_val(conn, PROMOTE_LANES, {"lanes": list(set(lanes))}))


DUE: LiteralString = """
select j.id
from jobsworth.reactive_jobs j
where j.status = 'waiting' and j.waiting_for in ('timer', 'signal')
  and j.run_at <= clock_timestamp()
order by j.run_at
limit %(most)s
"""


async def promote_due(conn: Connection, most: int) -> int:
    """Move on up to `most` jobs whose time has come, oldest first; returns how many it moved.

    The others of them are held by somebody right now.
    """
    due = [row["id"] for row in await fetch_all(conn, DUE, {"most": most})]
    return len(due) - len(await reconsider(conn, due)) if due else 0


NEXT_DUE: LiteralString = """
select extract(epoch from j.run_at - clock_timestamp())::float8
from jobsworth.reactive_jobs j
where j.status = 'waiting' and j.waiting_for in ('timer', 'signal') and j.run_at is not null
order by j.run_at
limit 1
"""


async def next_due_seconds(conn: Connection) -> float | None:
    """Seconds until the next timer is due (not positive: it is), or None without one."""
    return await fetch_val(conn, NEXT_DUE)


RESCUE: LiteralString = """
with dead as materialized (
  select j.id, j.lease_no, j.worker_id
  from jobsworth.reactive_jobs j
  where j.status = 'running' and j.worker_id is not null and not exists (
    select 1 from jobsworth.workers w
    where w.id = j.worker_id
      and w.beaten_at > now() - %(rescue_seconds)s * interval '1 second')
), orphaned as materialized (
  -- Lock the lease that was judged, no other: a job that another rescue gave back meanwhile may be
  -- a living worker's by now, and a lock's recheck does not look into `workers` again. A row that
  -- its worker is finishing right now is left to it.
  select d.id
  from dead d
  cross join lateral (
    select 1
    from jobsworth.reactive_jobs j
    where j.id = d.id and j.lease_no = d.lease_no and j.worker_id is not distinct from d.worker_id
      and j.status = 'running'
    for no key update skip locked
  ) fence
  limit %(most)s
)
update jobsworth.reactive_jobs j
set crashes = j.crashes + 1,
  status = (case
    when j.cancel_requested then 'canceled'
    when j.crashes + 1 >= coalesce(j.crashes_max, %(crashes_max)s) then 'failed'
    when j.crashes = 0 then 'queued'
    else 'waiting' end)::jobsworth.job_status,
  waiting_for = case
    when not j.cancel_requested and j.crashes > 0
      and j.crashes + 1 < coalesce(j.crashes_max, %(crashes_max)s) then 'timer'
    end::jobsworth.wait_reason,
  run_at = case
    when j.cancel_requested or j.crashes + 1 >= coalesce(j.crashes_max, %(crashes_max)s) then null
    when j.crashes = 0 then now()
    else now() + least(%(retry_max_seconds)s, %(retry_base_seconds)s * 2 ^ j.crashes)
      * (0.5 + random()) * interval '1 second' end,
  position = case when j.crashes = 0 then nextval('jobsworth.job_position') else j.position end,
  finished_at = case
    when j.cancel_requested or j.crashes + 1 >= coalesce(j.crashes_max, %(crashes_max)s)
    then now() end,
  error = case when j.cancel_requested then j.error
    else 'its worker died during attempt ' || j.attempt || ' (crash ' || j.crashes + 1 || ')' end
from orphaned o
where j.id = any(array[o.id])
returning j.id, j.status::text, j.mode, j.crashes
"""


async def rescue(
    conn: Connection,
    *,
    rescue_seconds: float,
    crashes_max: int,
    retry_base_seconds: float,
    retry_max_seconds: float,
    most: int,
) -> list[dict[str, Any]]:
    """Take back up to `most` running jobs whose worker is dead: queued again after the first
    crash, with backoff from the second, failed at `crashes_max`. Returns id, status, mode, crashes.
    """
    return await fetch_all(
        conn,
        RESCUE,
        {
            "rescue_seconds": rescue_seconds,
            "crashes_max": crashes_max,
            "retry_base_seconds": retry_base_seconds,
            "retry_max_seconds": retry_max_seconds,
            "most": most,
        },
    )


RELEASE_STRAYS: LiteralString = """
update jobsworth.reactive_jobs j
set status = 'queued', run_at = now(), position = nextval('jobsworth.job_position')
where j.id = any(array(
  select s.id
  from jobsworth.reactive_jobs s
  where s.worker_id = %(worker_id)s and s.status = 'running' and s.id <> all(%(known)s::uuid[])
  for no key update skip locked))
  and j.worker_id = %(worker_id)s and j.status = 'running'
returning j.id
"""


async def release_strays(conn: Connection, worker_id: UUID, known: Sequence[UUID]) -> list[UUID]:
    """Queue again the jobs that run under our name without an attempt of ours.

    They come from a claim whose answer was lost, or from attempts that were stopped during an
    outage. Only the claim loop may call it, between two claims: `known` are all its attempts.
    """
    rows = await fetch_all(conn, RELEASE_STRAYS, {"worker_id": worker_id, "known": list(known)})
    return [row["id"] for row in rows]


CANCEL_REQUESTS: LiteralString = """
select j.id, j.lease_no, j.error
from jobsworth.reactive_jobs j
where j.worker_id = %(worker_id)s and j.status = 'running' and j.cancel_requested
"""


async def cancel_requests(conn: Connection, worker_id: UUID) -> list[dict[str, Any]]:
    """Our running jobs that somebody wants canceled: id, lease_no, error (the reason)."""
    return await fetch_all(conn, CANCEL_REQUESTS, {"worker_id": worker_id})


SWEEP: LiteralString = """
with recent as (
  select j.id from jobsworth.reactive_jobs j
  where j.status = 'waiting' and j.waiting_for = %(reason)s::jobsworth.wait_reason
  order by j.id desc
  limit %(most)s
), slice as (
  select j.id from jobsworth.reactive_jobs j
  where j.status = 'waiting' and j.waiting_for = %(reason)s::jobsworth.wait_reason
    and j.id > %(after)s::uuid
  order by j.id
  limit %(most)s
), looked as (
  select jobsworth.reconsider(array(select id from recent union select id from slice)) as held
)
select (
  select (array_agg(s.id order by s.id desc))[1] from slice s having count(*) = %(most)s
) as next
from looked
"""


async def sweep(conn: Connection, reason: str, after: UUID, most: int) -> UUID | None:
    """Look again at the newest waiting jobs of one reason, and at a slice of the rest.

    Only for crashes and late commits: everything else is moved on by who unblocks it. Returns where
    the next slice begins, None when the end was reached.
    """
    return await fetch_val(conn, SWEEP, {"reason": reason, "after": after, "most": most})


ORPHANED: LiteralString = """
select c.parent_id as id
from jobsworth.reactive_jobs c
join jobsworth.reactive_jobs p on p.id = c.parent_id
where c.is_child and c.finished_at is null and not c.cancel_requested
  and p.finished_at is not null
union
select a.job_id
from jobsworth.approvals a
join jobsworth.reactive_jobs j on j.id = a.job_id
where a.status = 'pending' and j.finished_at is not null
limit %(most)s
"""


async def close_orphans(conn: Connection, most: int) -> int:
    """Close what still hangs on up to `most` ended jobs; returns how many jobs those were.

    Only for crashes: `unblock`, right after the end of a job, does the same.
    """
    ended = [row["id"] for row in await fetch_all(conn, ORPHANED, {"most": most})]
    if ended:
        await unblock(conn, ended)
    return len(ended)


SHELVE_UNKNOWN: LiteralString = """
with first as materialized (
  -- What nobody can run rises to the head, so a bounded look from the start finds it. No locks
  -- yet: the claims would pass over the most urgent jobs meanwhile.
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
    """Of the first `most` queued jobs, let those that no worker knows wait for a handler.

    Returns their modes.
    """
    return sorted({row["mode"] for row in await fetch_all(conn, SHELVE_UNKNOWN, {"most": most})})


async def _pinned(
    conn: Connection, statement: LiteralString, values: dict[str, Any]
) -> list[Claimed]:
    """One round trip: begin, pin the plan, the claim, commit."""
    async with bounded(conn.statement_seconds):
        with translated():
            async with conn.pipeline(), conn.transaction():
                await conn.execute(PIN_PLAN, prepare=True)
                cursor = conn.cursor(row_factory=args_row(Claimed), binary=True)
                await cursor.execute(render(statement, conn.schema), values, prepare=True)
            return await cursor.fetchall()
