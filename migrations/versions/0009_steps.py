"""Steps that a person must decide, and branches: runs that go on from a step of another.

A step keeps who began it and what went wrong in it. An unsafe one that was begun and not recorded
is decided by `decide_step`, and who decided is kept.

A branch's job reads the steps that the same node of the other run recorded before the cut:
`branch_reads` says from which job, and until when. Nothing is copied, so nothing is paid again.
What was done outside of the fork is read where it is: the edges of a branch lead there.
"""

from migrations.sql import earlier, run

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = """
alter table jobsworth.steps add column error text, add column begun_by text;

-- What people said of unsafe steps that were begun and not recorded.
create table jobsworth.step_decisions (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid not null,
  step_name text not null,
  decision text not null,
  output jsonb,
  attempt int not null,
  begun_at timestamptz not null,
  begun_by text,
  error text,
  decided_by text not null,
  decided_at timestamptz not null default clock_timestamp(),
  constraint decision_is_done_or_again check (decision in ('done', 'again'))
);
create index step_decisions_of_job on jobsworth.step_decisions (job_id, id);
create trigger step_decisions_are_append_only
  before update or delete on jobsworth.step_decisions
  for each row execute function jobsworth.refuse_change();

-- From which job a branch's job reads the steps that were recorded before the cut.
create table jobsworth.branch_reads (
  job_id uuid not null primary key references jobsworth.reactive_jobs on delete cascade,
  team_id uuid,
  from_job_id uuid not null references jobsworth.reactive_jobs on delete restrict,
  cut_at timestamptz not null
);
create index branch_reads_of_job on jobsworth.branch_reads (from_job_id);
"""

