-- Make or change a draft of a run.

-- Find the run with this idempotency key, or this trace id, and replace the values that are given
-- here; if there is none, make a new draft. A run that has ended is not changed.
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
  -- Lock first, compare after that.
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
