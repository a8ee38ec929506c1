"""Runs: declared in one call, moved by what becomes of their jobs.

`start_run` makes a whole DAG at once: its jobs and, in the same transaction, their edges; a trigger
refuses an edge to a job that is there already, so no edge ever comes too late to count. What a
failed parent means is said by each edge; `reconsider` acts on it.

`move_runs` gives a run the status that its jobs imply. A run's row is shared by all its jobs, so
nobody waits for it and no finishing transaction touches it: after the commit one looks, and only
where the run has to move is its row locked (or passed over, and looked at again), and then the look
is repeated, since the first one is no fence.
"""

from migrations.sql import earlier, run

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = """
alter table jobsworth.runs add column metadata jsonb not null default '{}',
  add column cancel_requested boolean not null default false,
  add constraint idempotency_key_is_named check (idempotency_key <> ''),
  add constraint trace_id_is_named check (trace_id <> '');
create index runs_of_agent on jobsworth.runs (agent_id, id) where agent_id is not null;

-- What of a run has not ended.
create index jobs_open_in_run on jobsworth.reactive_jobs (run_id, status)
  where run_id is not null and finished_at is null;

-- May this run be where it is told to go? A run that has ended goes on only if one of its jobs
-- does, and none ends while a job is open.
create function jobsworth.guard_run() returns trigger language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  legal jobsworth.run_status[];
  open_job uuid;
begin
  if tg_op = 'UPDATE' and new.status <> old.status then
    legal := case old.status
      when 'draft' then '{planning,executing,waiting,done,failed,canceled}'
      when 'planning' then '{executing,waiting,done,failed,canceled}'
      when 'executing' then '{waiting,done,failed,canceled}'
      when 'waiting' then '{executing,done,failed,canceled}'
      else case when exists (
        select 1 from jobsworth.reactive_jobs j
        where j.run_id = old.id and (j.finished_at is null or j.finished_at > old.finished_at))
        then '{executing,waiting}' else '{}' end
    end::jobsworth.run_status[];
    if new.status <> all(legal) then
      raise exception 'run % cannot go from % to %', old.id, old.status, new.status
        using errcode = 'check_violation',
        hint = case when legal <> '{}'
          then 'From ' || old.status || ' it can go to ' || array_to_string(legal, ', ') || '.'
          else 'It has ended; run again what did not end well: jobsworth runs retry ' || old.id
        end;
    end if;
    if new.status in ('done', 'failed', 'canceled') then
      select j.id into open_job from jobsworth.reactive_jobs j
      where j.run_id = old.id and j.finished_at is null limit 1;
      if found then
        raise exception 'run % cannot be %: its job % has not ended', old.id, new.status, open_job
          using errcode = 'check_violation',
          hint = 'Wait for its jobs, or cancel them all: jobsworth runs cancel ' || old.id;
      end if;
    end if;
  end if;
  if new.status in ('done', 'failed', 'canceled') then
    if tg_op = 'INSERT' or new.status <> old.status then
      new.finished_at := coalesce(new.finished_at, clock_timestamp());
    end if;
  else
    new.finished_at := null;
    if tg_op = 'UPDATE' and old.finished_at is not null then
      new.cancel_requested := false;
      new.result := null;
      new.error := null;
    end if;
  end if;
  if new.status in ('executing', 'waiting') then
    new.started_at := coalesce(new.started_at, now());
  end if;
  new.updated_at := clock_timestamp();
  return new;
end $$;
create trigger guard_run before insert or update on jobsworth.runs
  for each row execute function jobsworth.guard_run();

-- An edge comes with the job that needs the other, in one transaction: later, that may have run.
create function jobsworth.guard_edges() returns trigger language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  late uuid;
begin
  select a.job_id into late
  from added a
  cross join lateral (
    select j.created_at from jobsworth.reactive_jobs j where j.id = a.job_id offset 0) child
  where child.created_at <> now()
  limit 1;
  if found then
    raise exception 'job % was there before this edge: what it needs is said when it is made', late
      using errcode = 'restrict_violation',
      hint = 'Name the jobs it needs in enqueue(after => …), or declare all in start_run(…).';
  end if;
  return null;
end $$;
create trigger guard_edges after insert on jobsworth.job_edges
  referencing new table as added
  for each statement execute function jobsworth.guard_edges();
"""

