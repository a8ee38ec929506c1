"""Rescue: running jobs whose attempt is gone, and requests to cancel those that run.

In: the workers that were judged dead; a worker's id and the jobs it has attempts of. Out: jobs
queued again, or failed after too many crashes. Invariant: the lease that was judged is locked
before it is taken back.

A rescue judges first and locks the judged lease second. Locking in the statement that looks for
dead workers is not enough: the lock's recheck does not look into `workers` again, and took a job
from a living worker that had just claimed it.

A death does not tell which job killed. Charging all that were there failed innocents beside one
killer, and backoff from the second death slowed down the jobs of a healthy worker that somebody had
killed three times. So a shared death only raises suspicion, and suspects run apart
(`jobsworth.claim`). A worker that dies with a single suspect may still have been killed by a job
that never was under suspicion: such a suspect runs alone next. What dies alone is guilty.

The look asks where no living worker's index entries lie: at the ids of dead workers, and between
the ids that have a row. A look at all running jobs walked one dead index entry for each job that
was run while somebody held a snapshot: 30 ms after 200,000 jobs, against 0.05 ms.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, LiteralString
from uuid import UUID

from db.fence import FENCE
from db.pool import Connection, fetch_all

RESCUE: LiteralString = (
    """
with dead as materialized (
  select u.id as job_id, u.lease_no, u.worker_id
  from jobsworth.jobs_of_dead_workers(%(dead)s::uuid[], %(beats)s::bigint[]) u
  where %(rowless)s or u.worker_id = any(%(dead)s::uuid[])
), present as materialized (
  -- All jobs that a worker ran when it died, and how many suspects were among them. Crashes are
  -- counted with a lease's end only, so what is read here holds if the lease does.
  select d.job_id, d.lease_no, d.worker_id, c.suspect, c.bound,
    count(*) over w = 1 and not exists (
      -- An earlier look, which is bounded, took back others of the worker.
      select 1 from jobsworth.attempt_history h
      where h.worker_id = d.worker_id and h.outcome = 'crashed') as alone,
    count(*) filter (where c.suspect) over w as suspects
  from dead d
  cross join lateral (
    select b.bound, r.crashes > 0 and r.crashes >= b.bound - 1 as suspect
    from jobsworth.reactive_jobs r
    cross join lateral (select coalesce(r.crashes_max, %(crashes_max)s) as bound) b
    where r.id = d.job_id
    offset 0) c
  window w as (partition by d.worker_id)
), locked as materialized (
  -- Take back the lease that was judged, no other: another rescue may have given the job back
  -- meanwhile, to a living worker, and a lock's recheck does not look into `workers` again.
  select f.id, f.holds, l.alone, l.bound,
    -- With no suspect there, all are under suspicion; beside a suspect, nobody else is.
    l.alone or l.suspects = 0 or l.suspects = 1 and l.suspect as charged
  from present l
  cross join lateral ("""
    + FENCE
    # A row that its worker is finishing right now is left to it.
    + """ skip locked) f
  limit %(most)s
), judged as materialized (
  -- Only one that was alone is known to be guilty. With a bound of 1, no death may be survived.
  select k.id, k.alone, k.charged, k.charged and r.crashes + 1 >= k.bound as last,
    k.charged and r.crashes + 1 >= k.bound and (k.alone or k.bound = 1) as fails
  from locked k
  cross join lateral (
    select r.crashes from jobsworth.reactive_jobs r where r.id = k.id offset 0) r
  where k.holds
), told as (
  insert into jobsworth.attempt_history (
    job_id, team_id, attempt, outcome, worker_id, host, pid, began_at, error)
  select j.id, j.team_id, j.attempt, 'crashed', j.worker_id, w.host, w.pid, j.started_at,
    'its worker died' || case when g.charged then ' (crash ' || j.crashes + 1 || ')'
      else ', beside a job that is suspected of it' end
  from judged g
  cross join lateral (
    select r.id, r.team_id, r.attempt, r.worker_id, r.started_at, r.crashes
    from jobsworth.reactive_jobs r where r.id = g.id offset 0) j
  left join jobsworth.workers w on w.id = j.worker_id
  on conflict do nothing
)
update jobsworth.reactive_jobs j
set crashes = j.crashes + g.charged::int,
  status = (case
    when j.cancel_requested then 'canceled'
    when g.fails then 'failed'
    when g.alone and j.crashes > 0 then 'waiting'
    else 'queued' end)::jobsworth.job_status,
  waiting_for = case
    when not j.cancel_requested and not g.fails and g.alone and j.crashes > 0
    then 'timer' end::jobsworth.wait_reason,
  run_at = case
    when j.cancel_requested or g.fails then null
    when g.alone and j.crashes > 0
    then now() + least(%(retry_max_seconds)s, %(retry_base_seconds)s * 2 ^ least(j.crashes, 32))
      * (0.5 + random()) * interval '1 second'
    else now() end,
  position = nextval('jobsworth.job_position'::regclass),
  finished_at = case when j.cancel_requested or g.fails then now() end,
  error = case when j.cancel_requested then j.error
    else 'its worker died during attempt ' || j.attempt
      || case when g.charged then ' (crash ' || j.crashes + 1 || ')'
        else ', beside a job that is suspected of it' end
      || case when g.last and not g.fails then ', beside other jobs: it runs alone next'
        else '' end end
