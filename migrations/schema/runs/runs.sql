-- Runs: a run is one piece of agent work, made of jobs with a unique `node`, joined by edges. Its
-- jobs name it; nothing is counted on its row, because a finishing transaction must not update a
-- row that two jobs share.

create type jobsworth.run_status as enum
  ('draft', 'planning', 'executing', 'waiting', 'done', 'failed', 'canceled');

create table jobsworth.runs (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  project_id uuid,
  session_id uuid,
  thread_id uuid,
  agent_id uuid,
  actor text,
  trace_id jobsworth.trace_id,
  idempotency_key jobsworth.idempotency_key,
  request jsonb not null default '{}',
  status jobsworth.run_status not null default 'draft',
  result jsonb,
  error text,
  created_at jobsworth.created_at not null default now(),
  started_at jobsworth.started_at,
  finished_at jobsworth.finished_at,
  updated_at jobsworth.updated_at not null default now(),
  metadata jsonb not null default '{}',
  cancel_requested boolean not null default false,
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
create index runs_of_session on jobsworth.runs (session_id, id) where session_id is not null;
create index runs_of_agent on jobsworth.runs (agent_id, id) where agent_id is not null;

-- Refuses a status that a run cannot have now. A run does not end while a job is open, and an ended
-- run goes on only if one of its jobs does.
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
          else 'It has ended; run again what did not end well: jobsworth run retry ' || old.id
        end;
    end if;
    if new.status in ('done', 'failed', 'canceled') then
      select j.id into open_job from jobsworth.reactive_jobs j
      where j.run_id = old.id and j.finished_at is null limit 1;
      if found then
        raise exception 'run % cannot be %: its job % has not ended', old.id, new.status, open_job
          using errcode = 'check_violation',
          hint = 'Wait for its jobs, or cancel them all: jobsworth run cancel ' || old.id;
      end if;
    end if;
  end if;
  if tg_op = 'UPDATE' and old.finished_at is not null and new.status = old.status
    and row(new.result, new.error, new.request, new.started_at, new.finished_at)
      is distinct from row(old.result, old.error, old.request, old.started_at, old.finished_at)
  then
    raise exception 'run % is %: its request, result, error and times are final', old.id, old.status
      using errcode = 'restrict_violation',
      hint = 'Run again what did not end well: jobsworth run retry ' || old.id;
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

-- Refuses a job for a run that has ended. One of its jobs may have been started again, and the run
-- not have followed yet; then the run takes more jobs.
create function jobsworth.guard_jobs_of_run() returns trigger language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  r jobsworth.runs;
begin
  select x.* into r from jobsworth.runs x where x.id = new.run_id;
  if r.finished_at is not null and not exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = r.id and (j.finished_at is null or j.finished_at > r.finished_at))
  then
    raise exception 'run % is %: it takes no more jobs', r.id, r.status
      using errcode = 'restrict_violation',
      hint = 'Start another run, or fork this one: jobsworth run fork ' || r.id;
  end if;
  return new;
end $$;
create trigger guard_jobs_of_run before insert on jobsworth.reactive_jobs
  for each row when (new.run_id is not null) execute function jobsworth.guard_jobs_of_run();
