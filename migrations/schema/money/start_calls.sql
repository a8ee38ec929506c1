-- Start calls: check limits and budgets, reserve, and write the row of each call before it is sent.
--
-- Without a limit and a budget this is one statement. With them, a transaction that starts or
-- settles a call that counts takes one lock (`lock_money`) until its commit, so 16 workers cannot
-- overshoot.
--
-- A batch of starts that fits as a whole is decided and written by one statement; one that does not
-- is halved. A grant wakes a job and reserves nothing: the check is the start of the call.

-- The answer for one call:
-- - `started`: it is in the books and may be sent.
-- - `known`: its request was in the books already.
-- - `lost`: its job has lost its lease.
-- - `limit`: a rate limit is in the way; come again in `wait_seconds`.
-- - `budget`: too little is left in a budget; `over` says what to do then.
-- - `unpriced`: the price is not known, so a budget of money cannot say whether the call fits.
create type jobsworth.call_verdict as (
  request_id text, verdict text, call_id uuid, budget_id uuid, budget text, over text, detail text,
  wait_seconds float8, warned text[]);

-- Write calls that are about to be sent, with their reservations, if their jobs still have their
-- leases. Returns a verdict for each call that was decided. A call without one: its job does not
-- exist (`wait_for_locks`), or another transaction has locked its job right now. `exceeds` in a row: the
-- budgets that an approval lets this call exceed; `of_run_id`, `of_agent_id`: whose a call without a
-- job is.
create function jobsworth.start_calls(rows jsonb, wait_for_locks boolean default false)
  returns setof jobsworth.call_verdict language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  calls jsonb[];
  lost text[];
begin
  if wait_for_locks then
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
        input_tokens int, output_tokens int, cost numeric, of_run_id uuid, of_agent_id uuid)
    ), locked as materialized (
      -- Found by the primary key alone, and compared after the lock (as in `finish`). A locked row
      -- is skipped, so the other calls do not wait for it.
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
      select a.*, a.of_run_id, a.of_agent_id, true from asked a where a.job_id is null
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
    where wait_for_locks or not l.ours
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
    -- Every statement from here on sees what the holders of the lock before us have committed.
    perform jobsworth.lock_money();
    return query select s.* from jobsworth.start_counted(calls, clock_timestamp()) s;
  end if;
end $$;

-- Whether a budget or a limit applies to one of these calls. If none does, they do not take the
-- lock.
create function jobsworth.calls_count(rows jsonb) returns boolean language plpgsql stable as $$
begin
  return (
    exists (
      select 1 from jobsworth.rate_limits l where jobsworth.limit_applies(l))
    and exists (
      select 1
      from (
        select distinct a.value ->> 'provider' as provider, a.value ->> 'model' as model
        from jsonb_array_elements(rows) as a
        offset 0) c
      cross join jobsworth.rate_limits l
      where l.provider = c.provider and l.model in (c.model, '*') and jobsworth.limit_applies(l))
  ) or (
    exists (select 1 from jobsworth.budgets b where b.active)
    and exists (
      select 1
      from jsonb_to_recordset(rows) as a (
        job_id uuid, team_id uuid, thread_id uuid, mode text, provider text, model text,
        of_run_id uuid, of_agent_id uuid)
      left join lateral (
        select r.run_id, r.agent_id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0
      ) j on true
      cross join lateral jobsworth.budgets_of(a.team_id, coalesce(j.agent_id, a.of_agent_id),
        a.thread_id, a.mode, a.provider, a.model, coalesce(j.run_id, a.of_run_id, a.job_id))));
end $$;

-- Write calls whose jobs are locked, under the lock of the money, if limits and budgets let all of
-- them through. If not, try each half; a single call gets the verdict against it.
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
    select a.*, coalesce(j.run_id, a.of_run_id) as run_id,
      coalesce(j.agent_id, a.of_agent_id) as agent_id,
      coalesce(j.run_id, a.of_run_id, a.job_id) as run_key, a.input_tokens::bigint + a.output_tokens as tokens
    from unnest(calls) as u (call)
    cross join lateral jsonb_to_record(u.call) as a (
      call_id uuid, job_id uuid, lease_no bigint, attempt int, team_id uuid, thread_id uuid,
      step_name text, mode text, provider text, model text, request_id text, input_tokens int,
      output_tokens int, cost numeric, allow_unpriced boolean, exceeds uuid[], of_run_id uuid,
      of_agent_id uuid)
    left join lateral (
      select r.run_id, r.agent_id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0
    ) j on true
    -- A scalar subquery: `not exists` would be a join, and the planner may choose to read the whole
    -- table.
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
  ), holding as materialized (
    -- The limits that hold the estimates of their calls until these are settled.
    select l.id, l.provider, l.model
    from paces p
    join jobsworth.rate_limits l on l.id = p.id and l.tokens_per_minute is not null
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
      started_at, limits)
    select c.call_id, c.team_id, c.job_id, c.thread_id, c.run_id, c.agent_id, c.lease_no, c.attempt,
      c.step_name,
      case when c.job_id is null then 'proactive' else 'reactive' end::jobsworth.ledger_scope,
      c.mode, c.provider, c.model, c.request_id, c.input_tokens, c.output_tokens, c.cost,
      at,  -- the instant that chose its windows
      (select array_agg(h.id) from holding h
        where h.provider = c.provider and h.model in (c.model, '*'))
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
      tokens_reserved = l.tokens_reserved
        + case when l.tokens_per_minute is not null then p.tokens else 0 end,
      paused_until = case when l.pace_seconds is null then l.paused_until
        else at + make_interval(secs => l.pace_seconds * (1 + 0.1 * random())) end
    from paces p
    where l.id = p.id and (select f.fit from fitting f) and jobsworth.limit_applies(l)
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