DECIDING = """
-- Which step waits for a person, and what that person can say.
create or replace function jobsworth.why_person(job_id uuid, out detail text, out remedy text)
  language sql stable begin atomic
  select 'step ' || s.name || ' was begun at '
      || to_char(s.started_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC by attempt '
      || s.attempt || coalesce(' on ' || s.begun_by, '') || ' and not recorded'
      || coalesce(' (' || s.error || ')', '') || '; it is unsafe to repeat',
    'if it happened: jobsworth step done ' || why_person.job_id || ' '
      || jobsworth.shell_word(s.name) || ' [--output JSON]; if it did not: jobsworth step again '
      || why_person.job_id || ' ' || jobsworth.shell_word(s.name)
  from jobsworth.steps s
  where s.job_id = why_person.job_id and s.effect = 'unsafe' and s.kind <> 'phase'
    and s.finished_at is null
  order by s.started_at
  limit 1;
end;

-- Say of an unsafe step that was begun and not recorded: it is done (with this output), or it did
-- not happen and is to run again. The job that waits for this goes on in the same transaction.
-- Returns the job's status.
create function jobsworth.decide_step(
  job_id uuid, name text, decision text, output jsonb default null, decided_by text default null)
  returns jobsworth.job_status language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  j jobsworth.reactive_jobs;
  s jobsworth.steps;
  said jobsworth.step_decisions;
begin
  if (decide_step.decision in ('done', 'again')) is not true then
    raise exception '% is no decision about a step', coalesce(decide_step.decision, 'null')
      using errcode = 'invalid_parameter_value', hint = 'Say done, or again.';
  elsif decide_step.decision = 'again' and decide_step.output is not null then
    raise exception 'a step that is to run again has no output yet'
      using errcode = 'invalid_parameter_value', hint = 'Leave the output out, or say done.';
  end if;
  -- The job's row first, as everybody does. Nothing can begin or record a step meanwhile.
  select x.* into j from jobsworth.reactive_jobs x
  where x.id = decide_step.job_id for no key update;
  if not found then
    raise exception 'there is no job %', decide_step.job_id using errcode = 'no_data_found',
      hint = 'List jobs: jobsworth jobs.';
  elsif j.status = 'running' then
    raise exception 'job % is running: its attempt % may still record step %',
      j.id, j.attempt, decide_step.name
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Wait until it has ended, or cancel it first: jobsworth cancel ' || j.id;
  end if;
  select x.* into s from jobsworth.steps x
  where x.job_id = j.id and x.name = decide_step.name for update;
  if not found or s.finished_at is not null then
    select x.* into said from jobsworth.step_decisions x
    where x.job_id = j.id and x.step_name = decide_step.name order by x.id desc limit 1;
    if s.name is null and said.id is null then
      raise exception 'job % has no step %', j.id, decide_step.name
        using errcode = 'no_data_found', hint = coalesce('Its open steps: ' || (
            select string_agg(o.name, ', ' order by o.started_at) from jobsworth.steps o
            where o.job_id = j.id and o.effect = 'unsafe' and o.kind <> 'phase'
              and o.finished_at is null), 'None of its steps waits for a person.');
    end if;
    raise exception 'step % of job % is not open%', decide_step.name, j.id,
      case when said.id is not null then ': ' || said.decided_by || ' said ' || said.decision
          || to_char(said.decided_at at time zone 'utc', ' "at" YYYY-MM-DD HH24:MI:SS "UTC"')
        else ': it is recorded' end
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'See the job''s steps: jobsworth job ' || j.id;
  elsif s.effect <> 'unsafe' or s.kind = 'phase' then
    raise exception 'step % of job % needs no decision: its next attempt goes on with it by itself',
      s.name, j.id
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Only a step that was begun as unsafe waits for a person.';
  end if;
  insert into jobsworth.step_decisions (
    team_id, job_id, step_name, decision, output, attempt, begun_at, begun_by, error, decided_by)
  values (j.team_id, j.id, s.name, decide_step.decision, decide_step.output, s.attempt,
    s.started_at, s.begun_by, s.error, coalesce(nullif(decide_step.decided_by, ''), session_user));
  if decide_step.decision = 'done' then
    update jobsworth.steps x
    set output = coalesce(decide_step.output, 'null'), finished_at = clock_timestamp()
    where x.job_id = j.id and x.name = s.name;
  else
    delete from jobsworth.steps x where x.job_id = j.id and x.name = s.name;
  end if;
  perform jobsworth.reconsider(array[j.id], patient => true);
  return (select x.status from jobsworth.reactive_jobs x where x.id = j.id);
end $$;
"""

