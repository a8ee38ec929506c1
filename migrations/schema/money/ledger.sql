-- The token ledger: what each call reserved, took, or gave back. It is append-only; a correction is
-- an entry of its own.

create type jobsworth.ledger_entry as enum ('reserve', 'settle', 'release', 'adjust');

create table jobsworth.token_ledger (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  call_id uuid,
  job_id uuid,
  thread_id uuid,
  agent_id uuid,
  entry jobsworth.ledger_entry not null,
  scope jobsworth.ledger_scope not null default 'reactive',
  mode text,
  provider jobsworth.provider not null,
  model jobsworth.model not null,
  input_tokens jobsworth.entered_tokens not null default 0,
  output_tokens jobsworth.entered_tokens not null default 0,
  cache_read_tokens jobsworth.entered_tokens not null default 0,
  cache_write_tokens jobsworth.entered_tokens not null default 0,
  total_tokens bigint not null generated always as (input_tokens + output_tokens) stored,
  cost jobsworth.entered_cost,
  price_version text,
  occurred_at jobsworth.occurred_at not null default clock_timestamp(),
  run_id uuid,
  reasoning_tokens jobsworth.entered_tokens not null default 0,
  -- How many unknown costs this entry adds to a sum (negative: takes away). Null: one if its own
  -- cost is unknown, else none.
  unknown_costs smallint,
  -- An adjustment that follows a new price; the call's row keeps the old cost.
  reprices boolean not null default false,
  constraint only_an_adjustment_reprices
    check (not reprices or (entry = 'adjust' and call_id is not null)),
  constraint only_an_adjustment_has_negative_tokens_or_cost
    check (entry = 'adjust' or least(input_tokens, output_tokens, cache_read_tokens,
      cache_write_tokens, reasoning_tokens, cost) >= 0)
);
create index token_ledger_time on jobsworth.token_ledger (occurred_at);
create index token_ledger_job on jobsworth.token_ledger (job_id) where job_id is not null;
create index token_ledger_run on jobsworth.token_ledger (run_id) where run_id is not null;
-- A call is reserved, settled and released at most once each.
create unique index token_ledger_once on jobsworth.token_ledger (call_id, entry)
  where entry in ('reserve', 'settle', 'release');
create index token_ledger_adjusted on jobsworth.token_ledger (call_id) where entry = 'adjust';

create trigger ledger_is_append_only before update or delete on jobsworth.token_ledger
  for each row execute function jobsworth.refuse_change('id', 'thread_id', 'team_id');
create trigger ledger_is_not_emptied before truncate on jobsworth.token_ledger
  for each statement execute function jobsworth.refuse_change('id', 'thread_id', 'team_id');
