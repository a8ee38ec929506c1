"""Claim and finish in one message each: functions, because their planner settings come with them.

As statements of the daemon they needed a transaction around them that pins the plan (`begin`, the
settings, the statement, `commit`). Four messages for a claim of one job took 1.5 ms and 0.63 ms of
the worker's CPU where one takes 0.7 and 0.25; a function carries its settings, also through a
pooler, and in a batch they cost nothing.

The planner is kept on the primary key: with stale statistics, or an empty table when the statement
was first planned, the join with the batch turned into a hash join over a scan of the whole table
(70,000 jobs/s became 9,000), and the claim read and sorted the whole backlog.
"""

from migrations.sql import run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CLAIM = """
-- Take up to `wanted` queued jobs, and put off the surplus members of their lanes (rows without a
-- lease). Look where (queues, priorities, positions) say, in this order, each only beyond its
-- position. The worker's own row must exist.
create function jobsworth.claim(
  worker_id uuid, queues text[], priorities smallint[], positions bigint[], modes text[],
  wanted int)
  returns table (
    id uuid, lease_no bigint, queue text, priority smallint, "position" bigint, mode text,
    payload jsonb, attempt int, failures int, failures_max int, timeout_seconds real, team_id uuid,
    thread_id uuid, trigger_message_id uuid, parent_id uuid, is_child boolean, lane text,
    trace_parent text, waited_seconds float8)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  return query
  with ready as materialized (
    -- The next jobs of each queue and priority, from the remembered position on, urgent first. Rows
    -- that other workers hold are passed over. The lateral keeps the order of the probes.
    select j.id, j.queue, j.priority, j.position, j.lane, j.lane_position
    from unnest(claim.queues, claim.priorities, claim.positions)
      as probe (queue, priority, position)
    cross join lateral (
      select r.id, r.queue, r.priority, r.position, r.lane, r.lane_position
      from jobsworth.reactive_jobs r
      where r.status = 'queued' and r.queue = probe.queue and r.priority = probe.priority
        and r.position > probe.position and r.mode = any(claim.modes)
      order by r.position
      limit claim.wanted
      -- Not plain `for update`: that would pass over a job while a transaction that enqueued one
      -- after it (its foreign key holds `for key share`) stays open.
      for no key update skip locked
    ) j
    where exists (select 1 from jobsworth.workers w where w.id = claim.worker_id)
      and not exists (select 1 from jobsworth.queues q where q.name = probe.queue and q.paused)
    limit claim.wanted
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
      worker_id = claim.worker_id, started_at = now()
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
  select d.id, null, r.queue, r.priority, r.position, null, null, null, null, null, null, null,
    null, null, null, null, d.lane, null, null
  from deferred d join ready r on r.id = d.id;
end $$;
"""

FINISH = """
-- Apply transitions under their fences; returns those that were applied, by their number in the
-- arrays. Never waits for another transaction. A column in which no job says anything is null.
create function jobsworth.finish(
  ids uuid[], lease_nos bigint[], worker_ids uuid[], statuses jobsworth.job_status[],
  waiting_fors jobsworth.wait_reason[], waiting_details text[], delays float8[],
  faileds boolean[], results jsonb[], errors text[])
  returns table (n bigint, status text, unblocks boolean)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  return query
  with ended as materialized (
    -- A column in which no job says anything is sent as null: nothing to write, to send or to read.
    select e.n, e.id, e.lease_no, e.worker_id, coalesce(e.status, 'done') as status, e.waiting_for,
      e.waiting_detail, e.delay_seconds, coalesce(e.failed, false) as failed, e.result, e.error
    from unnest(
      finish.ids, finish.lease_nos, finish.worker_ids,
      finish.statuses, finish.waiting_fors,
      finish.waiting_details, finish.delays, finish.faileds,
      finish.results, finish.errors)
      with ordinality as e (id, lease_no, worker_id, status, waiting_for, waiting_detail,
        delay_seconds, failed, result, error, n)
  ), locked as materialized (
    -- By the primary key alone: the planner believes the index of running jobs to be empty, and
    -- would walk all of it for each job. A row that somebody is delivering to is left for the next
    -- batch.
    select e.n, e.id, e.status, e.waiting_for, e.waiting_detail, e.delay_seconds, e.failed,
      e.result, e.error,
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
    select l.n, l.id, l.status, l.waiting_for, l.waiting_detail, l.delay_seconds, l.failed,
      l.result, l.error
    from locked l
    where l.ours
  )
  -- `any(array[…])` can only be looked up by the primary key, from each held row; a plain
  -- equality was planned the other way round, over the whole index, while the table was empty. (By
  -- `ctid` it would be 1 µs a job quicker, and blind to a row that changed between our snapshot and
  -- our lock.)
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
    -- Scalar subqueries: `exists` may become a hash of a scan over the whole table.
    j.lane is not null or j.is_child or j.status = 'waiting'
    or (select true from jobsworth.job_edges e where e.needs_job_id = j.id limit 1) is not null
    or (select true from jobsworth.approvals a
      where a.job_id = j.id and a.status = 'pending' limit 1) is not null
    or (select true from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null limit 1) is not null
    ) as unblocks;
end $$;
"""

DOWN = """
drop function jobsworth.finish(uuid[], bigint[], uuid[], jobsworth.job_status[],
  jobsworth.wait_reason[], text[], float8[], boolean[], jsonb[], text[]);
drop function jobsworth.claim(uuid, text[], smallint[], bigint[], text[], int);
"""


def upgrade() -> None:
    run(CLAIM)
    run(FINISH)


def downgrade() -> None:
    run(DOWN)
