CREATE SCHEMA jobsworth;

CREATE TYPE jobsworth.approval_status AS ENUM (
    'pending',
    'approved',
    'rejected',
    'superseded',
    'expired'
);

CREATE TYPE jobsworth.call_status AS ENUM (
    'started',
    'ok',
    'error',
    'cut',
    'unknown'
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

CREATE FUNCTION jobsworth.budget_has_room(job_id uuid) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN true;

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
    from unnest(array['lane', 'children', 'approval', 'signal', 'parents', 'handler', 'budget',
      'person']::jobsworth.wait_reason[]) as r (reason)
    where exists (
      select 1 from jobsworth.reactive_jobs j
      where j.status = 'waiting' and j.waiting_for = r.reason));
  if exists (select 1 from jobsworth.approvals a where a.status = 'pending')
    or exists (
      select 1 from jobsworth.reactive_jobs c where c.is_child and c.finished_at is null)
  then
    sweep := sweep || 'orphan'::text;
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

CREATE FUNCTION jobsworth.enqueue(mode text, payload jsonb DEFAULT '{}'::jsonb, queue text DEFAULT 'default'::text, priority integer DEFAULT 3, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, delay interval DEFAULT NULL::interval, thread_id uuid DEFAULT NULL::uuid, trigger_message_id uuid DEFAULT NULL::uuid, lane text DEFAULT NULL::text, unique_key text DEFAULT NULL::text, failures_max integer DEFAULT NULL::integer, timeout_seconds double precision DEFAULT NULL::double precision, trace_parent text DEFAULT NULL::text, team_id uuid DEFAULT NULL::uuid, after uuid[] DEFAULT NULL::uuid[], holds_lane boolean DEFAULT false, crashes_max integer DEFAULT NULL::integer, id uuid DEFAULT NULL::uuid) RETURNS uuid
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
      failures_max, crashes_max, timeout_seconds, trace_parent, team_id, holds_lane,
      status, waiting_for)
    values (
      new_id, enqueue.mode, coalesce(enqueue.payload, '{}'), coalesce(enqueue.queue, 'default'),
      coalesce(enqueue.priority, 3)::smallint,
      coalesce(enqueue.run_at, clock_timestamp() + enqueue.delay),
      enqueue.thread_id, enqueue.trigger_message_id, enqueue.lane, enqueue.unique_key,
      enqueue.failures_max, enqueue.crashes_max, enqueue.timeout_seconds, enqueue.trace_parent,
      enqueue.team_id, coalesce(enqueue.holds_lane, false),
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
    select a.id, a.job_id, a.on_timeout from jobsworth.approvals a
    where a.status = 'pending' and a.deadline <= clock_timestamp()
    order by a.deadline limit most for update skip locked
  loop
    -- Whatever somebody holds is left for the next round: expiry waits for nobody.
    perform 1 from jobsworth.reactive_jobs j
    where j.id = due.job_id for no key update skip locked;
    continue when not found
      and exists (select 1 from jobsworth.reactive_jobs j where j.id = due.job_id);
    perform jobsworth.resolve(due.id, due.on_timeout, 'deadline', 'deadline');
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

CREATE FUNCTION jobsworth.grant_budgets(job_ids uuid[]) RETURNS void
    LANGUAGE sql
    BEGIN ATOMIC
END;

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

CREATE FUNCTION jobsworth.halfvec(value text) RETURNS public.halfvec
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (value)::public.halfvec;

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

CREATE FUNCTION jobsworth.move_runs(run_ids uuid[]) RETURNS void
    LANGUAGE sql
    BEGIN ATOMIC
END;

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

CREATE FUNCTION jobsworth.uuidv7() RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS $$ select pg_catalog.uuidv7() $$;

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
    when 'limit' then coalesce(j.run_at <= clock_timestamp(), true)
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

  -- A job whose parent did not end well cannot run, nor can those that need it in turn. A loop: a
  -- chain of a thousand would be too deep for a recursion.
  doomed := gone;
  loop
    doomed := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(doomed) and j.status::text = 'waiting' and j.waiting_for = 'parents'
        and jobsworth.reason_gone(j) and exists (
          select 1 from jobsworth.job_edges e
          join jobsworth.reactive_jobs p on p.id = e.needs_job_id
          where e.job_id = j.id and p.status in ('failed', 'canceled')));
    exit when doomed = '{}';
    update jobsworth.reactive_jobs j
    set status = 'canceled', waiting_for = null, waiting_detail = null, finished_at = now(),
        error = 'a job it needs did not end well: ' || (
          select string_agg(p.id || ' is ' || p.status, ', ')
          from jobsworth.job_edges e join jobsworth.reactive_jobs p on p.id = e.needs_job_id
          where e.job_id = j.id and p.status in ('failed', 'canceled'))
    where j.id = any(doomed);
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
  end loop;

  if moved > 0 then
    perform jobsworth.wake();
  end if;
  return again || array(
    select j.id from jobsworth.reactive_jobs j
    where j.status::text = 'waiting' and j.id = any(array(
      select u.id from unnest(job_ids) u(id) except select h.id from unnest(held) h(id))));
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

