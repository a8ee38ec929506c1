-- How budgets and their windows are found, and the lock that guards them.
--
-- Starting and settling a call that counts takes one lock (`lock_money`), last, until its commit.
-- Ordered row locks were tried first; a group commit mixes steps, settlements and starts in one
-- transaction, which breaks any order. A call that falls under no budget or limit never takes the
-- lock, and nobody holds it while waiting for a client.
--
-- A call finds its budgets by the rarest thing that each must match (`found_by`), so thousands of
-- budgets of one thread or agent each cost the others nothing: a start takes 24 µs of the server
-- under no budget, 52 under one, 91 under three of 5,003 (batches of 50). Looking at each budget
-- took 273 and 1,212.

-- The one lock of all windows and rate limits. A transaction takes it last and holds it until its
-- commit, so each decision sees all reservations before it. Its holder waits for nothing, not even
-- for its client: it commits in the same message. The lock timeout of a batch is too short for this
-- lock, which others do hold, if not for long.
create function jobsworth.lock_money() returns void language plpgsql
  set lock_timeout = '15s' as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('jobsworth.' || 'money', 1));
end $$;

-- When the window began that contains this instant (UTC). A reset begins a new window.
create function jobsworth.window_start(b jobsworth.budgets, at timestamptz) returns timestamptz
  language sql stable return greatest(b.reset_at, case b.period
    when 'run' then b.created_at
    else date_trunc(b.period::text, at at time zone 'utc') at time zone 'utc' end);

-- When that window ends; null if it has no end.
create function jobsworth.window_end(b jobsworth.budgets, at timestamptz) returns timestamptz
  language sql stable return case when b.period <> 'run' then
    (date_trunc(b.period::text, at at time zone 'utc') + ('1 ' || b.period::text)::interval)
      at time zone 'utc' end;

-- An amount, as messages say it.
create function jobsworth.amount_words(amount numeric, unit jobsworth.budget_unit) returns text
  language sql immutable return case unit
    when 'money' then trim_scale(round(amount, 6))::text || ' USD'
    else trim_scale(amount)::text || ' tokens' end;

-- The state of a budget and the need of a call, as messages say it.
create function jobsworth.budget_words(
  b jobsworth.budgets, used numeric, needs numeric, at timestamptz) returns text
  language sql stable return 'budget ' || b.name || ': '
    || trim_scale(round(used, 6)) || ' of ' || jobsworth.amount_words(b.amount, b.unit)
    || ' reserved or spent' || case b.period when 'run' then ' by this run' else '' end
    || ', this call needs up to ' || trim_scale(round(needs, 6))
    || coalesce('; the window ends at ' || to_char(
        jobsworth.window_end(b, at) at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', '');

-- The budgets that apply to a call. It looks under one key after the other, each by equality, so
-- its time does not depend on the number of other budgets and no planner makes it a scan.
-- (PostgreSQL inlines this function and `window_of`.)
create function jobsworth.budgets_of(
  team_id uuid, agent_id uuid, thread_id uuid, mode text, provider text, model text, run_key uuid)
  returns setof jobsworth.budgets language sql stable as $$
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

-- The window of a budget that began at this instant, and of this run if the budget counts each run;
-- no row if there is none yet. Two branches, because no index serves `is not distinct from`: one
-- condition would read the windows of all runs.
create function jobsworth.window_of(
  budget_id uuid, period jobsworth.budget_period, starts_at timestamptz, run_key uuid)
  returns setof jobsworth.budget_windows language sql stable as $$
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
