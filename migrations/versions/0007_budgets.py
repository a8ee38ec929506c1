"""Budgets and rate limits: money is checked before it is spent, by the database, for all daemons.

A call is started by `start_calls` and ended by `settle_calls`, whoever asks. Without a budget and a
limit, starting one is the one statement that it was. With them, whoever starts or settles a call
that counts takes one lock (`lock_money`) until its commit, which is the fixed order of all windows;
it takes it last, and never waits for anything while it holds it. So a decision sees every
reservation before it, and 16 workers cannot overshoot.

A budget's window is the sum of its `call_windows`: what a call reserved there until it is settled,
what it took after. A call counts in the windows in which it was reserved.

Who waits for a budget has a row in `budget_waits`. Whoever makes room (a settlement, a raise, a
reset, a new window) marks the oldest that fit as granted; a grant lets a job try again, and takes
nothing: the check is made again when its call starts. Only waiting jobs are granted, and a job that
has just parked is looked at after its commit, so that either side sees the other.
"""

from migrations.sql import earlier, run

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COLUMNS = """
alter table jobsworth.llm_calls
  add column run_id uuid,
  add column reasoning_tokens int,
  add column total_tokens int,  -- as the provider said
  add column price jsonb,  -- the rates that made the cost
  add column over_estimate boolean not null generated always as (
    coalesce(input_tokens::bigint + output_tokens
      > estimated_input_tokens::bigint + estimated_output_tokens, false)
    or coalesce(cost > estimated_cost, false)) stored;
create index llm_calls_run on jobsworth.llm_calls (run_id, id) where run_id is not null;

alter table jobsworth.token_ledger
  add column run_id uuid,
  add column reasoning_tokens bigint not null default 0,
  -- How many unknown costs it adds to a sum, if not simply whether its own cost is unknown.
  add column unknown_costs smallint;
create index token_ledger_run on jobsworth.token_ledger (run_id) where run_id is not null;
drop index jobsworth.token_ledger_once;
create unique index token_ledger_once on jobsworth.token_ledger (call_id, entry)
  where entry in ('reserve', 'settle', 'release');
create index token_ledger_adjusted on jobsworth.token_ledger (call_id) where entry = 'adjust';
"""

TABLES = """
create type jobsworth.budget_unit as enum ('tokens', 'money');
create type jobsworth.budget_period as enum ('hour', 'day', 'month', 'run');
create type jobsworth.budget_over as enum ('park', 'fail', 'ask');

create table jobsworth.budgets (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  name text not null,
  unit jobsworth.budget_unit not null,
  amount numeric not null,
  period jobsworth.budget_period not null,
  -- What falls under it: every column that is set must match.
  for_team_id uuid,
  agent_id uuid,
  thread_id uuid,
  mode text,
  provider text,
  model text,
  over jobsworth.budget_over not null default 'park',
  warn_at numeric not null default 0.8,
  active boolean not null default true,
  reset_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  -- Where a call looks for it (`budgets_of`): under the rarest thing that it must match.
  found_by text not null generated always as (case
    when thread_id is not null then 'thread ' || thread_id::text
    when agent_id is not null then 'agent ' || agent_id::text
    when for_team_id is not null then 'team ' || for_team_id::text
    when mode is not null then 'mode ' || mode
    when model is not null then 'model ' || model
    when provider is not null then 'provider ' || provider
    else 'everything' end) stored,
  constraint budget_name unique nulls not distinct (team_id, name),
  constraint amount_is_no_debt check (amount >= 0 and amount < 1e15),
  constraint warn_at_is_a_share check (warn_at > 0 and warn_at <= 1)
);
create index budgets_found on jobsworth.budgets (found_by) where active;

create table jobsworth.budget_windows (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  budget_id uuid not null references jobsworth.budgets on delete cascade,
  starts_at timestamptz not null,
  run_id uuid,  -- of a budget for each run; a job without one is a run of its own
  reserved numeric not null default 0,
  spent numeric not null default 0,
  warned_at timestamptz,
  constraint one_window unique nulls not distinct (budget_id, starts_at, run_id)
) with (fillfactor = 50);

-- What each call counts in each window. Settling is by the call, and nothing is updated twice.
create table jobsworth.call_windows (
  call_id uuid not null,
  window_id uuid not null,
  team_id uuid,
  reserved numeric not null,
  spent numeric not null default 0,
  exceeded boolean not null default false,  -- an approval let it past this budget
  primary key (call_id, window_id)
) with (fillfactor = 80);
create index call_windows_window on jobsworth.call_windows (window_id);

create table jobsworth.budget_waits (
  job_id uuid not null primary key,
  team_id uuid,
  budget_id uuid not null references jobsworth.budgets on delete cascade,
  run_id uuid,
  amount numeric not null,
  since timestamptz not null default clock_timestamp(),
  granted_at timestamptz
);
create index budget_waits_of_budget on jobsworth.budget_waits (budget_id, granted_at);

-- Requests and tokens for each minute, by the generic cell rate algorithm (ITU-T I.371): of a
-- limit only the theoretical time of the next arrival is kept. `turn_at` is when the last of those
-- who were sent away may come again.
create table jobsworth.rate_limits (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  provider text not null,
  model text not null default '*',
  requests_per_minute int,
  tokens_per_minute bigint,
  paused_until timestamptz,
  requests_at timestamptz,
  tokens_at timestamptz,
  turn_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  constraint limited_key unique nulls not distinct (team_id, provider, model),
  constraint limits_are_counts check (requests_per_minute > 0 and tokens_per_minute > 0)
) with (fillfactor = 50);
"""

