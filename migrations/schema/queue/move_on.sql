-- Move waiting jobs on when their reason is gone.
--
-- Timers, decisions, signals, lanes, children and all sweeps call `reconsider`. It locks in one
-- statement and decides in the next, because a subquery in a statement that waited for a lock still
-- sees the snapshot from before the wait.

-- Whether something has come for a job since its last attempt began: a signal, a decision, or the end
-- of its last child. At worst it is not what any branch of its handler waits for, and the job runs once
-- for nothing.
create function jobsworth.something_came(j jobsworth.reactive_jobs)
  returns boolean language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return exists (
      select 1 from jobsworth.signals s
      where s.job_id = j.id and s.received_at is null and s.sent_at > j.started_at)
    or exists (
      select 1 from jobsworth.approvals a
      where a.job_id = j.id and a.status in ('approved', 'rejected', 'expired')
        and a.closed_at > j.started_at)
    or exists (
      select 1 from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at > j.started_at)
    and not exists (
      select 1 from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null);
end $$;

-- Whether the reason of a waiting job is gone. A job that its handler has set to wait goes on at
-- `run_at` at the latest: other branches of the handler wait for a time.
create function jobsworth.reason_gone(j jobsworth.reactive_jobs)
  returns boolean language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  gone boolean;
begin
  if j.waiting_for not in ('lane', 'parents', 'handler') and j.run_at <= clock_timestamp() then
    return true;
  end if;
  gone := case j.waiting_for
    when 'lane' then not jobsworth.lane_blocked(j.lane, j.lane_position, j.id)
    when 'parents' then not exists (
      select 1 from jobsworth.job_edges e
      join jobsworth.reactive_jobs p on p.id = e.needs_job_id
      where e.job_id = j.id and p.finished_at is null)
    when 'children' then not exists (
      select 1 from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null)
    when 'approval' then not exists (
      select 1 from jobsworth.approvals a where a.job_id = j.id and a.status = 'pending')
    when 'signal' then exists (
      select 1 from jobsworth.signals s
      where s.job_id = j.id and s.name = j.waiting_detail and s.received_at is null)
    when 'handler' then exists (
      select 1 from jobsworth.workers w where j.mode = any(w.modes))
    when 'limit' then j.run_at is null and case when j.waiting_detail like 'limit %'
      then jobsworth.gate_is_open(j) else jobsworth.environment_is_free(j) end
    when 'budget' then jobsworth.budget_has_room(j.id)
    when 'person' then not exists (
      select 1 from jobsworth.steps s
      where s.job_id = j.id and s.effect = 'unsafe' and s.kind <> 'phase'
        and s.finished_at is null)
    else false
  end;
  -- The worker marks a job of which several branches wait (`worker/steps/several.py`). One of them is
  -- the reason; what comes for another one wakes the job as well.
  if not gone and j.waiting_for in ('approval', 'signal', 'children', 'limit', 'budget', 'person')
    and exists (
      select 1 from jobsworth.steps m where m.job_id = j.id and m.name = 'waits#several')
  then
    return jobsworth.something_came(j);
  end if;
  return gone;
end $$;

-- Move on those of the given jobs whose reason is gone: to their next reason, or to queued. Returns
-- the ids that another transaction has locked; look at those again. With `wait_for_locks` it waits for
-- these locks instead: somebody who delivers something must not miss the job. `claimant` is the worker
-- that calls and will claim up to `room` of the jobs that become queued; for the others one idle
-- worker each is told.
create function jobsworth.reconsider(
  job_ids uuid[], wait_for_locks boolean default false, claimant uuid default null,
  room int default 0)
  returns uuid[] language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  held uuid[];
  gone uuid[];
  doomed uuid[];
  ended uuid[] := '{}';
  again uuid[] := '{}';
  runs uuid[] := '{}';
  ready uuid[] := '{}';
  at timestamptz;
  one jobsworth.reactive_jobs;
  next_reason jobsworth.wait_reason;
