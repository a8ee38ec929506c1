-- Budgets: money and tokens are checked before they are spent, by the database, for all daemons.
--
-- The window of a budget is the sum of its `call_windows`: what a call has reserved there until it
-- is settled, and what it took after that. A call counts in the windows in which it was reserved.

create type jobsworth.budget_unit as enum ('tokens', 'money');
create type jobsworth.budget_period as enum ('hour', 'day', 'month', 'run');
-- What a job does when its call does not fit: wait for room, fail, or ask a person.
create type jobsworth.budget_over as enum ('park', 'fail', 'ask');

create table jobsworth.budgets (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  name jobsworth.name not null,
  unit jobsworth.budget_unit not null,
  amount jobsworth.amount not null,
  period jobsworth.budget_period not null,
  -- The calls that it counts: every column that is set must match.
  for_team_id uuid,
  agent_id uuid,
  thread_id uuid,
  mode jobsworth.mode,
  provider jobsworth.provider,
  model jobsworth.model,
  over jobsworth.budget_over not null default 'park',
  warn_at jobsworth.warn_at not null default 0.8,
  active boolean not null default true,
  reset_at jobsworth.reset_at,
  created_at jobsworth.created_at not null default clock_timestamp(),
  -- The key under which a call looks for this budget (`budgets_of`): the most specific column that
  -- is set.
  found_by text not null generated always as (case
    when thread_id is not null then 'thread ' || thread_id::text
    when agent_id is not null then 'agent ' || agent_id::text
    when for_team_id is not null then 'team ' || for_team_id::text
    when mode is not null then 'mode ' || mode
    when model is not null then 'model ' || model
    when provider is not null then 'provider ' || provider
    else 'everything' end) stored,
  constraint budget_name unique nulls not distinct (team_id, name)
);
create index budgets_found on jobsworth.budgets (found_by) where active;

create table jobsworth.budget_windows (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  budget_id uuid not null references jobsworth.budgets on delete cascade,
  starts_at jobsworth.starts_at not null,
  run_id uuid,  -- of a budget for each run; a job without one is a run of its own
  reserved jobsworth.reserved not null default 0,
  spent jobsworth.spent not null default 0,
  warned_at jobsworth.warned_at,
  constraint one_window unique nulls not distinct (budget_id, starts_at, run_id)
) with (fillfactor = 50);

-- What each call counts in each window. A call is settled by its own rows, so no row is updated
-- twice.
create table jobsworth.call_windows (
  call_id uuid not null,
  window_id uuid not null,
  team_id uuid,
  reserved jobsworth.reserved not null,
  spent jobsworth.spent not null default 0,
  exceeded boolean not null default false,  -- an approval let it past this budget
  primary key (call_id, window_id)
) with (fillfactor = 80);
create index call_windows_window on jobsworth.call_windows (window_id);

-- The jobs that wait for a budget. `granted_at`: there was room, and the job may try again. A grant
-- reserves nothing; the check is made again when the call starts.
create table jobsworth.budget_waits (
  job_id uuid not null primary key,
  team_id uuid,
  budget_id uuid not null references jobsworth.budgets on delete cascade,
  run_id uuid,
  amount jobsworth.amount not null,
  since jobsworth.since not null default clock_timestamp(),
  granted_at jobsworth.granted_at
);
create index budget_waits_of_budget on jobsworth.budget_waits (budget_id, granted_at);