READING = """
-- What a branch reads of another run. Not the phases of a deployment: a branch ships anew. Not what
-- stands for a person's consent: a branch asks again. ('pruned' is a checkpoint without its state.)
create function jobsworth.is_inherited(kind text) returns boolean language sql immutable
  return kind in ('step', 'call', 'tool', 'wait', 'sleep', 'transaction', 'gather', 'checkpoint',
    'pruned');

-- The jobs whose steps this one reads, nearest first, each until its cut.
create function jobsworth.sources_of(job_id uuid)
  returns table (from_job_id uuid, cut_at timestamptz, depth int) language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  with recursive chain as (
    select b.from_job_id, b.cut_at, 1 as depth
    from jobsworth.branch_reads b
    where b.job_id = sources_of.job_id
    union all
    select b.from_job_id, least(b.cut_at, c.cut_at), c.depth + 1
    from chain c join jobsworth.branch_reads b on b.job_id = c.from_job_id
  )
  select c.from_job_id, c.cut_at, c.depth from chain c
$$;

-- The steps of other jobs that this one reads as its own.
create function jobsworth.inherited_steps(job_id uuid) returns setof jobsworth.steps
  language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  select distinct on (s.name) s.*
  from jobsworth.sources_of(inherited_steps.job_id) c
  join jobsworth.steps s on s.job_id = c.from_job_id
  where s.finished_at < c.cut_at and jobsworth.is_inherited(s.kind) and not exists (
    select 1 from jobsworth.steps own
    where own.job_id = inherited_steps.job_id and own.name = s.name)
  order by s.name, c.depth
$$;

-- The children of other jobs, done before the cut, that this one gathers as its own.
create function jobsworth.inherited_children(job_id uuid)
  returns table (id uuid, effect_key text, status text, result jsonb, error text)
  language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  select distinct on (c.effect_key) c.id, c.effect_key, c.status::text, c.result, c.error
  from jobsworth.sources_of(inherited_children.job_id) s
  join jobsworth.reactive_jobs c on c.parent_id = s.from_job_id
  where c.is_child and c.status = 'done' and c.finished_at < s.cut_at and not exists (
    select 1 from jobsworth.reactive_jobs own
    where own.parent_id = inherited_children.job_id and own.effect_key = c.effect_key)
  order by c.effect_key, s.depth
$$;

-- Is this child, done before the cut, one that the job gathers and does not spawn again?
create function jobsworth.inherits_child(job_id uuid, effect_key text) returns boolean
  language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  select exists (
    select 1 from jobsworth.sources_of(inherits_child.job_id) s
    join jobsworth.reactive_jobs c
      on c.parent_id = s.from_job_id and c.effect_key = inherits_child.effect_key
    where c.is_child and c.status = 'done' and c.finished_at < s.cut_at)
$$;

-- The jobs that a run is made of, by node: its own, and of the runs it branched off those whose
-- node it has no job of its own for, unless that job's maker was made anew.
create function jobsworth.jobs_of_run(run_id uuid)
  returns table (node text, job_id uuid) language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  with recursive lineage as (
    select jobs_of_run.run_id as id, 0 as depth
    union all
    select b.parent_run_id, l.depth + 1
    from lineage l join jobsworth.branches b on b.run_id = l.id
  ), nearest as materialized (
    select distinct on (j.node) j.node, j.id, j.parent_id
    from lineage l join jobsworth.reactive_jobs j on j.run_id = l.id
    where j.node is not null
    order by j.node, l.depth
  ), members as (
    select n.node, n.id from nearest n
    where n.parent_id is null or not exists (
      select 1 from jobsworth.reactive_jobs p join lineage l on l.id = p.run_id
      where p.id = n.parent_id)
    union all
    select n.node, n.id from members m join nearest n on n.parent_id = m.id
  )
  select m.node, m.id from members m
$$;
"""