MOVING = """
-- What the jobs of a run make of it; null if it has none. With the last job ended: failed or
-- canceled if a job is so that nobody tolerates. A child is tolerated (its parent gathers it, and
-- judges), a job that was left out too (what it needed is judged), and one that none of those that
-- need it fails with. What a person canceled is not. Only jobs of the run itself are asked: what
-- somebody else has come after one of them changes nothing here.
create function jobsworth.run_verdict(
  run_id uuid, out status jobsworth.run_status, out result jsonb, out error text)
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  failed text;
  canceled text;
  sinks int;
  bytes bigint;
  results jsonb;
begin
  -- `status::text`: by the enum itself the planner may read another index, of all queued jobs.
  if exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = run_verdict.run_id and j.finished_at is null
      and j.status::text in ('queued', 'running'))
  then
    status := 'executing';
  elsif exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = run_verdict.run_id and j.finished_at is null)
  then
    status := 'waiting';
  end if;
  if status is not null then
    return;
  end if;

  select string_agg(b.said, '; ' order by b.id) filter (where b.ended = 'failed'),
    string_agg(b.said, '; ' order by b.id) filter (where b.ended = 'canceled')
  into failed, canceled
  from (
    select j.id, j.status::text as ended,
      coalesce(j.node, j.id::text) || ': ' || left(coalesce(j.error, 'no message'), 200) as said
    from jobsworth.reactive_jobs j
    where j.run_id = run_verdict.run_id and j.status::text in ('failed', 'canceled')
      and not j.is_child and (
        j.status::text = 'canceled' and j.cancel_requested
        or not (
          j.status::text = 'canceled' and exists (
            select 1 from jobsworth.job_edges e
            join jobsworth.reactive_jobs p on p.id = e.needs_job_id
            where e.job_id = j.id and e.on_failure = 'skip' and p.status <> 'done')
          or (
            select bool_and(e.on_failure <> 'fail') from jobsworth.job_edges e
            join jobsworth.reactive_jobs n on n.id = e.job_id
            where e.needs_job_id = j.id and n.run_id = j.run_id) is true))
    order by j.id
    limit 20
  ) b;

  -- Where the run ends: nothing came after these.
  select count(*), sum(pg_column_size(s.result)),
    jsonb_object_agg(s.name, s.result) filter (where s.status = 'done')
  into sinks, bytes, results
  from (
    select coalesce(j.node, j.id::text) as name, j.status, j.result
    from jobsworth.reactive_jobs j
    where j.run_id = run_verdict.run_id and not j.is_child
      and not exists (
        select 1 from jobsworth.job_edges e
        join jobsworth.reactive_jobs n on n.id = e.job_id
        where e.needs_job_id = j.id and n.run_id = j.run_id)
      and not exists (
        select 1 from jobsworth.reactive_jobs f
        where f.parent_id = j.id and not f.is_child and f.run_id = j.run_id)
  ) s;
  if sinks = 0 then
    return;
  end if;

  status := case when failed is not null then 'failed' when canceled is not null then 'canceled'
    else 'done' end;
  error := left(coalesce(failed, canceled), 2000);
  if bytes <= 1048576 then
    result := case when sinks = 1 then (select r.value from jsonb_each(results) r) else results end;
  end if;
end $$;

-- After the commit that moved jobs of these runs: move the runs. Returns those to look at again:
-- those that had to move and that somebody holds, and those that wait from now on, for whoever lets
-- one of their jobs go on just now still sees the run executing. Never waits.
create function jobsworth.move_runs(run_ids uuid[]) returns uuid[] language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  moving uuid[];
  held uuid[];
  one jobsworth.runs;
  verdict record;
  late uuid[];
  waiting uuid[] := '{}';
begin
  moving := array(
    select r.id from jobsworth.runs r
    where r.id = any(run_ids) and jobsworth.run_must_move(r)
    order by r.id);
  if moving = '{}' then
    return moving;
  end if;
  held := array(
    select r.id from jobsworth.runs r
    where r.id = any(moving) order by r.id for no key update skip locked);
  for one in
    select r.* from jobsworth.runs r
    where r.id = any(held) and jobsworth.run_must_move(r) order by r.id
  loop
    verdict := jobsworth.run_verdict(one.id);
    if verdict.status <> one.status or one.finished_at is not null then
      -- One that has ended goes on first.
      update jobsworth.runs r set status = 'executing'
      where r.id = one.id and r.finished_at is not null and verdict.status <> 'waiting';
      update jobsworth.runs r
      set status = verdict.status, result = verdict.result, error = verdict.error
      where r.id = one.id;
      if verdict.status = 'waiting' then
        waiting := waiting || one.id;
      end if;
    end if;
    -- What came into a run that is being canceled ends with it.
    if one.cancel_requested and one.finished_at is null then
      late := array(
        select j.id from jobsworth.reactive_jobs j
        where j.run_id = one.id and j.finished_at is null and not j.cancel_requested
        order by j.id for no key update skip locked);
      if late <> '{}' then
        perform jobsworth.cancel_locked(late, 'its run was canceled');
      end if;
    end if;
  end loop;
  return waiting || array(
    select m.id from unnest(moving) m (id) except select h.id from unnest(held) h (id));
end $$;

-- Is this run not where its jobs would have it? A draft without jobs, a plan whose jobs have only
-- begun, and a run that ended after the last of its jobs are left to who set them.
create function jobsworth.run_must_move(r jobsworth.runs) returns boolean language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  if r.finished_at is not null then
    return exists (
      select 1 from jobsworth.reactive_jobs j
      where j.run_id = r.id and (j.finished_at is null or j.finished_at > r.finished_at));
  end if;
  if r.cancel_requested and exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = r.id and j.finished_at is null and not j.cancel_requested)
  then
    return true;
  end if;
  if exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = r.id and j.finished_at is null
      and j.status::text in ('queued', 'running'))
  then
    return r.status = 'waiting' or r.status in ('draft', 'planning') and exists (
      select 1 from jobsworth.reactive_jobs j
      where j.run_id = r.id and (j.finished_at is not null or j.attempt > 0));
  elsif exists (
    select 1 from jobsworth.reactive_jobs j where j.run_id = r.id and j.finished_at is null)
  then
    return r.status = 'executing' or r.status in ('draft', 'planning') and exists (
      select 1 from jobsworth.reactive_jobs j
      where j.run_id = r.id and (j.finished_at is not null or j.attempt > 0));
  end if;
  return exists (select 1 from jobsworth.reactive_jobs j where j.run_id = r.id);
end $$;

-- Move on those of the given jobs whose reason to wait is gone: to their next reason, else to
-- queued. Returns the ids that another transaction holds and that must be looked at again.
-- `patient` waits for their locks instead: for deliverers, which must not be missed.
create or replace function jobsworth.reconsider(job_ids uuid[], patient boolean default false)
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
  at timestamptz;
  one jobsworth.reactive_jobs;
  next_reason jobsworth.wait_reason;
  moved int := 0;
begin
  -- `status::text`: by the enum itself the planner may read the whole index of waiting jobs.
  if patient then
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

  -- A job that cannot do without a parent that did not end well cannot run, nor can those that
  -- cannot do without it in turn. A loop: a chain of a thousand would be too deep for a recursion.
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
    -- It fails with its parent; or it is canceled: left out, or because its parent was on request.
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

  -- One by one, what was due first goes first; a join with the table might scan all of it.
  at := clock_timestamp();
  for one in
    select w.* from jobsworth.reactive_jobs w
    where w.id = any(gone) and w.status::text = 'waiting'
    order by w.run_at, w.lane_position, w.id
  loop
    next_reason := null;
    if one.waiting_for in ('parents', 'handler') and one.run_at > at then
      next_reason := 'timer';
    elsif one.lane is not null then
      -- A scheduled job joins its lane when it is due, one that needs others when they have ended.
      one.lane_position := coalesce(one.lane_position, nextval('jobsworth.lane_position'));
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
        position = case when next_reason is null then nextval('jobsworth.job_position')
          else one.position end
    where x.id = one.id;
    moved := moved + 1;
    if one.run_id is not null and one.run_id <> all(runs) then
      runs := runs || one.run_id;
    end if;
  end loop;

  if moved > 0 then
    perform jobsworth.wake();
  end if;
  if runs <> '{}' then
    perform jobsworth.move_runs(runs);
  end if;
  return again || array(
    select j.id from jobsworth.reactive_jobs j
    where j.status::text = 'waiting' and j.id = any(array(
      select u.id from unnest(job_ids) u(id) except select h.id from unnest(held) h(id))));
end $$;

-- After a commit that ended or parked these jobs: look again, with a fresh snapshot, at whatever
-- that unblocks, and close what hangs on the finished ones. Returns what must be looked at again
-- because somebody holds it: a waiting job, an ended one on which something open hangs, or one
-- whose run has to move, or has just begun to wait. Never waits for another transaction.
create or replace function jobsworth.unblock(job_ids uuid[]) returns uuid[] language plpgsql
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
  again uuid[] := '{}';
begin
  select array_agg(distinct j.lane) filter (where j.lane is not null),
    array_agg(distinct j.parent_id) filter (where j.is_child and j.finished_at is not null),
    array_agg(j.id) filter (where j.status = 'waiting'),
    array_agg(j.id) filter (where j.waiting_for = 'budget'),
    array_agg(distinct j.run_id) filter (where j.run_id is not null)
  into lanes, parents, parked, short, runs
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
    again := jobsworth.reconsider(candidates);
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

-- What upkeep has to do right now; as before, and it sweeps for limits, budgets, persons and
-- runs too.
create or replace function jobsworth.chores(
  rescue_seconds float8,
  out rescue boolean, out expire boolean, out deployments boolean, out sweep text[],
  out looked_seconds float8)
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  rescue := exists (
      select 1 from jobsworth.workers w
      where w.beaten_at <= now() - chores.rescue_seconds * interval '1 second')
    or exists (select 1 from jobsworth.unattended(chores.rescue_seconds));
  expire := exists (
    select 1 from jobsworth.approvals a
    where a.status = 'pending' and a.deadline <= clock_timestamp());
  deployments := exists (
    select 1
    from jobsworth.deployments d
    cross join lateral (
      select 1 from jobsworth.reactive_jobs j
      where j.id = d.job_id and j.finished_at is not null
    ) ended
    where d.finished_at is null);
  sweep := array(
    select r.reason::text
    from unnest(array['lane', 'children', 'approval', 'signal', 'parents', 'handler', 'limit',
      'budget', 'person']::jobsworth.wait_reason[]) as r (reason)
    where exists (
      select 1 from jobsworth.reactive_jobs j
      where j.status = 'waiting' and j.waiting_for = r.reason));
  if exists (select 1 from jobsworth.approvals a where a.status = 'pending')
    or exists (
      select 1 from jobsworth.reactive_jobs c where c.is_child and c.finished_at is null)
  then
    sweep := sweep || 'orphan'::text;
  end if;
  if exists (
    select 1 from jobsworth.runs r where r.finished_at is null and r.status <> 'draft')
  then
    sweep := sweep || 'run'::text;
  end if;
  looked_seconds := extract(epoch from clock_timestamp() - statement_timestamp());
end $$;
"""