RULES = """
-- The one lock of all windows and limits. Taken last, held until the commit; its holder waits for
-- nothing, not even for its client: it commits with the same message. A batch has a short
-- lock_timeout for what nobody has reason to hold; this is held, but not for long.
create function jobsworth.lock_money() returns void language plpgsql
  set lock_timeout = '15s' as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('jobsworth.' || 'money', 1));
end $$;

-- When the window of an instant began (UTC). After a reset a new one begins.
create function jobsworth.window_start(b jobsworth.budgets, at timestamptz) returns timestamptz
  language sql stable return greatest(b.reset_at, case b.period
    when 'run' then b.created_at
    else date_trunc(b.period::text, at at time zone 'utc') at time zone 'utc' end);

-- When it ends; null where it has no end.
create function jobsworth.window_end(b jobsworth.budgets, at timestamptz) returns timestamptz
  language sql stable return case when b.period <> 'run' then
    (date_trunc(b.period::text, at at time zone 'utc') + ('1 ' || b.period::text)::interval)
      at time zone 'utc' end;

create function jobsworth.amount_words(amount numeric, unit jobsworth.budget_unit) returns text
  language sql immutable return case unit
    when 'money' then trim_scale(round(amount, 6))::text || ' USD'
    else trim_scale(amount)::text || ' tokens' end;

create function jobsworth.budget_words(
  b jobsworth.budgets, used numeric, needs numeric, at timestamptz) returns text
  language sql stable return 'budget ' || b.name || ': '
    || trim_scale(round(used, 6)) || ' of ' || jobsworth.amount_words(b.amount, b.unit)
    || ' reserved or spent' || case b.period when 'run' then ' by this run' else '' end
    || ', this call needs up to ' || trim_scale(round(needs, 6))
    || coalesce('; the window ends at ' || to_char(
        jobsworth.window_end(b, at) at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', '');

-- The budgets that a call falls under, however many there are of others: by an equality for each
-- key, which no planner turns into a scan. (Inlined, as is `window_of`.)
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

-- The window of a budget at an instant, of this run if it is for each run; if there is one yet.
-- (Apart, because no index finds by `is not distinct from`: each would read those of all runs.)
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

-- How many seconds until a limit lets so many requests with so many tokens through (0: now). A
-- bucket holds a minute's worth; one call that is larger than that goes when the bucket is full.
create function jobsworth.limit_wait(
  l jobsworth.rate_limits, requests bigint, tokens bigint, at timestamptz)
  returns float8 language sql stable return greatest(
    0,
    extract(epoch from l.paused_until - at),
    greatest(extract(epoch from l.requests_at - at), 0)
      + requests * 60.0 / l.requests_per_minute - 60,
    greatest(extract(epoch from l.tokens_at - at), 0) + case when requests = 1
      then least(60.0, tokens * 60.0 / l.tokens_per_minute)
      else tokens * 60.0 / l.tokens_per_minute end - 60)::float8;
"""

