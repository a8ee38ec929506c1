-- Claim jobs: one message and one statement.
--
-- The claim is a function because the planner settings come with it, through a pooler too. As a
-- statement of the daemon it needed a transaction around it that pins the plan, four messages in
-- all: 1.5 ms and 0.63 ms of the worker's CPU for one job, against 0.7 and 0.25 ms.

-- What a claim returns of a job.
create type jobsworth.claimed as (
  id uuid, lease_no bigint, queue text, priority smallint, "position" bigint, mode text,
  payload jsonb, attempt int, failures int, failures_max int, timeout_seconds real, team_id uuid,
  thread_id uuid, trigger_message_id uuid, parent_id uuid, is_child boolean, lane text,
  trace_parent text, request_id text, run_id uuid, node text, agent_id uuid,
  waited_seconds float8, suspect boolean, alone_seconds float8, fair_key text);

-- Whether a queued job may start now: it has not expired, and if it is a suspect the worker may take it.
-- Plain SQL without settings, so the planner writes it into the statements that ask.
create function jobsworth.may_start(
  j jobsworth.reactive_jobs, crashes_max int, suspect_wanted boolean, alone boolean) returns boolean
  language sql volatile as $$
  select (j.crashes = 0
      or j.crashes < coalesce(j.crashes_max, may_start.crashes_max) - 1
      or may_start.suspect_wanted and (
        may_start.alone or j.crashes < coalesce(j.crashes_max, may_start.crashes_max)
        or coalesce(j.run_at, j.created_at) < now() - interval '1 minute'))
    and (j.expires_at is null or j.attempt > 0 or j.expires_at > clock_timestamp());
$$;

