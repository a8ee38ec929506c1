CREATE SCHEMA jobsworth;

CREATE TYPE jobsworth.approval_status AS ENUM (
    'pending',
    'approved',
    'rejected',
    'superseded',
    'expired'
);

CREATE TYPE jobsworth.budget_over AS ENUM (
    'park',
    'fail',
    'ask'
);

CREATE TYPE jobsworth.budget_period AS ENUM (
    'hour',
    'day',
    'month',
    'run'
);

CREATE TYPE jobsworth.budget_unit AS ENUM (
    'tokens',
    'money'
);

CREATE TYPE jobsworth.call_status AS ENUM (
    'started',
    'ok',
    'error',
    'cut',
    'unknown'
);

CREATE TYPE jobsworth.call_verdict AS (
	request_id text,
	verdict text,
	call_id uuid,
	budget_id uuid,
	budget text,
	over text,
	detail text,
	wait_seconds double precision,
	warned text[]
);

CREATE TYPE jobsworth.deployment_status AS ENUM (
    'building',
    'testing',
    'deploying',
    'healthy',
    'rolled_back',
    'failed'
);

CREATE TYPE jobsworth.job_status AS ENUM (
    'queued',
    'waiting',
    'running',
    'done',
    'failed',
    'canceled'
);

CREATE TYPE jobsworth.ledger_entry AS ENUM (
    'reserve',
    'settle',
    'release',
    'adjust'
);

CREATE TYPE jobsworth.ledger_scope AS ENUM (
    'proactive',
    'reactive'
);

CREATE TYPE jobsworth.message_artifact_kind AS ENUM (
    'voice_transcript',
    'image_json',
    'ocr_text',
    'file_meta',
    'tool_result'
);

CREATE TYPE jobsworth.message_role AS ENUM (
    'user',
    'assistant',
    'system',
    'tool'
);

CREATE TYPE jobsworth.parent_failure AS ENUM (
    'fail',
    'skip',
    'run'
);

CREATE TYPE jobsworth.run_status AS ENUM (
    'draft',
    'planning',
    'executing',
    'waiting',
    'done',
    'failed',
    'canceled'
);

CREATE TYPE jobsworth.step_effect AS ENUM (
    'pure',
    'idempotent',
    'unsafe'
);

CREATE TYPE jobsworth.thread_status AS ENUM (
    'active',
    'archived',
    'closed',
    'deleted'
);

CREATE TYPE jobsworth.usage_source AS ENUM (
    'provider',
    'estimated',
    'unknown'
);

CREATE TYPE jobsworth.wait_reason AS ENUM (
    'timer',
    'lane',
    'parents',
    'children',
    'approval',
    'signal',
    'limit',
    'budget',
    'handler',
    'person'
);

CREATE FUNCTION jobsworth.amount_words(amount numeric, unit jobsworth.budget_unit) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN CASE unit WHEN 'money'::jobsworth.budget_unit THEN ((trim_scale(round(amount, 6)))::text || ' USD'::text) ELSE ((trim_scale(amount))::text || ' tokens'::text) END;

CREATE FUNCTION jobsworth.announce_approval() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
  happened text;
begin
  if not exists (select 1 from jobsworth.webhooks w where w.active) then
    return null;
  end if;
  happened := case
    when tg_op = 'INSERT' then 'approval.opened'
    when new.status is distinct from old.status then 'approval.closed'
    when new.escalated_at is distinct from old.escalated_at then 'approval.escalated'
    else 'approval.edited'
  end;
  insert into jobsworth.webhook_outbox (team_id, webhook_id, approval_id, event, payload)
  select new.team_id, w.id, new.id, happened, jsonb_build_object(
    'type', happened, 'timestamp', clock_timestamp(), 'data', jsonb_build_object(
      'approval_id', new.id, 'job_id', new.job_id, 'thread_id', new.thread_id,
      'team_id', new.team_id, 'status', new.status, 'proposal', new.proposal_text,
      'options', new.options, 'shown', coalesce(new.edited, new.shown),
      'hash', coalesce(new.edited_hash, new.shown_hash), 'editable', new.editable,
      'asked_by', new.asked_by, 'votes_needed', new.votes_needed,
      'deadline', new.deadline, 'on_timeout', new.on_timeout,
      'supersedes', new.supersedes, 'superseded_by', new.superseded_by,
      'difference', new.difference, 'chosen_option', new.chosen_option,
      'decided_by', case when new.status <> 'superseded' then (
        select v.decided_by from jobsworth.approval_decisions v
        where v.approval_id = new.id and new.chosen_option is not null
        order by v.id desc limit 1) end,
      'decide', case when new.status = 'pending' then jsonb_build_object(
        'cli', 'jobsworth approve ' || new.id || ', or jobsworth reject ' || new.id,
        'sql', format('select * from jobsworth.resolve(%L, option, decided_by, seen_hash => %L)',
          new.id, coalesce(new.edited_hash, new.shown_hash))) end))
  from jobsworth.webhooks w
  where w.active and happened = any(w.events)
    and (w.team_id is null or w.team_id = new.team_id);
  return null;
end $$;

CREATE FUNCTION jobsworth.arrive() RETURNS trigger
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
  if new.status <> 'queued' and (new.status <> 'waiting' or new.waiting_for <> 'parents') then
    raise exception 'a job is inserted as queued, not as %', new.status
      using errcode = 'check_violation',
      hint = 'Leave status out: the database decides whether the job waits.';
  end if;
  if new.lane is null and new.thread_id is not null then
    new.lane := new.thread_id::text;
  end if;
  if new.lane = '' then
    new.lane := null;
  end if;
  if new.run_at <= clock_timestamp() then
    new.run_at := null;
  end if;
  if new.status = 'waiting' then
    null;
  elsif new.run_at is not null then
    new.status := 'waiting';
    new.waiting_for := 'timer';
    if new.run_at < clock_timestamp() + interval '1 second' then
      perform pg_notify('jobsworth.wake', 'timer');
    end if;
  end if;
  -- One that is not due, or needs other jobs, joins its lane when that is over: it could otherwise
  -- keep from the lane the very job it needs, for ever.
  if new.lane is not null and new.status = 'queued' then
    new.lane_position := coalesce(new.lane_position, nextval('jobsworth.lane_position'));
    if jobsworth.lane_blocked(new.lane, new.lane_position, new.id) then
      new.status := 'waiting';
      new.waiting_for := 'lane';
    end if;
  else
    new.lane_position := null;
  end if;
  return new;
end $$;

CREATE TABLE jobsworth.budget_waits (
    job_id uuid NOT NULL,
    team_id uuid,
    budget_id uuid NOT NULL,
    run_id uuid,
    amount numeric NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    granted_at timestamp with time zone
);

CREATE FUNCTION jobsworth.budget_has_room(job_id uuid) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN COALESCE((SELECT (w.granted_at IS NOT NULL) FROM jobsworth.budget_waits w WHERE (w.job_id = budget_has_room.job_id)), true);

CREATE FUNCTION jobsworth.budget_named(name text, team_id uuid) RETURNS uuid
    LANGUAGE plpgsql STABLE
    AS $$
declare
  found_id uuid;
begin
  select b.id into found_id from jobsworth.budgets b
  where b.name = budget_named.name and b.team_id is not distinct from budget_named.team_id;
  if not found then
    raise exception 'there is no budget %', budget_named.name
      using errcode = 'P0002', hint = 'jobsworth budget list';
  end if;
  return found_id;
end $$;

CREATE FUNCTION jobsworth.uuidv7() RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS $$ select pg_catalog.uuidv7() $$;

CREATE TABLE jobsworth.budgets (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    name text NOT NULL,
    unit jobsworth.budget_unit NOT NULL,
    amount numeric NOT NULL,
    period jobsworth.budget_period NOT NULL,
    for_team_id uuid,
    agent_id uuid,
    thread_id uuid,
    mode text,
    provider text,
    model text,
    over jobsworth.budget_over DEFAULT 'park'::jobsworth.budget_over NOT NULL,
    warn_at numeric DEFAULT 0.8 NOT NULL,
    active boolean DEFAULT true NOT NULL,
    reset_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    found_by text GENERATED ALWAYS AS (
CASE
    WHEN (thread_id IS NOT NULL) THEN ('thread '::text || (thread_id)::text)
    WHEN (agent_id IS NOT NULL) THEN ('agent '::text || (agent_id)::text)
    WHEN (for_team_id IS NOT NULL) THEN ('team '::text || (for_team_id)::text)
    WHEN (mode IS NOT NULL) THEN ('mode '::text || mode)
    WHEN (model IS NOT NULL) THEN ('model '::text || model)
    WHEN (provider IS NOT NULL) THEN ('provider '::text || provider)
    ELSE 'everything'::text
END) STORED NOT NULL,
    CONSTRAINT amount_is_no_debt CHECK (((amount >= (0)::numeric) AND (amount < '1000000000000000'::numeric))),
    CONSTRAINT warn_at_is_a_share CHECK (((warn_at > (0)::numeric) AND (warn_at <= (1)::numeric)))
);