CREATE FUNCTION jobsworth.resolve(approval_id uuid, option text, decided_by text, channel text DEFAULT 'sql'::text, comment text DEFAULT NULL::text, OUT accepted boolean, OUT status jobsworth.approval_status, OUT chosen_option text) RETURNS record
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  a jobsworth.approvals;
begin
  select x.* into a from jobsworth.approvals x where x.id = resolve.approval_id;
  if not found then
    raise exception 'there is no approval %', resolve.approval_id
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approvals.';
  end if;
  -- The job's row first, as everybody does, then the approval's.
  perform 1 from jobsworth.reactive_jobs j where j.id = a.job_id for no key update;
  select x.* into a from jobsworth.approvals x where x.id = resolve.approval_id for update;
  if (resolve.option = any(a.options)) is not true then
    raise exception '% is not an option of approval %', coalesce(resolve.option, 'null'), a.id
      using errcode = 'invalid_parameter_value',
      hint = 'Its options are: ' || array_to_string(a.options, ', ');
  end if;

  if a.status = 'pending' then
    accepted := a.deadline is null or a.deadline > clock_timestamp();
    chosen_option := case when accepted then resolve.option else a.on_timeout end;
    status := case
      when not accepted then 'expired'
      when chosen_option = 'reject' then 'rejected'
      else 'approved'
    end;
    update jobsworth.approvals x
    set status = resolve.status, chosen_option = resolve.chosen_option, closed_at = now()
    where x.id = a.id;
    insert into jobsworth.approval_decisions
      (approval_id, team_id, option, decided_by, channel, comment)
    values (a.id, a.team_id, chosen_option,
      case when accepted then resolve.decided_by else 'deadline' end,
      case when accepted then resolve.channel else 'deadline' end,
      case when accepted then resolve.comment end);
    perform jobsworth.reconsider(array[a.job_id], patient => true) where a.job_id is not null;
  else
    accepted := false;
    status := a.status;
    chosen_option := a.chosen_option;
  end if;
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
  holder uuid;
  needs boolean;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = retry.job_id for no key update;
  if not found then
    raise exception 'there is no job %', retry.job_id using errcode = 'no_data_found',
      hint = 'List jobs: jobsworth jobs.';
  end if;
  if j.status = 'waiting' and j.waiting_for = 'timer' then
    update jobsworth.reactive_jobs x set run_at = clock_timestamp() where x.id = j.id;
  elsif j.status in ('failed', 'canceled') then
    select x.id into holder from jobsworth.reactive_jobs x
    where x.unique_key = j.unique_key and x.team_id is not distinct from j.team_id
      and x.finished_at is null;
    if found then
      raise exception 'job % cannot run again: job % holds its unique key %',
        j.id, holder, j.unique_key
        using errcode = 'unique_violation', hint = 'Wait for that job, or cancel it first.';
    end if;
    -- Its steps stay recorded and paid. Only a deployment that did not become healthy is shipped
    -- anew.
    delete from jobsworth.steps p
    using jobsworth.deployments d
    where d.job_id = j.id and d.status in ('failed', 'rolled_back')
      and p.job_id = j.id and p.kind = 'phase' and starts_with(p.name, d.step_name || ':');
    update jobsworth.deployments d
    set step_name = d.step_name || ' before ' || d.id
    where d.job_id = j.id and d.status in ('failed', 'rolled_back');

    -- It waits on a timer that is due, so that reconsider gives it its place; or again for the jobs
    -- it needs, as long as one of them is open.
    needs := exists (
      select 1 from jobsworth.job_edges e join jobsworth.reactive_jobs p on p.id = e.needs_job_id
      where e.job_id = j.id and p.finished_at is null);
    begin
      update jobsworth.reactive_jobs x
      set status = 'waiting', run_at = clock_timestamp(), finished_at = null,
          waiting_for = case when needs then 'parents' else 'timer' end::jobsworth.wait_reason,
          failures = 0, crashes = 0, cancel_requested = false, error = null, result = null,
          lane_position = null
      where x.id = j.id;
    exception when unique_violation then
      raise exception 'job % cannot run again: another job has just taken its unique key %',
        j.id, j.unique_key
        using errcode = 'unique_violation', hint = 'Wait for that job, or cancel it first.';
    end;
  else
    raise exception 'job % is %: only a failed, canceled or timed job can be run again',
      j.id, j.status using errcode = 'object_not_in_prerequisite_state',
      hint = 'see what it waits for: jobsworth why ' || j.id;
  end if;
  perform jobsworth.reconsider(array[j.id], patient => true);
  return (select x.status from jobsworth.reactive_jobs x where x.id = j.id);
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
    perform jobsworth.move_runs(runs);
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