START = """
-- Write calls that are about to be sent, with their reservations, under the fence of their jobs.
-- For each that was decided, a row: started; known (its request is in the books); lost (its lease
-- is); limit (come again in `wait_seconds`); budget (too little is left; `over` says what then);
-- unpriced (a budget of money cannot say whether it fits). One without a row: `patient`, its job is
-- not there; otherwise somebody holds the job right now. `exceeds`: budgets that an approval let
-- this call go beyond.
create type jobsworth.call_verdict as (
  request_id text, verdict text, call_id uuid, budget_id uuid, budget text, over text, detail text,
  wait_seconds float8, warned text[]);

create function jobsworth.start_calls(rows jsonb, patient boolean default false)
  returns setof jobsworth.call_verdict language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  calls jsonb[];
  lost text[];
begin
  if patient then
    perform 1 from jobsworth.reactive_jobs j
    where j.id = any(array(select (a.value ->> 'job_id')::uuid from jsonb_array_elements(rows) a))
    order by j.id for no key update;
  end if;

  if not jobsworth.calls_count(rows) then
    return query
    with asked as materialized (
      select a.*
      from jsonb_to_recordset(rows) as a (
        call_id uuid, job_id uuid, lease_no bigint, worker_id uuid, attempt int, team_id uuid,
        thread_id uuid, step_name text, mode text, provider text, model text, request_id text,
        input_tokens int, output_tokens int, cost numeric)
    ), locked as materialized (
      -- By the primary key alone, and compared after the lock (as in `finish`). A row that
      -- somebody holds is passed over, so that its neighbours do not wait for it.
      select a.*, j.run_id, j.agent_id, j.ours
      from asked a
      cross join lateral (
        select r.run_id, r.agent_id,
          r.status = 'running' and r.lease_no = a.lease_no and r.worker_id = a.worker_id as ours
        from jobsworth.reactive_jobs r
        where r.id = a.job_id
        for no key update skip locked
      ) j
      union all
      select a.*, null, null, true from asked a where a.job_id is null
    ), started as (
      insert into jobsworth.llm_calls (
        id, team_id, job_id, thread_id, run_id, agent_id, lease_no, attempt, step_name, scope, mode,
        provider, model, request_id, estimated_input_tokens, estimated_output_tokens,
        estimated_cost)
      select h.call_id, h.team_id, h.job_id, h.thread_id, h.run_id, h.agent_id, h.lease_no,
        h.attempt, h.step_name,
        case when h.job_id is null then 'proactive' else 'reactive' end::jobsworth.ledger_scope,
        h.mode, h.provider, h.model, h.request_id, h.input_tokens, h.output_tokens, h.cost
      from locked h
      where h.ours  -- the fence
      on conflict (request_id) do nothing
      returning id, team_id, job_id, thread_id, run_id, agent_id, scope, mode, provider, model,
        request_id, estimated_input_tokens, estimated_output_tokens, estimated_cost
    ), reserved as (
      insert into jobsworth.token_ledger (
        team_id, call_id, job_id, thread_id, run_id, agent_id, entry, scope, mode, provider, model,
        input_tokens, output_tokens, cost)
      select s.team_id, s.id, s.job_id, s.thread_id, s.run_id, s.agent_id, 'reserve', s.scope,
        s.mode, s.provider, s.model, s.estimated_input_tokens, s.estimated_output_tokens,
        s.estimated_cost
      from started s
    )
    select l.request_id, case when l.ours then 'known' else 'lost' end, null::uuid, null::uuid,
      null::text, null::text, null::text, null::float8, null::text[]
    from locked l
    where patient or not l.ours
    union all
    select s.request_id, 'started', s.id, null, null, null, null, null, null from started s;
    return;
  end if;

  with asked as materialized (
    select a.value as call, a.value ->> 'request_id' as request_id,
      (a.value ->> 'job_id')::uuid as job_id, (a.value ->> 'lease_no')::bigint as lease_no,
      (a.value ->> 'worker_id')::uuid as worker_id
    from jsonb_array_elements(rows) as a
  ), locked as materialized (
    select a.call, a.request_id, j.ours
    from asked a
    cross join lateral (
      select r.status = 'running' and r.lease_no = a.lease_no and r.worker_id = a.worker_id as ours
      from jobsworth.reactive_jobs r
      where r.id = a.job_id
      for no key update skip locked
    ) j
    union all
    select a.call, a.request_id, true from asked a where a.job_id is null
  )
  select array_agg(l.call) filter (where l.ours),
    array_agg(l.request_id) filter (where not l.ours)
  into calls, lost
  from locked l;
  return query
  select l.request_id, 'lost', null::uuid, null::uuid, null::text, null::text, null::text,
    null::float8, null::text[]
  from unnest(lost) as l (request_id);
  if calls is not null then
    -- Every statement from here on sees what whoever held it before has committed.
    perform jobsworth.lock_money();
    return query select s.* from jobsworth.start_counted(calls, clock_timestamp()) s;
  end if;
end $$;

-- Does any of these calls fall under a budget or a limit? If none does, none waits for the money.
create function jobsworth.calls_count(rows jsonb) returns boolean language plpgsql stable as $$
begin
  return (
    exists (
      select 1 from jobsworth.rate_limits l
      where l.requests_per_minute is not null or l.tokens_per_minute is not null
        or l.paused_until > clock_timestamp())
    and exists (
      select 1
      from (
        select distinct a.value ->> 'provider' as provider, a.value ->> 'model' as model
        from jsonb_array_elements(rows) as a
        offset 0) c
      cross join jobsworth.rate_limits l
      where l.provider = c.provider and l.model in (c.model, '*')
        and (l.requests_per_minute is not null or l.tokens_per_minute is not null
          or l.paused_until > clock_timestamp()))
  ) or (
    exists (select 1 from jobsworth.budgets b where b.active)
    and exists (
      select 1
      from jsonb_to_recordset(rows) as a (
        job_id uuid, team_id uuid, thread_id uuid, mode text, provider text, model text)
      left join lateral (
        select r.run_id, r.agent_id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0
      ) j on true
      cross join lateral jobsworth.budgets_of(a.team_id, j.agent_id, a.thread_id, a.mode,
        a.provider, a.model, coalesce(j.run_id, a.job_id))));
end $$;

-- Calls whose jobs and the money are locked: written, if limits and budgets let all of them
-- through. If not, each half is tried; of a single one it is said what stands against it.
create function jobsworth.start_counted(calls jsonb[], at timestamptz)
  returns setof jobsworth.call_verdict language plpgsql as $$
declare
  n int := cardinality(calls);
  fit boolean;
  written uuid[];
  warned text[];
  against jobsworth.call_verdict;
begin
  with asked as materialized (
    select a.*, j.run_id, j.agent_id, coalesce(j.run_id, a.job_id) as run_key,
      a.input_tokens::bigint + a.output_tokens as tokens
    from unnest(calls) as u (call)
    cross join lateral jsonb_to_record(u.call) as a (
      call_id uuid, job_id uuid, lease_no bigint, attempt int, team_id uuid, thread_id uuid,
      step_name text, mode text, provider text, model text, request_id text, input_tokens int,
      output_tokens int, cost numeric, allow_unpriced boolean, exceeds uuid[])
    left join lateral (
      select r.run_id, r.agent_id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0
    ) j on true
    -- (`not exists` would be a join, which may be planned to read the whole table.)
    where (select l.id from jobsworth.llm_calls l where l.request_id = a.request_id) is null
  ), parts as materialized (
    select c.call_id, c.exceeds, b.id as budget_id, b.team_id, b.name, b.unit, b.period, b.amount,
      b.warn_at, jobsworth.window_start(b, at) as starts_at,
      case b.period when 'run' then c.run_key end as run_id,
      case b.unit when 'tokens' then c.tokens
        else coalesce(c.cost, case when c.allow_unpriced then 0 end) end as needs
    from asked c
    cross join lateral jobsworth.budgets_of(
      c.team_id, c.agent_id, c.thread_id, c.mode, c.provider, c.model, c.run_key) b
  ), sums as materialized (
    select s.*, coalesce(w.reserved + w.spent, 0) as used, w.warned_at
    from (
      select p.budget_id, p.team_id, p.name, p.unit, p.period, p.amount, p.warn_at, p.starts_at,
        p.run_id, sum(p.needs) as needs, bool_or(p.needs is null) as unpriced,
        bool_and(n = 1 and p.budget_id = any(p.exceeds)) as exceeds
      from parts p
      group by p.budget_id, p.team_id, p.name, p.unit, p.period, p.amount, p.warn_at, p.starts_at,
        p.run_id) s
    left join lateral jobsworth.window_of(s.budget_id, s.period, s.starts_at, s.run_id) w on true
  ), paces as materialized (
    select l.id, count(*) as requests, sum(c.tokens)::bigint as tokens
    from asked c
    join jobsworth.rate_limits l on l.provider = c.provider and l.model in (c.model, '*')
    group by l.id
  ), fitting as materialized (
    select not exists (
        select 1 from sums s
        where s.unpriced or s.needs > s.amount - s.used and s.exceeds is not true)
      and not exists (
        select 1 from paces p
        join jobsworth.rate_limits l on l.id = p.id
        where jobsworth.limit_wait(l, p.requests, p.tokens, at) > 0) as fit
  ), started as (
    insert into jobsworth.llm_calls (
      id, team_id, job_id, thread_id, run_id, agent_id, lease_no, attempt, step_name, scope, mode,
      provider, model, request_id, estimated_input_tokens, estimated_output_tokens, estimated_cost,
      started_at)
    select c.call_id, c.team_id, c.job_id, c.thread_id, c.run_id, c.agent_id, c.lease_no, c.attempt,
      c.step_name,
      case when c.job_id is null then 'proactive' else 'reactive' end::jobsworth.ledger_scope,
      c.mode, c.provider, c.model, c.request_id, c.input_tokens, c.output_tokens, c.cost,
      at  -- the instant that chose its windows
    from asked c
    where (select f.fit from fitting f)
    returning id, team_id, job_id, thread_id, run_id, agent_id, scope, mode, provider, model,
      estimated_input_tokens, estimated_output_tokens, estimated_cost
  ), reserved as (
    insert into jobsworth.token_ledger (
      team_id, call_id, job_id, thread_id, run_id, agent_id, entry, scope, mode, provider, model,
      input_tokens, output_tokens, cost)
    select s.team_id, s.id, s.job_id, s.thread_id, s.run_id, s.agent_id, 'reserve', s.scope, s.mode,
      s.provider, s.model, s.estimated_input_tokens, s.estimated_output_tokens, s.estimated_cost
    from started s
  ), windows as (
    insert into jobsworth.budget_windows as w (
      budget_id, team_id, starts_at, run_id, reserved, warned_at)
    select s.budget_id, s.team_id, s.starts_at, s.run_id, s.needs,
      case when s.used + s.needs >= s.warn_at * s.amount then at end
    from sums s
    where (select f.fit from fitting f)
    on conflict (budget_id, starts_at, run_id) do update
    set reserved = w.reserved + excluded.reserved,
      warned_at = coalesce(w.warned_at, excluded.warned_at)
    returning w.id, w.budget_id, w.run_id
  ), counted as (
    insert into jobsworth.call_windows (call_id, window_id, team_id, reserved, exceeded)
    select p.call_id, w.id, p.team_id, p.needs, s.needs > s.amount - s.used
    from parts p
    join windows w on w.budget_id = p.budget_id and w.run_id is not distinct from p.run_id
    join sums s on s.budget_id = p.budget_id and s.run_id is not distinct from p.run_id
  ), let_through as (
    update jobsworth.rate_limits l
    set requests_at = case when l.requests_per_minute is not null then
        greatest(l.requests_at, at)
          + make_interval(secs => p.requests * 60.0 / l.requests_per_minute) end,
      tokens_at = case when l.tokens_per_minute is not null then
        greatest(l.tokens_at, at)
          + make_interval(secs => p.tokens * 60.0 / l.tokens_per_minute) end
    from paces p
    where l.id = p.id and (select f.fit from fitting f)
      and (l.requests_per_minute is not null or l.tokens_per_minute is not null)
  ), served as (
    delete from jobsworth.budget_waits w
    using asked c
    where w.job_id = c.job_id and (select f.fit from fitting f)
  )
  select f.fit, array(select s.id from started s),
    array(
      select s.name || ': ' || trim_scale(round(s.used + s.needs, 6)) || ' of '
        || jobsworth.amount_words(s.amount, s.unit)
      from sums s
      where s.warned_at is null and s.used + s.needs >= s.warn_at * s.amount
      order by s.name)
  into fit, written, warned
  from fitting f;

  if fit then
    return query
    select c.value ->> 'request_id', case when w.id is null then 'known' else 'started' end, w.id,
      null::uuid, null::text, null::text, null::text, null::float8,
      case when c.ordinality = 1 then warned end
    from unnest(calls) with ordinality as c (value, ordinality)
    left join unnest(written) as w (id) on w.id = (c.value ->> 'call_id')::uuid;
  elsif n > 1 then
    return query select s.* from jobsworth.start_counted(calls[: n / 2], at) s;
    return query select s.* from jobsworth.start_counted(calls[n / 2 + 1 :], at) s;
  else
    against := jobsworth.refuse_call(calls[1], at);
    if against.verdict is not null then
      return next against;
    else
      return query select s.* from jobsworth.start_counted(calls, at) s;
    end if;
  end if;
end $$;

-- What stands against a call: a limit first, then a budget. No verdict: nothing any more, since
-- somebody has raised a budget between two statements.
create function jobsworth.refuse_call(call jsonb, at timestamptz)
  returns jobsworth.call_verdict language plpgsql as $$
declare
  v jobsworth.call_verdict;
  c record;
  short record;
  tokens bigint;
begin
  select a.*, j.agent_id, coalesce(j.run_id, a.job_id) as run_key
  into c
  from jsonb_to_record(call) as a (
    job_id uuid, team_id uuid, thread_id uuid, mode text, provider text, model text,
    request_id text, input_tokens int, output_tokens int, cost numeric, allow_unpriced boolean,
    exceeds uuid[])
  left join lateral (
    select r.run_id, r.agent_id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0
  ) j on true;
  v.request_id := c.request_id;
  tokens := c.input_tokens::bigint + c.output_tokens;

  select max(jobsworth.limit_wait(l, 1, tokens, at)) into v.wait_seconds
  from jobsworth.rate_limits l
  where l.provider = c.provider and l.model in (c.model, '*');
  if v.wait_seconds > 0 then
    -- Each that is sent away gets a turn of its own, at the pace of the limit, so that they do not
    -- all come back at once.
    with turned as (
      update jobsworth.rate_limits l
      set turn_at = case
        when l.turn_at > at + interval '5 minutes'
          then at + make_interval(secs => v.wait_seconds + random() * 300)
        else greatest(at + make_interval(secs => v.wait_seconds), l.turn_at + make_interval(
          secs => greatest(0.02, 60.0 / l.requests_per_minute,
            case when l.tokens_per_minute is not null
              then least(60.0, tokens * 60.0 / l.tokens_per_minute) end))) end
      where l.provider = c.provider and l.model in (c.model, '*')
        and jobsworth.limit_wait(l, 1, tokens, at) > 0
      returning l.provider, l.model, l.turn_at, l.paused_until
    )
    select greatest(v.wait_seconds, max(extract(epoch from t.turn_at - at))),
      string_agg('rate limit of ' || t.provider || ' ' || t.model
        || case when t.paused_until > at then ' (paused by the provider)' else '' end, ', ')
    into v.wait_seconds, v.detail
    from turned t;
    v.verdict := 'limit';
    return v;
  end if;

  v.wait_seconds := null;
  select b as budget, coalesce(w.reserved + w.spent, 0) as used, n.needs into short
  from jobsworth.budgets_of(
    c.team_id, c.agent_id, c.thread_id, c.mode, c.provider, c.model, c.run_key) b
  left join lateral jobsworth.window_of(
    b.id, b.period, jobsworth.window_start(b, at), c.run_key) w on true
  cross join lateral (
    select case b.unit when 'tokens' then tokens
      else coalesce(c.cost, case when c.allow_unpriced then 0 end) end as needs) n
  where n.needs is null
    or (n.needs > b.amount - coalesce(w.reserved + w.spent, 0)
      and b.id <> all(coalesce(c.exceeds, '{}')))
  order by n.needs is not null,
    case b.over when 'fail' then 1 when 'park' then 2 else 3 end, b.name, b.id
  limit 1;
  if not found then
    return v;
  end if;
  v.verdict := case when short.needs is null then 'unpriced' else 'budget' end;
  v.budget_id := (short.budget).id;
  v.budget := (short.budget).name;
  v.over := (short.budget).over;
  if short.needs is null then
    v.detail := 'the price of ' || c.provider || ' ' || c.model || ' is not known, and budget '
      || v.budget || ' counts money';
    return v;
  end if;
  v.detail := jobsworth.budget_words(short.budget, short.used, short.needs, at);
  if v.over = 'park' and c.job_id is not null then
    insert into jobsworth.budget_waits as w (job_id, team_id, budget_id, run_id, amount)
    values (c.job_id, c.team_id, v.budget_id,
      case (short.budget).period when 'run' then c.run_key end, short.needs)
    on conflict (job_id) do update
    set budget_id = excluded.budget_id, run_id = excluded.run_id, amount = excluded.amount,
      granted_at = null;
  end if;
  return v;
end $$;
"""