-- Claim up to `wanted` queued jobs for a worker, and put off the jobs of a lane that come after its
-- first (these are returned without a lease). Jobs that a limit holds up are returned without a lease
-- and a lane (limits/claim.sql). `queues`, `priorities` and `positions` say where to
-- look, in this order, and after which position in each. The worker must have its row in `workers`.
-- A claim ends early at about 4 MiB of payloads, so that its answer is not long on its way: the jobs
-- are locked until all of it is sent. A row without an id then says that there is more.
-- A job is a suspect if its workers have died so often that one more death fails it (`crashes_max`
-- unless it has its own bound). Suspects run apart from each other, so that the next death tells
-- which of them kills: at most one is taken, and none unless `suspect_wanted`. A suspect whose
-- worker died again, beside jobs that may have killed it, runs alone: a worker that runs nothing
-- (`alone`) takes it and nothing else, and claims again after `alone_seconds`, twice as many with
-- each further death. Where no worker is without a job, it runs beside others after a minute.
create function jobsworth.claim(
  worker_id uuid, queues text[], priorities smallint[], positions bigint[], modes text[],
  wanted int, crashes_max int default 5, suspect_wanted boolean default true,
  alone boolean default false)
  returns setof jobsworth.claimed
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  if exists (
    select 1 from jobsworth.job_limits l
    where (l.queue is null or l.queue = any(claim.queues))
      and (l.mode is null or l.mode = any(claim.modes)))
  then
    return query
    select g.*
    from jobsworth.claim_gated(
      claim.worker_id, claim.queues, claim.priorities, claim.positions, claim.modes, claim.wanted,
      claim.crashes_max, claim.suspect_wanted, claim.alone) g;
    return;
  end if;
  return query
  with found as materialized (
    -- The next jobs of each queue and priority, after the remembered position, urgent ones first.
    -- Rows that other workers have locked are skipped. The lateral join keeps the order of the
    -- probes.
    select j.id, j.queue, j.priority, j.position, j.lane, j.lane_position, j.suspect, j.apart,
      j.bytes
    from unnest(claim.queues, claim.priorities, claim.positions)
      as probe (queue, priority, position)
    cross join lateral (
      select r.id, r.queue, r.priority, r.position, r.lane, r.lane_position,
        r.crashes > 0 and r.crashes >= coalesce(r.crashes_max, claim.crashes_max) - 1 as suspect,
        r.crashes > 0 and r.crashes >= coalesce(r.crashes_max, claim.crashes_max) as apart,
        pg_column_size(r.payload) as bytes
      from jobsworth.reactive_jobs r
      where r.status = 'queued' and r.queue = probe.queue and r.priority = probe.priority
        and r.position > probe.position and r.mode = any(claim.modes)
        and jobsworth.may_start(
          r, claim.crashes_max, claim.suspect_wanted, claim.alone)
      order by r.position
      limit claim.wanted
      -- `for update` would also skip a job that another job needs, as long as the transaction that
      -- inserts the other job is open: its foreign key holds `for key share`.
      for no key update skip locked
    ) j
    where exists (select 1 from jobsworth.workers w where w.id = claim.worker_id)
      and not exists (select 1 from jobsworth.queues q where q.name = probe.queue
        and (q.paused or q.fair))
    limit claim.wanted
  ), lone as materialized (
    select f.id from found f where claim.alone and f.apart order by f.priority, f.position limit 1
  ), ready as materialized (
    select s.id, s.queue, s.priority, s.position, s.lane, s.lane_position, s.suspect
    from (
      select f.id, f.queue, f.priority, f.position, f.lane, f.lane_position, f.suspect,
        sum(f.bytes) over (rows unbounded preceding) - f.bytes as bytes_before
      from found f
    ) s
    where coalesce(s.id = (select l.id from lone l), s.bytes_before < 4194304)
  ), heads as materialized (
    -- Of a lane only its lowest open job, if nothing runs there. One claimer at a time; the others
    -- do not wait for it.
    select r.id, r.lane, (
        row_number() over (partition by r.lane order by r.lane_position, r.id) = 1
        and not jobsworth.lane_blocked(r.lane, r.lane_position, r.id)
        and pg_try_advisory_xact_lock(hashtextextended('jobsworth.' || r.lane, 0))
      ) as is_head
    from ready r
    where r.lane is not null and (not r.suspect or r.id = (
      select s.id from ready s where s.suspect order by s.priority, s.position limit 1))
  ), deferred as (
    update jobsworth.reactive_jobs j
    set status = 'waiting', waiting_for = 'lane', run_at = null
    where j.id = any(array(select h.id from heads h where not h.is_head))
    returning j.id, j.lane
  ), taken as (
    update jobsworth.reactive_jobs j
    set status = 'running', attempt = j.attempt + 1, lease_no = nextval('jobsworth.lease_no'::regclass),
      worker_id = claim.worker_id, started_at = now()
    where j.id = any(array(
      select r.id from ready r
      where r.lane is null and (not r.suspect or r.id = (
        select s.id from ready s where s.suspect order by s.priority, s.position limit 1))
      union all
      select h.id from heads h where h.is_head))
    returning j.id, j.lease_no, j.queue, j.priority, j.position, j.mode, j.payload, j.attempt,
      j.failures, j.failures_max, j.timeout_seconds, j.team_id, j.thread_id, j.trigger_message_id,
      j.parent_id, j.is_child, j.lane, j.trace_parent, j.request_id, j.run_id, j.node,
      j.agent_id, greatest(0, date_part('epoch', now() - coalesce(j.run_at, j.created_at))) as waited_seconds,
      j.crashes > 0 and j.crashes >= coalesce(j.crashes_max, claim.crashes_max) - 1 as suspect,
      case when j.id = (select l.id from lone l) then 60.0 * 2.0 ^ least(
        j.crashes - coalesce(j.crashes_max, claim.crashes_max), 10) end::float8 as alone_seconds,
      j.fair_key
  )
  -- The casts take the domains off: a function returns exactly the types that it declares.
  select t.id, t.lease_no, t.queue::text, t.priority::smallint, t.position, t.mode::text,
    t.payload::jsonb, t.attempt::int, t.failures::int, t.failures_max::int,
    t.timeout_seconds::real, t.team_id, t.thread_id, t.trigger_message_id, t.parent_id, t.is_child,
    t.lane, t.trace_parent, t.request_id::text, t.run_id, t.node, t.agent_id, t.waited_seconds,
    t.suspect, t.alone_seconds, t.fair_key::text
  from taken t
  union all
  select d.id, null, r.queue, r.priority, r.position, null, null, null, null, null, null, null,
    null, null, null, null, d.lane, null, null, null, null, null, null, null, null,
    null
  from deferred d join ready r on r.id = d.id
  union all
  select null, null, null, 0::smallint, 0, null, null, null, null, null, null, null, null, null,
    null, null, null, null, null, null, null, null, null, null, null, null
  where (select count(*) from found) > (select count(*) from ready);
end $$;
