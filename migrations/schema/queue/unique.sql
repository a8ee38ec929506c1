-- What stands beside a unique key: windows of time, and the calls that changed a waiting job.
--
-- A key is held by the terms of its holder. Until its job ends, or starts (`unique_until`), the index
-- `jobs_unique_key` keeps it. A window (`unique_seconds`) outlives its job and the job's row, so it has
-- a row here: one for each key, not one for each job. Upkeep removes it when it is over.

-- What a call does that finds its key held. return: it adds nothing. replace: the job takes what the
-- call says, if it has not started yet. reject: it is an error, which names the holder.
create type jobsworth.on_conflict as enum ('return', 'replace', 'reject');

create table jobsworth.unique_windows (
  team_id uuid,
  unique_key jobsworth.unique_key not null,
  job_id uuid not null,
  held_until jobsworth.held_until not null,
  constraint one_window_per_key unique nulls not distinct (team_id, unique_key)
);
-- The windows that are over.
create index unique_windows_over on jobsworth.unique_windows (held_until);

-- The calls of `enqueue` that changed a job in place, by their ids. A call that is repeated after its
-- answer was lost finds itself here, and changes nothing, also if its job has started meanwhile.
create table jobsworth.replacements (
  id uuid not null primary key,
  team_id uuid,
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  replaced_at jobsworth.replaced_at not null default clock_timestamp()
);
create index replacements_job on jobsworth.replacements (job_id, id);

-- The error of the options of `enqueue` that concern its key, with a remedy; null if there is none.
create function jobsworth.unique_mistake(
  unique_key text, unique_until text, unique_seconds float8, on_conflict text,
  debounce_seconds float8, debounce_max_seconds float8, has_time boolean, has_needs boolean)
  returns text[] language sql immutable
  return case
    when unique_key is null
      then array['unique_until, unique_seconds, on_conflict and debounce_seconds need a unique_key',
        'Give one, or leave them out.']
    when unique_until not in ('end', 'start')
      then array[format('unique_until is ''%s'', not end or start', unique_until),
        'Leave it out: the key is held until the job ends.']
    when on_conflict not in ('return', 'replace', 'reject')
      then array[format('on_conflict is ''%s'', not return, replace or reject', on_conflict),
        'Leave it out: the job that holds the key is returned.']
    when not (unique_seconds > 0 and unique_seconds <= 3153600000)
      then array[format('unique_seconds %s is not above 0 and at most 100 years', unique_seconds),
        'Leave it out for no window.']
    when debounce_max_seconds is not null and debounce_seconds is null
      then array['debounce_max_seconds is given without debounce_seconds', 'Give both.']
    when not (debounce_seconds > 0 and debounce_seconds <= 3153600000)
      then array[format('debounce_seconds %s is not above 0 and at most 100 years', debounce_seconds),
        'Leave it out to run at once.']
    when not (debounce_max_seconds >= debounce_seconds and debounce_max_seconds <= 3153600000)
      then array[format('debounce_max_seconds %s is not from debounce_seconds (%s) to 100 years',
          debounce_max_seconds, debounce_seconds), 'Leave it out for no longest wait.']
    when debounce_seconds is not null and has_time
      then array['debounce_seconds is given together with run_at or delay',
        'Leave these out: the job runs when no call has come for debounce_seconds.']
    when debounce_seconds is not null and (on_conflict <> 'replace' or unique_until <> 'start')
      then array['debounce_seconds is given together with on_conflict or unique_until',
        'Leave these out: a debounced job is replaced until it starts.']
    when has_needs and (debounce_seconds is not null or on_conflict = 'replace')
      then array['after is given together with on_conflict => replace or debounce_seconds',
        'Leave it out: what a job needs cannot be replaced.']
  end;

-- Let a new job keep its key, or say who keeps it from that: the job of a window, or the one that a
-- call with this id changed before. Null: the new job keeps it, with a window if `seconds` are given.
-- It is asked after the insert: whoever had the key meanwhile has committed by then.
create function jobsworth.keep_key(
  new_id uuid, in_team uuid, key text, seconds float8, replaces boolean)
  returns uuid language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  holder uuid;
begin
  if replaces then
    select r.job_id into holder from jobsworth.replacements r where r.id = new_id;
    if found then
      return holder;
    end if;
  end if;
  if seconds is null then
    return jobsworth.window_holder(in_team, key);
  end if;
  insert into jobsworth.unique_windows as w (team_id, unique_key, job_id, held_until)
  values (in_team, key, new_id, clock_timestamp() + make_interval(secs => seconds))
  on conflict on constraint one_window_per_key do update
  set job_id = excluded.job_id, held_until = excluded.held_until
  where w.held_until <= clock_timestamp();
  return case when not found then jobsworth.window_holder(in_team, key) end;