SETTLE = """
-- End calls in the books, each once, with or without their jobs' leases. The truth about a call
-- that was given up for unknown corrects it, by an `adjust`; all else that was settled stays.
-- Returns how many it ended or corrected, and the budgets that got room and have waiters: after the
-- commit, `wake_budgets` is for them.
create function jobsworth.settle_calls(rows jsonb, out settled bigint, out rooms uuid[])
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  ids uuid[];
  late uuid[];
begin
  with ended as materialized (
    select e.*
    from jsonb_to_recordset(rows) as e (
      call_id uuid, status jobsworth.call_status, input_tokens int, output_tokens int,
      cache_read_tokens int, cache_write_tokens int, reasoning_tokens int, total_tokens int,
      usage_source jobsworth.usage_source, cost numeric, price_version text, price jsonb,
      latency_ms int, error text, unsent boolean)
    order by 1
  ), settled as (
    -- The update itself is the lock, and the row is looked at again after waiting for it. By the
    -- primary key, whatever the planner believes: no join can hash this condition, and `status`
    -- would have it walk the index of open calls, with all that is dead in there, for each.
    update jobsworth.llm_calls c
    set status = e.status, input_tokens = e.input_tokens, output_tokens = e.output_tokens,
      cache_read_tokens = e.cache_read_tokens, cache_write_tokens = e.cache_write_tokens,
      reasoning_tokens = e.reasoning_tokens, total_tokens = e.total_tokens,
      usage_source = e.usage_source, cost = e.cost, price_version = e.price_version,
      price = e.price, latency_ms = e.latency_ms, error = e.error, settled_at = clock_timestamp()
    from ended e
    where c.id = any(array[e.call_id]) and c.settled_at is null
    returning c.id, c.team_id, c.job_id, c.thread_id, c.run_id, c.agent_id, c.scope, c.mode,
      c.provider, c.model, c.input_tokens, c.output_tokens, c.cache_read_tokens,
      c.cache_write_tokens, c.reasoning_tokens, c.cost, c.price_version,
      case when e.unsent then 'release' else 'settle' end::jobsworth.ledger_entry as entry
  ), entered as (
    insert into jobsworth.token_ledger (
      team_id, call_id, job_id, thread_id, run_id, agent_id, entry, scope, mode, provider, model,
      input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost,
      price_version)
    select s.team_id, s.id, s.job_id, s.thread_id, s.run_id, s.agent_id, s.entry, s.scope, s.mode,
      s.provider, s.model, coalesce(s.input_tokens, 0), coalesce(s.output_tokens, 0),
      coalesce(s.cache_read_tokens, 0), coalesce(s.cache_write_tokens, 0),
      coalesce(s.reasoning_tokens, 0), s.cost, s.price_version
    from settled s
    returning call_id
  )
  select coalesce(array_agg(e.call_id), '{}') into ids from entered e;

  if cardinality(ids) < jsonb_array_length(rows) then
    late := jobsworth.correct_unknown(rows, ids);
    ids := ids || late;
  end if;
  settled := cardinality(ids);
  if exists (select 1 from jobsworth.call_windows p where p.call_id = any(ids)) then
    rooms := jobsworth.settle_windows(ids);
  end if;
end $$;

-- The truth about calls that were given up for unknown: the row says what is true by now, the
-- ledger what that adds to its settlement.
create function jobsworth.correct_unknown(rows jsonb, settled uuid[]) returns uuid[]
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  ids uuid[];
begin
  with told as materialized (
    select e.*
    from jsonb_to_recordset(rows) as e (
      call_id uuid, status jobsworth.call_status, input_tokens int, output_tokens int,
      cache_read_tokens int, cache_write_tokens int, reasoning_tokens int, total_tokens int,
      usage_source jobsworth.usage_source, cost numeric, price_version text, price jsonb,
      latency_ms int, error text)
    where e.call_id <> all(settled)
      and (e.status in ('ok', 'error') or e.status = 'cut' and e.usage_source = 'provider')
  ), before as materialized (
    -- As they are after the lock.
    select t.*, c.input_tokens as input_before, c.output_tokens as output_before,
      c.cache_read_tokens as read_before, c.cache_write_tokens as write_before,
      c.reasoning_tokens as reasoning_before, c.cost as cost_before
    from told t
    cross join lateral (
      select k.status, k.input_tokens, k.output_tokens, k.cache_read_tokens, k.cache_write_tokens,
        k.reasoning_tokens, k.cost
      from jobsworth.llm_calls k
      where k.id = t.call_id
      for no key update
    ) c
    where c.status = 'unknown'
  ), corrected as (
    update jobsworth.llm_calls c
    set status = b.status, input_tokens = b.input_tokens, output_tokens = b.output_tokens,
      cache_read_tokens = b.cache_read_tokens, cache_write_tokens = b.cache_write_tokens,
      reasoning_tokens = b.reasoning_tokens, total_tokens = b.total_tokens,
      usage_source = b.usage_source, cost = coalesce(b.cost, b.cost_before),
      price_version = b.price_version, price = b.price, latency_ms = b.latency_ms, error = b.error
    from before b
    where c.id = any(array[b.call_id]) and c.status = 'unknown'
    returning c.id, c.team_id, c.job_id, c.thread_id, c.run_id, c.agent_id, c.scope, c.mode,
      c.provider, c.model, c.price_version, c.cost - coalesce(b.cost_before, 0) as cost,
      (c.cost is null)::int - (b.cost_before is null)::int as unknown_costs,
      coalesce(c.input_tokens, 0) - coalesce(b.input_before, 0) as input_tokens,
      coalesce(c.output_tokens, 0) - coalesce(b.output_before, 0) as output_tokens,
      coalesce(c.cache_read_tokens, 0) - coalesce(b.read_before, 0) as cache_read_tokens,
      coalesce(c.cache_write_tokens, 0) - coalesce(b.write_before, 0) as cache_write_tokens,
      coalesce(c.reasoning_tokens, 0) - coalesce(b.reasoning_before, 0) as reasoning_tokens
  ), entered as (
    insert into jobsworth.token_ledger (
      team_id, call_id, job_id, thread_id, run_id, agent_id, entry, scope, mode, provider, model,
      input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost,
      price_version, unknown_costs)
    select s.team_id, s.id, s.job_id, s.thread_id, s.run_id, s.agent_id, 'adjust', s.scope, s.mode,
      s.provider, s.model, s.input_tokens, s.output_tokens, s.cache_read_tokens,
      s.cache_write_tokens, s.reasoning_tokens, s.cost, s.price_version, s.unknown_costs
    from corrected s
    returning call_id
  )
  select coalesce(array_agg(e.call_id), '{}') into ids from entered e;
  return ids;
end $$;

-- What these calls reserved becomes what they took. Returns the budgets that got room by it and
-- have waiters.
create function jobsworth.settle_windows(call_ids uuid[]) returns uuid[] language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  freed uuid[];
begin
  perform jobsworth.lock_money();
  with took as materialized (
    select p.call_id, p.window_id, p.reserved, p.spent, w.budget_id,
      case b.unit
        when 'tokens' then coalesce(c.input_tokens::numeric + c.output_tokens, p.reserved)
        -- A cost that is not known stays at what was held for it, unless nothing was used.
        else coalesce(c.cost, case when c.input_tokens::bigint + c.output_tokens = 0 then 0
          else greatest(p.reserved, p.spent) end) end as took
    from unnest(call_ids) as u (id)
    cross join lateral (
      select x.call_id, x.window_id, x.reserved, x.spent from jobsworth.call_windows x
      where x.call_id = u.id
      offset 0) p
    cross join lateral (
      select x.budget_id from jobsworth.budget_windows x where x.id = p.window_id offset 0) w
    cross join lateral (
      select x.unit from jobsworth.budgets x where x.id = w.budget_id offset 0) b
    cross join lateral (
      select x.input_tokens, x.output_tokens, x.cost from jobsworth.llm_calls x
      where x.id = u.id
      offset 0) c
  ), parts as (
    update jobsworth.call_windows p
    set reserved = 0, spent = t.took
    from took t
    -- By the call: with an equality, a planner that takes the table for small may well use the
    -- index by window, and read every call of the window for each.
    where p.call_id = t.call_id and p.window_id is not distinct from t.window_id
  ), sums as materialized (
    select t.window_id, t.budget_id, sum(t.reserved) as reserved, sum(t.took - t.spent) as took
    from took t
    group by t.window_id, t.budget_id
  ), windows as (
    update jobsworth.budget_windows w
    set reserved = w.reserved - s.reserved, spent = w.spent + s.took
    from sums s
    where w.id = s.window_id
  )
  select array_agg(distinct s.budget_id) into freed
  from sums s
  where s.took < s.reserved;
  return array(
    select f.id from unnest(freed) as f (id)
    where exists (
      select 1 from jobsworth.budget_waits w where w.budget_id = f.id and w.granted_at is null));
end $$;
"""