begin
  -- `status::text`: by the enum itself the planner may read the whole index of waiting jobs.
  if wait_for_locks then
    held := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(job_ids) and j.status::text = 'waiting'
      order by j.id for no key update);
  else
    held := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(job_ids) and j.status::text = 'waiting'
      order by j.id for no key update skip locked);
  end if;

  gone := array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(held) and j.status::text = 'waiting' and jobsworth.reason_gone(j));

  -- A job cannot run if a job that it needs did not end well, unless the edge says `run`. The same
  -- then holds for the jobs that need this one. A loop, because a chain of a thousand jobs would be
  -- too deep for a recursion.
  doomed := gone;
  loop
    doomed := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(doomed) and j.status::text = 'waiting' and j.waiting_for = 'parents'
        and jobsworth.reason_gone(j) and exists (
          select 1 from jobsworth.job_edges e
          join jobsworth.reactive_jobs p on p.id = e.needs_job_id
          where e.job_id = j.id and e.on_failure <> 'run' and p.status in ('failed', 'canceled')));
    exit when doomed = '{}';
    -- It fails if the edge says `fail`. It is canceled if the edge says `skip`, or if a person
    -- canceled the job that it needs.
    update jobsworth.reactive_jobs j
    set status = case when c.fails then 'failed' else 'canceled' end::jobsworth.job_status,
        cancel_requested = j.cancel_requested or c.on_request and not c.fails,
        waiting_for = null, waiting_detail = null, finished_at = now(),
        error = 'a job it needs did not end well: ' || c.names
    from unnest(doomed) as d (id)
    cross join lateral (
      select
        coalesce(bool_or(not p.cancel_requested or p.status = 'failed')
          filter (where e.on_failure = 'fail'), false) as fails,
        coalesce(bool_or(p.cancel_requested)
          filter (where e.on_failure = 'fail'), false) as on_request,
        string_agg(coalesce(p.node || ' (' || p.id || ')', p.id::text) || ' is ' || p.status, ', ')
          as names
      from jobsworth.job_edges e
      join jobsworth.reactive_jobs p on p.id = e.needs_job_id
      where e.job_id = d.id and e.on_failure <> 'run' and p.status in ('failed', 'canceled')
      offset 0
    ) c
    where j.id = any(array[d.id]);
    ended := ended || doomed;
    doomed := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(array(
          select e.job_id from jobsworth.job_edges e where e.needs_job_id = any(doomed)))
        and j.status::text = 'waiting' and j.waiting_for = 'parents'
      order by j.id for no key update skip locked);
  end loop;
  if ended <> '{}' then
    again := jobsworth.unblock(ended);
  end if;

  -- In the order in which they were due: in one statement if all become queued and none has a lane,
  -- which takes half as long for many.
  at := clock_timestamp();
  if cardinality(gone) > 1 and not exists (
    select 1 from jobsworth.reactive_jobs w
    where w.id = any(gone) and w.status::text = 'waiting'
      and (w.lane is not null or w.waiting_for in ('parents', 'handler') and w.run_at > at))
  then
    with placed as materialized (
      select d.id, nextval('jobsworth.job_position'::regclass) as position
      from (
        select w.id from jobsworth.reactive_jobs w
        where w.id = any(gone) and w.status::text = 'waiting'
        order by w.run_at, w.id) d
    ), queued as (
      -- `any(array[…])` keeps the plan on the primary key, job by job.
      update jobsworth.reactive_jobs x
      set status = 'queued', waiting_for = null, waiting_detail = null, run_at = at,
          position = p.position
      from placed p
      where x.id = any(array[p.id])
      returning x.id, x.run_id)
    select coalesce(array_agg(q.id), '{}'),
      coalesce(array_agg(distinct q.run_id) filter (where q.run_id is not null), '{}')
    into ready, runs
    from queued q;
    gone := '{}';
  end if;
  -- Else one by one. A join with the table might scan all of it.
  for one in
    select w.* from jobsworth.reactive_jobs w
    where w.id = any(gone) and w.status::text = 'waiting'
    order by w.run_at, w.lane_position, w.id
  loop
    next_reason := null;
    if one.waiting_for in ('parents', 'handler') and one.run_at > at then
      next_reason := 'timer';
    elsif one.lane is not null then
      -- A scheduled job joins its lane when it is due; a job that needs others, when they have
      -- ended.
      one.lane_position := coalesce(one.lane_position, nextval('jobsworth.lane_position'::regclass));
      if jobsworth.lane_blocked(one.lane, one.lane_position, one.id) then
        next_reason := 'lane';
      end if;
    end if;
    update jobsworth.reactive_jobs x
    set status = case when next_reason is null then 'queued'::jobsworth.job_status
          else 'waiting' end,
        waiting_for = next_reason, waiting_detail = null, lane_position = one.lane_position,
        run_at = case when next_reason = 'timer' then one.run_at
          when next_reason is null then at end,
        position = case when next_reason is null then nextval('jobsworth.job_position'::regclass)
          else one.position end
    where x.id = one.id;
    if next_reason is null then
      ready := ready || one.id;
    end if;
    if one.run_id is not null and one.run_id <> all(runs) then
      runs := runs || one.run_id;
    end if;
  end loop;

  if ready <> '{}' then
    perform jobsworth.wake(ready, claimant, room);
  end if;
  if runs <> '{}' then
    perform jobsworth.move_runs(runs);
  end if;
  return again || array(
    select j.id from jobsworth.reactive_jobs j
    where j.status::text = 'waiting' and j.id = any(array(
      select u.id from unnest(job_ids) u(id) except select h.id from unnest(held) h(id))));