CREATE FUNCTION jobsworth.wake() RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
  if pg_sequence_last_value('jobsworth.idle_workers') > 0 then
    perform pg_notify('jobsworth.wake', '');
  end if;
end $$;

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
             || coalesce(j.error, 'no message') else '' end;
      remedy := 'wait, or run it now: jobsworth retry ' || j.id;
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
      remedy := format('select jobsworth.send_signal(%L, %L, ''{}'')', j.id, j.waiting_detail);
    when 'handler' then
      detail := 'no living worker knows the mode ' || j.mode;
      remedy := 'start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job';
    when 'limit' then
      detail := coalesce(j.waiting_detail, 'a limit')
        || coalesce(', until ' || to_char(j.run_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS')
             || ' UTC', '');
      remedy := 'nothing to do: it is tried again then';
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

CREATE FUNCTION jobsworth.why_budget(job_id uuid, OUT detail text, OUT remedy text) RETURNS record
    LANGUAGE sql STABLE
    RETURN ROW(NULL::text, NULL::text);

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
    finished_at timestamp with time zone
);

CREATE FUNCTION jobsworth.why_person(job_id uuid, OUT detail text, OUT remedy text) RETURNS record
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT (((('step '::text || s.name) || ' was begun at '::text) || to_char((s.started_at AT TIME ZONE 'utc'::text), 'YYYY-MM-DD HH24:MI:SS'::text)) || ' UTC and not recorded; it is unsafe to repeat'::text),
     ('jobsworth job '::text || why_person.job_id)
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
    decided_at timestamp with time zone DEFAULT now() NOT NULL
);

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
    CONSTRAINT a_no_is_always_possible CHECK (('reject'::text = ANY (options))),
    CONSTRAINT choice_is_an_option CHECK (((chosen_option IS NULL) OR (chosen_option = ANY (options)))),
    CONSTRAINT decided_has_its_choice CHECK (((status <> ALL (ARRAY['approved'::jobsworth.approval_status, 'rejected'::jobsworth.approval_status, 'expired'::jobsworth.approval_status])) OR (chosen_option IS NOT NULL))),
    CONSTRAINT pending_is_open CHECK (((status = 'pending'::jobsworth.approval_status) = (closed_at IS NULL))),
    CONSTRAINT timeout_is_an_option CHECK ((on_timeout = ANY (options)))
);

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
    CONSTRAINT final_has_its_end CHECK (((status = ANY (ARRAY['healthy'::jobsworth.deployment_status, 'rolled_back'::jobsworth.deployment_status, 'failed'::jobsworth.deployment_status])) = (finished_at IS NOT NULL))),
    CONSTRAINT healthy_has_a_passing_probe CHECK (((status <> 'healthy'::jobsworth.deployment_status) OR COALESCE(((probe ->> 'passed'::text))::boolean, false)))
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
    CONSTRAINT final_has_its_end CHECK (((status = ANY (ARRAY['done'::jobsworth.run_status, 'failed'::jobsworth.run_status, 'canceled'::jobsworth.run_status])) = (finished_at IS NOT NULL)))
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
    reprices boolean DEFAULT false NOT NULL,
    unknown_costs smallint,
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
          WHERE ((l.call_id = c.id) AND (l.entry = 'settle'::jobsworth.ledger_entry))))))
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
          WHERE ((e.call_id = c.id) AND (e.entry = 'settle'::jobsworth.ledger_entry))
         OFFSET 0) l)
  WHERE ((l.cost IS DISTINCT FROM c.cost) OR (l.input_tokens <> COALESCE(c.input_tokens, 0)) OR (l.output_tokens <> COALESCE(c.output_tokens, 0)) OR (l.cache_read_tokens <> COALESCE(c.cache_read_tokens, 0)) OR (l.cache_write_tokens <> COALESCE(c.cache_write_tokens, 0)));

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
  WHERE ((a.status = 'pending'::jobsworth.approval_status) AND (j.finished_at < (now() - '00:00:30'::interval)));

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
  WHERE ((d.finished_at IS NULL) AND (j.finished_at < (now() - '00:00:30'::interval)));

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