WAITERS = """
create or replace function jobsworth.budget_has_room(job_id uuid) returns boolean language sql
  stable return coalesce((
    select w.granted_at is not null from jobsworth.budget_waits w
    where w.job_id = budget_has_room.job_id), true);

-- Let the oldest waiters that fit try again; null: those of all budgets. A grant counts until its
-- job has started a call, half a minute at most. Returns their jobs, which are to be reconsidered.
create function jobsworth.grant_waiting(budget_ids uuid[] default null) returns uuid[]
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  at timestamptz := clock_timestamp();
  granted uuid[] := '{}';
  one record;
  b jobsworth.budgets;
  room numeric;
begin
  for one in
    select w.job_id, w.budget_id, w.run_id, w.amount
    from jobsworth.budget_waits w
    cross join lateral (
      select 1 from jobsworth.reactive_jobs j
      where j.id = w.job_id and j.status::text = 'waiting' and j.waiting_for = 'budget'
      offset 0) j
    where w.granted_at is null
      and w.budget_id = any(coalesce(grant_waiting.budget_ids, array(
        select distinct x.budget_id from jobsworth.budget_waits x where x.granted_at is null)))
    order by w.since, w.job_id
    limit 1000
  loop
    select x.* into b from jobsworth.budgets x where x.id = one.budget_id;
    select b.amount
      - coalesce((
        select w.reserved + w.spent
        from jobsworth.window_of(b.id, b.period, jobsworth.window_start(b, at), one.run_id) w), 0)
      - coalesce((
        select sum(w.amount) from jobsworth.budget_waits w
        where w.budget_id = b.id and w.granted_at > at - interval '30 seconds'
          and w.run_id is not distinct from one.run_id), 0)
    into room;
    if not b.active or one.amount <= room then
      update jobsworth.budget_waits w
      set granted_at = at
      where w.job_id = any(array(
        select x.job_id from jobsworth.budget_waits x
        where x.job_id = one.job_id and x.granted_at is null
        for no key update skip locked));
      if found then
        granted := granted || one.job_id;
      end if;
    end if;
  end loop;
  return granted;
end $$;

-- After room was made in these budgets (null: perhaps in any): let the oldest waiters that fit go
-- on. Returns how many that were.
create function jobsworth.wake_budgets(budget_ids uuid[] default null) returns int
  language plpgsql as $$
declare
  granted uuid[] := jobsworth.grant_waiting(budget_ids);
begin
  if granted <> '{}' then
    perform jobsworth.reconsider(granted);
  end if;
  return cardinality(granted);
end $$;

create or replace function jobsworth.grant_budgets(job_ids uuid[]) returns void
  language plpgsql as $$
declare
  short uuid[] := array(
    select distinct w.budget_id from jobsworth.budget_waits w
    where w.job_id = any(job_ids) and w.granted_at is null);
begin
  if short <> '{}' then
    perform jobsworth.wake_budgets(short);
  end if;
end $$;

create or replace function jobsworth.why_budget(job_id uuid, out detail text, out remedy text)
  language sql stable begin atomic
  select case when w.granted_at is not null then 'there is room again: next to be promoted'
      else jobsworth.budget_words(b, coalesce(x.reserved + x.spent, 0), w.amount, now()) end,
    case when w.granted_at is not null then 'nothing to do: a worker promotes it'
      else 'jobsworth budget raise ' || b.name || ' '
        || trim_scale(round(coalesce(x.reserved + x.spent, 0) + w.amount, 6))
        || ' (or more), or wait for room' end
  from jobsworth.budget_waits w
  join jobsworth.budgets b on b.id = w.budget_id
  left join lateral jobsworth.window_of(
    b.id, b.period, jobsworth.window_start(b, now()), w.run_id) x on true
  where w.job_id = why_budget.job_id;
end;
"""