end $$;

-- Call this after a commit that ended or parked these jobs. With a fresh snapshot, it moves on the
-- jobs that they blocked, and closes what belongs to the ended ones: their open approvals and
-- children. Returns the jobs that the caller must look at again, because another transaction has
-- locked a row: a waiting job, an ended job that still has something open, or a job whose run has
-- to move or has just begun to wait. Never waits for another transaction. `claimant` and `room`: see
-- `reconsider`.
create function jobsworth.unblock(
  job_ids uuid[], claimant uuid default null, room int default 0)
  returns uuid[] language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  candidates uuid[];
  orphans uuid[];
  lanes text[];
  parents uuid[];
  parked uuid[];
  short uuid[];
  runs uuid[];
  gated uuid[];
  again uuid[] := '{}';
begin
  select array_agg(distinct j.lane) filter (where j.lane is not null),
    array_agg(distinct j.parent_id) filter (where j.is_child and j.finished_at is not null),
    -- Those that wait at a gate go on in their turn.
    array_agg(j.id) filter (where j.status = 'waiting' and (
      j.waiting_for <> 'limit' or j.run_at is not null
      or j.waiting_detail not like 'limit %')),
    array_agg(j.id) filter (where j.waiting_for = 'budget'),
    array_agg(distinct j.run_id) filter (where j.run_id is not null),
    -- Also those that were queued because they had their turn at a gate.
    array_agg(j.id) filter (where j.limited or j.waiting_for = 'limit' and j.run_at is null
      or exists (select 1 from jobsworth.job_limits) and exists (
        select 1 from jobsworth.job_limit_slots s where s.job_id = j.id))
  into lanes, parents, parked, short, runs, gated
  from jobsworth.reactive_jobs j
  where j.id = any(job_ids);
  if short is not null then
    perform jobsworth.grant_budgets(short);
  end if;
  candidates := array(
    select jobsworth.lane_head(l.lane) from unnest(lanes) as l (lane)
    union
    select p.id from unnest(parents) as p (id)
    union
    select e.job_id from jobsworth.job_edges e where e.needs_job_id = any(job_ids)
    union
    select p.id from unnest(parked) as p (id));
  candidates := array_remove(candidates, null);
  if candidates <> '{}' then
    again := jobsworth.reconsider(candidates, false, claimant, room);
  end if;
  if gated is not null then
    again := again || jobsworth.release_gates(gated, claimant, room);
  end if;

  update jobsworth.approvals a
  set status = 'superseded', closed_at = now()
  where a.status = 'pending' and a.id = any(array(
    select p.id from jobsworth.approvals p
    join jobsworth.reactive_jobs j on j.id = p.job_id
    where p.job_id = any(job_ids) and p.status = 'pending' and j.finished_at is not null
    for update of p skip locked));

  orphans := array(
    select c.id from jobsworth.reactive_jobs c
    join jobsworth.reactive_jobs p on p.id = c.parent_id
    where c.parent_id = any(job_ids) and c.is_child and c.finished_at is null
      and not c.cancel_requested and p.finished_at is not null
    for no key update of c skip locked);
  if orphans <> '{}' then
    perform jobsworth.cancel_locked(orphans, 'the job that spawned it has ended');
  end if;
  if runs is not null then
    runs := jobsworth.move_runs(runs);
    again := again || array(
      select distinct on (j.run_id) j.id from jobsworth.reactive_jobs j
      where j.id = any(job_ids) and j.run_id = any(runs));
  end if;
  return again || array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(job_ids) and j.finished_at is not null and (
      exists (select 1 from jobsworth.approvals a where a.job_id = j.id and a.status = 'pending')
      or exists (
        select 1 from jobsworth.reactive_jobs c
        where c.parent_id = j.id and c.is_child and c.finished_at is null
          and not c.cancel_requested)));
end $$;