START = """
-- Declare and start a run: all its jobs, and what each needs. `nodes` is an array of objects: node
-- (its unique name), mode, payload, after (names, or objects of node and on_failure: fail, skip or
-- run), queue, priority, lane (none unless given), failures_max, crashes_max, timeout_seconds,
-- delay (seconds) or run_at, holds_lane, agent_id. With an idempotency key, or an id, that a run
-- has already: that run; a draft is started now, and keeps what is not given here. Returns its id.
create function jobsworth.start_run(
  nodes jsonb, request jsonb default '{}', actor text default null, thread_id uuid default null,
  agent_id uuid default null, team_id uuid default null, session_id uuid default null,
  project_id uuid default null, trace_id text default null, idempotency_key text default null,
  trigger_message_id uuid default null, trace_parent text default null,
  metadata jsonb default '{}', status jobsworth.run_status default 'executing',
  id uuid default null)
  returns uuid language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  new_id uuid := coalesce(start_run.id, jobsworth.uuidv7());
  found_id uuid;
  made jobsworth.runs;
  ids uuid[];
  numbers jsonb;
  children int[];
  parents int[];
  failures text[];
  parent_trace text := start_run.trace_parent;
begin
  perform jobsworth.check_nodes(start_run.nodes);
  if start_run.status not in ('planning', 'executing') then
    raise exception 'a run does not start as %', start_run.status
      using errcode = 'invalid_parameter_value', hint = 'Start as planning or executing.';
  end if;
  -- A job's number is its place in `nodes`.
  select jsonb_object_agg(e.spec ->> 'node', e.n), array_agg(jobsworth.uuidv7() order by e.n)
  into numbers, ids
  from jsonb_array_elements(start_run.nodes) with ordinality as e (spec, n);
  select coalesce(array_agg(e.n order by e.n, a.m), '{}'),
    coalesce(array_agg((numbers ->> a.parent)::int order by e.n, a.m), '{}'),
    coalesce(array_agg(a.on_failure order by e.n, a.m), '{}')
  into children, parents, failures
  from jsonb_array_elements(start_run.nodes) with ordinality as e (spec, n)
  cross join lateral jobsworth.needs_of(e.spec) as a;
  perform jobsworth.refuse_cycle(start_run.nodes, children, parents);

  insert into jobsworth.runs (
    id, team_id, project_id, session_id, thread_id, agent_id, actor, trace_id, idempotency_key,
    request, metadata, status)
  values (
    new_id, start_run.team_id, start_run.project_id, start_run.session_id, start_run.thread_id,
    start_run.agent_id, start_run.actor, start_run.trace_id, start_run.idempotency_key,
    coalesce(start_run.request, '{}'), coalesce(start_run.metadata, '{}'), start_run.status)
  on conflict do nothing
  returning runs.* into made;
  if made.id is null then
    select r.id into found_id from jobsworth.runs r where r.id = new_id;
    if not found then
      select r.id into found_id from jobsworth.runs r
      where r.idempotency_key = start_run.idempotency_key
        and r.team_id is not distinct from start_run.team_id;
    end if;
    if found_id is null then
      raise exception 'another run has the trace id %', start_run.trace_id
        using errcode = 'unique_violation',
        hint = 'Leave trace_id out (trace_parent joins a trace too), or upsert that run.';
    end if;
    update jobsworth.runs r
    set status = start_run.status,
      project_id = coalesce(start_run.project_id, r.project_id),
      session_id = coalesce(start_run.session_id, r.session_id),
      thread_id = coalesce(start_run.thread_id, r.thread_id),
      agent_id = coalesce(start_run.agent_id, r.agent_id),
      actor = coalesce(start_run.actor, r.actor),
      trace_id = coalesce(start_run.trace_id, r.trace_id),
      request = coalesce(nullif(start_run.request, '{}'), r.request),
      metadata = coalesce(nullif(start_run.metadata, '{}'), r.metadata)
    where r.id = found_id and r.status = 'draft' and not exists (
      select 1 from jobsworth.reactive_jobs j where j.run_id = r.id)
    returning r.* into made;
    if not found then
      return found_id;
    end if;
  end if;
  if parent_trace is null and made.trace_id ~ '^[0-9a-f]{32}$' then
    parent_trace := format('00-%s-%s-01', made.trace_id, left(md5(made.id::text), 16));
  end if;

  insert into jobsworth.reactive_jobs (
    id, run_id, node, agent_id, team_id, thread_id, trigger_message_id, trace_parent, mode, payload,
    queue, priority, lane, failures_max, crashes_max, timeout_seconds, run_at, holds_lane,
    status, waiting_for)
  select ids[e.n], made.id, e.spec ->> 'node',
    coalesce((e.spec ->> 'agent_id')::uuid, made.agent_id), made.team_id,
    made.thread_id, start_run.trigger_message_id, parent_trace, e.spec ->> 'mode',
    coalesce(nullif(e.spec -> 'payload', 'null'), '{}'),
    coalesce(e.spec ->> 'queue', 'default'), coalesce((e.spec ->> 'priority')::smallint, 3),
    -- Nodes run beside each other, unless they name a lane: no lane of the thread's.
    coalesce(e.spec ->> 'lane', case when made.thread_id is not null then '' end),
    (e.spec ->> 'failures_max')::int, (e.spec ->> 'crashes_max')::int,
    (e.spec ->> 'timeout_seconds')::real,
    coalesce((e.spec ->> 'run_at')::timestamptz,
      clock_timestamp() + (e.spec ->> 'delay')::float8 * interval '1 second'),
    coalesce((e.spec ->> 'holds_lane')::boolean, false),
    case when needs.are_there then 'waiting' else 'queued' end::jobsworth.job_status,
    case when needs.are_there then 'parents' end::jobsworth.wait_reason
  from jsonb_array_elements(start_run.nodes) with ordinality as e (spec, n)
  cross join lateral (
    select exists (select 1 from jobsworth.needs_of(e.spec)) as are_there) needs
  order by e.n;
  insert into jobsworth.job_edges (job_id, needs_job_id, on_failure)
  select ids[e.child], ids[e.parent], e.on_failure::jobsworth.parent_failure
  from unnest(children, parents, failures) as e (child, parent, on_failure);
  if start_run.status = 'executing' then
    perform jobsworth.move_runs(array[made.id]);
  end if;
  return made.id;
end $$;

-- What a node needs: names, and what it means if one does not end well.
create function jobsworth.needs_of(spec jsonb)
  returns table (parent text, on_failure text, m bigint) language sql immutable as $$
  select case when jsonb_typeof(a.value) = 'object' then a.value ->> 'node'
      else a.value #>> '{}' end,
    coalesce(case when jsonb_typeof(a.value) = 'object' then a.value ->> 'on_failure' end, 'fail'),
    a.m
  from jsonb_array_elements(
    case jsonb_typeof(spec -> 'after') when 'array' then spec -> 'after' else '[]' end)
    with ordinality as a (value, m)
$$;

-- Refuse what is no list of nodes, saying which one and why.
create function jobsworth.check_nodes(nodes jsonb) returns void language plpgsql immutable as $$
declare
  known text[] := '{node,mode,payload,after,queue,priority,lane,failures_max,crashes_max,'
    'timeout_seconds,delay,run_at,holds_lane,agent_id}';
  names jsonb;
  wrong record;
begin
  if jsonb_typeof(nodes) is distinct from 'array' or jsonb_array_length(nodes) = 0 then
    raise exception 'a run needs at least one node' using errcode = 'invalid_parameter_value',
      hint = 'For example: start_run(''[{"node": "fetch", "mode": "fetch"}]'').';
  end if;
  for wrong in
    select e.n, e.spec ->> 'node' as node, case
        when jsonb_typeof(e.spec) <> 'object' then 'is not an object'
        when coalesce(e.spec ->> 'node', '') = '' or jsonb_typeof(e.spec -> 'node') <> 'string'
          then 'has no name: say "node"'
        when octet_length(e.spec ->> 'node') > 1000 then 'has a name of more than 1000 bytes'
        when e.spec ->> 'node' ~ '[[:cntrl:]]' then 'has a control character in its name'
        when e.spec ->> 'node' ~ '/(child|job|send)[:#]'
          then 'has a name like those of the jobs that a node starts (fetch/child:one)'
        when coalesce(e.spec ->> 'mode', '') = '' then 'has no mode: which handler runs it'
        when jsonb_typeof(e.spec -> 'payload') not in ('object', 'null')
          then 'has a payload that is not an object'
        when jsonb_typeof(e.spec -> 'after') not in ('array', 'null')
          then 'has an "after" that is not a list'
        when exists (
          select 1 from jsonb_each(e.spec) o
          where o.key in ('priority', 'failures_max', 'crashes_max', 'timeout_seconds', 'delay')
            and jsonb_typeof(o.value) not in ('number', 'null'))
          then 'has a priority, delay, timeout or bound that is not a number'
        when (e.spec ->> 'delay')::float8 < 0 or e.spec ->> 'delay' is not null
          and e.spec ->> 'run_at' is not null
          then 'has a delay that is negative, or given together with run_at'
        when (e.spec ->> 'priority')::int not between 1 and 4
          then 'has a priority that is not 1 to 4'
        else (
          select 'has an unknown option ' || k.key from jsonb_object_keys(e.spec) k (key)
          where k.key <> all(known) limit 1)
      end as reason
    from jsonb_array_elements(nodes) with ordinality as e (spec, n)
  loop
    if wrong.reason is not null then
      raise exception 'node % %', coalesce(nullif(wrong.node, ''), wrong.n::text), wrong.reason
        using errcode = 'invalid_parameter_value',
        hint = 'A node is {"node": "write", "mode": "answer", "payload": {}, "after": ["fetch"]}; '
          'its options are ' || array_to_string(known, ', ') || '.';
    end if;
  end loop;
  select e.spec ->> 'node' as node into wrong
  from jsonb_array_elements(nodes) as e (spec) group by 1 having count(*) > 1 limit 1;
  if found then
    raise exception 'two nodes are named %', wrong.node using errcode = 'invalid_parameter_value',
      hint = 'A node''s name is unique in its run.';
  end if;
  select jsonb_object_agg(e.spec ->> 'node', true) into names
  from jsonb_array_elements(nodes) as e (spec);
  select e.spec ->> 'node' as node, a.parent, a.on_failure,
    names ? a.parent as is_known, count(*) > 1 as is_double
  into wrong
  from jsonb_array_elements(nodes) as e (spec)
  cross join lateral jobsworth.needs_of(e.spec) as a
  group by 1, 2, 3, 4
  having names ? a.parent is not true or a.on_failure not in ('fail', 'skip', 'run')
  limit 1;
  if wrong.is_known is not true and wrong.node is not null then
    raise exception 'node % comes after %, which is not a node of this run',
      wrong.node, coalesce(wrong.parent, 'something without a name')
      using errcode = 'invalid_parameter_value',
      hint = 'Declare it too, or take it out of "after": names, or {"node": …, "on_failure": …}.';
  elsif wrong.node is not null then
    raise exception 'node % says on_failure % of %', wrong.node, wrong.on_failure, wrong.parent
      using errcode = 'invalid_parameter_value', hint = 'It is fail, skip or run.';
  end if;
  select e.spec ->> 'node' as node, a.parent into wrong
  from jsonb_array_elements(nodes) as e (spec)
  cross join lateral jobsworth.needs_of(e.spec) as a
  group by 1, 2 having count(*) > 1 limit 1;
  if found then
    raise exception 'node % names % twice in "after"', wrong.node, wrong.parent
      using errcode = 'invalid_parameter_value', hint = 'Name it once.';
  end if;
end $$;

-- Refuse nodes that need each other in a circle, naming them. Depth first, without a recursion: a
-- chain may have thousands. `children` is sorted; its i-th needs the i-th of `parents`.
create function jobsworth.refuse_cycle(nodes jsonb, children int[], parents int[]) returns void
  language plpgsql immutable as $$
declare
  first int[];
  next int[];
  seen int[] := array_fill(0, array[jsonb_array_length(nodes)]);
  path int[];
  depth int;
  at int;
  parent int;
begin
  -- Needs that all point backwards are no circle.
  if not exists (select 1 from unnest(children, parents) e (c, p) where e.p >= e.c) then
    return;
  end if;
  first := array_fill(1, array[jsonb_array_length(nodes) + 1]);
  for i in 1 .. cardinality(children) loop
    first[children[i] + 1] := i + 1;
  end loop;
  for i in 2 .. cardinality(first) loop
    first[i] := greatest(first[i], first[i - 1]);
  end loop;
  next := first;
  for start in 1 .. cardinality(seen) loop
    continue when seen[start] <> 0;
    path := array[start];
    depth := 1;
    seen[start] := 1;
    while depth > 0 loop
      at := path[depth];
      if next[at] < first[at + 1] then
        parent := parents[next[at]];
        next[at] := next[at] + 1;
        if seen[parent] = 1 then
          path := path[array_position(path, parent) : depth];
          raise exception 'the nodes need each other in a circle: %', (
            select string_agg(nodes -> (p.number - 1) ->> 'node', ' → ' order by p.n desc)
            from unnest(array[parent] || path[2:] || parent) with ordinality p (number, n))
            using errcode = 'invalid_parameter_value',
            hint = 'Take one of these out of the "after" of the next.';
        elsif seen[parent] = 0 then
          depth := depth + 1;
          path[depth] := parent;
          seen[parent] := 1;
        end if;
      else
        seen[at] := 2;
        depth := depth - 1;
      end if;
    end loop;
  end loop;
end $$;

-- Cancel a run: all its jobs, at once or at their next ending, and what they still add to it.
-- Returns its status.
create function jobsworth.cancel_run(run_id uuid, reason text default 'canceled by a person')
  returns jobsworth.run_status language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  r jobsworth.runs;
  open_jobs uuid[];
begin
  -- Jobs first, then the run, as everybody does. What came while this waited for one of them, and
  -- what comes later, is canceled by `move_runs`.
  open_jobs := array(
    select j.id from jobsworth.reactive_jobs j
    where j.run_id = cancel_run.run_id and j.finished_at is null and not j.cancel_requested
    order by j.id for no key update);
  if open_jobs <> '{}' then
    perform jobsworth.cancel_locked(open_jobs, cancel_run.reason);
  end if;
  select x.* into r from jobsworth.runs x where x.id = cancel_run.run_id for no key update;
  if not found then
    raise exception 'there is no run %', cancel_run.run_id using errcode = 'no_data_found',
      hint = 'List runs: jobsworth runs.';
  end if;
  if r.finished_at is not null then
    return r.status;
  end if;
  update jobsworth.runs x set cancel_requested = true where x.id = r.id;
  if exists (select 1 from jobsworth.reactive_jobs j where j.run_id = r.id) then
    perform jobsworth.move_runs(array[r.id]);
  else
    update jobsworth.runs x set status = 'canceled', error = cancel_run.reason where x.id = r.id;
  end if;
  return (select x.status from jobsworth.runs x where x.id = r.id);
end $$;

-- Run again what of a run did not end well, with all that was left out because of it; what is done
-- stays done. A child runs again if its parent does, which judges it. Returns how many jobs those
-- are.
create function jobsworth.retry_run(run_id uuid) returns int language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  r jobsworth.runs;
  open_job uuid;
  held uuid[];
  again uuid[];
begin
  -- Jobs first, then the run, as everybody does. All of them: one that ends, or is run again, just
  -- now is seen in the statements after this.
  perform 1 from jobsworth.reactive_jobs j
  where j.run_id = retry_run.run_id order by j.id for no key update;
  select x.* into r from jobsworth.runs x where x.id = retry_run.run_id for no key update;
  if not found then
    raise exception 'there is no run %', retry_run.run_id using errcode = 'no_data_found',
      hint = 'List runs: jobsworth runs.';
  end if;
  select j.id into open_job from jobsworth.reactive_jobs j
  where j.run_id = r.id and j.finished_at is null limit 1;
  if found then
    raise exception 'run % is not over: its job % has not ended', r.id, open_job
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Wait until it is, or run a single job of it again: jobsworth retry JOB.';
  end if;
  held := array(
    select j.id from jobsworth.reactive_jobs j
    where j.run_id = r.id and j.status::text in ('failed', 'canceled'));
  again := array(
    with recursive again as (
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(held) and not j.is_child
      union all
      select c.id from again a join jobsworth.reactive_jobs c on c.parent_id = a.id
      where c.is_child and c.id = any(held))
    select a.id from again a);
  if again = '{}' or r.status = 'done' then
    raise exception 'run % is %: there is nothing of it to run again', r.id, r.status
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'To do some of it again with other input, fork it: jobsworth fork ' || r.id;
  end if;
  perform jobsworth.restart_locked(again);
  perform jobsworth.move_runs(array[r.id]);
  return cardinality(again);
end $$;

-- Give a failed or canceled job a fresh start, as a new insert would have; run a scheduled or
-- backing-off job now. Returns its status.
create or replace function jobsworth.retry(job_id uuid) returns jobsworth.job_status
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  j jobsworth.reactive_jobs;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = retry.job_id for no key update;
  if not found then
    raise exception 'there is no job %', retry.job_id using errcode = 'no_data_found',
      hint = 'List jobs: jobsworth jobs.';
  elsif j.status = 'waiting' and j.waiting_for = 'timer' then
    update jobsworth.reactive_jobs x set run_at = clock_timestamp() where x.id = j.id;
    perform jobsworth.reconsider(array[j.id], patient => true);
  elsif j.status in ('failed', 'canceled') then
    perform jobsworth.restart_locked(array[j.id]);
  else
    raise exception 'job % is %: only a failed, canceled or timed job can be run again',
      j.id, j.status using errcode = 'object_not_in_prerequisite_state',
      hint = 'see what it waits for: jobsworth why ' || j.id;
  end if;
  return (select x.status from jobsworth.reactive_jobs x where x.id = j.id);
end $$;

-- Give a fresh start to failed and canceled jobs whose rows this transaction holds.
create function jobsworth.restart_locked(job_ids uuid[]) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  taken record;
begin
  select j.id, j.unique_key, x.id as holder into taken
  from jobsworth.reactive_jobs j
  join jobsworth.reactive_jobs x
    on x.unique_key = j.unique_key and x.team_id is not distinct from j.team_id
  where j.id = any(job_ids) and x.finished_at is null
  limit 1;
  if found then
    raise exception 'job % cannot run again: job % holds its unique key %',
      taken.id, taken.holder, taken.unique_key
      using errcode = 'unique_violation', hint = 'Wait for that job, or cancel it first.';
  end if;
  -- Their steps stay recorded and paid. Only a deployment that did not become healthy is shipped
  -- anew.
  delete from jobsworth.steps p
  using jobsworth.deployments d
  where d.job_id = any(job_ids) and d.status in ('failed', 'rolled_back')
    and p.job_id = d.job_id and p.kind = 'phase' and starts_with(p.name, d.step_name || ':');
  update jobsworth.deployments d
  set step_name = d.step_name || ' before ' || d.id
  where d.job_id = any(job_ids) and d.status in ('failed', 'rolled_back');

  -- They wait on a timer that is due, so that reconsider gives each its place; or again for the
  -- jobs they need, as long as one of those is open, or is about to be.
  begin
    update jobsworth.reactive_jobs x
    set status = 'waiting', run_at = clock_timestamp(), finished_at = null,
        waiting_for = case when exists (
            select 1 from jobsworth.job_edges e
            join jobsworth.reactive_jobs p on p.id = e.needs_job_id
            where e.job_id = x.id and (p.finished_at is null or p.id = any(job_ids)))
          then 'parents' else 'timer' end::jobsworth.wait_reason,
        failures = 0, crashes = 0, cancel_requested = false, error = null, result = null,
        lane_position = null
    where x.id = any(job_ids);
  exception when unique_violation then
    raise exception 'job % cannot run again: another job has just taken its unique key %',
      (select string_agg(j.id::text, ' or ') from jobsworth.reactive_jobs j
        where j.id = any(job_ids) and j.unique_key is not null),
      (select string_agg(distinct j.unique_key, ' or ') from jobsworth.reactive_jobs j
        where j.id = any(job_ids))
      using errcode = 'unique_violation', hint = 'Wait for that job, or cancel it first.';
  end;
  perform jobsworth.reconsider(job_ids, patient => true);
end $$;

-- The run of this idempotency key, or of this trace id, with these values: a new draft, or the one
-- that is there, in which what is given here is replaced. One that has ended stays as it is.
create function jobsworth.upsert_run(
  request jsonb default null, actor text default null, thread_id uuid default null,
  agent_id uuid default null, team_id uuid default null, session_id uuid default null,
  project_id uuid default null, trace_id text default null, idempotency_key text default null,
  metadata jsonb default null, out run_id uuid, out created boolean)
  language plpgsql as $$
#variable_conflict use_column
declare
  r jobsworth.runs;
  wanted jobsworth.runs;
begin
  if upsert_run.idempotency_key is null and upsert_run.trace_id is null then
    raise exception 'which run is meant? neither idempotency_key nor trace_id is given'
      using errcode = 'invalid_parameter_value', hint = 'Give one of them.';
  end if;
  insert into jobsworth.runs (
    team_id, project_id, session_id, thread_id, agent_id, actor, trace_id, idempotency_key,
    request, metadata)
  values (
    upsert_run.team_id, upsert_run.project_id, upsert_run.session_id, upsert_run.thread_id,
    upsert_run.agent_id, upsert_run.actor, upsert_run.trace_id, upsert_run.idempotency_key,
    coalesce(upsert_run.request, '{}'), coalesce(upsert_run.metadata, '{}'))
  on conflict do nothing
  returning runs.id into run_id;
  created := run_id is not null;
  if created then
    return;
  end if;
  -- Locked first, compared after.
  select x.* into r from jobsworth.runs x
  where x.team_id is not distinct from upsert_run.team_id
    and (x.idempotency_key = upsert_run.idempotency_key or x.trace_id = upsert_run.trace_id)
  order by x.idempotency_key is not distinct from upsert_run.idempotency_key desc
  limit 1
  for no key update;
  wanted := r;
  wanted.project_id := coalesce(upsert_run.project_id, r.project_id);
  wanted.session_id := coalesce(upsert_run.session_id, r.session_id);
  wanted.thread_id := coalesce(upsert_run.thread_id, r.thread_id);
  wanted.agent_id := coalesce(upsert_run.agent_id, r.agent_id);
  wanted.actor := coalesce(upsert_run.actor, r.actor);
  wanted.trace_id := coalesce(upsert_run.trace_id, r.trace_id);
  wanted.idempotency_key := coalesce(upsert_run.idempotency_key, r.idempotency_key);
  wanted.request := coalesce(upsert_run.request, r.request);
  wanted.metadata := coalesce(upsert_run.metadata, r.metadata);
  run_id := r.id;
  if wanted is not distinct from r then
    return;
  elsif r.finished_at is not null then
    raise exception 'run % is %: what it was asked stays as it is', r.id, r.status
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Start another run, under another idempotency key.';
  end if;
  update jobsworth.runs x
  set project_id = wanted.project_id, session_id = wanted.session_id,
    thread_id = wanted.thread_id, agent_id = wanted.agent_id, actor = wanted.actor,
    trace_id = wanted.trace_id, idempotency_key = wanted.idempotency_key,
    request = wanted.request, metadata = wanted.metadata
  where x.id = r.id;
end $$;

-- Remove a run that has ended, whole: its jobs with all that cascades. What only names them stays:
-- ledger, calls, messages, approvals and decisions.
create function jobsworth.delete_run(run_id uuid) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  open_job uuid;
  branch uuid;
begin
  perform 1 from jobsworth.reactive_jobs j where j.run_id = delete_run.run_id
  order by j.id for update;
  perform 1 from jobsworth.runs r where r.id = delete_run.run_id for update;
  if not found then
    raise exception 'there is no run %', delete_run.run_id using errcode = 'no_data_found',
      hint = 'List runs: jobsworth runs.';
  end if;
  select j.id into open_job from jobsworth.reactive_jobs j
  where j.run_id = delete_run.run_id and j.finished_at is null limit 1;
  if found then
    raise exception 'run % is not over: its job % has not ended', delete_run.run_id, open_job
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Cancel it first: jobsworth runs cancel ' || delete_run.run_id;
  end if;
  select b.run_id into branch from jobsworth.branches b
  where b.parent_run_id = delete_run.run_id limit 1;
  if found then
    raise exception 'run % is read by its branch %', delete_run.run_id, branch
      using errcode = 'object_not_in_prerequisite_state', hint = 'Delete the branch first.';
  end if;
  delete from jobsworth.reactive_jobs j where j.run_id = delete_run.run_id;
  delete from jobsworth.runs r where r.id = delete_run.run_id;
end $$;
"""