FORGET = """
-- Forget what each call counted in windows that are over, so many days after it was settled: at
-- most `most` calls, of the next `most` windows after `after`; and windows of which nothing is
-- left. What goes is taken off its window in the same commit, so a window is always the sum of its
-- calls. Over is one that is not its budget's present one; of a run, when none of its jobs goes on.
-- Nothing reads them any more: a truth that comes later corrects its call and the ledger. Returns
-- how many calls it forgot, and after which window to go on (null: from the first).
create function jobsworth.forget_windows(
  after uuid, days int, most int, out forgotten bigint, out next uuid)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  at timestamptz := clock_timestamp();
  seen uuid[] := array(
    select w.id from jobsworth.budget_windows w where w.id > forget_windows.after
    order by w.id limit most);
  over uuid[];
begin
  delete from jobsworth.budget_waits w
  where w.job_id = any(array(
    select x.job_id from jobsworth.budget_waits x
    where (
      select j.finished_at is null from jobsworth.reactive_jobs j where j.id = x.job_id
    ) is not true
    limit most
    for update skip locked));

  select array_agg(w.id) into over
  from unnest(seen) as s (id)
  cross join lateral (
    select x.id, x.budget_id, x.starts_at, x.run_id from jobsworth.budget_windows x
    where x.id = s.id
    offset 0) w
  cross join lateral (
    select x from jobsworth.budgets x where x.id = w.budget_id offset 0) b
  where w.starts_at < least(jobsworth.window_start(b.x, at), at - make_interval(days => days))
    or ((b.x).period = 'run'
      and (select 1 from jobsworth.reactive_jobs j
        where j.run_id = w.run_id and j.finished_at is null limit 1) is null
      and (select 1 from jobsworth.reactive_jobs j
        where j.id = w.run_id and j.finished_at is null) is null);
  forgotten := 0;
  next := case when cardinality(seen) = most then seen[most] end;
  if over is null then
    return;
  end if;

  -- Against a late settlement, which takes this lock too before it looks for its windows.
  perform jobsworth.lock_money();
  with old as materialized (
    select p.call_id, p.window_id
    from unnest(over) as o (id)
    cross join lateral (
      select x.call_id, x.window_id from jobsworth.call_windows x
      where x.window_id = o.id and (
        select c.settled_at is null or c.settled_at >= at - make_interval(days => days)
        from jobsworth.llm_calls c where c.id = x.call_id) is not true
      limit most) p
    limit most
  ), gone as (
    delete from jobsworth.call_windows p
    using old o
    where p.call_id = o.call_id and p.window_id is not distinct from o.window_id
    returning p.window_id, p.reserved, p.spent
  ), taken_off as (
    update jobsworth.budget_windows w
    set reserved = w.reserved - g.reserved, spent = w.spent - g.spent
    from (
      select x.window_id, sum(x.reserved) as reserved, sum(x.spent) as spent
      from gone x
      group by x.window_id) g
    where w.id = g.window_id
  )
  select count(*) into forgotten from gone;
  delete from jobsworth.budget_windows w
  where w.id = any(over)
    and (select 1 from jobsworth.call_windows p where p.window_id = w.id limit 1) is null;
  if forgotten = most then
    next := forget_windows.after;  -- there may be more of these
  end if;
end $$;
"""

