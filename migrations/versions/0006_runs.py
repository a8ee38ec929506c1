"""Runs, and the reasons to wait for a limit, a budget or a person.

A run is one piece of agent work: jobs with a unique `node`, joined by edges. A job carries its run,
its node and its agent, and the claim hands them to the attempt. What belongs to a run hangs off its
jobs; nothing is counted on its row.

`violations` is made of one view for each chapter, so that a later revision that adds to a chapter
says that chapter only. So is what `why` says of budgets and of persons.
"""

from migrations.sql import earlier, run

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = """
create type jobsworth.run_status as enum
  ('draft', 'planning', 'executing', 'waiting', 'done', 'failed', 'canceled');
create type jobsworth.parent_failure as enum ('fail', 'skip', 'run');

create table jobsworth.runs (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  project_id uuid,
  session_id uuid,
  thread_id uuid,
  agent_id uuid,
  actor text,
  trace_id text,
  idempotency_key text,
  request jsonb not null default '{}',
  status jobsworth.run_status not null default 'draft',
  result jsonb,
  error text,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz,
  updated_at timestamptz not null default now(),
  constraint final_has_its_end
    check ((status in ('done', 'failed', 'canceled')) = (finished_at is not null))
);
create unique index runs_trace on jobsworth.runs (team_id, trace_id)
  nulls not distinct where trace_id is not null;
create unique index runs_idempotency on jobsworth.runs (team_id, idempotency_key)
  nulls not distinct where idempotency_key is not null;
create index runs_of_actor on jobsworth.runs (actor, id) where actor is not null;
create index runs_open on jobsworth.runs (id) where finished_at is null;
create index runs_of_thread on jobsworth.runs (thread_id, id) where thread_id is not null;

-- A run that was forked off another reads the steps that this one recorded before the cut.
create table jobsworth.branches (
  run_id uuid not null primary key references jobsworth.runs on delete cascade,
  parent_run_id uuid not null references jobsworth.runs on delete restrict,
  team_id uuid,
  node text not null,
  step_name text,
  cut_at timestamptz not null,
  changes jsonb not null default '{}',
  created_by text,
  created_at timestamptz not null default now()
);
create index branches_of_run on jobsworth.branches (parent_run_id);

-- Named numbers over time.
create table jobsworth.run_metrics (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  run_id uuid,
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  effect_key text not null,
  name text not null,
  value float8 not null,
  at timestamptz not null default clock_timestamp(),
  constraint one_point_each unique (job_id, effect_key)
);
create index run_metrics_of_run on jobsworth.run_metrics (run_id, name, at)
  where run_id is not null;

alter table jobsworth.reactive_jobs add column run_id uuid, add column node text,
  add column agent_id uuid,
  add constraint node_is_of_a_run check (node is null or run_id is not null);
create unique index jobs_node on jobsworth.reactive_jobs (run_id, node) where run_id is not null;

-- What it means for a job that one that it needs did not end well: it fails too, it is left out
-- (canceled), or it runs all the same.
alter table jobsworth.job_edges
  add column on_failure jobsworth.parent_failure not null default 'skip';

-- A limit is waited for like a timer.
drop index jobsworth.jobs_due;
create index jobs_due on jobsworth.reactive_jobs (run_at)
  where status = 'waiting' and waiting_for in ('timer', 'signal', 'limit') and run_at is not null;
"""