ENQUEUE = """
drop function jobsworth.enqueue(text, jsonb, text, int, timestamptz, interval, uuid, uuid, text,
  text, int, float8, text, uuid, uuid[], boolean, int, uuid);

-- Enqueue a job and return its id; with a unique key, the open job that already has it.
create function jobsworth.enqueue(
  mode text, payload jsonb default '{}', queue text default 'default', priority int default 3,
  run_at timestamptz default null, delay interval default null, thread_id uuid default null,
  trigger_message_id uuid default null, lane text default null, unique_key text default null,
  failures_max int default null, timeout_seconds float8 default null,
  trace_parent text default null, team_id uuid default null, after uuid[] default null,
  holds_lane boolean default false, crashes_max int default null, id uuid default null,
  agent_id uuid default null)
  returns uuid language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  new_id uuid := coalesce(enqueue.id, jobsworth.uuidv7());
  found_id uuid;
  needs uuid[] := coalesce(enqueue.after, '{}');
  unknown uuid;
begin
  if enqueue.mode is null or enqueue.mode = '' then
    raise exception 'a job needs a mode: which handler runs it'
      using errcode = 'invalid_parameter_value', hint = 'For example: enqueue(''answer'', …).';
  end if;
  if enqueue.delay < interval '0' or enqueue.delay is not null and enqueue.run_at is not null then
    raise exception 'the delay of a % job is negative, or given together with run_at', enqueue.mode
      using errcode = 'invalid_parameter_value', hint = 'Give one of them, or none for now.';
  end if;
  if pg_column_size(enqueue.payload) > 1048576 then
    raise exception 'the payload of a % job has % bytes; at most 1048576 are allowed',
      enqueue.mode, pg_column_size(enqueue.payload)
      using errcode = 'program_limit_exceeded',
      hint = 'Store the document as an artifact or a file and pass its address.';
  end if;
  select u.id into unknown from unnest(needs) u(id)
  where not exists (select 1 from jobsworth.reactive_jobs p where p.id = u.id) limit 1;
  if found then
    raise exception 'job % in after does not exist', unknown
      using errcode = 'foreign_key_violation', hint = 'Enqueue the jobs it needs first.';
  end if;
  loop
    insert into jobsworth.reactive_jobs (
      id, mode, payload, queue, priority, run_at, thread_id, trigger_message_id, lane, unique_key,
      failures_max, crashes_max, timeout_seconds, trace_parent, team_id, holds_lane, agent_id,
      status, waiting_for)
    values (
      new_id, enqueue.mode, coalesce(enqueue.payload, '{}'), coalesce(enqueue.queue, 'default'),
      coalesce(enqueue.priority, 3)::smallint,
      coalesce(enqueue.run_at, clock_timestamp() + enqueue.delay),
      enqueue.thread_id, enqueue.trigger_message_id, enqueue.lane, enqueue.unique_key,
      enqueue.failures_max, enqueue.crashes_max, enqueue.timeout_seconds, enqueue.trace_parent,
      enqueue.team_id, coalesce(enqueue.holds_lane, false), enqueue.agent_id,
      case when needs = '{}' then 'queued' else 'waiting' end::jobsworth.job_status,
      case when needs <> '{}' then 'parents'::jobsworth.wait_reason end)
    on conflict do nothing
    returning reactive_jobs.id into found_id;
    if found_id is not null then
      if needs <> '{}' then
        insert into jobsworth.job_edges (job_id, needs_job_id)
        select found_id, u.id from unnest(needs) u(id) group by u.id;
        perform jobsworth.reconsider(array[found_id], patient => true);
      end if;
      return found_id;
    end if;
    -- Its own id came back (a repeated call), or the key's holder: unless that ended just now.
    select j.id into found_id from jobsworth.reactive_jobs j where j.id = new_id;
    if not found then
      select j.id into found_id from jobsworth.reactive_jobs j
      where j.unique_key = enqueue.unique_key and j.team_id is not distinct from enqueue.team_id
        and j.finished_at is null;
    end if;
    if found_id is not null then
      return found_id;
    end if;
  end loop;
end $$;
"""