OPERATIONS = """
-- Make a budget, or change the one of that name. One that counts something else from now on begins
-- anew.
create function jobsworth.set_budget(
  name text, unit jobsworth.budget_unit, amount numeric, period jobsworth.budget_period,
  for_team_id uuid default null, agent_id uuid default null, thread_id uuid default null,
  mode text default null, provider text default null, model text default null,
  over jobsworth.budget_over default 'park', warn_at numeric default 0.8,
  team_id uuid default null)
  returns uuid language plpgsql as $$
#variable_conflict use_column
declare
  id uuid;
begin
  if coalesce(trim(set_budget.name), '') = '' then
    raise exception 'a budget needs a name' using hint = 'name it after what it bounds';
  end if;
  if not (set_budget.amount >= 0 and set_budget.amount < 1e15) then
    raise exception 'budget % cannot be %', set_budget.name, set_budget.amount
      using hint = 'give an amount from 0 on';
  end if;
  insert into jobsworth.budgets as b (
    team_id, name, unit, amount, period, for_team_id, agent_id, thread_id, mode, provider, model,
    over, warn_at)
  values (
    set_budget.team_id, set_budget.name, set_budget.unit, set_budget.amount, set_budget.period,
    set_budget.for_team_id, set_budget.agent_id, set_budget.thread_id, set_budget.mode,
    set_budget.provider, set_budget.model, set_budget.over, set_budget.warn_at)
  on conflict (team_id, name) do update
  set unit = excluded.unit, amount = excluded.amount, period = excluded.period,
    for_team_id = excluded.for_team_id, agent_id = excluded.agent_id,
    thread_id = excluded.thread_id, mode = excluded.mode, provider = excluded.provider,
    model = excluded.model, over = excluded.over, warn_at = excluded.warn_at, active = true,
    reset_at = case
      when row(b.unit, b.period, b.for_team_id, b.agent_id, b.thread_id, b.mode, b.provider,
          b.model)
        is distinct from row(excluded.unit, excluded.period, excluded.for_team_id,
          excluded.agent_id, excluded.thread_id, excluded.mode, excluded.provider, excluded.model)
      then clock_timestamp() else b.reset_at end
  returning b.id into id;
  perform jobsworth.wake_budgets(array[id]);
  return id;
end $$;

-- Give a budget another amount; whoever waits for it and fits goes on.
create function jobsworth.raise_budget(name text, amount numeric, team_id uuid default null)
  returns void language plpgsql as $$
begin
  if not (raise_budget.amount >= 0 and raise_budget.amount < 1e15) then
    raise exception 'budget % cannot be %', raise_budget.name, raise_budget.amount
      using hint = 'give an amount from 0 on';
  end if;
  update jobsworth.budgets b set amount = raise_budget.amount
  where b.id = jobsworth.budget_named(raise_budget.name, raise_budget.team_id);
  perform jobsworth.wake_budgets(
    array[jobsworth.budget_named(raise_budget.name, raise_budget.team_id)]);
end $$;

-- Begin a new window now: nothing is reserved or spent in it. What runs counts in the old one.
create function jobsworth.reset_budget(name text, team_id uuid default null)
  returns void language plpgsql as $$
begin
  update jobsworth.budgets b set reset_at = clock_timestamp()
  where b.id = jobsworth.budget_named(reset_budget.name, reset_budget.team_id);
  perform jobsworth.wake_budgets(
    array[jobsworth.budget_named(reset_budget.name, reset_budget.team_id)]);
end $$;

-- Let a budget bound nothing any more. Its windows stay; `set_budget` brings it back.
create function jobsworth.remove_budget(name text, team_id uuid default null)
  returns void language plpgsql as $$
begin
  update jobsworth.budgets b set active = false
  where b.id = jobsworth.budget_named(remove_budget.name, remove_budget.team_id);
  perform jobsworth.wake_budgets(
    array[jobsworth.budget_named(remove_budget.name, remove_budget.team_id)]);
end $$;

create function jobsworth.budget_named(name text, team_id uuid) returns uuid
  language plpgsql stable as $$
declare
  found_id uuid;
begin
  select b.id into found_id from jobsworth.budgets b
  where b.name = budget_named.name and b.team_id is not distinct from budget_named.team_id;
  if not found then
    raise exception 'there is no budget %', budget_named.name
      using errcode = 'P0002', hint = 'jobsworth budget list';
  end if;
  return found_id;
end $$;

-- Requests and tokens for each minute that all daemons together may send; null: as many as they
-- like. The model * stands for all of a provider, together.
create function jobsworth.set_rate_limit(
  provider text, model text default '*', requests int default null, tokens bigint default null)
  returns void language plpgsql as $$
#variable_conflict use_column
begin
  if set_rate_limit.requests <= 0 or set_rate_limit.tokens <= 0 then
    raise exception 'a limit of % requests and % tokens lets nothing through',
      set_rate_limit.requests, set_rate_limit.tokens using hint = 'give numbers from 1 on';
  end if;
  insert into jobsworth.rate_limits as l (
    provider, model, requests_per_minute, tokens_per_minute)
  values (set_rate_limit.provider, set_rate_limit.model, set_rate_limit.requests,
    set_rate_limit.tokens)
  on conflict (team_id, provider, model) do update
  set requests_per_minute = excluded.requests_per_minute,
    tokens_per_minute = excluded.tokens_per_minute,
    requests_at = case when excluded.requests_per_minute = l.requests_per_minute
      then l.requests_at end,
    tokens_at = case when excluded.tokens_per_minute = l.tokens_per_minute then l.tokens_at end,
    turn_at = null;
  perform jobsworth.wake_limited();
end $$;

-- Let all who wait for their turn at a limit try again now: their turns were those of another one.
create function jobsworth.wake_limited() returns void language sql as $$
  update jobsworth.reactive_jobs j set run_at = clock_timestamp()
  where j.id = any(array(
    select x.id from jobsworth.reactive_jobs x
    where x.status = 'waiting' and x.waiting_for = 'limit' and x.run_at > clock_timestamp()
    for no key update skip locked))
$$;

-- Let nobody send to a provider's model for so many seconds; a longer pause that is there stays.
create function jobsworth.pause_rate(provider text, model text, seconds float8)
  returns void language plpgsql as $$
#variable_conflict use_column
begin
  insert into jobsworth.rate_limits as l (provider, model, paused_until)
  values (pause_rate.provider, pause_rate.model,
    clock_timestamp() + make_interval(secs => pause_rate.seconds))
  on conflict (team_id, provider, model) do update
  set paused_until = greatest(l.paused_until, excluded.paused_until);
end $$;
"""