WAITING = """
-- A word as a shell reads it.
create function jobsworth.shell_word(word text) returns text language sql immutable strict
  return case when word ~ '^[A-Za-z0-9_][A-Za-z0-9_.:/@%+-]*$' then word
    else '''' || replace(word, '''', '''\\''''') || '''' end;

-- May a job that waits for a budget go on? (There are none yet.)
create function jobsworth.budget_has_room(job_id uuid) returns boolean language sql stable
  return true;

-- Let those of the given jobs go on for which there is room in their budgets by now.
create function jobsworth.grant_budgets(job_ids uuid[]) returns void language sql
  begin atomic end;

-- Why a job waits for a budget, and what would help.
create function jobsworth.why_budget(job_id uuid, out detail text, out remedy text)
  language sql stable return row(null::text, null::text);

-- Which step waits for a person, and what that person can say.
create function jobsworth.why_person(job_id uuid, out detail text, out remedy text)
  language sql stable begin atomic
  select 'step ' || s.name || ' was begun at '
      || to_char(s.started_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS')
      || ' UTC and not recorded; it is unsafe to repeat'::text,
    'jobsworth job ' || why_person.job_id
  from jobsworth.steps s
  where s.job_id = why_person.job_id and s.effect = 'unsafe' and s.kind <> 'phase'
    and s.finished_at is null
  order by s.started_at
  limit 1;
end;

-- Is the environment free that a job without a time waits for, and is it its turn? (There are no
-- environments yet.)
create function jobsworth.environment_is_free(j jobsworth.reactive_jobs) returns boolean
  language sql stable return true;

-- Who holds the environment that a job waits for.
create function jobsworth.why_environment(job_id uuid, out detail text, out remedy text)
  language sql stable return row(null::text, null::text);

-- May this waiting job go on?
create or replace function jobsworth.reason_gone(j jobsworth.reactive_jobs)
  returns boolean language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return case j.waiting_for
    when 'timer' then j.run_at <= clock_timestamp()
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
    when 'signal' then coalesce(j.run_at <= clock_timestamp(), false) or exists (
      select 1 from jobsworth.signals s
      where s.job_id = j.id and s.name = j.waiting_detail and s.received_at is null)
    when 'handler' then exists (
      select 1 from jobsworth.workers w where j.mode = any(w.modes))
    when 'limit' then coalesce(j.run_at <= clock_timestamp(), jobsworth.environment_is_free(j))
    when 'budget' then jobsworth.budget_has_room(j.id)
    when 'person' then not exists (
      select 1 from jobsworth.steps s
      where s.job_id = j.id and s.effect = 'unsafe' and s.kind <> 'phase'
        and s.finished_at is null)
    else false
  end;
end $$;
"""

CLAIM = """
drop function jobsworth.claim(uuid, text[], smallint[], bigint[], text[], int);
create function jobsworth.claim(
  worker_id uuid, queues text[], priorities smallint[], positions bigint[], modes text[],
  wanted int)
  returns table (
    id uuid, lease_no bigint, queue text, priority smallint, "position" bigint, mode text,
    payload jsonb, attempt int, failures int, failures_max int, timeout_seconds real, team_id uuid,
    thread_id uuid, trigger_message_id uuid, parent_id uuid, is_child boolean, lane text,
    trace_parent text, run_id uuid, node text, agent_id uuid, waited_seconds float8)
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
      j.parent_id, j.is_child, j.lane, j.trace_parent, j.run_id, j.node, j.agent_id,
      greatest(0, date_part('epoch', now() - coalesce(j.run_at, j.created_at))) as waited_seconds
  )
  select t.id, t.lease_no, t.queue, t.priority, t.position, t.mode, t.payload, t.attempt,
    t.failures, t.failures_max, t.timeout_seconds, t.team_id, t.thread_id, t.trigger_message_id,
    t.parent_id, t.is_child, t.lane, t.trace_parent, t.run_id, t.node, t.agent_id, t.waited_seconds
  from taken t
  union all
  select d.id, null, r.queue, r.priority, r.position, null, null, null, null, null, null, null,
    null, null, null, null, d.lane, null, null, null, null, null
  from deferred d join ready r on r.id = d.id;
end $$;
"""

FINISH = """
create or replace function jobsworth.finish(
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
    j.lane is not null or j.run_id is not null or j.is_child or j.status = 'waiting'
    or (select true from jobsworth.job_edges e where e.needs_job_id = j.id limit 1) is not null
    or (select true from jobsworth.approvals a
      where a.job_id = j.id and a.status = 'pending' limit 1) is not null
    or (select true from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null limit 1) is not null
    ) as unblocks;
end $$;
"""

