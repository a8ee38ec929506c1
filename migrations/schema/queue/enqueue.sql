-- Enqueue a job and return its id. If another job holds the unique key, `on_conflict` says what happens;
-- by default that job's id is returned. `enqueue_outcome` tells what a call with an id of its own did.
--
-- `unique_until`: the key is held until the job's 'end' (the default) or its 'start'. `unique_seconds`:
-- and for so long in any case. `debounce_seconds`: the job runs when no call has come for that long, at
-- the latest `debounce_max_seconds` after the first, with what the last one said.

create function jobsworth.enqueue(
  mode text, payload jsonb default '{}', queue text default 'default', priority int default 3,
  run_at timestamptz default null, delay interval default null, thread_id uuid default null,
  trigger_message_id uuid default null, lane text default null, unique_key text default null,
  failures_max int default null, timeout_seconds float8 default null,
  trace_parent text default null, team_id uuid default null, after uuid[] default null,
  holds_lane boolean default false, crashes_max int default null, id uuid default null,
  agent_id uuid default null, request_id text default null, limit_key text default null,
  limit_weight int default null, expires_at timestamptz default null,
  expires_in interval default null, unique_until text default null,
  unique_seconds float8 default null, on_conflict text default null,
  debounce_seconds float8 default null, debounce_max_seconds float8 default null,
  fair_key text default null, session_id uuid default null)
  returns uuid language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  new_id uuid := coalesce(enqueue.id, jobsworth.uuidv7());
  found_id uuid;
  needs uuid[] := coalesce(enqueue.after, '{}');
  unknown uuid;
  wrong text[];
  keyed boolean := num_nonnulls(enqueue.unique_key, enqueue.unique_until, enqueue.unique_seconds,
    enqueue.on_conflict, enqueue.debounce_seconds, enqueue.debounce_max_seconds) > 0;
  replaces boolean;
  taker uuid;
  session uuid := enqueue.session_id;
  agent uuid := enqueue.agent_id;
  tries int := 0;
