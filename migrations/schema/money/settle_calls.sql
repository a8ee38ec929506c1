-- Settle calls: write what they took, once, and give the rest of their reservations back.

-- Settle calls, each once, with or without the leases of their jobs. A call that was given up as
-- unknown is corrected by an `adjust` when the truth comes; every other settled call stays as it
-- is. Returns how many calls it settled or corrected, and the budgets that have room now and jobs
-- waiting for it: after the commit, call `wake_budgets` for them.
create function jobsworth.settle_calls(rows jsonb, out settled bigint, out freed_budgets uuid[])
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  ids uuid[];
  late uuid[];
  paced boolean;
begin
  with ended as materialized (
    select e.*
    from jsonb_to_recordset(rows) as e (
      call_id uuid, status jobsworth.call_status, input_tokens int, output_tokens int,
      cache_read_tokens int, cache_write_tokens int, reasoning_tokens int, total_tokens int,
      usage_source jobsworth.usage_source, cost numeric, price_version text, price jsonb,
      latency_ms int, error text, unsent boolean, limited boolean, finish_reason text,
      other_usage jsonb, tier text, answered_model text)
    order by 1
  ), settled as (
    -- The update itself takes the lock, and looks at the row again after it has waited for it. The
    -- condition forces the primary key: no join can hash it, and with `status` the planner would
    -- choose the index of open calls and read all its dead entries for each call.
    update jobsworth.llm_calls c
    set status = e.status, input_tokens = e.input_tokens, output_tokens = e.output_tokens,
      cache_read_tokens = e.cache_read_tokens, cache_write_tokens = e.cache_write_tokens,
      reasoning_tokens = e.reasoning_tokens, total_tokens = e.total_tokens,
      usage_source = e.usage_source, cost = e.cost, price_version = e.price_version,
      price = e.price, latency_ms = e.latency_ms, error = e.error, settled_at = clock_timestamp(),
      limited = coalesce(e.limited, false), finish_reason = e.finish_reason,
      other_usage = e.other_usage, tier = e.tier, answered_model = e.answered_model
    from ended e
    where c.id = any(array[e.call_id]) and c.settled_at is null
    returning c.id, c.team_id, c.job_id, c.thread_id, c.run_id, c.agent_id, c.scope, c.mode,
      c.provider, c.model, c.input_tokens, c.output_tokens, c.cache_read_tokens,
      c.cache_write_tokens, c.reasoning_tokens, c.cost, c.price_version,
      c.limited or c.limits is not null as paced,
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
  )
  select coalesce(array_agg(s.id), '{}'), bool_or(s.paced) into ids, paced from settled s;

  if cardinality(ids) > 0 and (paced or exists (
      select 1 from jobsworth.rate_limits l where l.pace_seconds is not null)) then
    perform jobsworth.settle_limits(ids, rows);
  end if;
  if cardinality(ids) < jsonb_array_length(rows) then
    late := jobsworth.correct_unknown(rows, ids);
    ids := ids || late;
  end if;
  settled := cardinality(ids);
  if exists (select 1 from jobsworth.call_windows p where p.call_id = any(ids)) then
    freed_budgets := jobsworth.settle_windows(ids);
  end if;
end $$;

-- Write the truth about calls that were given up as unknown: the row of the call says what is true,
-- the ledger gets the difference. Returns the calls that it corrected.
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
      latency_ms int, error text, other_usage jsonb, tier text, answered_model text)
    where e.call_id <> all(settled)
      and (e.status in ('ok', 'error') or e.status = 'cut' and e.usage_source = 'provider')
  ), before as materialized (
    -- The values after the lock.
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
      price_version = b.price_version, price = b.price, latency_ms = b.latency_ms, error = b.error,
      other_usage = b.other_usage, tier = b.tier, answered_model = b.answered_model
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

-- Replace what these calls reserved by what they took. Returns the budgets that have room now and
-- jobs waiting for it.
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
        -- An unknown cost counts as much as was reserved for it, unless the call used no tokens.
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
    -- `is not distinct from` keeps the planner on the index by call. With an equality, a planner
    -- that believes the table to be small may use the index by window, and read all calls of the
    -- window for each row.
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