-- The verdict against a call: a limit first, then a budget. No verdict: nothing is against it any
-- more, because somebody has raised a budget between two statements.
create function jobsworth.refuse_call(call jsonb, at timestamptz)
  returns jobsworth.call_verdict language plpgsql as $$
declare
  v jobsworth.call_verdict;
  c record;
  short record;
  tokens bigint;
begin
  select a.*, coalesce(j.agent_id, a.of_agent_id) as agent_id,
    coalesce(j.run_id, a.of_run_id, a.job_id) as run_key
  into c
  from jsonb_to_record(call) as a (
    job_id uuid, team_id uuid, thread_id uuid, step_name text, mode text, provider text,
    model text, request_id text, input_tokens int, output_tokens int, cost numeric,
    allow_unpriced boolean, exceeds uuid[], of_run_id uuid, of_agent_id uuid)
  left join lateral (
    select r.run_id, r.agent_id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0
  ) j on true;
  v.request_id := c.request_id;
  tokens := c.input_tokens::bigint + c.output_tokens;

  select max(jobsworth.limit_wait(l, 1, tokens, at)) into v.wait_seconds
  from jobsworth.rate_limits l
  where l.provider = c.provider and l.model in (c.model, '*');
  if v.wait_seconds > 0 then
    -- Each call that is sent away gets a turn of its own, at the pace of the limit, so they do not
    -- all come back at once. The provider's pace changes by the second, so there they come often.
    with turned as (
      update jobsworth.rate_limits l
      set turn_at = case
        when l.turn_at > at + interval '5 minutes'
          then at + make_interval(secs => v.wait_seconds + random() * 300)
        else greatest(at + make_interval(secs => v.wait_seconds), l.turn_at + make_interval(
          secs => greatest(0.02, 60.0 / l.requests_per_minute, least(l.pace_seconds, 0.1),
            case when l.tokens_per_minute is not null then least(60.0,
              coalesce(l.tokens_mean, tokens) * 60.0 / l.tokens_per_minute) end))) end
      where l.provider = c.provider and l.model in (c.model, '*')
        and jobsworth.limit_wait(l, 1, tokens, at) > 0
      returning l.provider, l.model, l.turn_at, l.paused_until, l.pace_seconds
    ), refused as (
      -- One that was refused itself lets the others go first: its key may be another.
      select least(60, 2.0 ^ least(count(*) - 1, 32)) as seconds from jobsworth.llm_calls r
      where r.job_id = c.job_id and r.step_name = c.step_name and r.limited
        and r.provider = c.provider and r.model = c.model
      having count(*) > 0
    )
    select greatest(v.wait_seconds, max(extract(epoch from t.turn_at - at)))
        + coalesce((select r.seconds from refused r), 0) * bool_or(t.pace_seconds is not null)::int,
      string_agg('rate limit of ' || t.provider || ' ' || t.model
        || case when t.paused_until > at then ' (paused by the provider)'
          when t.pace_seconds is not null then ' (the provider has refused calls)' else '' end, ', ')
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