from judged g
where j.id = any(array[g.id])
returning j.id, j.status::text, j.mode, j.crashes
"""
)


async def rescue(
    conn: Connection,
    dead: Mapping[UUID, int],
    *,
    rowless: bool,
    crashes_max: int,
    retry_base_seconds: float,
    retry_max_seconds: float,
    most: int,
) -> list[dict[str, Any]]:
    """Take back up to `most` running jobs whose worker is dead; with `rowless`, also those whose
    worker has no row.

    `dead` maps each dead worker to the number of its last beat: one that has beaten since lives.
    Those that shared the worker are queued again at once, and each is charged a crash. One that was
    alone waits for a backoff from its second crash. A job that one more crash would fail is a
    suspect, and runs apart from others like it: if its worker dies, what ran beside it is charged
    nothing. It fails if it was alone, and runs alone next if not. Returns id, status, mode and
    crashes of each.
    """
    return await fetch_all(
        conn,
        RESCUE,
        {
            "dead": list(dead),
            "beats": list(dead.values()),
            "rowless": rowless,
            "crashes_max": crashes_max,
            "retry_base_seconds": retry_base_seconds,
            "retry_max_seconds": retry_max_seconds,
            "most": most,
        },
    )


STRAYS: LiteralString = """
select j.lease_no
from jobsworth.reactive_jobs j
where j.worker_id = %(worker_id)s and j.status = 'running' and j.id <> all(%(attempted)s::uuid[])
limit %(most)s
"""


async def find_strays(
    conn: Connection, worker_id: UUID, attempted: Sequence[UUID], most: int
) -> set[int]:
    """The leases of up to `most` jobs that run under this worker's id but are not among those it
    has `attempted`. Jobs of a claim whose answer has not arrived yet are among them.
    """
    values = {"worker_id": worker_id, "attempted": list(attempted), "most": most}
    return {row["lease_no"] for row in await fetch_all(conn, STRAYS, values)}


RELEASE_STRAYS: LiteralString = """
with released as (
  update jobsworth.reactive_jobs j
  set status = 'queued', run_at = now(), position = nextval('jobsworth.job_position'::regclass)
  where j.id = any(array(
    select s.id
    from jobsworth.reactive_jobs s
    where s.worker_id = %(worker_id)s and s.status = 'running'
      and s.lease_no = any(%(lease_nos)s::bigint[])
    for no key update skip locked))
    and j.worker_id = %(worker_id)s and j.status = 'running'
  returning j.id, j.team_id, j.attempt, j.worker_id, j.started_at
), told as (
  insert into jobsworth.attempt_history (
    job_id, team_id, attempt, outcome, worker_id, host, pid, began_at, error)
  select r.id, r.team_id, r.attempt, 'lost', r.worker_id, w.host, w.pid, r.started_at,
    'its worker lives, and has no attempt at the job'
  from released r
  left join jobsworth.workers w on w.id = r.worker_id
  on conflict do nothing
)
select r.id from released r
"""


async def release_strays(
    conn: Connection, worker_id: UUID, lease_nos: Collection[int]
) -> list[UUID]:
    """Queue again the jobs of these leases of the worker; returns their ids.

    They stem from a claim whose answer was lost, or from attempts that were stopped during an
    outage.
    """
    values = {"worker_id": worker_id, "lease_nos": list(lease_nos)}
    return [row["id"] for row in await fetch_all(conn, RELEASE_STRAYS, values)]


CANCEL_REQUESTS: LiteralString = """
-- By the primary key: the index of running jobs has a dead entry for each job the worker ever ran.
select k.id, j.lease_no, j.error
from unnest(%(job_ids)s::uuid[]) as k (id)
left join lateral (
  select r.lease_no, r.error, r.cancel_requested, r.status, r.worker_id
  from jobsworth.reactive_jobs r
  where r.id = k.id
  offset 0) j on true
where j.status is null or j.cancel_requested and j.status = 'running'
  and j.worker_id is not distinct from %(worker_id)s
"""


async def cancel_requests(
    conn: Connection, worker_id: UUID, job_ids: Sequence[UUID]
) -> list[dict[str, Any]]:
    """Those of these jobs of the worker that are to be stopped: canceled or deleted.

    Each with its id, lease_no and error (the reason). The lease_no of a deleted job is None.
    """
    values = {"worker_id": worker_id, "job_ids": list(job_ids)}
    return await fetch_all(conn, CANCEL_REQUESTS, values)