WHY = """
create or replace function jobsworth.why(job_id uuid)
  returns table (status jobsworth.job_status, reason text, detail text, remedy text)
  language plpgsql stable as $$
#variable_conflict use_column
declare
  j jobsworth.reactive_jobs;
  other record;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = why.job_id;
  if not found then
    return;
  end if;
  status := j.status;
  if j.status = 'waiting' then
    reason := j.waiting_for::text;
    case j.waiting_for
    when 'timer' then
      detail := 'until ' || to_char(j.run_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
        || case when j.failures > 0 then ', after failure ' || j.failures || ': '
             || coalesce(j.error, 'no message') else '' end
        || coalesce(': ' || j.waiting_detail, '');
      -- Run again, a handler that sleeps would only sleep on.
      remedy := case when j.waiting_detail = 'its handler sleeps'
        then 'wait, or cancel it: jobsworth cancel '
        else 'wait, or run it now: jobsworth retry ' end || j.id;
    when 'lane' then
      select x.id, x.status into other from jobsworth.reactive_jobs x
      where x.lane = j.lane and x.status = 'running' limit 1;
      if not found then
        select x.id, x.status into other from jobsworth.reactive_jobs x
        where x.id = jobsworth.lane_head(j.lane) and x.id <> j.id;
      end if;
      detail := 'lane ' || j.lane || coalesce(', behind job ' || other.id || ' (' || other.status
        || ')', ', next to be promoted');
      remedy := coalesce('jobsworth why ' || other.id, 'nothing to do: a worker promotes it');
    when 'parents' then
      select p.id, p.status into other from jobsworth.job_edges e
      join jobsworth.reactive_jobs p on p.id = e.needs_job_id
      where e.job_id = j.id and p.finished_at is null limit 1;
      detail := coalesce('needs job ' || other.id || ' (' || other.status || ')',
        'next to be promoted');
      remedy := coalesce('jobsworth why ' || other.id, 'nothing to do: a worker promotes it');
    when 'children' then
      select count(*) as open, min(c.id::text) as id into other from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null;
      detail := other.open || ' of its children have not ended';
      remedy := coalesce('jobsworth why ' || other.id, 'nothing to do: a worker promotes it');
    when 'approval' then
      select a.id, a.proposal_text, a.deadline into other from jobsworth.approvals a
      where a.job_id = j.id and a.status = 'pending' limit 1;
      detail := coalesce('approval ' || other.id || ': ' || left(other.proposal_text, 120),
        'decided, next to be promoted');
      remedy := coalesce('jobsworth approve ' || other.id || ', or jobsworth reject ' || other.id,
        'nothing to do: a worker promotes it');
    when 'signal' then
      detail := 'signal ' || coalesce(j.waiting_detail, '?')
        || coalesce(', at most until ' || to_char(j.run_at at time zone 'utc',
             'YYYY-MM-DD HH24:MI:SS') || ' UTC', '');
      remedy := 'jobsworth signal ' || j.id || ' '
        || coalesce(jobsworth.shell_word(j.waiting_detail), 'NAME');
    when 'handler' then
      detail := 'no living worker knows the mode ' || j.mode;
      remedy := 'start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job';
    when 'limit' then
      select coalesce(e.detail, coalesce(j.waiting_detail, 'a limit')
          || coalesce(', until ' || to_char(j.run_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS')
               || ' UTC', '')),
        coalesce(e.remedy, 'nothing to do: it is tried again then')
      into detail, remedy from (select 1) one left join jobsworth.why_environment(j.id) e on true;
    when 'budget' then
      select coalesce(b.detail, j.waiting_detail, 'a budget'),
        coalesce(b.remedy, 'jobsworth job ' || j.id)
      into detail, remedy from (select 1) one left join jobsworth.why_budget(j.id) b on true;
    when 'person' then
      select coalesce(p.detail, j.waiting_detail, 'a person'),
        coalesce(p.remedy, 'jobsworth job ' || j.id)
      into detail, remedy from (select 1) one left join jobsworth.why_person(j.id) p on true;
    else
      detail := coalesce(j.waiting_detail, j.waiting_for::text);
      remedy := 'jobsworth job ' || j.id;
    end case;
  elsif j.status = 'queued' then
    if exists (select 1 from jobsworth.queues q where q.name = j.queue and q.paused) then
      reason := 'paused';
      detail := 'queue ' || j.queue || ' is paused';
      remedy := 'jobsworth queue resume ' || j.queue;
    elsif not exists (select 1 from jobsworth.workers w
        where w.beaten_at > now() - interval '12 seconds' and not w.draining) then
      reason := 'no worker';
      detail := 'no worker is alive';
      remedy := 'start one: jobsworth worker';
    elsif not exists (select 1 from jobsworth.workers w
        where j.mode = any(w.modes) and w.beaten_at > now() - interval '12 seconds'
          and not w.draining) then
      reason := 'no handler';
      detail := 'no living worker knows the mode ' || j.mode;
      remedy := 'start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job';
    elsif not exists (select 1 from jobsworth.workers w
        where j.mode = any(w.modes) and j.queue = any(w.queues)
          and w.beaten_at > now() - interval '12 seconds' and not w.draining) then
      reason := 'no worker';
      detail := 'no worker that knows ' || j.mode || ' serves the queue ' || j.queue;
      remedy := 'add ' || j.queue || ' to a worker''s JOBSWORTH_QUEUES';
    else
      reason := 'no slot';
      detail := 'ready: the next free slot takes it in its turn';
      remedy := 'nothing to do, or add workers or slots (JOBSWORTH_SLOTS)';
    end if;
  elsif j.status = 'running' then
    reason := 'running';
    select w.host, w.pid into other from jobsworth.workers w where w.id = j.worker_id;
    detail := 'attempt ' || j.attempt || coalesce(' on ' || other.host || ', process ' || other.pid,
      ' of a worker that is gone: it will be rescued')
      || case when j.cancel_requested then ', cancel requested' else '' end;
    remedy := 'wait, or cancel it: jobsworth cancel ' || j.id;
  else
    reason := j.status::text;
    detail := coalesce(j.error, 'ended at ' || to_char(j.finished_at at time zone 'utc',
      'YYYY-MM-DD HH24:MI:SS') || ' UTC');
    remedy := case when j.status = 'done' then 'nothing to do'
      else 'run it again: jobsworth retry ' || j.id end;
  end if;
  return next;
end $$;
"""