ALTER TABLE ONLY jobsworth.branches
    ADD CONSTRAINT branches_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY jobsworth.chat_messages
    ADD CONSTRAINT chat_messages_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.chat_threads
    ADD CONSTRAINT chat_threads_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.approval_decisions
    ADD CONSTRAINT decided_once UNIQUE (approval_id);

ALTER TABLE ONLY jobsworth.deployments
    ADD CONSTRAINT deployments_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.embedding_outbox
    ADD CONSTRAINT embedding_outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.embedding_spaces
    ADD CONSTRAINT embedding_spaces_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.embeddings
    ADD CONSTRAINT embeddings_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.job_edges
    ADD CONSTRAINT job_edges_pkey PRIMARY KEY (job_id, needs_job_id);

ALTER TABLE ONLY jobsworth.ledger_closing
    ADD CONSTRAINT ledger_closing_pkey PRIMARY KEY (single);

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

ALTER TABLE ONLY jobsworth.prices
    ADD CONSTRAINT prices_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.queues
    ADD CONSTRAINT queues_pkey PRIMARY KEY (name);

ALTER TABLE ONLY jobsworth.reactive_jobs
    ADD CONSTRAINT reactive_jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.run_metrics
    ADD CONSTRAINT run_metrics_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.signals
    ADD CONSTRAINT signals_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.steps
    ADD CONSTRAINT steps_pkey PRIMARY KEY (job_id, name);

ALTER TABLE ONLY jobsworth.token_ledger
    ADD CONSTRAINT token_ledger_pkey PRIMARY KEY (id);

ALTER TABLE ONLY jobsworth.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);

CREATE INDEX approvals_due ON jobsworth.approvals USING btree (deadline) WHERE ((status = 'pending'::jobsworth.approval_status) AND (deadline IS NOT NULL));

CREATE UNIQUE INDEX approvals_effect ON jobsworth.approvals USING btree (job_id, effect_key) WHERE (job_id IS NOT NULL);

CREATE INDEX approvals_open ON jobsworth.approvals USING btree (job_id, id) WHERE (status = 'pending'::jobsworth.approval_status);

CREATE INDEX approvals_thread ON jobsworth.approvals USING btree (thread_id, id) WHERE (thread_id IS NOT NULL);

CREATE UNIQUE INDEX artifacts_effect ON jobsworth.artifacts USING btree (job_id, effect_key);

CREATE INDEX branches_of_run ON jobsworth.branches USING btree (parent_run_id);

CREATE UNIQUE INDEX chat_messages_effect ON jobsworth.chat_messages USING btree (job_id, effect_key) WHERE (job_id IS NOT NULL);

CREATE UNIQUE INDEX chat_messages_platform ON jobsworth.chat_messages USING btree (thread_id, platform_message_id) WHERE (platform_message_id IS NOT NULL);

CREATE INDEX chat_messages_recent ON jobsworth.chat_messages USING btree (thread_id, id);

CREATE INDEX chat_threads_user ON jobsworth.chat_threads USING btree (user_id, id) WHERE (user_id IS NOT NULL);

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

CREATE INDEX llm_calls_settled ON jobsworth.llm_calls USING btree (settled_at) WHERE (settled_at IS NOT NULL);

CREATE INDEX message_artifacts_message ON jobsworth.message_artifacts USING btree (message_id, id);

CREATE UNIQUE INDEX prices_of_model ON jobsworth.prices USING btree (team_id, provider, model, valid_from) NULLS NOT DISTINCT;

CREATE INDEX run_metrics_of_run ON jobsworth.run_metrics USING btree (run_id, name, at) WHERE (run_id IS NOT NULL);

CREATE UNIQUE INDEX runs_idempotency ON jobsworth.runs USING btree (team_id, idempotency_key) NULLS NOT DISTINCT WHERE (idempotency_key IS NOT NULL);

CREATE INDEX runs_of_actor ON jobsworth.runs USING btree (actor, id) WHERE (actor IS NOT NULL);

CREATE INDEX runs_of_thread ON jobsworth.runs USING btree (thread_id, id) WHERE (thread_id IS NOT NULL);

CREATE INDEX runs_open ON jobsworth.runs USING btree (id) WHERE (finished_at IS NULL);

CREATE UNIQUE INDEX runs_trace ON jobsworth.runs USING btree (team_id, trace_id) NULLS NOT DISTINCT WHERE (trace_id IS NOT NULL);