FORKING = """
-- What a fork of this run would do, node by node. 'fork': where it forks; reads what that job
-- recorded before the cut. 'after': needs the fork; runs from its start. 'open': not done yet
-- elsewhere; goes on from what it has recorded by now. 'read': done, and read; so is a child that
-- was done before the cut of its parent. 'again': made by one that runs again, and makes it again.
create function jobsworth.plan_fork(
  run_id uuid, at_node text default null, at_step text default null, changes jsonb default '{}')
  returns table (node text, job_id uuid, part text, cut_at timestamptz) language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  nodes text[];
  jobs uuid[];
  at text := plan_fork.at_node;
  fork jobsworth.reactive_jobs;
  s jobsworth.steps;
  cut timestamptz;
  after uuid[];
  fresh uuid[];
  made uuid[];
  more uuid[];
  one record;
begin
  perform 1 from jobsworth.runs r where r.id = plan_fork.run_id;
  if not found then
    raise exception 'there is no run %', plan_fork.run_id using errcode = 'no_data_found',
      hint = 'List runs: jobsworth runs.';
  end if;
  select array_agg(v.node order by v.node), array_agg(v.job_id order by v.node)
  into nodes, jobs from jobsworth.jobs_of_run(plan_fork.run_id) v;
  if nodes is null then
    raise exception 'run % has no jobs to fork', plan_fork.run_id
      using errcode = 'object_not_in_prerequisite_state', hint = 'Start it first.';
  end if;
  if at is null and plan_fork.at_step is null then
    if cardinality(nodes) > 1 then
      raise exception 'run % has several nodes: which one is to be forked?', plan_fork.run_id
        using errcode = 'invalid_parameter_value',
        hint = 'Name the node, or the step. Its nodes: ' || array_to_string(nodes, ', ');
    end if;
    at := nodes[1];
  elsif at is null then
    select min(f.node) as node, count(*) as found, string_agg(f.node, ', ') as all_of_them into one
    from (
      select v.node from unnest(nodes, jobs) as v (node, job_id)
      where exists (select 1 from jobsworth.steps x
          where x.job_id = v.job_id and x.name = plan_fork.at_step)
        or exists (select 1 from jobsworth.inherited_steps(v.job_id) x
          where x.name = plan_fork.at_step)
      order by v.node) f;
    if one.found = 0 then
      raise exception 'no node of run % has a step %', plan_fork.run_id, plan_fork.at_step
        using errcode = 'no_data_found', hint = 'Its nodes: ' || array_to_string(nodes, ', ');
    elsif one.found > 1 then
      raise exception 'several nodes of run % have a step %', plan_fork.run_id, plan_fork.at_step
        using errcode = 'invalid_parameter_value', hint = 'Name one of them: ' || one.all_of_them;
    end if;
    at := one.node;
  end if;
  select x.* into fork from jobsworth.reactive_jobs x
  where x.id = jobs[array_position(nodes, at)];
  if not found then
    raise exception 'run % has no node %', plan_fork.run_id, at
      using errcode = 'no_data_found', hint = 'Its nodes: ' || array_to_string(nodes, ', ');
  elsif fork.is_child then
    raise exception 'node % of run % is a child: the job that spawned it has its result',
      at, plan_fork.run_id using errcode = 'invalid_parameter_value',
      hint = coalesce('Fork where it was spawned: '
        || (select p.node from jobsworth.reactive_jobs p where p.id = fork.parent_id),
        'Fork another node.');
  end if;
  if plan_fork.at_step is not null then
    select x.* into s from (
      select o.* from jobsworth.steps o where o.job_id = fork.id
      union all
      select i.* from jobsworth.inherited_steps(fork.id) i) x
    where x.name = plan_fork.at_step;
    if not found then
      raise exception 'node % of run % has no step %', at, plan_fork.run_id, plan_fork.at_step
        using errcode = 'no_data_found', hint = coalesce('Its steps: ' || (
            select string_agg(x.name, ', ' order by x.started_at, x.name) from (
              select o.name, o.started_at from jobsworth.steps o where o.job_id = fork.id
              union all
              select i.name, i.started_at from jobsworth.inherited_steps(fork.id) i) x),
          'It has none yet: leave the step out.');
    elsif s.kind = 'pruned' then
      raise exception 'checkpoint % of node % was pruned', s.name, at
        using errcode = 'object_not_in_prerequisite_state', hint = 'Fork at a later one.';
    end if;
    -- What was recorded before the step began; a checkpoint is read itself.
    cut := case when s.kind = 'checkpoint' then s.finished_at + interval '1 microsecond'
      else s.started_at end;
  end if;

  after := '{}';
  more := array[fork.id];
  while more <> '{}' loop
    more := array(
      select distinct e.job_id from jobsworth.job_edges e
      where e.needs_job_id = any(more) and e.job_id = any(jobs)
        and e.job_id <> all(after) and e.job_id <> fork.id);
    after := after || more;
  end loop;
  fresh := array[fork.id] || after || array(
    select x.id from jobsworth.reactive_jobs x
    where x.id = any(jobs) and x.status <> 'done' and x.id <> fork.id and x.id <> all(after));
  -- What those make that run again is made again by them.
  made := '{}';
  more := fresh;
  while more <> '{}' loop
    more := array(
      select x.id from jobsworth.reactive_jobs x
      where x.parent_id = any(more) and x.id = any(jobs) and x.id <> fork.id and x.id <> all(made));
    made := made || more;
  end loop;

  for one in
    select c.key, c.value, jsonb_typeof(c.value) as type from jsonb_each(plan_fork.changes) c
  loop
    if one.type <> 'object' then
      raise exception 'the change of node % is a JSON %, not an object', one.key, one.type
        using errcode = 'invalid_parameter_value',
        hint = 'Give the arguments that are to be other ones, like {"words": 100}.';
    elsif one.key <> all(nodes) then
      raise exception 'run % has no node % to change', plan_fork.run_id, one.key
        using errcode = 'no_data_found', hint = 'Its nodes: ' || array_to_string(nodes, ', ');
    elsif jobs[array_position(nodes, one.key)] <> all(fresh)
      or jobs[array_position(nodes, one.key)] = any(made)
    then
      raise exception 'node % does not run in this fork, so its input cannot be changed', one.key
        using errcode = 'invalid_parameter_value', hint = 'Fork at that node.';
    end if;
  end loop;

  return query
  with recursive planned as materialized (
    select v.node, v.job_id,
      case when v.job_id = fork.id then 'fork' when v.job_id = any(after) then 'after'
        when v.job_id = any(fresh) then 'open' else 'read' end as part,
      case when v.job_id = fork.id then cut when v.job_id = any(after) then null
        when v.job_id = any(fresh) then clock_timestamp() end as cut_at
    from unnest(nodes, jobs) as v (node, job_id)
    where v.job_id <> all(made)
  ), started as (
    select x.node, x.id,
      case when x.is_child and x.status = 'done' and x.finished_at < p.cut_at then 'read'
        else 'again' end as part
    from planned p
    join jobsworth.reactive_jobs x on x.parent_id = p.job_id and x.id = any(made)
    union all
    -- What a fork of a fork reads lies further back.
    select x.node, x.id, 'read'
    from planned p
    cross join lateral jobsworth.inherited_children(p.job_id) i
    join jobsworth.reactive_jobs x on x.id = i.id
    where x.finished_at < p.cut_at
    union all
    select x.node, x.id, s.part
    from started s join jobsworth.reactive_jobs x on x.parent_id = s.id and x.id <> fork.id
  )
  select p.node, p.job_id, p.part, p.cut_at from planned p
  union all
  select coalesce(s.node, s.id::text), s.id, s.part, null from started s;
end $$;

-- Fork a run: a new one goes on from this node (and step) with changed input. Returns its id.
create function jobsworth.fork_run(
  run_id uuid, node text default null, step text default null, changes jsonb default '{}',
  created_by text default null)
  returns uuid language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  branch uuid := jobsworth.uuidv7();
  team uuid;
  nodes text[];
  olds uuid[];
  parts text[];
  cuts timestamptz[];
  news uuid[];
  needy uuid[];
begin
  -- What is recorded by now is read, what is being recorded is not: an attempt holds its row when
  -- it writes, and so does whoever prunes.
  perform 1 from jobsworth.reactive_jobs j
  where j.id = any(array(
    select p.job_id
    from jobsworth.plan_fork(fork_run.run_id, fork_run.node, fork_run.step, fork_run.changes) p
    where p.part in ('fork', 'open')))
  order by j.id for no key update;
  -- Whoever removes the run holds it (its jobs may all lie further back): wait, and find it gone.
  perform 1 from jobsworth.runs r where r.id = fork_run.run_id for key share;
  select array_agg(p.node order by p.job_id), array_agg(p.job_id order by p.job_id),
    array_agg(p.part order by p.job_id), array_agg(p.cut_at order by p.job_id)
  into nodes, olds, parts, cuts
  from jobsworth.plan_fork(fork_run.run_id, fork_run.node, fork_run.step, fork_run.changes) p
  where p.part <> 'again';
  news := array(
    select case when u.part <> 'read' then jobsworth.uuidv7() end
    from unnest(parts) with ordinality as u (part, n) order by u.n);

  insert into jobsworth.runs (
    id, team_id, project_id, session_id, thread_id, agent_id, actor, request, status, started_at)
  select branch, r.team_id, r.project_id, r.session_id, r.thread_id, r.agent_id, r.actor, r.request,
    'executing', now()
  from jobsworth.runs r where r.id = fork_run.run_id
  returning runs.team_id into team;
  insert into jobsworth.branches (
    run_id, parent_run_id, team_id, node, step_name, cut_at, changes, created_by)
  select branch, fork_run.run_id, team, u.node, fork_run.step, coalesce(u.cut_at, '-infinity'),
    coalesce(fork_run.changes, '{}'), coalesce(nullif(fork_run.created_by, ''), session_user)
  from unnest(nodes, parts, cuts) as u (node, part, cut_at) where u.part = 'fork';

  insert into jobsworth.reactive_jobs (
    id, run_id, node, agent_id, team_id, thread_id, trigger_message_id, mode, payload, queue,
    priority, lane, holds_lane, failures_max, crashes_max, timeout_seconds, status, waiting_for)
  select u.new_id, branch, u.node, j.agent_id, j.team_id, j.thread_id, j.trigger_message_id, j.mode,
    j.payload || coalesce(fork_run.changes -> u.node, '{}'), j.queue, j.priority,
    coalesce(j.lane, ''), j.holds_lane, j.failures_max, j.crashes_max, j.timeout_seconds,
    case when e.needs then 'waiting' else 'queued' end::jobsworth.job_status,
    case when e.needs then 'parents'::jobsworth.wait_reason end
  from unnest(nodes, olds, news) with ordinality as u (node, old_id, new_id, n)
  join jobsworth.reactive_jobs j on j.id = u.old_id
  cross join lateral (
    select exists (
      select 1 from jobsworth.job_edges x where x.job_id = u.old_id) as needs) e
  where u.new_id is not null
  order by u.n;
  insert into jobsworth.branch_reads (job_id, team_id, from_job_id, cut_at)
  select u.new_id, team, u.old_id, u.cut_at
  from unnest(olds, news, cuts) as u (old_id, new_id, cut_at)
  where u.new_id is not null and u.cut_at is not null;
  -- Where what is needed does not run again, the edge leads to the job that is done.
  insert into jobsworth.job_edges (job_id, needs_job_id, on_failure)
  select u.new_id, coalesce(news[array_position(olds, e.needs_job_id)], e.needs_job_id),
    e.on_failure
  from unnest(olds, news) as u (old_id, new_id)
  join jobsworth.job_edges e on e.job_id = u.old_id
  where u.new_id is not null;

  needy := array(
    select distinct e.job_id from jobsworth.job_edges e where e.job_id = any(news));
  if needy <> '{}' then
    perform jobsworth.reconsider(needy, patient => true);
  end if;
  return branch;
end $$;
"""

DOWN = """
drop function jobsworth.fork_run(uuid, text, text, jsonb, text);
drop function jobsworth.plan_fork(uuid, text, text, jsonb);
drop function jobsworth.jobs_of_run(uuid);
drop function jobsworth.inherits_child(uuid, text);
drop function jobsworth.inherited_children(uuid);
drop function jobsworth.inherited_steps(uuid);
drop function jobsworth.sources_of(uuid);
drop function jobsworth.is_inherited(text);
drop function jobsworth.decide_step(uuid, text, text, jsonb, text);
"""

DOWN_TABLES = """
drop table jobsworth.branch_reads, jobsworth.step_decisions;
alter table jobsworth.steps drop column error, drop column begun_by;
"""


def upgrade() -> None:
    for part in (TABLES, DECIDING, READING, FORKING):
        run(part)


def downgrade() -> None:
    run(DOWN)
    run(earlier("0006_runs", "function jobsworth.why_person"))
    run(DOWN_TABLES)