VIOLATIONS = """
create or replace view jobsworth.violations_of_books (invariant, subject_id, detail, at) as
select 'settled call without its ledger entry', c.id, c.provider || ' ' || c.model, c.settled_at
from jobsworth.llm_calls c
where c.settled_at is not null and not exists (
  select 1 from jobsworth.token_ledger l
  where l.call_id = c.id and l.entry in ('settle', 'release'))
union all
select 'open call without its attempt', c.id, c.provider || ' ' || c.model, 'infinity'
from jobsworth.llm_calls c
where c.status = 'started' and c.started_at < now() - interval '60 seconds'
  and c.job_id is not null and not exists (
  select 1 from jobsworth.reactive_jobs j
  where j.id = c.job_id and j.lease_no = c.lease_no and j.status = 'running')
union all
-- One that was given up for unknown, and answered after all, says more than its settlement.
select 'ledger entry that contradicts its call', c.id,
  row(l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost)
  || ' is not ' || row(c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens,
    c.cost),
  c.settled_at
from jobsworth.llm_calls c
cross join lateral (
  select e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_write_tokens, e.cost
  from jobsworth.token_ledger e
  where e.call_id = c.id and e.entry in ('settle', 'release')
  offset 0) l
where (l.cost is distinct from c.cost
    or l.input_tokens <> coalesce(c.input_tokens, 0)
    or l.output_tokens <> coalesce(c.output_tokens, 0)
    or l.cache_read_tokens <> coalesce(c.cache_read_tokens, 0)
    or l.cache_write_tokens <> coalesce(c.cache_write_tokens, 0))
  and not exists (
    select 1 from jobsworth.token_ledger a where a.call_id = c.id and a.entry = 'adjust')
union all
select 'budget window that is not the sum of its calls', w.id,
  row(w.reserved, w.spent) || ' is not ' || row(coalesce(p.reserved, 0), coalesce(p.spent, 0)),
  'infinity'
from jobsworth.budget_windows w
left join lateral (
  select sum(x.reserved) as reserved, sum(x.spent) as spent from jobsworth.call_windows x
  where x.window_id = w.id
  offset 0) p on true
where w.starts_at > now() - interval '2 hours'
  and (w.reserved <> coalesce(p.reserved, 0) or w.spent <> coalesce(p.spent, 0));
"""

DOWN = """
drop view jobsworth.violations;
drop view jobsworth.violations_of_books;
drop function jobsworth.pause_rate(text, text, float8);
drop function jobsworth.set_rate_limit(text, text, int, bigint);
drop function jobsworth.wake_limited();
drop function jobsworth.remove_budget(text, uuid);
drop function jobsworth.reset_budget(text, uuid);
drop function jobsworth.raise_budget(text, numeric, uuid);
drop function jobsworth.budget_named(text, uuid);
drop function jobsworth.set_budget(text, jobsworth.budget_unit, numeric, jobsworth.budget_period,
  uuid, uuid, uuid, text, text, text, jobsworth.budget_over, numeric, uuid);
-- As they were, in the form they were made: nothing waits for a budget.
create or replace function jobsworth.budget_has_room(job_id uuid) returns boolean language sql
  stable return true;
drop function jobsworth.grant_budgets(uuid[]);
create function jobsworth.grant_budgets(job_ids uuid[]) returns void language sql
  begin atomic end;
create or replace function jobsworth.why_budget(job_id uuid, out detail text, out remedy text)
  language sql stable return row(null::text, null::text);
drop function jobsworth.forget_windows(uuid, int, int);
drop function jobsworth.wake_budgets(uuid[]);
drop function jobsworth.grant_waiting(uuid[]);
drop function jobsworth.settle_windows(uuid[]);
drop function jobsworth.correct_unknown(jsonb, uuid[]);
drop function jobsworth.settle_calls(jsonb);
drop function jobsworth.refuse_call(jsonb, timestamptz);
drop function jobsworth.start_counted(jsonb[], timestamptz);
drop function jobsworth.calls_count(jsonb);
drop function jobsworth.start_calls(jsonb, boolean);
drop type jobsworth.call_verdict;
drop function jobsworth.limit_wait(jobsworth.rate_limits, bigint, bigint, timestamptz);
drop function jobsworth.window_of(uuid, jobsworth.budget_period, timestamptz, uuid);
drop function jobsworth.budgets_of(uuid, uuid, uuid, text, text, text, uuid);
drop function jobsworth.budget_words(jobsworth.budgets, numeric, numeric, timestamptz);
drop function jobsworth.amount_words(numeric, jobsworth.budget_unit);
drop function jobsworth.window_end(jobsworth.budgets, timestamptz);
drop function jobsworth.window_start(jobsworth.budgets, timestamptz);
drop function jobsworth.lock_money();
drop table jobsworth.rate_limits, jobsworth.budget_waits, jobsworth.call_windows,
  jobsworth.budget_windows, jobsworth.budgets;
drop type jobsworth.budget_over;
drop type jobsworth.budget_period;
drop type jobsworth.budget_unit;
drop index jobsworth.token_ledger_adjusted;
drop index jobsworth.token_ledger_once;
create unique index token_ledger_once on jobsworth.token_ledger (call_id, entry)
  where entry in ('reserve', 'settle');
drop index jobsworth.token_ledger_run;
alter table jobsworth.token_ledger drop column run_id, drop column reasoning_tokens,
  drop column unknown_costs;
drop index jobsworth.llm_calls_run;
alter table jobsworth.llm_calls drop column over_estimate, drop column price,
  drop column total_tokens, drop column reasoning_tokens, drop column run_id;
"""


def upgrade() -> None:
    for part in (COLUMNS, TABLES, RULES, START, SETTLE, WAITERS, FORGET, OPERATIONS, VIOLATIONS):
        run(part)


def downgrade() -> None:
    run(DOWN)
    run(earlier("0006_runs", "view jobsworth.violations_of_books"))
    run(earlier("0006_runs", "view jobsworth.violations"))
