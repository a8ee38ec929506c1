-- Model calls: one row for each request to a provider. The row is committed as `started` before a
-- byte is sent, and is settled once, with or without the lease of its job.

create type jobsworth.call_status as enum ('started', 'ok', 'error', 'cut', 'unknown');
create type jobsworth.usage_source as enum ('provider', 'estimated', 'unknown');
create type jobsworth.ledger_scope as enum ('proactive', 'reactive');

create table jobsworth.llm_calls (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid,
  thread_id uuid,
  lease_no bigint,
  attempt jobsworth.attempt,
  step_name jobsworth.step_name,
  scope jobsworth.ledger_scope not null default 'reactive',
  mode text,
  agent_id uuid,
  provider jobsworth.provider not null,
  model jobsworth.model not null,
  status jobsworth.call_status not null default 'started',
  request_id jobsworth.request_id not null,
  estimated_input_tokens jobsworth.estimated_input_tokens not null default 0,
  estimated_output_tokens jobsworth.estimated_output_tokens not null default 0,
  estimated_cost jobsworth.estimated_cost,
  input_tokens jobsworth.input_tokens,
  output_tokens jobsworth.output_tokens,
  cache_read_tokens jobsworth.cache_read_tokens,
  cache_write_tokens jobsworth.cache_write_tokens,
  usage_source jobsworth.usage_source,
  cost jobsworth.cost,
  price_version text,
  latency_ms jobsworth.latency_ms,
  error text,
  started_at jobsworth.started_at not null default clock_timestamp(),
  settled_at jobsworth.settled_at,
  run_id uuid,
  reasoning_tokens jobsworth.reasoning_tokens,
  total_tokens jobsworth.total_tokens,  -- as the provider reported it
  price jsonb,  -- the rates that made the cost
  -- The provider refused it for its rate limit, or was overloaded. Taken back when a person runs
  -- the job again: only what is refused from then on counts.
  limited boolean not null default false,
  limits uuid[],  -- the token limits that hold its estimate until it is settled
  finish_reason text,  -- why the model stopped: stop, tool_call, length, content_filter, error
  -- What was used besides the counts above, by the names of genai-prices; null: nothing.
  other_usage jsonb,
  tier text,  -- under which terms the provider served it; null: its standard ones
  answered_model text,  -- the model that answered, if it is another one than `model`
  over_estimate boolean not null generated always as (
    coalesce(input_tokens::bigint + output_tokens
      > estimated_input_tokens::bigint + estimated_output_tokens, false)
    or coalesce(cost > estimated_cost, false)) stored,
  constraint started_or_settled check ((status = 'started') = (settled_at is null))
);
create index llm_calls_open on jobsworth.llm_calls (started_at) where status = 'started';
create index llm_calls_job on jobsworth.llm_calls (job_id, id) where job_id is not null;
create index llm_calls_settled on jobsworth.llm_calls (settled_at) where settled_at is not null;
-- One row for each request.
create unique index llm_calls_request on jobsworth.llm_calls (request_id);
create index llm_calls_run on jobsworth.llm_calls (run_id, id) where run_id is not null;

-- The books rest on these rows, so they are deleted as little as those of the ledger.
create trigger calls_are_not_deleted before delete on jobsworth.llm_calls
  for each row execute function jobsworth.refuse_change('id', 'thread_id', 'team_id');
create trigger calls_are_not_emptied before truncate on jobsworth.llm_calls
  for each statement execute function jobsworth.refuse_change('id', 'thread_id', 'team_id');
-- Refuses a change of a settled call, but for the truth about one that was given up as unknown, for a
-- refusal that no longer counts, and for an erasure that names the call: it empties words, not amounts.
create function jobsworth.guard_settled() returns trigger language plpgsql as $$
begin
  if old.status = 'unknown' and new.status in ('ok', 'error', 'cut')
    and new.settled_at is not null
  then
    return new;
  end if;
  if old.limited and not new.limited and to_jsonb(old) - '{limited,over_estimate}'::text[]
    = to_jsonb(new) - '{limited,over_estimate}'::text[]
  then
    return new;
  end if;
  if old.id::text = any(string_to_array(current_setting('jobsworth.erase', true), ','))
    and to_jsonb(old) - '{error,step_name,request_id,over_estimate}'::text[]
      = to_jsonb(new) - '{error,step_name,request_id,over_estimate}'::text[]
  then
    return new;
  end if;
  raise exception 'call % is settled: it stays as it is', old.id
    using errcode = 'restrict_violation',
    hint = 'The ledger corrects: insert an entry of the kind adjust.';
end $$;
-- The condition leaves out each settlement, and is short because each statement parses it anew.
create trigger settled_calls_stay before update on jobsworth.llm_calls
  for each row when (old.status <> 'started') execute function jobsworth.guard_settled();
