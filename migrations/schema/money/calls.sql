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
  attempt int,
  step_name text,
  scope jobsworth.ledger_scope not null default 'reactive',
  mode text,
  agent_id uuid,
  provider text not null,
  model text not null,
  status jobsworth.call_status not null default 'started',
  request_id text not null,
  estimated_input_tokens int not null default 0,
  estimated_output_tokens int not null default 0,
  estimated_cost numeric,
  input_tokens int,
  output_tokens int,
  cache_read_tokens int,
  cache_write_tokens int,
  usage_source jobsworth.usage_source,
  cost numeric,
  price_version text,
  latency_ms int,
  error text,
  started_at timestamptz not null default clock_timestamp(),
  settled_at timestamptz,
  run_id uuid,
  reasoning_tokens int,
  total_tokens int,  -- as the provider reported it
  price jsonb,  -- the rates that made the cost
  over_estimate boolean not null generated always as (
    coalesce(input_tokens::bigint + output_tokens
      > estimated_input_tokens::bigint + estimated_output_tokens, false)
    or coalesce(cost > estimated_cost, false)) stored,
  constraint started_or_settled check ((status = 'started') = (settled_at is null)),
  constraint tokens_are_counts check (
    input_tokens >= 0 and output_tokens >= 0
    and cache_read_tokens >= 0 and cache_write_tokens >= 0
    and estimated_input_tokens >= 0 and estimated_output_tokens >= 0)
);
create index llm_calls_open on jobsworth.llm_calls (started_at) where status = 'started';
create index llm_calls_job on jobsworth.llm_calls (job_id, id) where job_id is not null;
create index llm_calls_settled on jobsworth.llm_calls (settled_at) where settled_at is not null;
-- One row for each request.
create unique index llm_calls_request on jobsworth.llm_calls (request_id);
create index llm_calls_run on jobsworth.llm_calls (run_id, id) where run_id is not null;