CREATE FUNCTION jobsworth.window_end(b jobsworth.budgets, at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    RETURN CASE WHEN ((b).period <> 'run'::jobsworth.budget_period) THEN ((date_trunc(((b).period)::text, (at AT TIME ZONE 'utc'::text)) + (('1 '::text || ((b).period)::text))::interval) AT TIME ZONE 'utc'::text) ELSE NULL::timestamp with time zone END;

CREATE FUNCTION jobsworth.budget_words(b jobsworth.budgets, used numeric, needs numeric, at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE
    RETURN (((((((((('budget '::text || (b).name) || ': '::text) || trim_scale(round(used, 6))) || ' of '::text) || jobsworth.amount_words((b).amount, (b).unit)) || ' reserved or spent'::text) || CASE (b).period WHEN 'run'::jobsworth.budget_period THEN ' by this run'::text ELSE ''::text END) || ', this call needs up to '::text) || trim_scale(round(needs, 6))) || COALESCE((('; the window ends at '::text || to_char((jobsworth.window_end(b, at) AT TIME ZONE 'utc'::text), 'YYYY-MM-DD HH24:MI:SS'::text)) || ' UTC'::text), ''::text));

CREATE FUNCTION jobsworth.budgets_of(team_id uuid, agent_id uuid, thread_id uuid, mode text, provider text, model text, run_key uuid) RETURNS SETOF jobsworth.budgets
    LANGUAGE sql STABLE
    AS $$
  select f.*
  from unnest(array[
    'thread ' || budgets_of.thread_id::text, 'agent ' || budgets_of.agent_id::text,
    'team ' || budgets_of.team_id::text, 'mode ' || budgets_of.mode,
    'model ' || budgets_of.model, 'provider ' || budgets_of.provider, 'everything']) as k (key)
  cross join lateral (
    select b.* from jobsworth.budgets b where b.found_by = k.key and b.active offset 0) f
  where (f.thread_id is null or f.thread_id = budgets_of.thread_id)
    and (f.agent_id is null or f.agent_id = budgets_of.agent_id)
    and (f.for_team_id is null or f.for_team_id = budgets_of.team_id)
    and (f.mode is null or f.mode = budgets_of.mode)
    and (f.model is null or f.model = budgets_of.model)
    and (f.provider is null or f.provider = budgets_of.provider)
    and (f.period <> 'run' or budgets_of.run_key is not null)
$$;

CREATE FUNCTION jobsworth.calls_count(rows jsonb) RETURNS boolean
    LANGUAGE plpgsql STABLE
    AS $$
begin
  return (
    exists (
      select 1 from jobsworth.rate_limits l
      where l.requests_per_minute is not null or l.tokens_per_minute is not null
        or l.paused_until > clock_timestamp())
    and exists (
      select 1
      from (
        select distinct a.value ->> 'provider' as provider, a.value ->> 'model' as model
        from jsonb_array_elements(rows) as a
        offset 0) c
      cross join jobsworth.rate_limits l
      where l.provider = c.provider and l.model in (c.model, '*')
        and (l.requests_per_minute is not null or l.tokens_per_minute is not null
          or l.paused_until > clock_timestamp()))
  ) or (
    exists (select 1 from jobsworth.budgets b where b.active)
    and exists (
      select 1
      from jsonb_to_recordset(rows) as a (
        job_id uuid, team_id uuid, thread_id uuid, mode text, provider text, model text)
      left join lateral (
        select r.run_id, r.agent_id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0
      ) j on true
      cross join lateral jobsworth.budgets_of(a.team_id, j.agent_id, a.thread_id, a.mode,
        a.provider, a.model, coalesce(j.run_id, a.job_id))));
end $$;

CREATE FUNCTION jobsworth.cancel(job_id uuid, reason text DEFAULT 'canceled by a person'::text) RETURNS jobsworth.job_status
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
  j jobsworth.reactive_jobs;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = cancel.job_id for no key update;
  if not found then
    raise exception 'there is no job %', cancel.job_id using errcode = 'no_data_found',
      hint = 'List jobs: jobsworth jobs.';
  end if;
  if j.finished_at is null then
    perform jobsworth.cancel_locked(array[j.id], cancel.reason);
  end if;
  return (select x.status from jobsworth.reactive_jobs x where x.id = j.id);
end $$;

CREATE FUNCTION jobsworth.cancel_locked(job_ids uuid[], reason text) RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
  ended uuid[];
begin
  update jobsworth.reactive_jobs j
  set cancel_requested = true, error = reason
  where j.id = any(job_ids) and j.status = 'running';
  if found then
    perform pg_notify('jobsworth.cancel', '');
  end if;
  with stopped as (
    update jobsworth.reactive_jobs j
    set status = 'canceled', waiting_for = null, waiting_detail = null, run_at = null,
        cancel_requested = true, error = reason, finished_at = now()
    where j.id = any(job_ids) and j.status in ('queued', 'waiting')
    returning j.id)
  select array_agg(s.id) into ended from stopped s;
  if ended is not null then
    perform jobsworth.unblock(ended);
  end if;
end $$;

CREATE FUNCTION jobsworth.cancel_run(run_id uuid, reason text DEFAULT 'canceled by a person'::text) RETURNS jobsworth.run_status
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.canonical(value jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
begin
  return case jsonb_typeof(value)
    when 'object' then (
      select '{' || coalesce(string_agg(
          to_json(e.key)::text || ':' || jobsworth.canonical(e.value), ','
          order by e.key collate "C"), '') || '}'
      from jsonb_each(value) e)
    when 'array' then (
      select '[' || coalesce(string_agg(jobsworth.canonical(e.value), ',' order by e.n), '') || ']'
      from jsonb_array_elements(value) with ordinality e (value, n))
    when 'number' then trim_scale((value #>> '{}')::numeric)::text
    else value::text
  end;
end $$;

CREATE FUNCTION jobsworth.check_nodes(nodes jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    AS $$
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

CREATE FUNCTION jobsworth.chores(rescue_seconds double precision, OUT rescue boolean, OUT expire boolean, OUT deployments boolean, OUT sweep text[], OUT looked_seconds double precision) RETURNS record
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.claim(worker_id uuid, queues text[], priorities smallint[], positions bigint[], modes text[], wanted integer) RETURNS TABLE(id uuid, lease_no bigint, queue text, priority smallint, "position" bigint, mode text, payload jsonb, attempt integer, failures integer, failures_max integer, timeout_seconds real, team_id uuid, thread_id uuid, trigger_message_id uuid, parent_id uuid, is_child boolean, lane text, trace_parent text, run_id uuid, node text, agent_id uuid, waited_seconds double precision)
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.close_orphans(after uuid, most integer, OUT closed integer, OUT next uuid) RETURNS record
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
  newest uuid[];
  asked uuid[];
  parents uuid[];
  ended uuid[];
begin
  newest := array(
    (select a.job_id from jobsworth.approvals a
     where a.status = 'pending' and a.job_id is not null
     order by a.job_id desc limit most)
    union
    (select c.parent_id from jobsworth.reactive_jobs c
     where c.is_child and c.finished_at is null and c.parent_id is not null
     order by c.parent_id desc limit most));
  asked := array(
    select a.job_id from jobsworth.approvals a
    where a.status = 'pending' and a.job_id > close_orphans.after
    order by a.job_id limit most);
  parents := array(
    select c.parent_id from jobsworth.reactive_jobs c
    where c.is_child and c.finished_at is null and c.parent_id > close_orphans.after
    order by c.parent_id limit most);
  -- A child that was asked to stop is on its way.
  ended := array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(newest || asked || parents) and j.finished_at is not null and (
      exists (select 1 from jobsworth.approvals a where a.job_id = j.id and a.status = 'pending')
      or exists (
        select 1 from jobsworth.reactive_jobs c
        where c.parent_id = j.id and c.is_child and c.finished_at is null
          and not c.cancel_requested)));
  if ended <> '{}' then
    perform jobsworth.unblock(ended);
  end if;
  closed := cardinality(ended);
  -- As far as both have been seen: one that is shorter than asked for was seen to its end.
  next := least(asked[most], parents[most]);
end $$;

CREATE FUNCTION jobsworth.correct_unknown(rows jsonb, settled uuid[]) RETURNS uuid[]
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  ids uuid[];
begin
  with told as materialized (
    select e.*
    from jsonb_to_recordset(rows) as e (
      call_id uuid, status jobsworth.call_status, input_tokens int, output_tokens int,
      cache_read_tokens int, cache_write_tokens int, reasoning_tokens int, total_tokens int,
      usage_source jobsworth.usage_source, cost numeric, price_version text, price jsonb,
      latency_ms int, error text)
    where e.call_id <> all(settled)
      and (e.status in ('ok', 'error') or e.status = 'cut' and e.usage_source = 'provider')
  ), before as materialized (
    -- As they are after the lock.
    select t.*, c.input_tokens as input_before, c.output_tokens as output_before,
      c.cache_read_tokens as read_before, c.cache_write_tokens as write_before,
      c.reasoning_tokens as reasoning_before, c.cost as cost_before
    from told t
    cross join lateral (
      select k.status, k.input_tokens, k.output_tokens, k.cache_read_tokens, k.cache_write_tokens,
        k.reasoning_tokens, k.cost
      from jobsworth.llm_calls k
      where k.id = t.call_id
      for no key update
    ) c
    where c.status = 'unknown'
  ), corrected as (
    update jobsworth.llm_calls c
    set status = b.status, input_tokens = b.input_tokens, output_tokens = b.output_tokens,
      cache_read_tokens = b.cache_read_tokens, cache_write_tokens = b.cache_write_tokens,
      reasoning_tokens = b.reasoning_tokens, total_tokens = b.total_tokens,
      usage_source = b.usage_source, cost = coalesce(b.cost, b.cost_before),
      price_version = b.price_version, price = b.price, latency_ms = b.latency_ms, error = b.error
    from before b
    where c.id = any(array[b.call_id]) and c.status = 'unknown'
    returning c.id, c.team_id, c.job_id, c.thread_id, c.run_id, c.agent_id, c.scope, c.mode,
      c.provider, c.model, c.price_version, c.cost - coalesce(b.cost_before, 0) as cost,
      (c.cost is null)::int - (b.cost_before is null)::int as unknown_costs,
      coalesce(c.input_tokens, 0) - coalesce(b.input_before, 0) as input_tokens,
      coalesce(c.output_tokens, 0) - coalesce(b.output_before, 0) as output_tokens,
      coalesce(c.cache_read_tokens, 0) - coalesce(b.read_before, 0) as cache_read_tokens,
      coalesce(c.cache_write_tokens, 0) - coalesce(b.write_before, 0) as cache_write_tokens,
      coalesce(c.reasoning_tokens, 0) - coalesce(b.reasoning_before, 0) as reasoning_tokens
  ), entered as (
    insert into jobsworth.token_ledger (
      team_id, call_id, job_id, thread_id, run_id, agent_id, entry, scope, mode, provider, model,
      input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost,
      price_version, unknown_costs)
    select s.team_id, s.id, s.job_id, s.thread_id, s.run_id, s.agent_id, 'adjust', s.scope, s.mode,
      s.provider, s.model, s.input_tokens, s.output_tokens, s.cache_read_tokens,
      s.cache_write_tokens, s.reasoning_tokens, s.cost, s.price_version, s.unknown_costs
    from corrected s
    returning call_id
  )
  select coalesce(array_agg(e.call_id), '{}') into ids from entered e;
  return ids;
end $$;

CREATE FUNCTION jobsworth.cosine_distance(a public.halfvec, b public.halfvec) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (a OPERATOR(public.<=>) b);

CREATE FUNCTION jobsworth.count_idle_workers() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
  idle bigint;
begin
  -- One after the other, so that each sees what those before it have committed.
  perform pg_advisory_xact_lock(
    'pg_class'::regclass::oid::int, 'jobsworth.idle_workers'::regclass::oid::int);
  select count(*) into idle from jobsworth.workers w where w.idle;
  if idle is distinct from pg_sequence_last_value('jobsworth.idle_workers') then
    perform setval('jobsworth.idle_workers', idle);
  end if;
  return null;
end $$;

CREATE FUNCTION jobsworth.decide_step(job_id uuid, name text, decision text, output jsonb DEFAULT NULL::jsonb, decided_by text DEFAULT NULL::text) RETURNS jobsworth.job_status
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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
    update jobsworth.approvals a set consumed_at = null, consumed_by = null
    where a.job_id = j.id and a.consumed_by = s.name and a.superseded_by is null;
  end if;
  perform jobsworth.reconsider(array[j.id], patient => true);
  return (select x.status from jobsworth.reactive_jobs x where x.id = j.id);
end $$;

CREATE FUNCTION jobsworth.delete_run(run_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.enqueue(mode text, payload jsonb DEFAULT '{}'::jsonb, queue text DEFAULT 'default'::text, priority integer DEFAULT 3, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, delay interval DEFAULT NULL::interval, thread_id uuid DEFAULT NULL::uuid, trigger_message_id uuid DEFAULT NULL::uuid, lane text DEFAULT NULL::text, unique_key text DEFAULT NULL::text, failures_max integer DEFAULT NULL::integer, timeout_seconds double precision DEFAULT NULL::double precision, trace_parent text DEFAULT NULL::text, team_id uuid DEFAULT NULL::uuid, after uuid[] DEFAULT NULL::uuid[], holds_lane boolean DEFAULT false, crashes_max integer DEFAULT NULL::integer, id uuid DEFAULT NULL::uuid, agent_id uuid DEFAULT NULL::uuid) RETURNS uuid
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE TABLE jobsworth.deployments (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    job_id uuid,
    step_name text,
    environment text NOT NULL,
    repository text,
    sha text NOT NULL,
    branch text,
    status jobsworth.deployment_status DEFAULT 'building'::jobsworth.deployment_status NOT NULL,
    release text,
    report_text text,
    probe jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    host text,
    rollback_of uuid,
    rollback_to uuid,
    idle_lease_no bigint,
    idle_since timestamp with time zone,
    CONSTRAINT final_has_its_end CHECK (((status = ANY (ARRAY['healthy'::jobsworth.deployment_status, 'rolled_back'::jobsworth.deployment_status, 'failed'::jobsworth.deployment_status])) = (finished_at IS NOT NULL))),
    CONSTRAINT going_back_is_from_one_to_another CHECK ((((rollback_of IS NULL) = (rollback_to IS NULL)) AND (rollback_of <> rollback_to))),
    CONSTRAINT healthy_has_a_passing_probe CHECK (((status <> 'healthy'::jobsworth.deployment_status) OR COALESCE(((probe ->> 'passed'::text))::boolean, false)))
);

CREATE SEQUENCE jobsworth.job_position
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE jobsworth.reactive_jobs (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    thread_id uuid,
    trigger_message_id uuid,
    parent_id uuid,
    worker_id uuid,
    lease_no bigint,
    "position" bigint DEFAULT nextval('jobsworth.job_position'::regclass) NOT NULL,
    lane_position bigint,
    run_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    status jobsworth.job_status DEFAULT 'queued'::jobsworth.job_status NOT NULL,
    waiting_for jobsworth.wait_reason,
    timeout_seconds real,
    attempt integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    crashes integer DEFAULT 0 NOT NULL,
    failures_max integer,
    crashes_max integer,
    priority smallint DEFAULT 3 NOT NULL,
    is_child boolean DEFAULT false NOT NULL,
    holds_lane boolean DEFAULT false NOT NULL,
    cancel_requested boolean DEFAULT false NOT NULL,
    queue text DEFAULT 'default'::text NOT NULL,
    mode text NOT NULL,
    lane text,
    unique_key text,
    effect_key text,
    trace_parent text,
    waiting_detail text,
    error text,
    payload jsonb DEFAULT '{}'::jsonb NOT NULL,
    result jsonb,
    run_id uuid,
    node text,
    agent_id uuid,
    CONSTRAINT crashes_max_is_positive CHECK ((crashes_max > 0)),
    CONSTRAINT failures_max_is_positive CHECK ((failures_max > 0)),
    CONSTRAINT final_has_its_end CHECK (((status = ANY (ARRAY['done'::jobsworth.job_status, 'failed'::jobsworth.job_status, 'canceled'::jobsworth.job_status])) = (finished_at IS NOT NULL))),
    CONSTRAINT mode_is_named CHECK ((mode <> ''::text)),
    CONSTRAINT node_is_of_a_run CHECK (((node IS NULL) OR (run_id IS NOT NULL))),
    CONSTRAINT payload_is_an_object CHECK ((jsonb_typeof(payload) = 'object'::text)),
    CONSTRAINT payload_is_at_most_1_mib CHECK ((pg_column_size(payload) <= 1048576)),
    CONSTRAINT priority_is_1_to_4 CHECK (((priority >= 1) AND (priority <= 4))),
    CONSTRAINT running_has_its_lease CHECK (((status <> 'running'::jobsworth.job_status) OR ((lease_no IS NOT NULL) AND (worker_id IS NOT NULL)))),
    CONSTRAINT timeout_is_positive CHECK ((timeout_seconds > (0)::double precision)),
    CONSTRAINT timer_has_its_time CHECK (((waiting_for IS DISTINCT FROM 'timer'::jobsworth.wait_reason) OR (run_at IS NOT NULL))),
    CONSTRAINT waiting_has_its_reason CHECK (((status = 'waiting'::jobsworth.job_status) = (waiting_for IS NOT NULL)))
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_analyze_scale_factor='0.05', fillfactor='100');

CREATE FUNCTION jobsworth.environment_is_free(j jobsworth.reactive_jobs) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN (COALESCE(((j).waiting_detail !~~ 'environment %'::text), true) OR ((NOT (EXISTS (SELECT 1 FROM jobsworth.deployments d WHERE ((d.environment = substr((environment_is_free.j).waiting_detail, 13)) AND (d.finished_at IS NULL) AND (NOT (d.team_id IS DISTINCT FROM (environment_is_free.j).team_id)))))) AND (NOT (EXISTS (SELECT 1 FROM jobsworth.reactive_jobs o WHERE ((o.status = 'waiting'::jobsworth.job_status) AND (o.waiting_for = 'limit'::jobsworth.wait_reason) AND (o.id < (environment_is_free.j).id) AND (o.waiting_detail = (environment_is_free.j).waiting_detail) AND (NOT (o.team_id IS DISTINCT FROM (environment_is_free.j).team_id))))))));

CREATE FUNCTION jobsworth.expire_approvals(most integer) RETURNS integer
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
  due record;
  expired int := 0;
begin
  for due in
    select a.id, a.job_id from jobsworth.approvals a
    where a.status = 'pending' and a.deadline <= clock_timestamp()
    order by a.deadline limit most for update skip locked
  loop
    -- Whatever somebody holds is left for the next round: expiry waits for nobody.
    perform 1 from jobsworth.reactive_jobs j
    where j.id = due.job_id for no key update skip locked;
    continue when not found
      and exists (select 1 from jobsworth.reactive_jobs j where j.id = due.job_id);
    perform jobsworth.time_out(due.id);
    expired := expired + 1;
  end loop;
  return expired;
end $$;

CREATE FUNCTION jobsworth.finish(ids uuid[], lease_nos bigint[], worker_ids uuid[], statuses jobsworth.job_status[], waiting_fors jobsworth.wait_reason[], waiting_details text[], delays double precision[], faileds boolean[], results jsonb[], errors text[]) RETURNS TABLE(n bigint, status text, unblocks boolean)
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.forget_windows(after uuid, days integer, most integer, OUT forgotten bigint, OUT next uuid) RETURNS record
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  at timestamptz := clock_timestamp();
  seen uuid[] := array(
    select w.id from jobsworth.budget_windows w where w.id > forget_windows.after
    order by w.id limit most);
  over uuid[];
begin
  delete from jobsworth.budget_waits w
  where w.job_id = any(array(
    select x.job_id from jobsworth.budget_waits x
    where (
      select j.finished_at is null from jobsworth.reactive_jobs j where j.id = x.job_id
    ) is not true
    limit most
    for update skip locked));

  select array_agg(w.id) into over
  from unnest(seen) as s (id)
  cross join lateral (
    select x.id, x.budget_id, x.starts_at, x.run_id from jobsworth.budget_windows x
    where x.id = s.id
    offset 0) w
  cross join lateral (
    select x from jobsworth.budgets x where x.id = w.budget_id offset 0) b
  where w.starts_at < least(jobsworth.window_start(b.x, at), at - make_interval(days => days))
    or ((b.x).period = 'run'
      and (select 1 from jobsworth.reactive_jobs j
        where j.run_id = w.run_id and j.finished_at is null limit 1) is null
      and (select 1 from jobsworth.reactive_jobs j
        where j.id = w.run_id and j.finished_at is null) is null);
  forgotten := 0;
  next := case when cardinality(seen) = most then seen[most] end;
  if over is null then
    return;
  end if;

  -- Against a late settlement, which takes this lock too before it looks for its windows.
  perform jobsworth.lock_money();
  with old as materialized (
    select p.call_id, p.window_id
    from unnest(over) as o (id)
    cross join lateral (
      select x.call_id, x.window_id from jobsworth.call_windows x
      where x.window_id = o.id and (
        select c.settled_at is null or c.settled_at >= at - make_interval(days => days)
        from jobsworth.llm_calls c where c.id = x.call_id) is not true
      limit most) p
    limit most
  ), gone as (
    delete from jobsworth.call_windows p
    using old o
    where p.call_id = o.call_id and p.window_id is not distinct from o.window_id
    returning p.window_id, p.reserved, p.spent
  ), taken_off as (
    update jobsworth.budget_windows w
    set reserved = w.reserved - g.reserved, spent = w.spent - g.spent
    from (
      select x.window_id, sum(x.reserved) as reserved, sum(x.spent) as spent
      from gone x
      group by x.window_id) g
    where w.id = g.window_id
  )
  select count(*) into forgotten from gone;
  delete from jobsworth.budget_windows w
  where w.id = any(over)
    and (select 1 from jobsworth.call_windows p where p.window_id = w.id limit 1) is null;
  if forgotten = most then
    next := forget_windows.after;  -- there may be more of these
  end if;
end $$;

CREATE FUNCTION jobsworth.fork_run(run_id uuid, node text DEFAULT NULL::text, step text DEFAULT NULL::text, changes jsonb DEFAULT '{}'::jsonb, created_by text DEFAULT NULL::text) RETURNS uuid
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.grant_budgets(job_ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
  short uuid[] := array(
    select distinct w.budget_id from jobsworth.budget_waits w
    where w.job_id = any(job_ids) and w.granted_at is null);
begin
  if short <> '{}' then
    perform jobsworth.wake_budgets(short);
  end if;
end $$;

CREATE FUNCTION jobsworth.grant_waiting(budget_ids uuid[] DEFAULT NULL::uuid[]) RETURNS uuid[]
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  at timestamptz := clock_timestamp();
  granted uuid[] := '{}';
  one record;
  b jobsworth.budgets;
  room numeric;
begin
  for one in
    select w.job_id, w.budget_id, w.run_id, w.amount
    from jobsworth.budget_waits w
    cross join lateral (
      select 1 from jobsworth.reactive_jobs j
      where j.id = w.job_id and j.status::text = 'waiting' and j.waiting_for = 'budget'
      offset 0) j
    where w.granted_at is null
      and w.budget_id = any(coalesce(grant_waiting.budget_ids, array(
        select distinct x.budget_id from jobsworth.budget_waits x where x.granted_at is null)))
    order by w.since, w.job_id
    limit 1000
  loop
    select x.* into b from jobsworth.budgets x where x.id = one.budget_id;
    select b.amount
      - coalesce((
        select w.reserved + w.spent
        from jobsworth.window_of(b.id, b.period, jobsworth.window_start(b, at), one.run_id) w), 0)
      - coalesce((
        select sum(w.amount) from jobsworth.budget_waits w
        where w.budget_id = b.id and w.granted_at > at - interval '30 seconds'
          and w.run_id is not distinct from one.run_id), 0)
    into room;
    if not b.active or one.amount <= room then
      update jobsworth.budget_waits w
      set granted_at = at
      where w.job_id = any(array(
        select x.job_id from jobsworth.budget_waits x
        where x.job_id = one.job_id and x.granted_at is null
        for no key update skip locked));
      if found then
        granted := granted || one.job_id;
      end if;
    end if;
  end loop;
  return granted;
end $$;

CREATE FUNCTION jobsworth.guard_deployment() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
  legal boolean := new.status = old.status or case old.status
      when 'building' then new.status in ('testing', 'deploying', 'failed')
      when 'testing' then new.status in ('deploying', 'failed')
      when 'deploying' then new.status in ('healthy', 'rolled_back', 'failed')
      else false
    end;
begin
  if not legal then
    raise exception 'deployment % cannot go from % to %', old.id, old.status, new.status
      using errcode = 'check_violation',
      hint = 'building, testing, deploying, then healthy, rolled_back or failed; '
        'a finished deployment stays as it is.';
  end if;
  new.updated_at := now();
  return new;
end $$;

CREATE FUNCTION jobsworth.guard_edges() RETURNS trigger
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.guard_run() RETURNS trigger
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.halfvec(value text) RETURNS public.halfvec
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (value)::public.halfvec;

CREATE FUNCTION jobsworth.inherited_children(job_id uuid) RETURNS TABLE(id uuid, effect_key text, status text, result jsonb, error text)
    LANGUAGE sql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
  select distinct on (c.effect_key) c.id, c.effect_key, c.status::text, c.result, c.error
  from jobsworth.sources_of(inherited_children.job_id) s
  join jobsworth.reactive_jobs c on c.parent_id = s.from_job_id
  where c.is_child and c.status = 'done' and c.finished_at < s.cut_at and not exists (
    select 1 from jobsworth.reactive_jobs own
    where own.parent_id = inherited_children.job_id and own.effect_key = c.effect_key)
  order by c.effect_key, s.depth
$$;

CREATE TABLE jobsworth.steps (
    job_id uuid NOT NULL,
    team_id uuid,
    name text NOT NULL,
    kind text DEFAULT 'step'::text NOT NULL,
    effect jobsworth.step_effect DEFAULT 'idempotent'::jobsworth.step_effect NOT NULL,
    input_hash text,
    output jsonb,
    attempt integer NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    finished_at timestamp with time zone,
    error text,
    begun_by text
);

CREATE FUNCTION jobsworth.inherited_steps(job_id uuid) RETURNS SETOF jobsworth.steps
    LANGUAGE sql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
  select distinct on (s.name) s.*
  from jobsworth.sources_of(inherited_steps.job_id) c
  join jobsworth.steps s on s.job_id = c.from_job_id
  where s.finished_at < c.cut_at and jobsworth.is_inherited(s.kind) and not exists (
    select 1 from jobsworth.steps own
    where own.job_id = inherited_steps.job_id and own.name = s.name)
  order by s.name, c.depth
$$;

CREATE FUNCTION jobsworth.inherits_child(job_id uuid, effect_key text) RETURNS boolean
    LANGUAGE sql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
  select exists (
    select 1 from jobsworth.sources_of(inherits_child.job_id) s
    join jobsworth.reactive_jobs c
      on c.parent_id = s.from_job_id and c.effect_key = inherits_child.effect_key
    where c.is_child and c.status = 'done' and c.finished_at < s.cut_at)
$$;

CREATE FUNCTION jobsworth.is_inherited(kind text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN (kind = ANY (ARRAY['step'::text, 'call'::text, 'tool'::text, 'wait'::text, 'sleep'::text, 'transaction'::text, 'gather'::text, 'checkpoint'::text, 'pruned'::text]));

CREATE FUNCTION jobsworth.jobs_of_run(run_id uuid) RETURNS TABLE(node text, job_id uuid)
    LANGUAGE sql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.lane_blocked(in_lane text, at_position bigint, job_id uuid) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
  return exists (
      select 1 from jobsworth.reactive_jobs o
      where o.lane = in_lane and o.status = 'running' and o.id <> job_id)
    or exists (
      select 1 from jobsworth.reactive_jobs o
      where o.lane = in_lane and o.lane_position is not null and o.finished_at is null
        and (o.waiting_for is null or o.waiting_for not in ('approval', 'signal') or o.holds_lane)
        and (o.lane_position, o.id) < (at_position, job_id));
end $$;

CREATE FUNCTION jobsworth.lane_head(in_lane text) RETURNS uuid
    LANGUAGE sql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
  select o.id
  from jobsworth.reactive_jobs o
  where o.lane = in_lane and o.lane_position is not null and o.finished_at is null
    and (o.waiting_for is null or o.waiting_for not in ('approval', 'signal') or o.holds_lane)
  order by o.lane_position, o.id
  limit 1
$$;

CREATE TABLE jobsworth.rate_limits (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    provider text NOT NULL,
    model text DEFAULT '*'::text NOT NULL,
    requests_per_minute integer,
    tokens_per_minute bigint,
    paused_until timestamp with time zone,
    requests_at timestamp with time zone,
    tokens_at timestamp with time zone,
    turn_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT limits_are_counts CHECK (((requests_per_minute > 0) AND (tokens_per_minute > 0)))
)
WITH (fillfactor='50');

CREATE FUNCTION jobsworth.limit_wait(l jobsworth.rate_limits, requests bigint, tokens bigint, at timestamp with time zone) RETURNS double precision
    LANGUAGE sql STABLE
    RETURN (GREATEST((0)::numeric, EXTRACT(epoch FROM ((l).paused_until - at)), ((GREATEST(EXTRACT(epoch FROM ((l).requests_at - at)), (0)::numeric) + (((requests)::numeric * 60.0) / ((l).requests_per_minute)::numeric)) - (60)::numeric), ((GREATEST(EXTRACT(epoch FROM ((l).tokens_at - at)), (0)::numeric) + CASE WHEN (requests = 1) THEN LEAST(60.0, (((tokens)::numeric * 60.0) / ((l).tokens_per_minute)::numeric)) ELSE (((tokens)::numeric * 60.0) / ((l).tokens_per_minute)::numeric) END) - (60)::numeric)))::double precision;

CREATE FUNCTION jobsworth.lock_money() RETURNS void
    LANGUAGE plpgsql
    SET lock_timeout TO '15s'
    AS $$
begin
  perform pg_advisory_xact_lock(hashtextextended('jobsworth.' || 'money', 1));
end $$;

CREATE FUNCTION jobsworth.move_runs(run_ids uuid[]) RETURNS uuid[]
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.needs_of(spec jsonb) RETURNS TABLE(parent text, on_failure text, m bigint)
    LANGUAGE sql IMMUTABLE
    AS $$
  select case when jsonb_typeof(a.value) = 'object' then a.value ->> 'node'
      else a.value #>> '{}' end,
    coalesce(case when jsonb_typeof(a.value) = 'object' then a.value ->> 'on_failure' end, 'fail'),
    a.m
  from jsonb_array_elements(
    case jsonb_typeof(spec -> 'after') when 'array' then spec -> 'after' else '[]' end)
    with ordinality as a (value, m)
$$;

CREATE FUNCTION jobsworth.open_ledger_day() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
  entered date := (coalesce(new.occurred_at, old.occurred_at) at time zone 'utc')::date;
  closed date;
begin
  -- The lock waits for who closes a day right now, and who wants to close one waits for our commit.
  select c.closed_through into closed from jobsworth.ledger_closing c for no key update;
  if entered <= closed then
    update jobsworth.ledger_closing set closed_through = entered - 1;
    delete from jobsworth.ledger_days d where d.day >= entered;
  end if;
  return null;
end $$;

CREATE FUNCTION jobsworth.pause_rate(provider text, model text, seconds double precision) RETURNS void
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
begin
  insert into jobsworth.rate_limits as l (provider, model, paused_until)
  values (pause_rate.provider, pause_rate.model,
    clock_timestamp() + make_interval(secs => pause_rate.seconds))
  on conflict (team_id, provider, model) do update
  set paused_until = greatest(l.paused_until, excluded.paused_until);
end $$;

CREATE FUNCTION jobsworth.person(name text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN btrim(regexp_replace(lower(NORMALIZE(name, NFKC)), '\s+'::text, ' '::text, 'g'::text));

CREATE FUNCTION jobsworth.plan_fork(run_id uuid, at_node text DEFAULT NULL::text, at_step text DEFAULT NULL::text, changes jsonb DEFAULT '{}'::jsonb) RETURNS TABLE(node text, job_id uuid, part text, cut_at timestamp with time zone)
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.raise_budget(name text, amount numeric, team_id uuid DEFAULT NULL::uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
  if not (raise_budget.amount >= 0 and raise_budget.amount < 1e15) then
    raise exception 'budget % cannot be %', raise_budget.name, raise_budget.amount
      using hint = 'give an amount from 0 on';
  end if;
  update jobsworth.budgets b set amount = raise_budget.amount
  where b.id = jobsworth.budget_named(raise_budget.name, raise_budget.team_id);
  perform jobsworth.wake_budgets(
    array[jobsworth.budget_named(raise_budget.name, raise_budget.team_id)]);
end $$;

CREATE FUNCTION jobsworth.reason_gone(j jobsworth.reactive_jobs) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.reconsider(job_ids uuid[], patient boolean DEFAULT false) RETURNS uuid[]
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.refuse_call(call jsonb, at timestamp with time zone) RETURNS jobsworth.call_verdict
    LANGUAGE plpgsql
    AS $$
declare
  v jobsworth.call_verdict;
  c record;
  short record;
  tokens bigint;
begin
  select a.*, j.agent_id, coalesce(j.run_id, a.job_id) as run_key
  into c
  from jsonb_to_record(call) as a (
    job_id uuid, team_id uuid, thread_id uuid, mode text, provider text, model text,
    request_id text, input_tokens int, output_tokens int, cost numeric, allow_unpriced boolean,
    exceeds uuid[])
  left join lateral (
    select r.run_id, r.agent_id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0
  ) j on true;
  v.request_id := c.request_id;
  tokens := c.input_tokens::bigint + c.output_tokens;

  select max(jobsworth.limit_wait(l, 1, tokens, at)) into v.wait_seconds
  from jobsworth.rate_limits l
  where l.provider = c.provider and l.model in (c.model, '*');
  if v.wait_seconds > 0 then
    -- Each that is sent away gets a turn of its own, at the pace of the limit, so that they do not
    -- all come back at once.
    with turned as (
      update jobsworth.rate_limits l
      set turn_at = case
        when l.turn_at > at + interval '5 minutes'
          then at + make_interval(secs => v.wait_seconds + random() * 300)
        else greatest(at + make_interval(secs => v.wait_seconds), l.turn_at + make_interval(
          secs => greatest(0.02, 60.0 / l.requests_per_minute,
            case when l.tokens_per_minute is not null
              then least(60.0, tokens * 60.0 / l.tokens_per_minute) end))) end
      where l.provider = c.provider and l.model in (c.model, '*')
        and jobsworth.limit_wait(l, 1, tokens, at) > 0
      returning l.provider, l.model, l.turn_at, l.paused_until
    )
    select greatest(v.wait_seconds, max(extract(epoch from t.turn_at - at))),
      string_agg('rate limit of ' || t.provider || ' ' || t.model
        || case when t.paused_until > at then ' (paused by the provider)' else '' end, ', ')
    into v.wait_seconds, v.detail
    from turned t;
    v.verdict := 'limit';
    return v;
  end if;

  v.wait_seconds := null;
  select b as budget, coalesce(w.reserved + w.spent, 0) as used, n.needs into short
  from jobsworth.budgets_of(
    c.team_id, c.agent_id, c.thread_id, c.mode, c.provider, c.model, c.run_key) b
  left join lateral jobsworth.window_of(
    b.id, b.period, jobsworth.window_start(b, at), c.run_key) w on true
  cross join lateral (
    select case b.unit when 'tokens' then tokens
      else coalesce(c.cost, case when c.allow_unpriced then 0 end) end as needs) n
  where n.needs is null
    or (n.needs > b.amount - coalesce(w.reserved + w.spent, 0)
      and b.id <> all(coalesce(c.exceeds, '{}')))
  order by n.needs is not null,
    case b.over when 'fail' then 1 when 'park' then 2 else 3 end, b.name, b.id
  limit 1;
  if not found then
    return v;
  end if;
  v.verdict := case when short.needs is null then 'unpriced' else 'budget' end;
  v.budget_id := (short.budget).id;
  v.budget := (short.budget).name;
  v.over := (short.budget).over;
  if short.needs is null then
    v.detail := 'the price of ' || c.provider || ' ' || c.model || ' is not known, and budget '
      || v.budget || ' counts money';
    return v;
  end if;
  v.detail := jobsworth.budget_words(short.budget, short.used, short.needs, at);
  if v.over = 'park' and c.job_id is not null then
    insert into jobsworth.budget_waits as w (job_id, team_id, budget_id, run_id, amount)
    values (c.job_id, c.team_id, v.budget_id,
      case (short.budget).period when 'run' then c.run_key end, short.needs)
    on conflict (job_id) do update
    set budget_id = excluded.budget_id, run_id = excluded.run_id, amount = excluded.amount,
      granted_at = null;
  end if;
  return v;
end $$;

CREATE FUNCTION jobsworth.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  if tg_op = 'DELETE' and current_setting('jobsworth.erase', true) = 'on' then
    return old;
  end if;
  raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
    using errcode = 'restrict_violation',
    hint = 'Write a new row instead; only erasing a whole thread deletes.';
end $$;

CREATE FUNCTION jobsworth.refuse_cycle(nodes jsonb, children integer[], parents integer[]) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    AS $$
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

CREATE FUNCTION jobsworth.remove_budget(name text, team_id uuid DEFAULT NULL::uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
  update jobsworth.budgets b set active = false
  where b.id = jobsworth.budget_named(remove_budget.name, remove_budget.team_id);
  perform jobsworth.wake_budgets(
    array[jobsworth.budget_named(remove_budget.name, remove_budget.team_id)]);
end $$;

CREATE FUNCTION jobsworth.reset_budget(name text, team_id uuid DEFAULT NULL::uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
  update jobsworth.budgets b set reset_at = clock_timestamp()
  where b.id = jobsworth.budget_named(reset_budget.name, reset_budget.team_id);
  perform jobsworth.wake_budgets(
    array[jobsworth.budget_named(reset_budget.name, reset_budget.team_id)]);
end $$;

CREATE FUNCTION jobsworth.resolve(approval_id uuid, option text, decided_by text, channel text DEFAULT 'sql'::text, comment text DEFAULT NULL::text, edited jsonb DEFAULT NULL::jsonb, seen_hash text DEFAULT NULL::text, OUT accepted boolean, OUT status jobsworth.approval_status, OUT chosen_option text) RETURNS record
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $_$
#variable_conflict use_column
declare
  a jobsworth.approvals;
  is_no boolean := resolve.option = 'reject';
  hash text;
  votes int;
begin
  select x.* into a from jobsworth.approvals x where x.id = resolve.approval_id;
  if not found then
    raise exception 'there is no approval %', resolve.approval_id
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approvals.';
  end if;
  if coalesce(jobsworth.person(resolve.decided_by), '') = '' then
    raise exception 'nobody is named as deciding' using errcode = 'invalid_parameter_value',
      hint = 'Say who: decided_by.';
  elsif jobsworth.person(resolve.decided_by) = 'deadline' then
    raise exception 'a deadline decides by itself' using errcode = 'invalid_parameter_value',
      hint = 'Say which person decides: decided_by.';
  end if;
  -- The job's row first, as everybody does, then the approval's.
  perform 1 from jobsworth.reactive_jobs j where j.id = a.job_id for no key update;
  select x.* into a from jobsworth.approvals x where x.id = resolve.approval_id for update;
  if (resolve.option = any(a.options)) is not true then
    raise exception '% is not an option of approval %', coalesce(resolve.option, 'null'), a.id
      using errcode = 'invalid_parameter_value',
      hint = 'Its options are: ' || array_to_string(a.options, ', ');
  end if;

  a := jobsworth.time_out(a.id);
  accepted := a.status = 'pending' or is_no and a.consumed_at is null
    and a.superseded_by is null and a.status in ('approved', 'expired')
    and a.chosen_option <> 'reject';
  if not accepted then
    status := a.status;
    chosen_option := a.chosen_option;
    return;
  end if;

  hash := coalesce(a.edited_hash, a.shown_hash);
  if not is_no then
    if not a.self_approval and jobsworth.person(resolve.decided_by) = jobsworth.person(a.asked_by)
    then
      raise exception '% asked for approval % and cannot say yes to it', a.asked_by, a.id
        using errcode = 'object_not_in_prerequisite_state',
        hint = 'Somebody else must; a no is always possible.';
    elsif resolve.seen_hash <> hash then
      raise exception 'approval % has changed since it was seen', a.id
        using errcode = 'object_not_in_prerequisite_state',
        hint = 'Read it again: jobsworth approvals ' || a.id;
    end if;
  end if;
  if resolve.edited is not null then
    if is_no or not a.editable then
      raise exception 'approval % cannot be approved with changes%', a.id,
          case when is_no then ' by a no' else '' end
        using errcode = 'invalid_parameter_value',
        hint = 'Approve or reject what it shows; only one that was asked as editable can change.';
    -- What no program can read back would keep everybody from seeing what is open.
    elsif resolve.edited @? 'strict $.**{200}'
      or resolve.edited @? 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))'
    then
      raise exception 'the edited document is too deep, or has a number that is too large'
        using errcode = 'invalid_parameter_value',
        hint = 'Nest it less than 200 levels, with numbers below 1e308.';
    end if;
    hash := jobsworth.shown_hash(a.proposal_text, a.options, resolve.edited);
  end if;
  -- Who has said the same of the same before has one vote; who says something else has changed it.
  if not is_no and resolve.option = (
    select v.option from jobsworth.approval_decisions v
    where v.approval_id = a.id and v.voted_hash = hash
      and jobsworth.person(v.decided_by) = jobsworth.person(resolve.decided_by)
    order by v.id desc
    limit 1)
  then
    accepted := false;
    status := a.status;
    return;
  end if;
  insert into jobsworth.approval_decisions
    (approval_id, team_id, option, decided_by, channel, comment, voted_hash)
  values (a.id, a.team_id, resolve.option, resolve.decided_by, resolve.channel, resolve.comment,
    hash);
  select count(*) into votes from (
    select distinct on (jobsworth.person(v.decided_by)) v.option
    from jobsworth.approval_decisions v
    where v.approval_id = a.id and v.voted_hash = hash
    order by jobsworth.person(v.decided_by), v.id desc) last_of_each
  where last_of_each.option = resolve.option;
  status := case when is_no then 'rejected' when votes >= a.votes_needed then 'approved'
    else 'pending' end;
  chosen_option := case when status <> 'pending' then resolve.option end;
  update jobsworth.approvals x
  set status = resolve.status, chosen_option = resolve.chosen_option,
    closed_at = case when resolve.status <> 'pending' then now() end,
    edited = coalesce(resolve.edited, x.edited),
    edited_hash = case when resolve.edited is null then x.edited_hash else hash end
  where x.id = a.id;
  if status <> 'pending' and a.job_id is not null then
    perform jobsworth.reconsider(array[a.job_id], patient => true);
  end if;
end $_$;

CREATE FUNCTION jobsworth.restart_locked(job_ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

  update jobsworth.approvals a set effect_key = null
  where a.job_id = any(job_ids) and a.superseded_by is null and a.chosen_option = 'reject';

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

CREATE FUNCTION jobsworth.retry(job_id uuid) RETURNS jobsworth.job_status
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.retry_run(run_id uuid) RETURNS integer
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE TABLE jobsworth.runs (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    project_id uuid,
    session_id uuid,
    thread_id uuid,
    agent_id uuid,
    actor text,
    trace_id text,
    idempotency_key text,
    request jsonb DEFAULT '{}'::jsonb NOT NULL,
    status jobsworth.run_status DEFAULT 'draft'::jobsworth.run_status NOT NULL,
    result jsonb,
    error text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    cancel_requested boolean DEFAULT false NOT NULL,
    CONSTRAINT final_has_its_end CHECK (((status = ANY (ARRAY['done'::jobsworth.run_status, 'failed'::jobsworth.run_status, 'canceled'::jobsworth.run_status])) = (finished_at IS NOT NULL))),
    CONSTRAINT idempotency_key_is_named CHECK ((idempotency_key <> ''::text)),
    CONSTRAINT trace_id_is_named CHECK ((trace_id <> ''::text))
);

CREATE FUNCTION jobsworth.run_must_move(r jobsworth.runs) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.run_verdict(run_id uuid, OUT status jobsworth.run_status, OUT result jsonb, OUT error text) RETURNS record
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.send_signal(job_id uuid, name text, payload jsonb DEFAULT NULL::jsonb) RETURNS uuid
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  j jobsworth.reactive_jobs;
  signal_id uuid;
begin
  select x.* into j from jobsworth.reactive_jobs x
  where x.id = send_signal.job_id for no key update;
  if not found then
    raise exception 'there is no job %', send_signal.job_id using errcode = 'no_data_found',
      hint = 'List jobs: jobsworth jobs.';
  elsif j.finished_at is not null then
    raise exception 'job % is already %: it will not read a signal', j.id, j.status
      using errcode = 'object_not_in_prerequisite_state', hint = 'Retry the job first.';
  end if;
  insert into jobsworth.signals (job_id, team_id, name, payload)
  values (j.id, j.team_id, send_signal.name, send_signal.payload)
  returning id into signal_id;
  perform jobsworth.reconsider(array[j.id], patient => true);
  return signal_id;
end $$;

CREATE FUNCTION jobsworth.set_budget(name text, unit jobsworth.budget_unit, amount numeric, period jobsworth.budget_period, for_team_id uuid DEFAULT NULL::uuid, agent_id uuid DEFAULT NULL::uuid, thread_id uuid DEFAULT NULL::uuid, mode text DEFAULT NULL::text, provider text DEFAULT NULL::text, model text DEFAULT NULL::text, over jobsworth.budget_over DEFAULT 'park'::jobsworth.budget_over, warn_at numeric DEFAULT 0.8, team_id uuid DEFAULT NULL::uuid) RETURNS uuid
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
declare
  id uuid;
begin
  if coalesce(trim(set_budget.name), '') = '' then
    raise exception 'a budget needs a name' using hint = 'name it after what it bounds';
  end if;
  if not (set_budget.amount >= 0 and set_budget.amount < 1e15) then
    raise exception 'budget % cannot be %', set_budget.name, set_budget.amount
      using hint = 'give an amount from 0 on';
  end if;
  insert into jobsworth.budgets as b (
    team_id, name, unit, amount, period, for_team_id, agent_id, thread_id, mode, provider, model,
    over, warn_at)
  values (
    set_budget.team_id, set_budget.name, set_budget.unit, set_budget.amount, set_budget.period,
    set_budget.for_team_id, set_budget.agent_id, set_budget.thread_id, set_budget.mode,
    set_budget.provider, set_budget.model, set_budget.over, set_budget.warn_at)
  on conflict (team_id, name) do update
  set unit = excluded.unit, amount = excluded.amount, period = excluded.period,
    for_team_id = excluded.for_team_id, agent_id = excluded.agent_id,
    thread_id = excluded.thread_id, mode = excluded.mode, provider = excluded.provider,
    model = excluded.model, over = excluded.over, warn_at = excluded.warn_at, active = true,
    reset_at = case
      when row(b.unit, b.period, b.for_team_id, b.agent_id, b.thread_id, b.mode, b.provider,
          b.model)
        is distinct from row(excluded.unit, excluded.period, excluded.for_team_id,
          excluded.agent_id, excluded.thread_id, excluded.mode, excluded.provider, excluded.model)
      then clock_timestamp() else b.reset_at end
  returning b.id into id;
  perform jobsworth.wake_budgets(array[id]);
  return id;
end $$;

CREATE FUNCTION jobsworth.set_outcome_aside() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  update jobsworth.steps s set name = new.step_name
  where s.job_id = old.job_id and s.name = old.step_name and s.kind = 'deploy';
  update jobsworth.approvals a set consumed_by = new.step_name
  where a.job_id = old.job_id and a.consumed_by = old.step_name;
  return null;
end $$;

CREATE FUNCTION jobsworth.set_rate_limit(provider text, model text DEFAULT '*'::text, requests integer DEFAULT NULL::integer, tokens bigint DEFAULT NULL::bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
begin
  if set_rate_limit.requests <= 0 or set_rate_limit.tokens <= 0 then
    raise exception 'a limit of % requests and % tokens lets nothing through',
      set_rate_limit.requests, set_rate_limit.tokens using hint = 'give numbers from 1 on';
  end if;
  insert into jobsworth.rate_limits as l (
    provider, model, requests_per_minute, tokens_per_minute)
  values (set_rate_limit.provider, set_rate_limit.model, set_rate_limit.requests,
    set_rate_limit.tokens)
  on conflict (team_id, provider, model) do update
  set requests_per_minute = excluded.requests_per_minute,
    tokens_per_minute = excluded.tokens_per_minute,
    requests_at = case when excluded.requests_per_minute = l.requests_per_minute
      then l.requests_at end,
    tokens_at = case when excluded.tokens_per_minute = l.tokens_per_minute then l.tokens_at end,
    turn_at = null;
  perform jobsworth.wake_limited();
end $$;

CREATE FUNCTION jobsworth.settle_calls(rows jsonb, OUT settled bigint, OUT rooms uuid[]) RETURNS record
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  ids uuid[];
  late uuid[];
begin
  with ended as materialized (
    select e.*
    from jsonb_to_recordset(rows) as e (
      call_id uuid, status jobsworth.call_status, input_tokens int, output_tokens int,
      cache_read_tokens int, cache_write_tokens int, reasoning_tokens int, total_tokens int,
      usage_source jobsworth.usage_source, cost numeric, price_version text, price jsonb,
      latency_ms int, error text, unsent boolean)
    order by 1
  ), settled as (
    -- The update itself is the lock, and the row is looked at again after waiting for it. By the
    -- primary key, whatever the planner believes: no join can hash this condition, and `status`
    -- would have it walk the index of open calls, with all that is dead in there, for each.
    update jobsworth.llm_calls c
    set status = e.status, input_tokens = e.input_tokens, output_tokens = e.output_tokens,
      cache_read_tokens = e.cache_read_tokens, cache_write_tokens = e.cache_write_tokens,
      reasoning_tokens = e.reasoning_tokens, total_tokens = e.total_tokens,
      usage_source = e.usage_source, cost = e.cost, price_version = e.price_version,
      price = e.price, latency_ms = e.latency_ms, error = e.error, settled_at = clock_timestamp()
    from ended e
    where c.id = any(array[e.call_id]) and c.settled_at is null
    returning c.id, c.team_id, c.job_id, c.thread_id, c.run_id, c.agent_id, c.scope, c.mode,
      c.provider, c.model, c.input_tokens, c.output_tokens, c.cache_read_tokens,
      c.cache_write_tokens, c.reasoning_tokens, c.cost, c.price_version,
      case when e.unsent then 'release' else 'settle' end::jobsworth.ledger_entry as entry
  ), entered as (
    insert into jobsworth.token_ledger (
      team_id, call_id, job_id, thread_id, run_id, agent_id, entry, scope, mode, provider, model,
      input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost,
      price_version)
    select s.team_id, s.id, s.job_id, s.thread_id, s.run_id, s.agent_id, s.entry, s.scope, s.mode,
      s.provider, s.model, coalesce(s.input_tokens, 0), coalesce(s.output_tokens, 0),
      coalesce(s.cache_read_tokens, 0), coalesce(s.cache_write_tokens, 0),
      coalesce(s.reasoning_tokens, 0), s.cost, s.price_version
    from settled s
    returning call_id
  )
  select coalesce(array_agg(e.call_id), '{}') into ids from entered e;

  if cardinality(ids) < jsonb_array_length(rows) then
    late := jobsworth.correct_unknown(rows, ids);
    ids := ids || late;
  end if;
  settled := cardinality(ids);
  if exists (select 1 from jobsworth.call_windows p where p.call_id = any(ids)) then
    rooms := jobsworth.settle_windows(ids);
  end if;
end $$;

CREATE FUNCTION jobsworth.settle_windows(call_ids uuid[]) RETURNS uuid[]
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  freed uuid[];
begin
  perform jobsworth.lock_money();
  with took as materialized (
    select p.call_id, p.window_id, p.reserved, p.spent, w.budget_id,
      case b.unit
        when 'tokens' then coalesce(c.input_tokens::numeric + c.output_tokens, p.reserved)
        -- A cost that is not known stays at what was held for it, unless nothing was used.
        else coalesce(c.cost, case when c.input_tokens::bigint + c.output_tokens = 0 then 0
          else greatest(p.reserved, p.spent) end) end as took
    from unnest(call_ids) as u (id)
    cross join lateral (
      select x.call_id, x.window_id, x.reserved, x.spent from jobsworth.call_windows x
      where x.call_id = u.id
      offset 0) p
    cross join lateral (
      select x.budget_id from jobsworth.budget_windows x where x.id = p.window_id offset 0) w
    cross join lateral (
      select x.unit from jobsworth.budgets x where x.id = w.budget_id offset 0) b
    cross join lateral (
      select x.input_tokens, x.output_tokens, x.cost from jobsworth.llm_calls x
      where x.id = u.id
      offset 0) c
  ), parts as (
    update jobsworth.call_windows p
    set reserved = 0, spent = t.took
    from took t
    -- By the call: with an equality, a planner that takes the table for small may well use the
    -- index by window, and read every call of the window for each.
    where p.call_id = t.call_id and p.window_id is not distinct from t.window_id
  ), sums as materialized (
    select t.window_id, t.budget_id, sum(t.reserved) as reserved, sum(t.took - t.spent) as took
    from took t
    group by t.window_id, t.budget_id
  ), windows as (
    update jobsworth.budget_windows w
    set reserved = w.reserved - s.reserved, spent = w.spent + s.took
    from sums s
    where w.id = s.window_id
  )
  select array_agg(distinct s.budget_id) into freed
  from sums s
  where s.took < s.reserved;
  return array(
    select f.id from unnest(freed) as f (id)
    where exists (
      select 1 from jobsworth.budget_waits w where w.budget_id = f.id and w.granted_at is null));
end $$;

CREATE FUNCTION jobsworth.shell_word(word text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT
    RETURN CASE WHEN (word ~ '^[A-Za-z0-9_][A-Za-z0-9_.:/@%+-]*$'::text) THEN word ELSE ((''''::text || replace(word, ''''::text, '''\'''''::text)) || ''''::text) END;

CREATE FUNCTION jobsworth.shown_hash(proposal_text text, options text[], shown jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN encode(sha256(convert_to(jobsworth.canonical(jsonb_build_object('proposal_text', proposal_text, 'options', to_jsonb(options), 'shown', COALESCE(shown, 'null'::jsonb))), 'UTF8'::name)), 'hex'::text);

CREATE FUNCTION jobsworth.sources_of(job_id uuid) RETURNS TABLE(from_job_id uuid, cut_at timestamp with time zone, depth integer)
    LANGUAGE sql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.spent(since timestamp with time zone, until timestamp with time zone, of_team uuid DEFAULT NULL::uuid) RETURNS TABLE(day date, team_id uuid, provider text, model text, mode text, agent_id uuid, scope jobsworth.ledger_scope, entries bigint, input_tokens bigint, output_tokens bigint, cache_read_tokens bigint, cache_write_tokens bigint, cost numeric, unknown_cost_entries bigint)
    LANGUAGE sql STABLE
    AS $$
  with span as materialized (
    select coalesce(since, '-infinity') as starts, coalesce(until, 'infinity') as ends,
      (coalesce(since, '-infinity') at time zone 'utc' + interval '23:59:59.999999')::date
        as first_day,
      least(
        (coalesce(until, 'infinity') at time zone 'utc')::date - 1,
        coalesce(c.closed_through, '-infinity')) as last_day
    from (select 1) one
    left join jobsworth.ledger_closing c on true
  ), parts as materialized (
    -- The days that are closed and wholly within; before and after them, the entries.
    select s.first_day, s.last_day, s.starts, s.ends,
      case when s.first_day <= s.last_day then s.first_day::timestamp at time zone 'utc'
        else s.starts end as days_start,
      case when s.first_day <= s.last_day then (s.last_day + 1)::timestamp at time zone 'utc'
        else s.starts end as days_end
    from span s
  ), entered as (
    select l.occurred_at, l.team_id, l.provider, l.model, l.mode, l.agent_id, l.scope,
      l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost,
      coalesce(l.unknown_costs, (l.cost is null and l.entry <> 'adjust')::int) as unknown_costs
    from jobsworth.token_ledger l
    where l.occurred_at >= (select p.starts from parts p)
      and l.occurred_at < (select p.days_start from parts p)
      and l.entry in ('settle', 'adjust')
    union all
    select l.occurred_at, l.team_id, l.provider, l.model, l.mode, l.agent_id, l.scope,
      l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost,
      coalesce(l.unknown_costs, (l.cost is null and l.entry <> 'adjust')::int) as unknown_costs
    from jobsworth.token_ledger l
    where l.occurred_at >= (select p.days_end from parts p)
      and l.occurred_at < (select p.ends from parts p)
      and l.entry in ('settle', 'adjust')
  )
  select d.day, d.team_id, d.provider, d.model, d.mode, d.agent_id, d.scope, d.entries,
    d.input_tokens, d.output_tokens, d.cache_read_tokens, d.cache_write_tokens, d.cost,
    d.unknown_cost_entries
  from jobsworth.ledger_days d
  where d.day >= (select p.first_day from parts p) and d.day <= (select p.last_day from parts p)
    and (of_team is null or d.team_id = of_team)
  union all
  select (e.occurred_at at time zone 'utc')::date, e.team_id, e.provider, e.model, e.mode,
    e.agent_id, e.scope, count(*), sum(e.input_tokens)::bigint, sum(e.output_tokens)::bigint,
    sum(e.cache_read_tokens)::bigint, sum(e.cache_write_tokens)::bigint, sum(e.cost),
    sum(e.unknown_costs)
  from entered e
  where of_team is null or e.team_id = of_team
  group by 1, 2, 3, 4, 5, 6, 7
$$;

CREATE FUNCTION jobsworth.start_calls(rows jsonb, patient boolean DEFAULT false) RETURNS SETOF jobsworth.call_verdict
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
  calls jsonb[];
  lost text[];
begin
  if patient then
    perform 1 from jobsworth.reactive_jobs j
    where j.id = any(array(select (a.value ->> 'job_id')::uuid from jsonb_array_elements(rows) a))
    order by j.id for no key update;
  end if;

  if not jobsworth.calls_count(rows) then
    return query
    with asked as materialized (
      select a.*
      from jsonb_to_recordset(rows) as a (
        call_id uuid, job_id uuid, lease_no bigint, worker_id uuid, attempt int, team_id uuid,
        thread_id uuid, step_name text, mode text, provider text, model text, request_id text,
        input_tokens int, output_tokens int, cost numeric)
    ), locked as materialized (
      -- By the primary key alone, and compared after the lock (as in `finish`). A row that
      -- somebody holds is passed over, so that its neighbours do not wait for it.
      select a.*, j.run_id, j.agent_id, j.ours
      from asked a
      cross join lateral (
        select r.run_id, r.agent_id,
          r.status = 'running' and r.lease_no = a.lease_no and r.worker_id = a.worker_id as ours
        from jobsworth.reactive_jobs r
        where r.id = a.job_id
        for no key update skip locked
      ) j
      union all
      select a.*, null, null, true from asked a where a.job_id is null
    ), started as (
      insert into jobsworth.llm_calls (
        id, team_id, job_id, thread_id, run_id, agent_id, lease_no, attempt, step_name, scope, mode,
        provider, model, request_id, estimated_input_tokens, estimated_output_tokens,
        estimated_cost)
      select h.call_id, h.team_id, h.job_id, h.thread_id, h.run_id, h.agent_id, h.lease_no,
        h.attempt, h.step_name,
        case when h.job_id is null then 'proactive' else 'reactive' end::jobsworth.ledger_scope,
        h.mode, h.provider, h.model, h.request_id, h.input_tokens, h.output_tokens, h.cost
      from locked h
      where h.ours  -- the fence
      on conflict (request_id) do nothing
      returning id, team_id, job_id, thread_id, run_id, agent_id, scope, mode, provider, model,
        request_id, estimated_input_tokens, estimated_output_tokens, estimated_cost
    ), reserved as (
      insert into jobsworth.token_ledger (
        team_id, call_id, job_id, thread_id, run_id, agent_id, entry, scope, mode, provider, model,
        input_tokens, output_tokens, cost)
      select s.team_id, s.id, s.job_id, s.thread_id, s.run_id, s.agent_id, 'reserve', s.scope,
        s.mode, s.provider, s.model, s.estimated_input_tokens, s.estimated_output_tokens,
        s.estimated_cost
      from started s
    )
    select l.request_id, case when l.ours then 'known' else 'lost' end, null::uuid, null::uuid,
      null::text, null::text, null::text, null::float8, null::text[]
    from locked l
    where patient or not l.ours
    union all
    select s.request_id, 'started', s.id, null, null, null, null, null, null from started s;
    return;
  end if;

  with asked as materialized (
    select a.value as call, a.value ->> 'request_id' as request_id,
      (a.value ->> 'job_id')::uuid as job_id, (a.value ->> 'lease_no')::bigint as lease_no,
      (a.value ->> 'worker_id')::uuid as worker_id
    from jsonb_array_elements(rows) as a
  ), locked as materialized (
    select a.call, a.request_id, j.ours
    from asked a
    cross join lateral (
      select r.status = 'running' and r.lease_no = a.lease_no and r.worker_id = a.worker_id as ours
      from jobsworth.reactive_jobs r
      where r.id = a.job_id
      for no key update skip locked
    ) j
    union all
    select a.call, a.request_id, true from asked a where a.job_id is null
  )
  select array_agg(l.call) filter (where l.ours),
    array_agg(l.request_id) filter (where not l.ours)
  into calls, lost
  from locked l;
  return query
  select l.request_id, 'lost', null::uuid, null::uuid, null::text, null::text, null::text,
    null::float8, null::text[]
  from unnest(lost) as l (request_id);
  if calls is not null then
    -- Every statement from here on sees what whoever held it before has committed.
    perform jobsworth.lock_money();
    return query select s.* from jobsworth.start_counted(calls, clock_timestamp()) s;
  end if;
end $$;

CREATE FUNCTION jobsworth.start_counted(calls jsonb[], at timestamp with time zone) RETURNS SETOF jobsworth.call_verdict
    LANGUAGE plpgsql
    AS $$
declare
  n int := cardinality(calls);
  fit boolean;
  written uuid[];
  warned text[];
  against jobsworth.call_verdict;
begin
  with asked as materialized (
    select a.*, j.run_id, j.agent_id, coalesce(j.run_id, a.job_id) as run_key,
      a.input_tokens::bigint + a.output_tokens as tokens
    from unnest(calls) as u (call)
    cross join lateral jsonb_to_record(u.call) as a (
      call_id uuid, job_id uuid, lease_no bigint, attempt int, team_id uuid, thread_id uuid,
      step_name text, mode text, provider text, model text, request_id text, input_tokens int,
      output_tokens int, cost numeric, allow_unpriced boolean, exceeds uuid[])
    left join lateral (
      select r.run_id, r.agent_id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0
    ) j on true
    -- (`not exists` would be a join, which may be planned to read the whole table.)
    where (select l.id from jobsworth.llm_calls l where l.request_id = a.request_id) is null
  ), parts as materialized (
    select c.call_id, c.exceeds, b.id as budget_id, b.team_id, b.name, b.unit, b.period, b.amount,
      b.warn_at, jobsworth.window_start(b, at) as starts_at,
      case b.period when 'run' then c.run_key end as run_id,
      case b.unit when 'tokens' then c.tokens
        else coalesce(c.cost, case when c.allow_unpriced then 0 end) end as needs
    from asked c
    cross join lateral jobsworth.budgets_of(
      c.team_id, c.agent_id, c.thread_id, c.mode, c.provider, c.model, c.run_key) b
  ), sums as materialized (
    select s.*, coalesce(w.reserved + w.spent, 0) as used, w.warned_at
    from (
      select p.budget_id, p.team_id, p.name, p.unit, p.period, p.amount, p.warn_at, p.starts_at,
        p.run_id, sum(p.needs) as needs, bool_or(p.needs is null) as unpriced,
        bool_and(n = 1 and p.budget_id = any(p.exceeds)) as exceeds
      from parts p
      group by p.budget_id, p.team_id, p.name, p.unit, p.period, p.amount, p.warn_at, p.starts_at,
        p.run_id) s
    left join lateral jobsworth.window_of(s.budget_id, s.period, s.starts_at, s.run_id) w on true
  ), paces as materialized (
    select l.id, count(*) as requests, sum(c.tokens)::bigint as tokens
    from asked c
    join jobsworth.rate_limits l on l.provider = c.provider and l.model in (c.model, '*')
    group by l.id
  ), fitting as materialized (
    select not exists (
        select 1 from sums s
        where s.unpriced or s.needs > s.amount - s.used and s.exceeds is not true)
      and not exists (
        select 1 from paces p
        join jobsworth.rate_limits l on l.id = p.id
        where jobsworth.limit_wait(l, p.requests, p.tokens, at) > 0) as fit
  ), started as (
    insert into jobsworth.llm_calls (
      id, team_id, job_id, thread_id, run_id, agent_id, lease_no, attempt, step_name, scope, mode,
      provider, model, request_id, estimated_input_tokens, estimated_output_tokens, estimated_cost,
      started_at)
    select c.call_id, c.team_id, c.job_id, c.thread_id, c.run_id, c.agent_id, c.lease_no, c.attempt,
      c.step_name,
      case when c.job_id is null then 'proactive' else 'reactive' end::jobsworth.ledger_scope,
      c.mode, c.provider, c.model, c.request_id, c.input_tokens, c.output_tokens, c.cost,
      at  -- the instant that chose its windows
    from asked c
    where (select f.fit from fitting f)
    returning id, team_id, job_id, thread_id, run_id, agent_id, scope, mode, provider, model,
      estimated_input_tokens, estimated_output_tokens, estimated_cost
  ), reserved as (
    insert into jobsworth.token_ledger (
      team_id, call_id, job_id, thread_id, run_id, agent_id, entry, scope, mode, provider, model,
      input_tokens, output_tokens, cost)
    select s.team_id, s.id, s.job_id, s.thread_id, s.run_id, s.agent_id, 'reserve', s.scope, s.mode,
      s.provider, s.model, s.estimated_input_tokens, s.estimated_output_tokens, s.estimated_cost
    from started s
  ), windows as (
    insert into jobsworth.budget_windows as w (
      budget_id, team_id, starts_at, run_id, reserved, warned_at)
    select s.budget_id, s.team_id, s.starts_at, s.run_id, s.needs,
      case when s.used + s.needs >= s.warn_at * s.amount then at end
    from sums s
    where (select f.fit from fitting f)
    on conflict (budget_id, starts_at, run_id) do update
    set reserved = w.reserved + excluded.reserved,
      warned_at = coalesce(w.warned_at, excluded.warned_at)
    returning w.id, w.budget_id, w.run_id
  ), counted as (
    insert into jobsworth.call_windows (call_id, window_id, team_id, reserved, exceeded)
    select p.call_id, w.id, p.team_id, p.needs, s.needs > s.amount - s.used
    from parts p
    join windows w on w.budget_id = p.budget_id and w.run_id is not distinct from p.run_id
    join sums s on s.budget_id = p.budget_id and s.run_id is not distinct from p.run_id
  ), let_through as (
    update jobsworth.rate_limits l
    set requests_at = case when l.requests_per_minute is not null then
        greatest(l.requests_at, at)
          + make_interval(secs => p.requests * 60.0 / l.requests_per_minute) end,
      tokens_at = case when l.tokens_per_minute is not null then
        greatest(l.tokens_at, at)
          + make_interval(secs => p.tokens * 60.0 / l.tokens_per_minute) end
    from paces p
    where l.id = p.id and (select f.fit from fitting f)
      and (l.requests_per_minute is not null or l.tokens_per_minute is not null)
  ), served as (
    delete from jobsworth.budget_waits w
    using asked c
    where w.job_id = c.job_id and (select f.fit from fitting f)
  )
  select f.fit, array(select s.id from started s),
    array(
      select s.name || ': ' || trim_scale(round(s.used + s.needs, 6)) || ' of '
        || jobsworth.amount_words(s.amount, s.unit)
      from sums s
      where s.warned_at is null and s.used + s.needs >= s.warn_at * s.amount
      order by s.name)
  into fit, written, warned
  from fitting f;

  if fit then
    return query
    select c.value ->> 'request_id', case when w.id is null then 'known' else 'started' end, w.id,
      null::uuid, null::text, null::text, null::text, null::float8,
      case when c.ordinality = 1 then warned end
    from unnest(calls) with ordinality as c (value, ordinality)
    left join unnest(written) as w (id) on w.id = (c.value ->> 'call_id')::uuid;
  elsif n > 1 then
    return query select s.* from jobsworth.start_counted(calls[: n / 2], at) s;
    return query select s.* from jobsworth.start_counted(calls[n / 2 + 1 :], at) s;
  else
    against := jobsworth.refuse_call(calls[1], at);
    if against.verdict is not null then
      return next against;
    else
      return query select s.* from jobsworth.start_counted(calls, at) s;
    end if;
  end if;
end $$;

CREATE FUNCTION jobsworth.start_run(nodes jsonb, request jsonb DEFAULT '{}'::jsonb, actor text DEFAULT NULL::text, thread_id uuid DEFAULT NULL::uuid, agent_id uuid DEFAULT NULL::uuid, team_id uuid DEFAULT NULL::uuid, session_id uuid DEFAULT NULL::uuid, project_id uuid DEFAULT NULL::uuid, trace_id text DEFAULT NULL::text, idempotency_key text DEFAULT NULL::text, trigger_message_id uuid DEFAULT NULL::uuid, trace_parent text DEFAULT NULL::text, metadata jsonb DEFAULT '{}'::jsonb, status jobsworth.run_status DEFAULT 'executing'::jobsworth.run_status, id uuid DEFAULT NULL::uuid) RETURNS uuid
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $_$
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
end $_$;

CREATE FUNCTION jobsworth.supersede(approval_id uuid, successor uuid, difference text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  old jobsworth.approvals;
  new jobsworth.approvals;
begin
  select x.* into old from jobsworth.approvals x where x.id = supersede.approval_id;
  if not found then
    raise exception 'there is no approval %', supersede.approval_id
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approvals.';
  end if;
  select x.* into new from jobsworth.approvals x where x.id = supersede.successor;
  if not found then
    raise exception 'there is no approval %', supersede.successor
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approvals.';
  elsif new.id = old.id then
    raise exception 'approval % cannot replace itself', old.id
      using errcode = 'invalid_parameter_value', hint = 'Name the newer one.';
  end if;
  perform 1 from jobsworth.reactive_jobs j where j.id in (old.job_id, new.job_id)
  order by j.id for no key update;
  perform 1 from jobsworth.approvals x where x.id in (old.id, new.id) order by x.id for update;
  select x.* into old from jobsworth.approvals x where x.id = supersede.approval_id;
  select x.* into new from jobsworth.approvals x where x.id = supersede.successor;
  if old.status <> 'pending' then
    raise exception 'approval % is already %', old.id, old.status
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'List the open ones: jobsworth approvals.';
  elsif new.status <> 'pending'
    or exists (select 1 from jobsworth.approval_decisions v where v.approval_id = new.id)
  then
    raise exception 'approval % has been decided already, by other rules than those of %',
      new.id, old.id
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Ask anew; people decide the successor after it has taken this place.';
  elsif new.superseded_by is not null or new.supersedes is not null
    or new.job_id <> old.job_id or new.job_id is not null and old.job_id is null
  then
    raise exception 'approval % stands for something else than %', new.id, old.id
      using errcode = 'invalid_parameter_value', hint = 'Ask anew, for the same job or for none.';
  elsif old.effect_key is not null and new.shown_hash <> old.shown_hash and not old.editable then
    raise exception 'the job of approval % takes an answer to exactly what it asked', old.id
      using errcode = 'invalid_parameter_value',
      hint = 'Reject it; only what was asked as editable can be replaced by something else.';
  end if;
  update jobsworth.approvals x
  set status = 'superseded', superseded_by = new.id, closed_at = now()
  where x.id = old.id;
  update jobsworth.approvals x
  set supersedes = old.id, difference = supersede.difference,
    job_id = old.job_id, team_id = coalesce(x.team_id, old.team_id),
    thread_id = coalesce(x.thread_id, old.thread_id),
    effect_key = coalesce(x.effect_key, old.effect_key), for_step = old.for_step,
    asked_hash = coalesce(old.asked_hash, old.shown_hash), editable = old.editable,
    asked_by = coalesce(old.asked_by, x.asked_by),
    self_approval = old.self_approval and x.self_approval,
    votes_needed = greatest(x.votes_needed, old.votes_needed)
  where x.id = new.id;
  perform jobsworth.reconsider(array[old.job_id], patient => true) where old.job_id is not null;
end $$;

CREATE FUNCTION jobsworth.take_repricing_back() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  insert into jobsworth.token_ledger (
    team_id, call_id, job_id, thread_id, agent_id, run_id, entry, scope, mode, provider, model,
    cost, reprices, unknown_costs)
  select new.team_id, new.id, new.job_id, new.thread_id, new.agent_id, new.run_id, 'adjust',
    new.scope, new.mode, new.provider, new.model, -sum(l.cost), true, -sum(l.unknown_costs)
  from jobsworth.token_ledger l
  where l.call_id = new.id and l.entry = 'adjust' and l.reprices
  having sum(l.cost) <> 0 or sum(l.unknown_costs) <> 0;
  return null;
end $$;

CREATE TABLE jobsworth.approvals (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    thread_id uuid,
    job_id uuid,
    effect_key text,
    proposal_text text NOT NULL,
    options text[] DEFAULT '{approve,reject}'::text[] NOT NULL,
    shown jsonb,
    shown_hash text NOT NULL,
    status jobsworth.approval_status DEFAULT 'pending'::jobsworth.approval_status NOT NULL,
    deadline timestamp with time zone,
    on_timeout text DEFAULT 'reject'::text NOT NULL,
    chosen_option text,
    superseded_by uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    closed_at timestamp with time zone,
    votes_needed integer DEFAULT 1 NOT NULL,
    asked_by text,
    self_approval boolean DEFAULT false NOT NULL,
    editable boolean DEFAULT false NOT NULL,
    edited jsonb,
    edited_hash text,
    escalated_at timestamp with time zone,
    asked_hash text,
    supersedes uuid,
    difference text,
    for_step text,
    consumed_at timestamp with time zone,
    consumed_by text,
    CONSTRAINT a_no_is_always_possible CHECK (('reject'::text = ANY (options))),
    CONSTRAINT an_edit_has_its_hash CHECK (((edited IS NULL) = (edited_hash IS NULL))),
    CONSTRAINT choice_is_an_option CHECK (((chosen_option IS NULL) OR (chosen_option = ANY (options)))),
    CONSTRAINT consumed_names_its_step CHECK (((consumed_at IS NULL) = (consumed_by IS NULL))),
    CONSTRAINT decided_has_its_choice CHECK (((status <> ALL (ARRAY['approved'::jobsworth.approval_status, 'rejected'::jobsworth.approval_status, 'expired'::jobsworth.approval_status])) OR (chosen_option IS NOT NULL))),
    CONSTRAINT pending_is_open CHECK (((status = 'pending'::jobsworth.approval_status) = (closed_at IS NULL))),
    CONSTRAINT somebody_decides CHECK (((votes_needed >= 1) AND (votes_needed <= 100))),
    CONSTRAINT timeout_is_an_option CHECK (((on_timeout = ANY (options)) OR (on_timeout = 'escalate'::text)))
);

CREATE FUNCTION jobsworth.time_out(approval_id uuid) RETURNS jobsworth.approvals
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
  a jobsworth.approvals;
  escalates boolean;
  taken text;
begin
  select x.* into a from jobsworth.approvals x where x.id = time_out.approval_id;
  if a.status <> 'pending' or a.deadline is null or a.deadline > clock_timestamp() then
    return a;
  end if;
  escalates := a.on_timeout = 'escalate' and not 'escalate' = any(a.options);
  if escalates and a.escalated_at is null then
    update jobsworth.approvals x
    set escalated_at = clock_timestamp(),
      deadline = clock_timestamp() + greatest(a.deadline - a.created_at, interval '1 minute')
    where x.id = a.id
    returning x.* into a;
    return a;
  end if;
  -- The default was meant for what was asked, not for what somebody has made of it meanwhile.
  taken := case when escalates or a.edited_hash is not null then 'reject' else a.on_timeout end;
  insert into jobsworth.approval_decisions
    (approval_id, team_id, option, decided_by, channel, voted_hash)
  values (a.id, a.team_id, taken, 'deadline', 'deadline', coalesce(a.edited_hash, a.shown_hash));
  update jobsworth.approvals x
  set status = 'expired', closed_at = now(), chosen_option = taken
  where x.id = a.id
  returning x.* into a;
  perform jobsworth.reconsider(array[a.job_id], patient => true) where a.job_id is not null;
  return a;
end $$;

CREATE FUNCTION jobsworth.touch() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  new.updated_at := now();
  return new;
end $$;

CREATE FUNCTION jobsworth.unattended(after_seconds double precision) RETURNS TABLE(id uuid, lease_no bigint, worker_id uuid)
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
begin
  -- `offset 0` keeps the order: from a worker, or a gap, into the index of running jobs.
  return query
  with worker as materialized (
    select w.id, w.beaten_at <= now() - unattended.after_seconds * interval '1 second' as is_dead
    from jobsworth.workers w
  ), gap as materialized (
    select e.id as above, lead(e.id) over (order by e.id) as below
    from (
      select w.id from worker w
      union values ('00000000-0000-0000-0000-000000000000'::uuid),
        ('ffffffff-ffff-ffff-ffff-ffffffffffff')
    ) e
  )
  select j.id, j.lease_no, j.worker_id
  from worker w
  cross join lateral (
    select r.id, r.lease_no, r.worker_id
    from jobsworth.reactive_jobs r
    where r.status = 'running' and r.worker_id is not null and r.worker_id = w.id
    offset 0
  ) j
  where w.is_dead
  union all
  select j.id, j.lease_no, j.worker_id
  from gap g
  cross join lateral (
    select r.id, r.lease_no, r.worker_id
    from jobsworth.reactive_jobs r
    where r.status = 'running' and r.worker_id is not null
      and r.worker_id > g.above and r.worker_id < g.below
    offset 0
  ) j;
end $$;

CREATE FUNCTION jobsworth.unblock(job_ids uuid[]) RETURNS uuid[]
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION jobsworth.upsert_run(request jsonb DEFAULT NULL::jsonb, actor text DEFAULT NULL::text, thread_id uuid DEFAULT NULL::uuid, agent_id uuid DEFAULT NULL::uuid, team_id uuid DEFAULT NULL::uuid, session_id uuid DEFAULT NULL::uuid, project_id uuid DEFAULT NULL::uuid, trace_id text DEFAULT NULL::text, idempotency_key text DEFAULT NULL::text, metadata jsonb DEFAULT NULL::jsonb, OUT run_id uuid, OUT created boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION jobsworth.wake() RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
  if pg_sequence_last_value('jobsworth.idle_workers') > 0 then
    perform pg_notify('jobsworth.wake', '');
  end if;
end $$;

CREATE FUNCTION jobsworth.wake_budgets(budget_ids uuid[] DEFAULT NULL::uuid[]) RETURNS integer
    LANGUAGE plpgsql
    AS $$
declare
  granted uuid[] := jobsworth.grant_waiting(budget_ids);
begin
  if granted <> '{}' then
    perform jobsworth.reconsider(granted);
  end if;
  return cardinality(granted);
end $$;

CREATE FUNCTION jobsworth.wake_limited() RETURNS void
    LANGUAGE sql
    AS $$
  update jobsworth.reactive_jobs j set run_at = clock_timestamp()
  where j.id = any(array(
    select x.id from jobsworth.reactive_jobs x
    where x.status = 'waiting' and x.waiting_for = 'limit' and x.run_at > clock_timestamp()
    for no key update skip locked))
$$;

CREATE FUNCTION jobsworth.wake_on_insert() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  perform pg_notify('jobsworth.wake', '');
  return null;
end $$;

CREATE FUNCTION jobsworth.why(job_id uuid) RETURNS TABLE(status jobsworth.job_status, reason text, detail text, remedy text)
    LANGUAGE plpgsql STABLE
    AS $$
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

CREATE TABLE jobsworth.budget_windows (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    budget_id uuid NOT NULL,
    starts_at timestamp with time zone NOT NULL,
    run_id uuid,
    reserved numeric DEFAULT 0 NOT NULL,
    spent numeric DEFAULT 0 NOT NULL,
    warned_at timestamp with time zone
)
WITH (fillfactor='50');

CREATE FUNCTION jobsworth.window_of(budget_id uuid, period jobsworth.budget_period, starts_at timestamp with time zone, run_key uuid) RETURNS SETOF jobsworth.budget_windows
    LANGUAGE sql STABLE
    AS $$
  select w.*
  from jobsworth.budget_windows w
  where window_of.period <> 'run' and w.budget_id = window_of.budget_id
    and w.starts_at = window_of.starts_at and w.run_id is null
  union all
  select w.*
  from jobsworth.budget_windows w
  where window_of.period = 'run' and w.budget_id = window_of.budget_id
    and w.starts_at = window_of.starts_at and w.run_id = window_of.run_key
$$;

CREATE FUNCTION jobsworth.window_start(b jobsworth.budgets, at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    RETURN GREATEST((b).reset_at, CASE (b).period WHEN 'run'::jobsworth.budget_period THEN (b).created_at ELSE (date_trunc(((b).period)::text, (at AT TIME ZONE 'utc'::text)) AT TIME ZONE 'utc'::text) END);

CREATE FUNCTION jobsworth.why_budget(job_id uuid, OUT detail text, OUT remedy text) RETURNS record
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (w.granted_at IS NOT NULL) THEN 'there is room again: next to be promoted'::text
             ELSE jobsworth.budget_words(b.*, COALESCE((x.reserved + x.spent), (0)::numeric), w.amount, now())
         END AS budget_words,
         CASE
             WHEN (w.granted_at IS NOT NULL) THEN 'nothing to do: a worker promotes it'::text
             ELSE (((('jobsworth budget raise '::text || b.name) || ' '::text) || trim_scale(round((COALESCE((x.reserved + x.spent), (0)::numeric) + w.amount), 6))) || ' (or more), or wait for room'::text)
         END AS "case"
    FROM ((jobsworth.budget_waits w
      JOIN jobsworth.budgets b ON ((b.id = w.budget_id)))
      LEFT JOIN LATERAL jobsworth.window_of(b.id, b.period, jobsworth.window_start(b.*, now()), w.run_id) x(id, team_id, budget_id, starts_at, run_id, reserved, spent, warned_at) ON (true))
   WHERE (w.job_id = why_budget.job_id);
END;

CREATE FUNCTION jobsworth.why_environment(job_id uuid, OUT detail text, OUT remedy text) RETURNS record
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT (j.waiting_detail || COALESCE(((((((' is held by deployment '::text || d.id) || ' of '::text) || "left"(d.sha, 12)) || ' ('::text) || d.status) || ')'::text), ' is free: next to be promoted'::text)),
         CASE
             WHEN (d.id IS NULL) THEN 'nothing to do: a worker promotes it'::text
             ELSE COALESCE(('jobsworth why '::text || d.job_id), 'end it: it has no job'::text)
         END AS "coalesce"
    FROM (jobsworth.reactive_jobs j
      LEFT JOIN jobsworth.deployments d ON (((d.environment = substr(j.waiting_detail, 13)) AND (d.finished_at IS NULL) AND (NOT (d.team_id IS DISTINCT FROM j.team_id)))))
   WHERE ((j.id = why_environment.job_id) AND (j.waiting_for = 'limit'::jobsworth.wait_reason) AND (j.run_at IS NULL) AND (j.waiting_detail ~~ 'environment %'::text));
END;

CREATE FUNCTION jobsworth.why_person(job_id uuid, OUT detail text, OUT remedy text) RETURNS record
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT ((((((((('step '::text || s.name) || ' was begun at '::text) || to_char((s.started_at AT TIME ZONE 'utc'::text), 'YYYY-MM-DD HH24:MI:SS'::text)) || ' UTC by attempt '::text) || s.attempt) || COALESCE((' on '::text || s.begun_by), ''::text)) || ' and not recorded'::text) || COALESCE(((' ('::text || s.error) || ')'::text), ''::text)) || '; it is unsafe to repeat'::text),
     ((((((('if it happened: jobsworth step done '::text || why_person.job_id) || ' '::text) || jobsworth.shell_word(s.name)) || ' [--output JSON]; if it did not: jobsworth step again '::text) || why_person.job_id) || ' '::text) || jobsworth.shell_word(s.name))
    FROM jobsworth.steps s
   WHERE ((s.job_id = why_person.job_id) AND (s.effect = 'unsafe'::jobsworth.step_effect) AND (s.kind <> 'phase'::text) AND (s.finished_at IS NULL))
   ORDER BY s.started_at
  LIMIT 1;
END;

CREATE TABLE jobsworth.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE jobsworth.approval_decisions (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    approval_id uuid NOT NULL,
    option text NOT NULL,
    decided_by text NOT NULL,
    channel text NOT NULL,
    comment text,
    decided_at timestamp with time zone DEFAULT now() NOT NULL,
    voted_hash text
);

CREATE VIEW jobsworth.approvals_decided AS
 SELECT a.id,
    a.team_id,
    a.thread_id,
    a.job_id,
    a.effect_key,
    a.proposal_text,
    a.options,
    a.shown,
    a.shown_hash,
    a.status,
    a.deadline,
    a.on_timeout,
    a.chosen_option,
    a.superseded_by,
    a.created_at,
    a.closed_at,
    d.decided_by,
    d.channel,
    d.comment,
    d.decided_at,
    a.votes_needed,
    a.asked_by,
    a.self_approval,
    a.editable,
    a.edited,
    a.edited_hash,
    a.escalated_at,
    a.asked_hash,
    a.supersedes,
    a.difference,
    a.for_step,
    a.consumed_at,
    a.consumed_by
   FROM (jobsworth.approvals a
     LEFT JOIN LATERAL ( SELECT v.decided_by,
            v.channel,
            v.comment,
            v.decided_at
           FROM jobsworth.approval_decisions v
          WHERE ((v.approval_id = a.id) AND (a.chosen_option IS NOT NULL))
          ORDER BY v.id DESC
         LIMIT 1) d ON (true));

CREATE TABLE jobsworth.artifacts (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    job_id uuid NOT NULL,
    effect_key text NOT NULL,
    name text NOT NULL,
    media_type text NOT NULL,
    bytes bigint,
    sha256 text,
    content bytea,
    uri text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT artifact_has_content_or_uri CHECK (((content IS NULL) <> (uri IS NULL))),
    CONSTRAINT content_has_its_hash CHECK (((content IS NULL) OR ((sha256 IS NOT NULL) AND (bytes IS NOT NULL))))
);

CREATE TABLE jobsworth.branch_reads (
    job_id uuid NOT NULL,
    team_id uuid,
    from_job_id uuid NOT NULL,
    cut_at timestamp with time zone NOT NULL
);

CREATE TABLE jobsworth.branches (
    run_id uuid NOT NULL,
    parent_run_id uuid NOT NULL,
    team_id uuid,
    node text NOT NULL,
    step_name text,
    cut_at timestamp with time zone NOT NULL,
    changes jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_by text,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE jobsworth.call_windows (
    call_id uuid NOT NULL,
    window_id uuid NOT NULL,
    team_id uuid,
    reserved numeric NOT NULL,
    spent numeric DEFAULT 0 NOT NULL,
    exceeded boolean DEFAULT false NOT NULL
)
WITH (fillfactor='80');

CREATE TABLE jobsworth.chat_messages (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    thread_id uuid NOT NULL,
    role jobsworth.message_role NOT NULL,
    text text NOT NULL,
    author_user_id uuid,
    author_agent_id uuid,
    recipient_agent_id uuid,
    request_id text,
    platform_message_id text,
    raw_payload jsonb,
    model text,
    input_tokens integer,
    output_tokens integer,
    latency_ms integer,
    job_id uuid,
    effect_key text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE jobsworth.chat_threads (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    user_id uuid,
    agent_id uuid,
    platform text NOT NULL,
    chat_id text NOT NULL,
    title text,
    status jobsworth.thread_status DEFAULT 'active'::jobsworth.thread_status NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    archived_at timestamp with time zone,
    CONSTRAINT archived_has_its_time CHECK (((status = 'archived'::jobsworth.thread_status) = (archived_at IS NOT NULL)))
);

CREATE TABLE jobsworth.embedding_outbox (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    thread_id uuid,
    job_id uuid,
    effect_key text,
    source_kind text NOT NULL,
    source_id text,
    text text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    next_try_at timestamp with time zone DEFAULT now() NOT NULL,
    last_error text,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE jobsworth.embedding_spaces (
    id integer NOT NULL,
    model text NOT NULL,
    dimensions integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT dimensions_fit_halfvec CHECK (((dimensions >= 1) AND (dimensions <= 16000)))
);

ALTER TABLE jobsworth.embedding_spaces ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME jobsworth.embedding_spaces_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE jobsworth.embeddings (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    thread_id uuid,
    job_id uuid,
    effect_key text,
    space_id integer NOT NULL,
    source_kind text NOT NULL,
    source_id text,
    text text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    vector public.halfvec NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE jobsworth.environments (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    name text NOT NULL,
    approvals_needed smallint DEFAULT 0 NOT NULL,
    repository text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT approvals_are_none_one_or_two CHECK (((approvals_needed >= 0) AND (approvals_needed <= 2)))
);

CREATE VIEW jobsworth.environment_states AS
 SELECT n.team_id,
    n.name AS environment,
    e.approvals_needed,
    live.id AS current_deployment_id,
    live.sha AS current_sha,
    live.release AS current_release,
    live.host AS current_host,
    live.finished_at AS current_since,
    held.id AS locked_by_deployment_id,
    held.job_id AS locked_by_job_id,
    held.created_at AS locked_since
   FROM (((( SELECT d.team_id,
            d.environment AS name
           FROM jobsworth.deployments d
        UNION
         SELECT k.team_id,
            k.name
           FROM jobsworth.environments k) n
     LEFT JOIN jobsworth.environments e ON (((e.name = n.name) AND (NOT (e.team_id IS DISTINCT FROM n.team_id)))))
     LEFT JOIN LATERAL ( SELECT d.id,
            d.sha,
            d.release,
            d.host,
            d.finished_at
           FROM jobsworth.deployments d
          WHERE ((d.environment = n.name) AND (NOT (d.team_id IS DISTINCT FROM n.team_id)) AND (d.status = 'healthy'::jobsworth.deployment_status))
          ORDER BY d.id DESC
         LIMIT 1) live ON (true))
     LEFT JOIN jobsworth.deployments held ON (((held.environment = n.name) AND (NOT (held.team_id IS DISTINCT FROM n.team_id)) AND (held.finished_at IS NULL))));

CREATE SEQUENCE jobsworth.idle_workers
    START WITH 0
    INCREMENT BY 1
    MINVALUE 0
    NO MAXVALUE
    CACHE 1;

CREATE TABLE jobsworth.job_edges (
    job_id uuid NOT NULL,
    needs_job_id uuid NOT NULL,
    on_failure jobsworth.parent_failure DEFAULT 'skip'::jobsworth.parent_failure NOT NULL,
    CONSTRAINT job_does_not_need_itself CHECK ((job_id <> needs_job_id))
);

CREATE SEQUENCE jobsworth.lane_position
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE SEQUENCE jobsworth.lease_no
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE jobsworth.ledger_closing (
    single boolean DEFAULT true NOT NULL,
    team_id uuid,
    closed_through date,
    closed_at timestamp with time zone,
    CONSTRAINT ledger_closing_single_check CHECK (single)
);

CREATE TABLE jobsworth.ledger_days (
    day date NOT NULL,
    team_id uuid,
    provider text NOT NULL,
    model text NOT NULL,
    mode text,
    agent_id uuid,
    scope jobsworth.ledger_scope NOT NULL,
    entries bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    cost numeric,
    unknown_cost_entries bigint NOT NULL
);

CREATE TABLE jobsworth.llm_calls (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    job_id uuid,
    thread_id uuid,
    lease_no bigint,
    attempt integer,
    step_name text,
    scope jobsworth.ledger_scope DEFAULT 'reactive'::jobsworth.ledger_scope NOT NULL,
    mode text,
    agent_id uuid,
    provider text NOT NULL,
    model text NOT NULL,
    status jobsworth.call_status DEFAULT 'started'::jobsworth.call_status NOT NULL,
    request_id text NOT NULL,
    estimated_input_tokens integer DEFAULT 0 NOT NULL,
    estimated_output_tokens integer DEFAULT 0 NOT NULL,
    estimated_cost numeric,
    input_tokens integer,
    output_tokens integer,
    cache_read_tokens integer,
    cache_write_tokens integer,
    usage_source jobsworth.usage_source,
    cost numeric,
    price_version text,
    latency_ms integer,
    error text,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    settled_at timestamp with time zone,
    run_id uuid,
    reasoning_tokens integer,
    total_tokens integer,
    price jsonb,
    over_estimate boolean GENERATED ALWAYS AS ((COALESCE((((input_tokens)::bigint + output_tokens) > ((estimated_input_tokens)::bigint + estimated_output_tokens)), false) OR COALESCE((cost > estimated_cost), false))) STORED NOT NULL,
    CONSTRAINT started_or_settled CHECK (((status = 'started'::jobsworth.call_status) = (settled_at IS NULL))),
    CONSTRAINT tokens_are_counts CHECK (((input_tokens >= 0) AND (output_tokens >= 0) AND (cache_read_tokens >= 0) AND (cache_write_tokens >= 0) AND (estimated_input_tokens >= 0) AND (estimated_output_tokens >= 0)))
);

CREATE TABLE jobsworth.message_artifacts (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    message_id uuid NOT NULL,
    kind jobsworth.message_artifact_kind NOT NULL,
    content_json jsonb,
    uri text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT artifact_has_content_or_uri CHECK (((content_json IS NOT NULL) OR (uri IS NOT NULL)))
);

CREATE TABLE jobsworth.prices (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    provider text NOT NULL,
    model text NOT NULL,
    input numeric NOT NULL,
    output numeric NOT NULL,
    cache_read numeric,
    cache_write numeric,
    valid_from timestamp with time zone,
    note text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT a_price_names_its_model CHECK (((provider <> ''::text) AND (model <> ''::text))),
    CONSTRAINT a_star_ends_the_model CHECK (((POSITION(('*'::text) IN (model)) = 0) OR (POSITION(('*'::text) IN (model)) = length(model)))),
    CONSTRAINT prices_are_amounts CHECK (((input >= (0)::numeric) AND (input < '1000000000'::numeric) AND (output >= (0)::numeric) AND (output < '1000000000'::numeric) AND (cache_read >= (0)::numeric) AND (cache_read < '1000000000'::numeric) AND (cache_write >= (0)::numeric) AND (cache_write < '1000000000'::numeric)))
);

CREATE TABLE jobsworth.queues (
    name text NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE jobsworth.run_metrics (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    run_id uuid,
    job_id uuid NOT NULL,
    effect_key text NOT NULL,
    name text NOT NULL,
    value double precision NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE jobsworth.signals (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    job_id uuid NOT NULL,
    name text NOT NULL,
    payload jsonb,
    sent_at timestamp with time zone DEFAULT now() NOT NULL,
    received_at timestamp with time zone
);

CREATE TABLE jobsworth.step_decisions (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    job_id uuid NOT NULL,
    step_name text NOT NULL,
    decision text NOT NULL,
    output jsonb,
    attempt integer NOT NULL,
    begun_at timestamp with time zone NOT NULL,
    begun_by text,
    error text,
    decided_by text NOT NULL,
    decided_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT decision_is_done_or_again CHECK ((decision = ANY (ARRAY['done'::text, 'again'::text])))
);

CREATE TABLE jobsworth.token_ledger (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    call_id uuid,
    job_id uuid,
    thread_id uuid,
    agent_id uuid,
    entry jobsworth.ledger_entry NOT NULL,
    scope jobsworth.ledger_scope DEFAULT 'reactive'::jobsworth.ledger_scope NOT NULL,
    mode text,
    provider text NOT NULL,
    model text NOT NULL,
    input_tokens bigint DEFAULT 0 NOT NULL,
    output_tokens bigint DEFAULT 0 NOT NULL,
    cache_read_tokens bigint DEFAULT 0 NOT NULL,
    cache_write_tokens bigint DEFAULT 0 NOT NULL,
    total_tokens bigint GENERATED ALWAYS AS ((input_tokens + output_tokens)) STORED NOT NULL,
    cost numeric,
    price_version text,
    occurred_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    run_id uuid,
    reasoning_tokens bigint DEFAULT 0 NOT NULL,
    unknown_costs smallint,
    reprices boolean DEFAULT false NOT NULL,
    CONSTRAINT only_an_adjustment_reprices CHECK (((NOT reprices) OR ((entry = 'adjust'::jobsworth.ledger_entry) AND (call_id IS NOT NULL))))
);

CREATE VIEW jobsworth.violations_of_books AS
 SELECT 'settled call without its ledger entry'::text AS invariant,
    c.id AS subject_id,
    ((c.provider || ' '::text) || c.model) AS detail,
    c.settled_at AS at
   FROM jobsworth.llm_calls c
  WHERE ((c.settled_at IS NOT NULL) AND (NOT (EXISTS ( SELECT 1
           FROM jobsworth.token_ledger l
          WHERE ((l.call_id = c.id) AND (l.entry = ANY (ARRAY['settle'::jobsworth.ledger_entry, 'release'::jobsworth.ledger_entry])))))))
UNION ALL
 SELECT 'open call without its attempt'::text AS invariant,
    c.id AS subject_id,
    ((c.provider || ' '::text) || c.model) AS detail,
    'infinity'::timestamp with time zone AS at
   FROM jobsworth.llm_calls c
  WHERE ((c.status = 'started'::jobsworth.call_status) AND (c.started_at < (now() - '00:01:00'::interval)) AND (c.job_id IS NOT NULL) AND (NOT (EXISTS ( SELECT 1
           FROM jobsworth.reactive_jobs j
          WHERE ((j.id = c.job_id) AND (j.lease_no = c.lease_no) AND (j.status = 'running'::jobsworth.job_status))))))
UNION ALL
 SELECT 'ledger entry that contradicts its call'::text AS invariant,
    c.id AS subject_id,
    ((ROW(l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost) || ' is not '::text) || ROW(c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens, c.cost)) AS detail,
    c.settled_at AS at
   FROM (jobsworth.llm_calls c
     CROSS JOIN LATERAL ( SELECT e.input_tokens,
            e.output_tokens,
            e.cache_read_tokens,
            e.cache_write_tokens,
            e.cost
           FROM jobsworth.token_ledger e
          WHERE ((e.call_id = c.id) AND (e.entry = ANY (ARRAY['settle'::jobsworth.ledger_entry, 'release'::jobsworth.ledger_entry])))
         OFFSET 0) l)
  WHERE (((l.cost IS DISTINCT FROM c.cost) OR (l.input_tokens <> COALESCE(c.input_tokens, 0)) OR (l.output_tokens <> COALESCE(c.output_tokens, 0)) OR (l.cache_read_tokens <> COALESCE(c.cache_read_tokens, 0)) OR (l.cache_write_tokens <> COALESCE(c.cache_write_tokens, 0))) AND (NOT (EXISTS ( SELECT 1
           FROM jobsworth.token_ledger a
          WHERE ((a.call_id = c.id) AND (a.entry = 'adjust'::jobsworth.ledger_entry))))))
UNION ALL
 SELECT 'budget window that is not the sum of its calls'::text AS invariant,
    w.id AS subject_id,
    ((ROW(w.reserved, w.spent) || ' is not '::text) || ROW(COALESCE(p.reserved, (0)::numeric), COALESCE(p.spent, (0)::numeric))) AS detail,
    'infinity'::timestamp with time zone AS at
   FROM (jobsworth.budget_windows w
     LEFT JOIN LATERAL ( SELECT sum(x.reserved) AS reserved,
            sum(x.spent) AS spent
           FROM jobsworth.call_windows x
          WHERE (x.window_id = w.id)
         OFFSET 0) p ON (true))
  WHERE ((w.starts_at > (now() - '02:00:00'::interval)) AND ((w.reserved <> COALESCE(p.reserved, (0)::numeric)) OR (w.spent <> COALESCE(p.spent, (0)::numeric))));

CREATE VIEW jobsworth.violations_of_consent AS
 SELECT 'ended with an open approval'::text AS invariant,
    a.job_id AS subject_id,
    ('approval '::text || a.id) AS detail,
    'infinity'::timestamp with time zone AS at
   FROM (jobsworth.approvals a
     CROSS JOIN LATERAL ( SELECT r.finished_at
           FROM jobsworth.reactive_jobs r
          WHERE (r.id = a.job_id)
         OFFSET 0) j)
  WHERE ((a.status = 'pending'::jobsworth.approval_status) AND (j.finished_at < (now() - '00:00:30'::interval)))
UNION ALL
 SELECT 'consumed by a step that does not exist'::text AS invariant,
    a.id AS subject_id,
    a.consumed_by AS detail,
    a.consumed_at AS at
   FROM (jobsworth.approvals a
     CROSS JOIN LATERAL ( SELECT r.id
           FROM jobsworth.reactive_jobs r
          WHERE (r.id = a.job_id)
         OFFSET 0) j)
  WHERE ((a.consumed_at IS NOT NULL) AND (NOT (EXISTS ( SELECT 1
           FROM jobsworth.steps s
          WHERE ((s.job_id = j.id) AND (s.name = a.consumed_by))))))
UNION ALL
 SELECT 'consumed without a yes'::text AS invariant,
    a.id AS subject_id,
    (a.status || COALESCE((', '::text || a.chosen_option), ''::text)) AS detail,
    a.consumed_at AS at
   FROM jobsworth.approvals a
  WHERE ((a.consumed_at IS NOT NULL) AND ((a.status <> ALL (ARRAY['approved'::jobsworth.approval_status, 'expired'::jobsworth.approval_status])) OR (a.chosen_option = 'reject'::text) OR (a.superseded_by IS NOT NULL)))
UNION ALL
 SELECT 'superseded without its successor'::text AS invariant,
    a.id AS subject_id,
    COALESCE((a.superseded_by)::text, 'by nothing'::text) AS detail,
    a.closed_at AS at
   FROM jobsworth.approvals a
  WHERE (((a.superseded_by IS NULL) AND (a.status = 'superseded'::jobsworth.approval_status) AND (a.job_id IS NULL)) OR ((a.superseded_by IS NOT NULL) AND (NOT (EXISTS ( SELECT 1
           FROM jobsworth.approvals s
          WHERE ((s.id = a.superseded_by) AND (s.supersedes = a.id)))))))
UNION ALL
 SELECT 'two approvals for one question'::text AS invariant,
    a.id AS subject_id,
    a.effect_key AS detail,
    a.created_at AS at
   FROM jobsworth.approvals a
  WHERE ((a.superseded_by IS NULL) AND (a.effect_key IS NOT NULL) AND (EXISTS ( SELECT 1
           FROM jobsworth.approvals b
          WHERE ((b.job_id = a.job_id) AND (b.effect_key = a.effect_key) AND (b.superseded_by IS NULL) AND (b.id > a.id)))));

CREATE VIEW jobsworth.violations_of_ledger AS
 SELECT 'call whose entries do not add up to it'::text AS invariant,
    c.id AS subject_id,
    ((ROW(e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_write_tokens, e.cost) || ' is not '::text) || ROW(c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens, c.cost)) AS detail,
    a.occurred_at AS at
   FROM ((jobsworth.token_ledger a
     CROSS JOIN LATERAL ( SELECT k.id,
            k.settled_at,
            k.cost,
            COALESCE(k.input_tokens, 0) AS input_tokens,
            COALESCE(k.output_tokens, 0) AS output_tokens,
            COALESCE(k.cache_read_tokens, 0) AS cache_read_tokens,
            COALESCE(k.cache_write_tokens, 0) AS cache_write_tokens
           FROM jobsworth.llm_calls k
          WHERE (k.id = a.call_id)
         OFFSET 0) c)
     CROSS JOIN LATERAL ( SELECT sum(l.input_tokens) AS input_tokens,
            sum(l.output_tokens) AS output_tokens,
            sum(l.cache_read_tokens) AS cache_read_tokens,
            sum(l.cache_write_tokens) AS cache_write_tokens,
            sum(l.cost) AS cost
           FROM ( SELECT s.input_tokens,
                    s.output_tokens,
                    s.cache_read_tokens,
                    s.cache_write_tokens,
                    s.cost
                   FROM jobsworth.token_ledger s
                  WHERE ((s.call_id = a.call_id) AND (s.entry = ANY (ARRAY['settle'::jobsworth.ledger_entry, 'release'::jobsworth.ledger_entry])))
                UNION ALL
                 SELECT s.input_tokens,
                    s.output_tokens,
                    s.cache_read_tokens,
                    s.cache_write_tokens,
                    s.cost
                   FROM jobsworth.token_ledger s
                  WHERE ((s.call_id = a.call_id) AND (s.entry = 'adjust'::jobsworth.ledger_entry) AND (NOT s.reprices))) l
         OFFSET 0) e)
  WHERE (((a.entry)::text = 'adjust'::text) AND (a.call_id IS NOT NULL) AND ((c.settled_at IS NULL) OR (e.cost IS DISTINCT FROM c.cost) OR (e.input_tokens IS DISTINCT FROM (c.input_tokens)::numeric) OR (e.output_tokens IS DISTINCT FROM (c.output_tokens)::numeric) OR (e.cache_read_tokens IS DISTINCT FROM (c.cache_read_tokens)::numeric) OR (e.cache_write_tokens IS DISTINCT FROM (c.cache_write_tokens)::numeric)));

CREATE VIEW jobsworth.violations_of_queue AS
 SELECT 'two running in a lane'::text AS invariant,
    j.id AS subject_id,
    ('lane '::text || j.lane) AS detail,
    'infinity'::timestamp with time zone AS at
   FROM jobsworth.reactive_jobs j
  WHERE ((j.status = 'running'::jobsworth.job_status) AND (j.lane IS NOT NULL) AND (EXISTS ( SELECT 1
           FROM jobsworth.reactive_jobs o
          WHERE ((o.lane = j.lane) AND (o.status = 'running'::jobsworth.job_status) AND (o.id <> j.id)))))
UNION ALL
 SELECT 'running without a living worker'::text AS invariant,
    j.id AS subject_id,
    ('since '::text || j.started_at) AS detail,
    'infinity'::timestamp with time zone AS at
   FROM (jobsworth.unattended((30)::double precision) u(id, lease_no, worker_id)
     CROSS JOIN LATERAL ( SELECT r.id,
            r.started_at
           FROM jobsworth.reactive_jobs r
          WHERE ((r.id = u.id) AND (r.lease_no = u.lease_no) AND (r.status = 'running'::jobsworth.job_status))
         OFFSET 0) j)
  WHERE (j.started_at < (now() - '00:00:30'::interval))
UNION ALL
 SELECT 'waiting though its reason is gone'::text AS invariant,
    j.id AS subject_id,
    (j.waiting_for)::text AS detail,
    'infinity'::timestamp with time zone AS at
   FROM jobsworth.reactive_jobs j
  WHERE ((j.status = 'waiting'::jobsworth.job_status) AND (j.waiting_for = ANY (ARRAY['timer'::jobsworth.wait_reason, 'signal'::jobsworth.wait_reason])) AND (j.run_at < (now() - '00:00:30'::interval)) AND jobsworth.reason_gone(j.*))
UNION ALL
 SELECT 'waiting though its reason is gone'::text AS invariant,
    j.id AS subject_id,
    (j.waiting_for)::text AS detail,
    'infinity'::timestamp with time zone AS at
   FROM jobsworth.reactive_jobs j
  WHERE ((j.status = 'waiting'::jobsworth.job_status) AND (j.waiting_for = ANY (ARRAY['lane'::jobsworth.wait_reason, 'parents'::jobsworth.wait_reason, 'children'::jobsworth.wait_reason, 'approval'::jobsworth.wait_reason, 'handler'::jobsworth.wait_reason, 'signal'::jobsworth.wait_reason])) AND ((j.waiting_for <> 'signal'::jobsworth.wait_reason) OR (j.run_at IS NULL)) AND (COALESCE(j.run_at, j.created_at) < (now() - '00:00:30'::interval)) AND jobsworth.reason_gone(j.*))
UNION ALL
 SELECT 'ended with an open child'::text AS invariant,
    c.id AS subject_id,
    ('parent '::text || c.parent_id) AS detail,
    'infinity'::timestamp with time zone AS at
   FROM (jobsworth.reactive_jobs c
     CROSS JOIN LATERAL ( SELECT r.finished_at
           FROM jobsworth.reactive_jobs r
          WHERE (r.id = c.parent_id)
         OFFSET 0) p)
  WHERE (c.is_child AND (c.finished_at IS NULL) AND (NOT c.cancel_requested) AND (p.finished_at < (now() - '00:00:30'::interval)));

CREATE VIEW jobsworth.violations_of_runs AS
 SELECT 'open run whose jobs have all ended'::text AS invariant,
    r.id AS subject_id,
    (r.status)::text AS detail,
    'infinity'::timestamp with time zone AS at
   FROM jobsworth.runs r
  WHERE ((r.finished_at IS NULL) AND (NOT (EXISTS ( SELECT 1
           FROM jobsworth.reactive_jobs j
          WHERE ((j.run_id = r.id) AND (j.finished_at IS NULL))))) AND (( SELECT max(j.finished_at) AS max
           FROM jobsworth.reactive_jobs j
          WHERE (j.run_id = r.id)) < (now() - '00:00:30'::interval)))
UNION ALL
 SELECT 'ended run with an open job'::text AS invariant,
    j.run_id AS subject_id,
    ((('job '::text || j.id) || ' is '::text) || j.status) AS detail,
    'infinity'::timestamp with time zone AS at
   FROM (jobsworth.reactive_jobs j
     CROSS JOIN LATERAL ( SELECT o.finished_at
           FROM jobsworth.runs o
          WHERE (o.id = j.run_id)
         OFFSET 0) r)
  WHERE ((j.run_id IS NOT NULL) AND (j.finished_at IS NULL) AND (r.finished_at < (now() - '00:00:30'::interval)))
UNION ALL
 SELECT 'job of a run that is not there'::text AS invariant,
    j.id AS subject_id,
    ('run '::text || j.run_id) AS detail,
    'infinity'::timestamp with time zone AS at
   FROM jobsworth.reactive_jobs j
  WHERE ((j.run_id IS NOT NULL) AND (j.finished_at IS NULL) AND (NOT (EXISTS ( SELECT 1
           FROM jobsworth.runs r
          WHERE (r.id = j.run_id)))));

CREATE VIEW jobsworth.violations_of_shipping AS
 SELECT 'healthy without a passing probe'::text AS invariant,
    d.id AS subject_id,
    d.environment AS detail,
    'infinity'::timestamp with time zone AS at
   FROM jobsworth.deployments d
  WHERE ((d.status = 'healthy'::jobsworth.deployment_status) AND (NOT COALESCE(((d.probe ->> 'passed'::text))::boolean, false)))
UNION ALL
 SELECT 'unfinished deployment of a finished job'::text AS invariant,
    d.id AS subject_id,
    d.environment AS detail,
    'infinity'::timestamp with time zone AS at
   FROM (jobsworth.deployments d
     CROSS JOIN LATERAL ( SELECT r.finished_at
           FROM jobsworth.reactive_jobs r
          WHERE (r.id = d.job_id)
         OFFSET 0) j)
  WHERE ((d.finished_at IS NULL) AND (j.finished_at < (now() - '00:00:30'::interval)))
UNION ALL
 SELECT 'two deployments at once in an environment'::text AS invariant,
    d.id AS subject_id,
    d.environment AS detail,
    'infinity'::timestamp with time zone AS at
   FROM jobsworth.deployments d
  WHERE ((d.finished_at IS NULL) AND (EXISTS ( SELECT 1
           FROM jobsworth.deployments o
          WHERE ((o.finished_at IS NULL) AND (o.environment = d.environment) AND (NOT (o.team_id IS DISTINCT FROM d.team_id)) AND (o.id <> d.id)))))
UNION ALL
 SELECT 'environment held by nobody'::text AS invariant,
    d.id AS subject_id,
    d.environment AS detail,
    'infinity'::timestamp with time zone AS at
   FROM (jobsworth.deployments d
     LEFT JOIN LATERAL ( SELECT r.status,
            r.lease_no,
            r.finished_at
           FROM jobsworth.reactive_jobs r
          WHERE (r.id = d.job_id)
         OFFSET 0) j ON (true))
  WHERE ((d.finished_at IS NULL) AND (d.job_id IS NOT NULL) AND (((j.status IS NULL) AND (d.updated_at < (now() - '00:30:00'::interval))) OR ((j.finished_at IS NULL) AND (j.status <> 'running'::jobsworth.job_status) AND (d.idle_lease_no = j.lease_no) AND (d.idle_since < (now() - '00:30:00'::interval)))))
UNION ALL
 SELECT 'rolled back to what was never healthy there'::text AS invariant,
    d.id AS subject_id,
    d.environment AS detail,
    'infinity'::timestamp with time zone AS at
   FROM (jobsworth.deployments d
     LEFT JOIN jobsworth.deployments t ON ((t.id = d.rollback_to)))
  WHERE ((d.rollback_to IS NOT NULL) AND ((t.id IS NULL) OR (t.status <> 'healthy'::jobsworth.deployment_status) OR (t.environment <> d.environment) OR (t.team_id IS DISTINCT FROM d.team_id) OR (t.sha <> d.sha)));

CREATE VIEW jobsworth.violations AS
 SELECT v.invariant,
    v.subject_id,
    v.detail,
    v.at
   FROM jobsworth.violations_of_queue v
UNION ALL
 SELECT v.invariant,
    v.subject_id,
    v.detail,
    v.at
   FROM jobsworth.violations_of_runs v
UNION ALL
 SELECT v.invariant,
    v.subject_id,
    v.detail,
    v.at
   FROM jobsworth.violations_of_books v
UNION ALL
 SELECT v.invariant,
    v.subject_id,
    v.detail,
    v.at
   FROM jobsworth.violations_of_ledger v
UNION ALL
 SELECT v.invariant,
    v.subject_id,
    v.detail,
    v.at
   FROM jobsworth.violations_of_consent v
UNION ALL
 SELECT v.invariant,
    v.subject_id,
    v.detail,
    v.at
   FROM jobsworth.violations_of_shipping v;

CREATE TABLE jobsworth.webhook_outbox (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    webhook_id uuid NOT NULL,
    approval_id uuid NOT NULL,
    event text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    next_try_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_status integer,
    last_error text,
    delivered_at timestamp with time zone,
    dead_at timestamp with time zone,
    CONSTRAINT ends_once CHECK (((delivered_at IS NULL) OR (dead_at IS NULL)))
);

CREATE TABLE jobsworth.webhooks (
    id uuid DEFAULT jobsworth.uuidv7() NOT NULL,
    team_id uuid,
    url text NOT NULL,
    events text[] DEFAULT '{approval.opened,approval.edited,approval.escalated,approval.closed}'::text[] NOT NULL,
    active boolean DEFAULT true NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT known_events CHECK ((events <@ '{approval.opened,approval.edited,approval.escalated,approval.closed}'::text[]))
);

CREATE TABLE jobsworth.workers (
    id uuid NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    modes text[] NOT NULL,
    queues text[] NOT NULL,
    slots integer NOT NULL,
    running integer DEFAULT 0 NOT NULL,
    idle boolean DEFAULT false NOT NULL,
    draining boolean DEFAULT false NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    beaten_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE ONLY jobsworth.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY jobsworth.approval_decisions
    ADD CONSTRAINT approval_decisions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.approvals
    ADD CONSTRAINT approvals_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.artifacts
    ADD CONSTRAINT artifacts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.branch_reads
    ADD CONSTRAINT branch_reads_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY jobsworth.branches
    ADD CONSTRAINT branches_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY jobsworth.budgets
    ADD CONSTRAINT budget_name UNIQUE NULLS NOT DISTINCT (team_id, name);

ALTER TABLE ONLY jobsworth.budget_waits
    ADD CONSTRAINT budget_waits_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY jobsworth.budget_windows
    ADD CONSTRAINT budget_windows_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.budgets
    ADD CONSTRAINT budgets_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.call_windows
    ADD CONSTRAINT call_windows_pkey PRIMARY KEY (call_id, window_id);

ALTER TABLE ONLY jobsworth.chat_messages
    ADD CONSTRAINT chat_messages_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.chat_threads
    ADD CONSTRAINT chat_threads_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.deployments
    ADD CONSTRAINT deployments_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.embedding_outbox
    ADD CONSTRAINT embedding_outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.embedding_spaces
    ADD CONSTRAINT embedding_spaces_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.embeddings
    ADD CONSTRAINT embeddings_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.environments
    ADD CONSTRAINT environments_name UNIQUE NULLS NOT DISTINCT (team_id, name);

ALTER TABLE ONLY jobsworth.environments
    ADD CONSTRAINT environments_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.job_edges
    ADD CONSTRAINT job_edges_pkey PRIMARY KEY (job_id, needs_job_id);

ALTER TABLE ONLY jobsworth.ledger_closing
    ADD CONSTRAINT ledger_closing_pkey PRIMARY KEY (single);

ALTER TABLE ONLY jobsworth.rate_limits
    ADD CONSTRAINT limited_key UNIQUE NULLS NOT DISTINCT (team_id, provider, model);

ALTER TABLE ONLY jobsworth.llm_calls
    ADD CONSTRAINT llm_calls_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.message_artifacts
    ADD CONSTRAINT message_artifacts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.run_metrics
    ADD CONSTRAINT one_point_each UNIQUE (job_id, effect_key);

ALTER TABLE ONLY jobsworth.embedding_spaces
    ADD CONSTRAINT one_space_per_model UNIQUE (model, dimensions);

ALTER TABLE ONLY jobsworth.chat_threads
    ADD CONSTRAINT one_thread_per_chat UNIQUE NULLS NOT DISTINCT (team_id, platform, chat_id);

ALTER TABLE ONLY jobsworth.budget_windows
    ADD CONSTRAINT one_window UNIQUE NULLS NOT DISTINCT (budget_id, starts_at, run_id);

ALTER TABLE ONLY jobsworth.prices
    ADD CONSTRAINT prices_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.queues
    ADD CONSTRAINT queues_pkey PRIMARY KEY (name);

ALTER TABLE ONLY jobsworth.rate_limits
    ADD CONSTRAINT rate_limits_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.reactive_jobs
    ADD CONSTRAINT reactive_jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.run_metrics
    ADD CONSTRAINT run_metrics_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.signals
    ADD CONSTRAINT signals_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.step_decisions
    ADD CONSTRAINT step_decisions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.steps
    ADD CONSTRAINT steps_pkey PRIMARY KEY (job_id, name);

ALTER TABLE ONLY jobsworth.token_ledger
    ADD CONSTRAINT token_ledger_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.webhook_outbox
    ADD CONSTRAINT webhook_outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);

CREATE INDEX approvals_consumed ON jobsworth.approvals USING btree (consumed_at) WHERE (consumed_at IS NOT NULL);

CREATE INDEX approvals_due ON jobsworth.approvals USING btree (deadline) WHERE ((status = 'pending'::jobsworth.approval_status) AND (deadline IS NOT NULL));

CREATE UNIQUE INDEX approvals_effect ON jobsworth.approvals USING btree (job_id, effect_key) WHERE ((job_id IS NOT NULL) AND (superseded_by IS NULL));

CREATE INDEX approvals_open ON jobsworth.approvals USING btree (job_id, id) WHERE (status = 'pending'::jobsworth.approval_status);

CREATE INDEX approvals_thread ON jobsworth.approvals USING btree (thread_id, id) WHERE (thread_id IS NOT NULL);

CREATE UNIQUE INDEX artifacts_effect ON jobsworth.artifacts USING btree (job_id, effect_key);

CREATE INDEX branch_reads_of_job ON jobsworth.branch_reads USING btree (from_job_id);

CREATE INDEX branches_of_run ON jobsworth.branches USING btree (parent_run_id);

CREATE INDEX budget_waits_of_budget ON jobsworth.budget_waits USING btree (budget_id, granted_at);

CREATE INDEX budgets_found ON jobsworth.budgets USING btree (found_by) WHERE active;

CREATE INDEX call_windows_window ON jobsworth.call_windows USING btree (window_id);

CREATE UNIQUE INDEX chat_messages_effect ON jobsworth.chat_messages USING btree (job_id, effect_key) WHERE (job_id IS NOT NULL);

CREATE UNIQUE INDEX chat_messages_platform ON jobsworth.chat_messages USING btree (thread_id, platform_message_id) WHERE (platform_message_id IS NOT NULL);

CREATE INDEX chat_messages_recent ON jobsworth.chat_messages USING btree (thread_id, id);

CREATE INDEX chat_threads_user ON jobsworth.chat_threads USING btree (user_id, id) WHERE (user_id IS NOT NULL);

CREATE INDEX decisions_of_approval ON jobsworth.approval_decisions USING btree (approval_id, id);

CREATE INDEX deployments_live ON jobsworth.deployments USING btree (environment, id) WHERE (status = 'healthy'::jobsworth.deployment_status);

CREATE UNIQUE INDEX deployments_one_at_a_time ON jobsworth.deployments USING btree (team_id, environment) NULLS NOT DISTINCT WHERE (finished_at IS NULL);

CREATE INDEX deployments_recent ON jobsworth.deployments USING btree (environment, id);

CREATE UNIQUE INDEX deployments_step ON jobsworth.deployments USING btree (job_id, step_name) WHERE (job_id IS NOT NULL);

CREATE INDEX embedding_outbox_due ON jobsworth.embedding_outbox USING btree (next_try_at);

CREATE UNIQUE INDEX embedding_outbox_effect ON jobsworth.embedding_outbox USING btree (job_id, effect_key) WHERE (job_id IS NOT NULL);

CREATE UNIQUE INDEX embeddings_effect ON jobsworth.embeddings USING btree (job_id, effect_key, space_id) WHERE (job_id IS NOT NULL);

CREATE INDEX embeddings_scope ON jobsworth.embeddings USING btree (space_id, team_id);

CREATE INDEX embeddings_source ON jobsworth.embeddings USING btree (source_kind, source_id);

CREATE INDEX job_edges_needs ON jobsworth.job_edges USING btree (needs_job_id, job_id);

CREATE INDEX jobs_children_open ON jobsworth.reactive_jobs USING btree (parent_id) WHERE (is_child AND (finished_at IS NULL));

CREATE INDEX jobs_due ON jobsworth.reactive_jobs USING btree (run_at) WHERE ((status = 'waiting'::jobsworth.job_status) AND (waiting_for = ANY (ARRAY['timer'::jobsworth.wait_reason, 'signal'::jobsworth.wait_reason, 'limit'::jobsworth.wait_reason])) AND (run_at IS NOT NULL));

CREATE UNIQUE INDEX jobs_effect ON jobsworth.reactive_jobs USING btree (parent_id, effect_key) WHERE (parent_id IS NOT NULL);

CREATE INDEX jobs_failed ON jobsworth.reactive_jobs USING btree (finished_at) WHERE (status = 'failed'::jobsworth.job_status);

CREATE INDEX jobs_lane_open ON jobsworth.reactive_jobs USING btree (lane, lane_position, id) WHERE ((lane IS NOT NULL) AND (lane_position IS NOT NULL) AND (finished_at IS NULL) AND ((waiting_for IS NULL) OR (waiting_for <> ALL (ARRAY['approval'::jobsworth.wait_reason, 'signal'::jobsworth.wait_reason])) OR holds_lane));

CREATE UNIQUE INDEX jobs_node ON jobsworth.reactive_jobs USING btree (run_id, node) WHERE (run_id IS NOT NULL);

CREATE UNIQUE INDEX jobs_one_running_in_lane ON jobsworth.reactive_jobs USING btree (lane) WHERE ((status = 'running'::jobsworth.job_status) AND (lane IS NOT NULL));

CREATE INDEX jobs_open_in_run ON jobsworth.reactive_jobs USING btree (run_id, status) WHERE ((run_id IS NOT NULL) AND (finished_at IS NULL));

CREATE INDEX jobs_ready ON jobsworth.reactive_jobs USING btree (queue, priority, "position") WHERE (status = 'queued'::jobsworth.job_status);

CREATE INDEX jobs_running ON jobsworth.reactive_jobs USING btree (worker_id) WHERE ((status = 'running'::jobsworth.job_status) AND (worker_id IS NOT NULL));

CREATE INDEX jobs_thread ON jobsworth.reactive_jobs USING btree (thread_id, id) WHERE (thread_id IS NOT NULL);

CREATE INDEX jobs_trigger_message ON jobsworth.reactive_jobs USING btree (trigger_message_id) WHERE (trigger_message_id IS NOT NULL);

CREATE UNIQUE INDEX jobs_unique_key ON jobsworth.reactive_jobs USING btree (team_id, unique_key) NULLS NOT DISTINCT WHERE ((unique_key IS NOT NULL) AND (finished_at IS NULL));

CREATE INDEX jobs_waiting ON jobsworth.reactive_jobs USING btree (waiting_for, id) WHERE (status = 'waiting'::jobsworth.job_status);

CREATE UNIQUE INDEX ledger_days_once ON jobsworth.ledger_days USING btree (day, team_id, provider, model, mode, agent_id, scope) NULLS NOT DISTINCT;

CREATE INDEX llm_calls_job ON jobsworth.llm_calls USING btree (job_id, id) WHERE (job_id IS NOT NULL);

CREATE INDEX llm_calls_open ON jobsworth.llm_calls USING btree (started_at) WHERE (status = 'started'::jobsworth.call_status);

CREATE UNIQUE INDEX llm_calls_request ON jobsworth.llm_calls USING btree (request_id);

CREATE INDEX llm_calls_run ON jobsworth.llm_calls USING btree (run_id, id) WHERE (run_id IS NOT NULL);

CREATE INDEX llm_calls_settled ON jobsworth.llm_calls USING btree (settled_at) WHERE (settled_at IS NOT NULL);

CREATE INDEX message_artifacts_message ON jobsworth.message_artifacts USING btree (message_id, id);

CREATE UNIQUE INDEX prices_of_model ON jobsworth.prices USING btree (team_id, provider, model, valid_from) NULLS NOT DISTINCT;

CREATE INDEX run_metrics_of_run ON jobsworth.run_metrics USING btree (run_id, name, at) WHERE (run_id IS NOT NULL);

CREATE UNIQUE INDEX runs_idempotency ON jobsworth.runs USING btree (team_id, idempotency_key) NULLS NOT DISTINCT WHERE (idempotency_key IS NOT NULL);

CREATE INDEX runs_of_actor ON jobsworth.runs USING btree (actor, id) WHERE (actor IS NOT NULL);

CREATE INDEX runs_of_agent ON jobsworth.runs USING btree (agent_id, id) WHERE (agent_id IS NOT NULL);

CREATE INDEX runs_of_thread ON jobsworth.runs USING btree (thread_id, id) WHERE (thread_id IS NOT NULL);

CREATE INDEX runs_open ON jobsworth.runs USING btree (id) WHERE (finished_at IS NULL);

CREATE UNIQUE INDEX runs_trace ON jobsworth.runs USING btree (team_id, trace_id) NULLS NOT DISTINCT WHERE (trace_id IS NOT NULL);

CREATE INDEX signals_mailbox ON jobsworth.signals USING btree (job_id, name, id) WHERE (received_at IS NULL);

CREATE INDEX signals_of_job ON jobsworth.signals USING btree (job_id);

CREATE INDEX step_decisions_of_job ON jobsworth.step_decisions USING btree (job_id, id);

CREATE INDEX token_ledger_adjusted ON jobsworth.token_ledger USING btree (call_id) WHERE (entry = 'adjust'::jobsworth.ledger_entry);

CREATE INDEX token_ledger_job ON jobsworth.token_ledger USING btree (job_id) WHERE (job_id IS NOT NULL);

CREATE UNIQUE INDEX token_ledger_once ON jobsworth.token_ledger USING btree (call_id, entry) WHERE (entry = ANY (ARRAY['reserve'::jobsworth.ledger_entry, 'settle'::jobsworth.ledger_entry, 'release'::jobsworth.ledger_entry]));

CREATE INDEX token_ledger_run ON jobsworth.token_ledger USING btree (run_id) WHERE (run_id IS NOT NULL);

CREATE INDEX token_ledger_time ON jobsworth.token_ledger USING btree (occurred_at);

CREATE INDEX webhook_outbox_dead ON jobsworth.webhook_outbox USING btree (dead_at) WHERE (dead_at IS NOT NULL);

CREATE INDEX webhook_outbox_done ON jobsworth.webhook_outbox USING btree (delivered_at) WHERE (delivered_at IS NOT NULL);

CREATE INDEX webhook_outbox_due ON jobsworth.webhook_outbox USING btree (next_try_at) WHERE ((delivered_at IS NULL) AND (dead_at IS NULL));

CREATE TRIGGER announce_change AFTER UPDATE ON jobsworth.approvals FOR EACH ROW WHEN (((new.status IS DISTINCT FROM old.status) OR ((new.status = 'pending'::jobsworth.approval_status) AND ((new.escalated_at IS DISTINCT FROM old.escalated_at) OR (new.edited_hash IS DISTINCT FROM old.edited_hash))))) EXECUTE FUNCTION jobsworth.announce_approval();

CREATE TRIGGER announce_open AFTER INSERT ON jobsworth.approvals FOR EACH ROW WHEN ((new.status = 'pending'::jobsworth.approval_status)) EXECUTE FUNCTION jobsworth.announce_approval();

CREATE TRIGGER arrive BEFORE INSERT ON jobsworth.reactive_jobs FOR EACH ROW WHEN (((new.lane IS NOT NULL) OR (new.thread_id IS NOT NULL) OR (new.run_at IS NOT NULL) OR (new.status <> 'queued'::jobsworth.job_status))) EXECUTE FUNCTION jobsworth.arrive();

CREATE TRIGGER count_idle_workers AFTER INSERT OR DELETE OR UPDATE OF idle OR TRUNCATE ON jobsworth.workers FOR EACH STATEMENT EXECUTE FUNCTION jobsworth.count_idle_workers();

CREATE TRIGGER decisions_are_append_only BEFORE DELETE OR UPDATE ON jobsworth.approval_decisions FOR EACH ROW EXECUTE FUNCTION jobsworth.refuse_change();

CREATE TRIGGER erased_entry_opens_its_day AFTER DELETE ON jobsworth.token_ledger FOR EACH ROW EXECUTE FUNCTION jobsworth.open_ledger_day();

CREATE TRIGGER guard_deployment BEFORE UPDATE ON jobsworth.deployments FOR EACH ROW EXECUTE FUNCTION jobsworth.guard_deployment();

CREATE TRIGGER guard_edges AFTER INSERT ON jobsworth.job_edges REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION jobsworth.guard_edges();

CREATE TRIGGER guard_run BEFORE INSERT OR UPDATE ON jobsworth.runs FOR EACH ROW EXECUTE FUNCTION jobsworth.guard_run();

CREATE TRIGGER late_entry_opens_its_day AFTER INSERT ON jobsworth.token_ledger FOR EACH ROW WHEN ((new.occurred_at < (clock_timestamp() - '01:00:00'::interval))) EXECUTE FUNCTION jobsworth.open_ledger_day();

CREATE TRIGGER ledger_is_append_only BEFORE DELETE OR UPDATE ON jobsworth.token_ledger FOR EACH ROW EXECUTE FUNCTION jobsworth.refuse_change();

CREATE TRIGGER ledger_is_not_emptied BEFORE TRUNCATE ON jobsworth.token_ledger FOR EACH STATEMENT EXECUTE FUNCTION jobsworth.refuse_change();

CREATE TRIGGER messages_are_immutable BEFORE DELETE OR UPDATE ON jobsworth.chat_messages FOR EACH ROW EXECUTE FUNCTION jobsworth.refuse_change();

CREATE TRIGGER set_outcome_aside AFTER UPDATE OF step_name ON jobsworth.deployments FOR EACH ROW WHEN ((old.step_name IS DISTINCT FROM new.step_name)) EXECUTE FUNCTION jobsworth.set_outcome_aside();

CREATE TRIGGER step_decisions_are_append_only BEFORE DELETE OR UPDATE ON jobsworth.step_decisions FOR EACH ROW EXECUTE FUNCTION jobsworth.refuse_change();

CREATE TRIGGER touch BEFORE UPDATE ON jobsworth.chat_threads FOR EACH ROW EXECUTE FUNCTION jobsworth.touch();

CREATE TRIGGER touch BEFORE UPDATE ON jobsworth.message_artifacts FOR EACH ROW EXECUTE FUNCTION jobsworth.touch();

CREATE TRIGGER truth_takes_repricing_back AFTER UPDATE ON jobsworth.llm_calls FOR EACH ROW WHEN (((old.status = 'unknown'::jobsworth.call_status) AND (new.status <> 'unknown'::jobsworth.call_status))) EXECUTE FUNCTION jobsworth.take_repricing_back();

CREATE TRIGGER wake_on_insert AFTER INSERT ON jobsworth.reactive_jobs FOR EACH STATEMENT WHEN ((pg_sequence_last_value('jobsworth.idle_workers'::regclass) > 0)) EXECUTE FUNCTION jobsworth.wake_on_insert();

ALTER TABLE ONLY jobsworth.artifacts
    ADD CONSTRAINT artifacts_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobsworth.reactive_jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.branch_reads
    ADD CONSTRAINT branch_reads_from_job_id_fkey FOREIGN KEY (from_job_id) REFERENCES jobsworth.reactive_jobs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY jobsworth.branch_reads
    ADD CONSTRAINT branch_reads_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobsworth.reactive_jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.branches
    ADD CONSTRAINT branches_parent_run_id_fkey FOREIGN KEY (parent_run_id) REFERENCES jobsworth.runs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY jobsworth.branches
    ADD CONSTRAINT branches_run_id_fkey FOREIGN KEY (run_id) REFERENCES jobsworth.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.budget_waits
    ADD CONSTRAINT budget_waits_budget_id_fkey FOREIGN KEY (budget_id) REFERENCES jobsworth.budgets(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.budget_windows
    ADD CONSTRAINT budget_windows_budget_id_fkey FOREIGN KEY (budget_id) REFERENCES jobsworth.budgets(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.chat_messages
    ADD CONSTRAINT chat_messages_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES jobsworth.chat_threads(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.embeddings
    ADD CONSTRAINT embeddings_space_id_fkey FOREIGN KEY (space_id) REFERENCES jobsworth.embedding_spaces(id);

ALTER TABLE ONLY jobsworth.job_edges
    ADD CONSTRAINT job_edges_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobsworth.reactive_jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.job_edges
    ADD CONSTRAINT job_edges_needs_job_id_fkey FOREIGN KEY (needs_job_id) REFERENCES jobsworth.reactive_jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.message_artifacts
    ADD CONSTRAINT message_artifacts_message_id_fkey FOREIGN KEY (message_id) REFERENCES jobsworth.chat_messages(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.run_metrics
    ADD CONSTRAINT run_metrics_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobsworth.reactive_jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.signals
    ADD CONSTRAINT signals_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobsworth.reactive_jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.steps
    ADD CONSTRAINT steps_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobsworth.reactive_jobs(id) ON DELETE CASCADE;
