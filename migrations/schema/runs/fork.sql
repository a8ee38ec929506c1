-- Fork a run: a new run goes on from a node, or from a step of it, with changed input. The rules
-- are here, so that every client gets the same fork.
--
-- A chain of branches takes the earliest cut. Edges of a branch lead to the jobs that are done
-- elsewhere. Consent is never inherited; what a branch's job says, it says again; a deployment
-- ships anew.

-- What a fork of this run would do with each node:
-- - `fork`: the run forks here; the new job reads what the old one recorded before the cut.
-- - `after`: needs the fork; the new job runs from its start.
-- - `open`: elsewhere, and not done yet; the new job goes on from what is recorded by now.
-- - `read`: done, and read. So is a child that was done before the cut of its parent.
-- - `again`: made by a job that runs again, which makes it again.
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
      hint = 'List runs: jobsworth run list.';
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
    -- The cut is where the step began. A checkpoint is read too, so there the cut is just after it.
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
  -- The jobs that those which run again have made: they will make them again.
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
    -- A fork of a fork reads children of jobs that lie further back.
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

-- Fork a run at this node (and step), with changed input. Returns the id of the new run.
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
  -- The fork reads what is recorded by now, and not what is being recorded: an attempt locks the
  -- row of its job when it writes, and so does a transaction that prunes checkpoints.
  perform 1 from jobsworth.reactive_jobs j
  where j.id = any(array(
    select p.job_id
    from jobsworth.plan_fork(fork_run.run_id, fork_run.node, fork_run.step, fork_run.changes) p
    where p.part in ('fork', 'open')))
  order by j.id for no key update;
  -- A transaction that deletes the run has locked it: wait for it, and find the run gone. The lock
  -- on the jobs does not do that, because all of them may belong to runs further back.
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
  select branch, fork_run.run_id, team, u.node, fork_run.step, u.cut_at,
    coalesce(fork_run.changes, '{}'), coalesce(nullif(fork_run.created_by, ''), session_user)
  from unnest(nodes, parts, cuts) as u (node, part, cut_at) where u.part = 'fork';

  insert into jobsworth.reactive_jobs (
    id, run_id, node, agent_id, team_id, thread_id, trigger_message_id, request_id, mode, payload,
    queue,
    priority, lane, holds_lane, failures_max, crashes_max, timeout_seconds, fair_key, session_id,
    status, waiting_for)
  select u.new_id, branch, u.node, j.agent_id, j.team_id, j.thread_id, j.trigger_message_id,
    j.request_id, j.mode,
    j.payload || coalesce(fork_run.changes -> u.node, '{}'), j.queue, j.priority,
    coalesce(j.lane, ''), j.holds_lane, j.failures_max, j.crashes_max, j.timeout_seconds,
    j.fair_key, j.session_id,
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
  -- If a job that is needed does not run again, the edge leads to the job that is done.
  insert into jobsworth.job_edges (job_id, needs_job_id, on_failure)
  select u.new_id, coalesce(news[array_position(olds, e.needs_job_id)], e.needs_job_id),
    e.on_failure
  from unnest(olds, news) as u (old_id, new_id)
  join jobsworth.job_edges e on e.job_id = u.old_id
  where u.new_id is not null;

  needy := array(
    select distinct e.job_id from jobsworth.job_edges e where e.job_id = any(news));
  if needy <> '{}' then
    perform jobsworth.reconsider(needy, wait_for_locks => true);
  end if;
  return branch;
end $$;