end $$;

-- The job whose window holds a key now.
create function jobsworth.window_holder(in_team uuid, key text) returns uuid language plpgsql volatile
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return (
    select w.job_id from jobsworth.unique_windows w
    where w.unique_key = key and w.team_id is not distinct from in_team
      and w.held_until > clock_timestamp());
end $$;

-- Let a job that has not started take what a later call says. Returns whether it did: a job that has
-- started keeps what it was given. Waits for whoever has locked this job: another call with the key,
-- or its claim. `at` null: it runs as soon as it can. With `debounce_seconds` a job that is due
-- already keeps its place.
create function jobsworth.replace_waiting(
  in_job uuid, call_id uuid, new_mode text, new_payload jsonb, new_priority int, at timestamptz,
  debounce_seconds float8, debounce_max_seconds float8, new_message uuid, new_request text,
  new_trace text, new_end timestamptz)
  returns boolean language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  j jobsworth.reactive_jobs;
  timed boolean;
  later boolean;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = in_job for no key update;
  if not found or j.attempt > 0 or j.finished_at is not null then
    return false;
  elsif j.mode <> new_mode then
    raise exception 'job % holds the unique key % and is a % job: it cannot become a % job',
      j.id, j.unique_key, j.mode, new_mode
      using errcode = 'unique_violation', hint = 'Give each mode keys of its own.';
  end if;
  insert into jobsworth.replacements (id, team_id, job_id) values (call_id, j.team_id, j.id)
  on conflict do nothing;
  if not found then
    return true;
  end if;

  timed := j.status = 'waiting' and j.waiting_for in ('timer', 'parents', 'handler');
  if debounce_seconds is not null then
    at := case when timed and j.run_at is not null then
      least(clock_timestamp() + make_interval(secs => debounce_seconds),
        j.created_at + make_interval(secs => debounce_max_seconds))
      end;
  end if;
  later := coalesce(at > clock_timestamp(), false);
  update jobsworth.reactive_jobs x
  set payload = new_payload, priority = new_priority,
    trigger_message_id = coalesce(new_message, x.trigger_message_id),
    request_id = coalesce(new_request, x.request_id),
    trace_parent = coalesce(new_trace, x.trace_parent),
    expires_at = coalesce(new_end, x.expires_at),
    position = case when x.status = 'queued' and x.priority <> new_priority
      then nextval('jobsworth.job_position'::regclass) else x.position end,
    run_at = case
      when later then at
      when not timed then x.run_at
      when x.waiting_for = 'timer' then clock_timestamp() end,
    status = case when later then 'waiting' else x.status end,
    waiting_for = case when not later or timed then x.waiting_for else 'timer' end,
    waiting_detail = case when not later or timed then x.waiting_detail end,
    -- A job that is not due has no place in its lane.
    lane_position = case when not later or timed then x.lane_position end
  where x.id = j.id;
  if timed and not later then
    perform jobsworth.reconsider(array[j.id], wait_for_locks => true);
  elsif later and at < clock_timestamp() + interval '1 second' then
    perform pg_notify('jobsworth.wake', 'timer');
  end if;
  -- It has left its place in its lane, and its turn at a limit.
  if later and not timed then
    perform jobsworth.unblock(array[j.id]);
  end if;
  return true;
end $$;

-- What the call of `enqueue` with this id did: created (the job has this id), replaced (it changed a
-- job that waited), or returned (another job holds the key, or no such call was committed).
create function jobsworth.enqueue_outcome(id uuid) returns text language plpgsql volatile
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return case
    when exists (select 1 from jobsworth.replacements r where r.id = enqueue_outcome.id)
      then 'replaced'
    when exists (select 1 from jobsworth.reactive_jobs j where j.id = enqueue_outcome.id)
      then 'created'
    else 'returned' end;
end $$;

-- Remove windows that are over, at most `most`; returns how many.
create function jobsworth.forget_unique_windows(most int) returns int language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  gone int;
begin
  delete from jobsworth.unique_windows w
  where w.ctid = any(array(
      select o.ctid from jobsworth.unique_windows o
      where o.held_until <= clock_timestamp()
      order by o.held_until
      limit most
      for update skip locked));
  get diagnostics gone = row_count;
  return gone;
end $$;