VIOLATIONS = """
create or replace view jobsworth.violations_of_runs (invariant, subject_id, detail, at) as
select 'open run whose jobs have all ended', r.id, r.status::text, 'infinity'::timestamptz
from jobsworth.runs r
where r.finished_at is null
  and not exists (
    select 1 from jobsworth.reactive_jobs j where j.run_id = r.id and j.finished_at is null)
  and (select max(j.finished_at) from jobsworth.reactive_jobs j where j.run_id = r.id)
    < now() - interval '30 seconds'
union all
select 'ended run with an open job', j.run_id, 'job ' || j.id || ' is ' || j.status, 'infinity'
from jobsworth.reactive_jobs j
cross join lateral (
  select o.finished_at from jobsworth.runs o where o.id = j.run_id offset 0) r
where j.run_id is not null and j.finished_at is null
  and r.finished_at < now() - interval '30 seconds'
union all
select 'job of a run that is not there', j.id, 'run ' || j.run_id, 'infinity'
from jobsworth.reactive_jobs j
where j.run_id is not null and j.finished_at is null and not exists (
  select 1 from jobsworth.runs r where r.id = j.run_id);
"""

DOWN = """
create or replace view jobsworth.violations_of_runs (invariant, subject_id, detail, at) as
select null::text, null::uuid, null::text, null::timestamptz where false;
drop function jobsworth.enqueue(text, jsonb, text, int, timestamptz, interval, uuid, uuid, text,
  text, int, float8, text, uuid, uuid[], boolean, int, uuid, uuid);
drop function jobsworth.delete_run(uuid);
drop function jobsworth.upsert_run(jsonb, text, uuid, uuid, uuid, uuid, uuid, text, text, jsonb);
drop function jobsworth.cancel_run(uuid, text);
drop function jobsworth.retry_run(uuid);
drop function jobsworth.restart_locked(uuid[]);
drop function jobsworth.start_run(jsonb, jsonb, text, uuid, uuid, uuid, uuid, uuid, text, text,
  uuid, text, jsonb, jobsworth.run_status, uuid);
drop function jobsworth.refuse_cycle(jsonb, int[], int[]);
drop function jobsworth.check_nodes(jsonb);
drop function jobsworth.needs_of(jsonb);
drop function jobsworth.move_runs(uuid[]);
drop function jobsworth.run_must_move(jobsworth.runs);
drop function jobsworth.run_verdict(uuid);
drop trigger guard_edges on jobsworth.job_edges;
drop function jobsworth.guard_edges();
drop trigger guard_run on jobsworth.runs;
drop function jobsworth.guard_run();
drop index jobsworth.jobs_open_in_run;
drop index jobsworth.runs_of_agent;
alter table jobsworth.runs drop constraint trace_id_is_named,
  drop constraint idempotency_key_is_named, drop column cancel_requested, drop column metadata;
"""


def upgrade() -> None:
    for part in (TABLES, MOVING, START, ENQUEUE, VIOLATIONS):
        run(part)


def downgrade() -> None:
    run(DOWN)
    for revision_file, name in (
        ("0001_first_light", "function jobsworth.reconsider"),
        ("0001_first_light", "function jobsworth.enqueue"),
        ("0001_first_light", "function jobsworth.retry"),
        ("0001_first_light", "function jobsworth.unblock"),
        ("0004_upkeep", "function jobsworth.chores"),
    ):
        run(earlier(revision_file, name))