VIOLATIONS = """
drop view jobsworth.violations;

create view jobsworth.violations_of_queue (invariant, subject_id, detail, at) as
select 'two running in a lane', j.id, 'lane ' || j.lane, 'infinity'::timestamptz
from jobsworth.reactive_jobs j
where j.status = 'running' and j.lane is not null and exists (
  select 1 from jobsworth.reactive_jobs o
  where o.lane = j.lane and o.status = 'running' and o.id <> j.id)
union all
select 'running without a living worker', j.id, 'since ' || j.started_at, 'infinity'
from jobsworth.unattended(30) u
cross join lateral (
  select r.id, r.started_at from jobsworth.reactive_jobs r
  where r.id = u.id and r.lease_no = u.lease_no and r.status = 'running'
  offset 0) j
where j.started_at < now() - interval '30 seconds'
union all
-- Timers by their time, so that those that are not due cost nothing however many they are.
select 'waiting though its reason is gone', j.id, j.waiting_for::text, 'infinity'
from jobsworth.reactive_jobs j
where j.status = 'waiting' and j.waiting_for in ('timer', 'signal')
  and j.run_at < now() - interval '30 seconds' and jobsworth.reason_gone(j)
union all
select 'waiting though its reason is gone', j.id, j.waiting_for::text, 'infinity'
from jobsworth.reactive_jobs j
where j.status = 'waiting'
  and j.waiting_for in ('lane', 'parents', 'children', 'approval', 'handler', 'signal')
  and (j.waiting_for <> 'signal' or j.run_at is null)
  and coalesce(j.run_at, j.created_at) < now() - interval '30 seconds' and jobsworth.reason_gone(j)
union all
select 'ended with an open child', c.id, 'parent ' || c.parent_id, 'infinity'
from jobsworth.reactive_jobs c
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = c.parent_id offset 0) p
where c.is_child and c.finished_at is null and not c.cancel_requested
  and p.finished_at < now() - interval '30 seconds';

create view jobsworth.violations_of_books (invariant, subject_id, detail, at) as
select 'settled call without its ledger entry', c.id, c.provider || ' ' || c.model, c.settled_at
from jobsworth.llm_calls c
where c.settled_at is not null and not exists (
  select 1 from jobsworth.token_ledger l where l.call_id = c.id and l.entry = 'settle')
union all
select 'open call without its attempt', c.id, c.provider || ' ' || c.model, 'infinity'
from jobsworth.llm_calls c
where c.status = 'started' and c.started_at < now() - interval '60 seconds'
  and c.job_id is not null and not exists (
  select 1 from jobsworth.reactive_jobs j
  where j.id = c.job_id and j.lease_no = c.lease_no and j.status = 'running')
union all
select 'ledger entry that contradicts its call', c.id,
  row(l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost)
  || ' is not ' || row(c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens,
    c.cost),
  c.settled_at
from jobsworth.llm_calls c
cross join lateral (
  select e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_write_tokens, e.cost
  from jobsworth.token_ledger e
  where e.call_id = c.id and e.entry = 'settle'
  offset 0) l
where l.cost is distinct from c.cost
  or l.input_tokens <> coalesce(c.input_tokens, 0)
  or l.output_tokens <> coalesce(c.output_tokens, 0)
  or l.cache_read_tokens <> coalesce(c.cache_read_tokens, 0)
  or l.cache_write_tokens <> coalesce(c.cache_write_tokens, 0);

create view jobsworth.violations_of_consent (invariant, subject_id, detail, at) as
select 'ended with an open approval', a.job_id, 'approval ' || a.id, 'infinity'::timestamptz
from jobsworth.approvals a
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = a.job_id offset 0) j
where a.status = 'pending' and j.finished_at < now() - interval '30 seconds';

create view jobsworth.violations_of_shipping (invariant, subject_id, detail, at) as
select 'healthy without a passing probe', d.id, d.environment, 'infinity'::timestamptz
from jobsworth.deployments d
where d.status = 'healthy' and not coalesce((d.probe ->> 'passed')::boolean, false)
union all
select 'unfinished deployment of a finished job', d.id, d.environment, 'infinity'
from jobsworth.deployments d
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = d.job_id offset 0) j
where d.finished_at is null and j.finished_at < now() - interval '30 seconds';

-- (No function moves runs yet.)
create view jobsworth.violations_of_runs (invariant, subject_id, detail, at) as
select null::text, null::uuid, null::text, null::timestamptz where false;

-- Every breach of an invariant, by chapter. It is empty, always. `at` is when a settled call was
-- settled, the books being too long to be read every minute; all else is as if it were now
-- (infinity).
create view jobsworth.violations as
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_queue v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_runs v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_books v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_consent v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_shipping v;
"""