CREATE INDEX signals_mailbox ON jobsworth.signals USING btree (job_id, name, id) WHERE (received_at IS NULL);

CREATE INDEX signals_of_job ON jobsworth.signals USING btree (job_id);

CREATE INDEX token_ledger_adjusted ON jobsworth.token_ledger USING btree (call_id) WHERE (entry = 'adjust'::jobsworth.ledger_entry);

CREATE INDEX token_ledger_job ON jobsworth.token_ledger USING btree (job_id) WHERE (job_id IS NOT NULL);

CREATE UNIQUE INDEX token_ledger_once ON jobsworth.token_ledger USING btree (call_id, entry) WHERE (entry = ANY (ARRAY['reserve'::jobsworth.ledger_entry, 'settle'::jobsworth.ledger_entry, 'release'::jobsworth.ledger_entry]));

CREATE INDEX token_ledger_run ON jobsworth.token_ledger USING btree (run_id) WHERE (run_id IS NOT NULL);

CREATE INDEX token_ledger_time ON jobsworth.token_ledger USING btree (occurred_at);

CREATE TRIGGER arrive BEFORE INSERT ON jobsworth.reactive_jobs FOR EACH ROW WHEN (((new.lane IS NOT NULL) OR (new.thread_id IS NOT NULL) OR (new.run_at IS NOT NULL) OR (new.status <> 'queued'::jobsworth.job_status))) EXECUTE FUNCTION jobsworth.arrive();

CREATE TRIGGER count_idle_workers AFTER INSERT OR DELETE OR UPDATE OF idle OR TRUNCATE ON jobsworth.workers FOR EACH STATEMENT EXECUTE FUNCTION jobsworth.count_idle_workers();

CREATE TRIGGER decisions_are_append_only BEFORE DELETE OR UPDATE ON jobsworth.approval_decisions FOR EACH ROW EXECUTE FUNCTION jobsworth.refuse_change();

CREATE TRIGGER erased_entry_opens_its_day AFTER DELETE ON jobsworth.token_ledger FOR EACH ROW EXECUTE FUNCTION jobsworth.open_ledger_day();

CREATE TRIGGER guard_deployment BEFORE UPDATE ON jobsworth.deployments FOR EACH ROW EXECUTE FUNCTION jobsworth.guard_deployment();

CREATE TRIGGER late_entry_opens_its_day AFTER INSERT ON jobsworth.token_ledger FOR EACH ROW WHEN ((new.occurred_at < (clock_timestamp() - '01:00:00'::interval))) EXECUTE FUNCTION jobsworth.open_ledger_day();

CREATE TRIGGER ledger_is_append_only BEFORE DELETE OR UPDATE ON jobsworth.token_ledger FOR EACH ROW EXECUTE FUNCTION jobsworth.refuse_change();

CREATE TRIGGER ledger_is_not_emptied BEFORE TRUNCATE ON jobsworth.token_ledger FOR EACH STATEMENT EXECUTE FUNCTION jobsworth.refuse_change();

CREATE TRIGGER messages_are_immutable BEFORE DELETE OR UPDATE ON jobsworth.chat_messages FOR EACH ROW EXECUTE FUNCTION jobsworth.refuse_change();

CREATE TRIGGER touch BEFORE UPDATE ON jobsworth.chat_threads FOR EACH ROW EXECUTE FUNCTION jobsworth.touch();

CREATE TRIGGER touch BEFORE UPDATE ON jobsworth.message_artifacts FOR EACH ROW EXECUTE FUNCTION jobsworth.touch();

CREATE TRIGGER truth_takes_repricing_back AFTER UPDATE ON jobsworth.llm_calls FOR EACH ROW WHEN (((old.status = 'unknown'::jobsworth.call_status) AND (new.status <> 'unknown'::jobsworth.call_status))) EXECUTE FUNCTION jobsworth.take_repricing_back();

CREATE TRIGGER wake_on_insert AFTER INSERT ON jobsworth.reactive_jobs FOR EACH STATEMENT WHEN ((pg_sequence_last_value('jobsworth.idle_workers'::regclass) > 0)) EXECUTE FUNCTION jobsworth.wake_on_insert();

ALTER TABLE ONLY jobsworth.artifacts
    ADD CONSTRAINT artifacts_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobsworth.reactive_jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY jobsworth.branches
    ADD CONSTRAINT branches_parent_run_id_fkey FOREIGN KEY (parent_run_id) REFERENCES jobsworth.runs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY jobsworth.branches
    ADD CONSTRAINT branches_run_id_fkey FOREIGN KEY (run_id) REFERENCES jobsworth.runs(id) ON DELETE CASCADE;

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