begin
  -- One expression: each costs a microsecond in each transaction.
  wrong := case
    when coalesce(enqueue.mode, '') = ''
      then array['a job needs a mode: which handler runs it', 'For example: enqueue(''answer'', …).']
    when enqueue.delay < interval '0' or enqueue.delay is not null and enqueue.run_at is not null
      then array['the delay is negative, or given together with run_at',
        'Give one of them, or none for now.']
    when enqueue.delay > interval '100 years'
      then array[format('the delay is %s; at most 100 years are allowed', enqueue.delay),
        'Give a shorter delay.']
    when enqueue.run_at < '1900-01-01 00:00:00+00' or enqueue.run_at >= '2200-01-01 00:00:00+00'
      then array[format('run_at is %s; it must be from 1900 to 2199', enqueue.run_at),
        'Give such a time, or none for now.']
    when enqueue.expires_in <= interval '0'
        or enqueue.expires_in is not null and enqueue.expires_at is not null
      then array['expires_in is not positive, or given together with expires_at',
        'Give one of them, or none for no expiry.']
    when enqueue.expires_in > interval '100 years'
      then array[format('expires_in is %s; at most 100 years are allowed', enqueue.expires_in),
        'Leave it out for no expiry.']
    when enqueue.expires_at < '1900-01-01 00:00:00+00'
        or enqueue.expires_at >= '2200-01-01 00:00:00+00'
      then array[format('expires_at is %s; it must be from 1900 to 2199', enqueue.expires_at),
        'Leave it out for no expiry.']
    when coalesce(enqueue.expires_at, now() + enqueue.expires_in)
        <= coalesce(enqueue.run_at, now() + enqueue.delay)
      then array['the job expires before it may start',
        'Let expires_at be after run_at, and expires_in longer than delay.']
    when enqueue.priority not between 1 and 4
      then array[format('priority %s is not 1 to 4', enqueue.priority),
        '1 is urgent, 3 is the default.']
    when not (enqueue.timeout_seconds > 0 and enqueue.timeout_seconds <= 1e9)
      then array[format('timeout_seconds %s is not above 0 and at most 1e9',
          enqueue.timeout_seconds), 'Leave it out for the default.']
    when enqueue.failures_max < 1
      then array[format('failures_max %s is not a number from 1 on', enqueue.failures_max),
        '1 means: no second try.']
    when enqueue.crashes_max < 1
      then array[format('crashes_max %s is not a number from 1 on', enqueue.crashes_max),
        '1 means: no second try.']
    when enqueue.queue = '' or octet_length(enqueue.queue) > 1000
      then array['queue must have 1 to 1000 bytes', 'Leave it out for the default queue.']
    when enqueue.unique_key = '' or octet_length(enqueue.unique_key) > 1000
      then array['unique_key must have 1 to 1000 bytes', 'Leave it out, or use a hash of it.']
    when enqueue.request_id = '' or octet_length(enqueue.request_id) > 1000
      then array['request_id must have 1 to 1000 bytes', 'Leave it out, or use a hash of it.']
    when enqueue.limit_key = '' or octet_length(enqueue.limit_key) > 1000
      then array['limit_key must have 1 to 1000 bytes', 'Leave it out, or use a hash of it.']
    when enqueue.limit_weight not between 1 and 1000000
      then array[format('limit_weight %s is not 1 to 1000000', enqueue.limit_weight),
        'Leave it out for 1.']
    when enqueue.fair_key = '' or octet_length(enqueue.fair_key) > 1000
      then array['fair_key must have 1 to 1000 bytes', 'Leave it out for the team, or use a hash of it.']
    when octet_length(enqueue.lane) > 1000
      then array['lane must have at most 1000 bytes', 'Leave it out, or use a hash of it.']
  end;
  if keyed then
    wrong := coalesce(wrong, jobsworth.unique_mistake(
      enqueue.unique_key, enqueue.unique_until, enqueue.unique_seconds, enqueue.on_conflict,
      enqueue.debounce_seconds, enqueue.debounce_max_seconds,
      enqueue.run_at is not null or enqueue.delay is not null, needs <> '{}'));
  end if;
  if wrong is not null then
    raise exception '%', wrong[1] || coalesce(' (in a ' || nullif(enqueue.mode, '') || ' job)', '')
      using errcode = 'invalid_parameter_value', hint = wrong[2];
  end if;
  if pg_column_size(enqueue.payload) > 1048576 then
    raise exception 'the payload of a % job has % bytes; at most 1048576 are allowed',
      enqueue.mode, pg_column_size(enqueue.payload)
      using errcode = 'program_limit_exceeded',
      hint = 'Store the document as an artifact or a file and pass its address.';
  end if;
  if enqueue.limit_weight is not null then
    perform jobsworth.check_weight(enqueue.queue, enqueue.mode, enqueue.limit_weight);
  end if;
  select u.id into unknown from unnest(needs) u(id)
  where not exists (select 1 from jobsworth.reactive_jobs p where p.id = u.id) limit 1;
  if found then
    raise exception 'job % in after does not exist', unknown
      using errcode = 'foreign_key_violation', hint = 'Enqueue the jobs it needs first.';
  end if;
  if enqueue.thread_id is not null then
    select coalesce(session, t.session_id), coalesce(agent, t.agent_id) into session, agent
    from jobsworth.chat_threads t where t.id = enqueue.thread_id;
    if not found then
      session := enqueue.session_id;
      agent := enqueue.agent_id;
    end if;
  end if;
  replaces := keyed and (enqueue.on_conflict = 'replace' or enqueue.debounce_seconds is not null);
  loop
    found_id := null;
    taker := null;
    if enqueue.unique_seconds is not null then
      taker := jobsworth.window_holder(enqueue.team_id, enqueue.unique_key);
    end if;
    insert into jobsworth.reactive_jobs (
      id, mode, payload, queue, priority, run_at, thread_id, trigger_message_id, lane, unique_key,
      unique_until, failures_max, crashes_max, timeout_seconds, trace_parent, team_id, holds_lane,
      agent_id, request_id, limit_key, limit_weight, expires_at, fair_key, session_id, status,
      waiting_for)
    select
      new_id, enqueue.mode, coalesce(enqueue.payload, '{}'), coalesce(enqueue.queue, 'default'),
      coalesce(enqueue.priority, 3)::smallint,
      coalesce(enqueue.run_at, clock_timestamp() + coalesce(
        enqueue.delay, make_interval(secs => enqueue.debounce_seconds))),
      enqueue.thread_id, enqueue.trigger_message_id, enqueue.lane, enqueue.unique_key,
      -- Of what is replaced until it starts, a later one would be lost unless it begins a new job.
      case when enqueue.unique_until = 'start' or enqueue.unique_until is null and replaces
        then 'start'::jobsworth.unique_until end,
      enqueue.failures_max, enqueue.crashes_max, enqueue.timeout_seconds, enqueue.trace_parent,
      enqueue.team_id, coalesce(enqueue.holds_lane, false), agent, enqueue.request_id,
      enqueue.limit_key, enqueue.limit_weight,
      coalesce(enqueue.expires_at, clock_timestamp() + enqueue.expires_in), enqueue.fair_key,
      session,
      case when needs = '{}' then 'queued' else 'waiting' end::jobsworth.job_status,
      case when needs <> '{}' then 'parents'::jobsworth.wait_reason end
    where taker is null
    on conflict do nothing
    returning reactive_jobs.id into found_id;
    if found_id is not null and enqueue.unique_key is not null then
      taker := jobsworth.keep_key(
        new_id, enqueue.team_id, enqueue.unique_key, enqueue.unique_seconds, replaces);
      if taker is not null then
        delete from jobsworth.reactive_jobs j where j.id = new_id;
        found_id := null;
      end if;
    end if;
    if found_id is not null then
      if needs <> '{}' then
        insert into jobsworth.job_edges (job_id, needs_job_id)
        select found_id, u.id from unnest(needs) u(id) group by u.id;
        perform jobsworth.reconsider(array[found_id], wait_for_locks => true);
      end if;
      return found_id;
    end if;
    -- The conflict was with its own id (a repeated call), or with the job that has the unique key.
    -- If that job has ended or started just now, try again.
    tries := tries + 1;
    select j.id into found_id from jobsworth.reactive_jobs j where j.id = new_id;
    if found then
      return found_id;
    end if;
    found_id := taker;
    if taker is null then
      select j.id into found_id from jobsworth.reactive_jobs j
      where j.unique_key = enqueue.unique_key and j.team_id is not distinct from enqueue.team_id
        and j.finished_at is null and (j.unique_until is distinct from 'start' or j.attempt = 0);
    end if;
    if found_id = new_id then
      return found_id;
    elsif found_id is not null and enqueue.on_conflict = 'reject' then
      raise exception 'job % holds the unique key %', found_id
          || coalesce(' (' || (select j.status from jobsworth.reactive_jobs j where j.id = found_id)
            || ')', ''), enqueue.unique_key || coalesce(' until ' || (
            select to_char(w.held_until at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
            from jobsworth.unique_windows w
            where w.unique_key = enqueue.unique_key and w.job_id = taker
              and w.team_id is not distinct from enqueue.team_id), '')
        using errcode = 'unique_violation',
        hint = 'Wait until it has ended, or leave on_conflict out: that job is returned then.';
    elsif found_id is not null and replaces then
      if jobsworth.replace_waiting(
        found_id, new_id, enqueue.mode, coalesce(enqueue.payload, '{}'),
        coalesce(enqueue.priority, 3), coalesce(enqueue.run_at, clock_timestamp() + enqueue.delay),
        enqueue.debounce_seconds, enqueue.debounce_max_seconds, enqueue.trigger_message_id,
        enqueue.request_id, enqueue.trace_parent,
        coalesce(enqueue.expires_at, clock_timestamp() + enqueue.expires_in))
      then
        return found_id;
      elsif taker is not null or exists (
        select 1 from jobsworth.reactive_jobs j
        where j.id = found_id and j.finished_at is null
          and j.unique_until is distinct from 'start')
      then
        return found_id;
      end if;
      found_id := null;
    elsif found_id is not null then
      return found_id;
    end if;
    if tries >= 100 then
      raise exception 'the % job was not inserted: a trigger of reactive_jobs returns null for it, '
          'or it conflicts with another unique index than that of unique_key', enqueue.mode
        using errcode = 'object_not_in_prerequisite_state',
        hint = 'Let the trigger return the row, or drop the index. '
          'Those of this installation: \d jobsworth.reactive_jobs.';
    end if;
  end loop;
end $$;