DOWN = """
drop view jobsworth.violations, jobsworth.violations_of_queue, jobsworth.violations_of_runs,
  jobsworth.violations_of_books, jobsworth.violations_of_consent,
  jobsworth.violations_of_shipping;
drop function jobsworth.claim(uuid, text[], smallint[], bigint[], text[], int);
"""

DOWN_TABLES = """
drop function jobsworth.why_environment(uuid);
drop function jobsworth.environment_is_free(jobsworth.reactive_jobs);
drop function jobsworth.shell_word(text);
drop function jobsworth.why_person(uuid);
drop function jobsworth.why_budget(uuid);
drop function jobsworth.grant_budgets(uuid[]);
drop function jobsworth.budget_has_room(uuid);
drop index jobsworth.jobs_due;
create index jobs_due on jobsworth.reactive_jobs (run_at)
  where status = 'waiting' and waiting_for in ('timer', 'signal') and run_at is not null;
alter table jobsworth.job_edges drop column on_failure;
drop index jobsworth.jobs_node;
alter table jobsworth.reactive_jobs drop column run_id, drop column node, drop column agent_id;
drop table jobsworth.run_metrics, jobsworth.branches, jobsworth.runs;
drop type jobsworth.parent_failure;
drop type jobsworth.run_status;
"""


def upgrade() -> None:
    for part in (TABLES, WAITING, CLAIM, FINISH, WHY, VIOLATIONS):
        run(part)


def downgrade() -> None:
    run(DOWN)
    for revision_file, name in (
        ("0001_first_light", "function jobsworth.reason_gone"),
        ("0001_first_light", "function jobsworth.why"),
        ("0003_one_message", "function jobsworth.claim"),
        ("0003_one_message", "function jobsworth.finish"),
        ("0004_upkeep", "view jobsworth.violations"),
    ):
        run(earlier(revision_file, name))
    run(DOWN_TABLES)
