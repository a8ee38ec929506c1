-- Start a run: declare its jobs and what each needs, in one call and one transaction.
--
-- An edge says what a failed parent means (`fail` in `start_run`, `skip` in `enqueue`, or `run`;
-- where bad parents differ, in this order), and `reconsider` acts on it. Edges come only with the
-- job that needs the other one: later, that job may have run. Nodes have no lane unless they name
-- one.

-- Declare and start a run. Returns its id.
--
-- `nodes` is an array of objects: node (its unique name), mode, payload, after (names, or objects
-- with node and on_failure: fail, skip or run), queue, priority, lane (none unless given),
-- failures_max, crashes_max, timeout_seconds, delay (seconds) or run_at, holds_lane, agent_id.
--
-- If a run has this idempotency key, or this id, already, that run is returned. If it is a draft,
-- it is started now, and keeps the values that are not given here.
create function jobsworth.start_run(
  nodes jsonb, request jsonb default '{}', actor text default null, thread_id uuid default null,
  agent_id uuid default null, team_id uuid default null, session_id uuid default null,
  project_id uuid default null, trace_id text default null, idempotency_key text default null,
  trigger_message_id uuid default null, trace_parent text default null,
  metadata jsonb default '{}', status jobsworth.run_status default 'executing',
  id uuid default null, request_id text default null)
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
  jobs_made int;
  parent_trace text := start_run.trace_parent;
begin
  perform jobsworth.check_nodes(start_run.nodes);
  if start_run.status not in ('planning', 'executing') then
    raise exception 'a run does not start as %', start_run.status
      using errcode = 'invalid_parameter_value', hint = 'Start as planning or executing.';
  end if;
  -- The number of a job is its place in `nodes`.
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
    id, run_id, node, agent_id, team_id, thread_id, trigger_message_id, trace_parent, request_id,
    mode, payload,
    queue, priority, lane, failures_max, crashes_max, timeout_seconds, run_at, holds_lane,
    session_id, status, waiting_for)
  select ids[e.n], made.id, e.spec ->> 'node',
    coalesce((e.spec ->> 'agent_id')::uuid, made.agent_id), made.team_id,
    made.thread_id, start_run.trigger_message_id, parent_trace, start_run.request_id,
    e.spec ->> 'mode',
    coalesce(nullif(e.spec -> 'payload', 'null'), '{}'),
    coalesce(e.spec ->> 'queue', 'default'), coalesce((e.spec ->> 'priority')::smallint, 3),
    -- Nodes run side by side: they do not join the lane of the thread, only a lane that they name.
    coalesce(e.spec ->> 'lane', case when made.thread_id is not null then '' end),
    (e.spec ->> 'failures_max')::int, (e.spec ->> 'crashes_max')::int,
    (e.spec ->> 'timeout_seconds')::real,
    coalesce((e.spec ->> 'run_at')::timestamptz,
      clock_timestamp() + (e.spec ->> 'delay')::float8 * interval '1 second'),
    coalesce((e.spec ->> 'holds_lane')::boolean, false), made.session_id,
    case when needs.are_there then 'waiting' else 'queued' end::jobsworth.job_status,
    case when needs.are_there then 'parents' end::jobsworth.wait_reason
  from jsonb_array_elements(start_run.nodes) with ordinality as e (spec, n)
  cross join lateral (
    select exists (select 1 from jobsworth.needs_of(e.spec)) as are_there) needs
  order by e.n;
  get diagnostics jobs_made = row_count;
  if jobs_made < cardinality(ids) then
    raise exception 'the run was not started: a trigger of reactive_jobs keeps % of its % jobs out',
      cardinality(ids) - jobs_made, cardinality(ids)
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Let the trigger return the row. The table''s own triggers are those of the schema; '
        'list them: \d jobsworth.reactive_jobs.';
  end if;
  insert into jobsworth.job_edges (job_id, needs_job_id, on_failure)
  select ids[e.child], ids[e.parent], e.on_failure::jobsworth.parent_failure
  from unnest(children, parents, failures) as e (child, parent, on_failure);
  if start_run.status = 'executing' then
    perform jobsworth.move_runs(array[made.id]);
  end if;
  return made.id;
end $$;

-- The names in the `after` of a node, each with its `on_failure`.
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

-- Refuses a list of nodes that is not valid; the error names the node and the reason.
create function jobsworth.check_nodes(nodes jsonb) returns void language plpgsql stable as $$
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
        when (e.spec ->> 'delay')::numeric < 0 or e.spec ->> 'delay' is not null
          and e.spec ->> 'run_at' is not null
          then 'has a delay that is negative, or given together with run_at'
        when (e.spec ->> 'delay')::numeric > 3153600000
          then 'has a delay of more than 100 years (3153600000 seconds)'
        when (e.spec ->> 'priority')::numeric not in (1, 2, 3, 4)
          then 'has a priority that is not 1 to 4'
        when (e.spec ->> 'timeout_seconds')::numeric not between 0.001 and 1000000000
          then 'has a timeout_seconds that is not 0.001 to 1e9'
        when exists (
          select 1 from jsonb_each_text(e.spec) o
          where o.key in ('failures_max', 'crashes_max')
            and (o.value::numeric not between 1 and 2147483647 or o.value::numeric % 1 <> 0))
          then 'has a failures_max or crashes_max that is not a whole number from 1 on'
        when e.spec ->> 'queue' = '' or octet_length(e.spec ->> 'queue') > 1000
          then 'has a queue that is not 1 to 1000 bytes long'
        when octet_length(e.spec ->> 'lane') > 1000 then 'has a lane of more than 1000 bytes'
        when not pg_input_is_valid(e.spec ->> 'holds_lane', 'boolean')
          then 'has a holds_lane that is neither true nor false'
        when not pg_input_is_valid(e.spec ->> 'agent_id', 'uuid')
          then 'has an agent_id that is not a UUID'
        when not case when pg_input_is_valid(e.spec ->> 'run_at', 'timestamptz')
            then (e.spec ->> 'run_at')::timestamptz >= '1900-01-01 00:00:00+00'
              and (e.spec ->> 'run_at')::timestamptz < '2200-01-01 00:00:00+00'
            else e.spec ->> 'run_at' is null end
          then 'has a run_at that is not a time from 1900 to 2199'
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

-- Refuses nodes that need each other in a circle; the error names them. It searches depth first and
-- without recursion, because a chain may have thousands of nodes. The i-th child needs the i-th
-- parent; `children` is sorted.
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
  -- If all needs point to earlier nodes, there is no circle.
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
