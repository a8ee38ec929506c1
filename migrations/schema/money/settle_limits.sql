-- What the end of calls tells the rate limits: how many tokens they took, and whether their provider
-- refuses. The reasons are in `rate_limits.sql`.

-- Tell the limits of these calls, which were settled just now; `rows` are their settlements.
create function jobsworth.settle_limits(call_ids uuid[], rows jsonb) returns void
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  answer record;
  refusal record;
begin
  perform jobsworth.lock_money();
  perform jobsworth.take_tokens(call_ids);

  -- A call that began after the last refusal and was answered: there is room, also for those that
  -- were told to wait as long as before.
  for answer in
    select x.id, x.provider, x.model, x.refusals, least(1, x.pace_seconds * 0.9 ^ count(*)) as pace
    from unnest(call_ids) as u (id)
    cross join lateral (
      select c.provider, c.model, c.status, c.started_at from jobsworth.llm_calls c
      where c.id = u.id
      offset 0) c
    join jobsworth.rate_limits x on x.team_id is null and x.provider = c.provider
      and x.model = c.model and x.pace_seconds is not null and c.started_at > x.refused_at
    where c.status = 'ok'
    group by x.id
  loop
    update jobsworth.rate_limits l
    set refusals = 0, pace_seconds = case when answer.pace >= 0.01 then answer.pace end,
      paused_until = least(l.paused_until,
        clock_timestamp() + make_interval(secs => answer.pace)),
      turn_at = case when answer.refusals = 0 then l.turn_at end
    where l.id = answer.id;
    if answer.refusals > 0 then
      perform jobsworth.wake_refused(answer.provider, answer.model);
    end if;
  end loop;

  for refusal in
    select c.provider, c.model, max(c.started_at) as started_at, max(c.ended_at) as ended_at,
      max(nullif(e.wait_seconds, 0)) as wait_seconds
    from jsonb_to_recordset(rows) as e (call_id uuid, limited boolean, wait_seconds float8)
    cross join lateral (
      select x.provider, x.model, x.started_at, least(clock_timestamp(),
        x.started_at + coalesce(x.latency_ms, 0) * interval '1 millisecond') as ended_at
      from jobsworth.llm_calls x
      where x.id = e.call_id
      offset 0) c
    where e.limited and e.call_id = any(call_ids)
    group by c.provider, c.model
    order by c.provider, c.model
  loop
    perform jobsworth.slow_down(refusal.provider, refusal.model, refusal.started_at,
      refusal.ended_at, refusal.wait_seconds);
  end loop;
end $$;

-- Let some of the jobs that wait because a model was refused try again now. Those that are left have
-- turns of their own.
create function jobsworth.wake_refused(provider text, model text) returns void language sql as $$
  update jobsworth.reactive_jobs j set run_at = clock_timestamp()
  where j.id = any(array(
    select x.id from jobsworth.reactive_jobs x
    where x.status = 'waiting' and x.waiting_for = 'limit' and x.run_at > clock_timestamp()
      and strpos(x.waiting_detail, wake_refused.provider || ' ' || wake_refused.model) > 0
    order by x.run_at
    limit 100
    for no key update skip locked))
$$;

-- What these calls took takes its place in the buckets that held their estimates: from the start of
-- the last of them on, because the bucket has refilled since.
create function jobsworth.take_tokens(call_ids uuid[]) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  update jobsworth.rate_limits l
  set tokens_reserved = greatest(0, l.tokens_reserved - s.reserved),
    tokens_at = case when l.tokens_per_minute is not null then
      least('2199-01-01', greatest(l.tokens_at, s.started_at)
        + make_interval(secs => least(s.took * 60.0 / l.tokens_per_minute, 1e9))) end,
    tokens_mean = coalesce(0.8 * l.tokens_mean + 0.2 * s.mean, s.mean, l.tokens_mean)
  from (
    select k.id, max(c.started_at) as started_at, sum(c.reserved)::bigint as reserved,
      sum(coalesce(c.took, c.reserved)) as took,
      round(avg(c.took) filter (where c.status = 'ok'), 1) as mean
    from unnest(call_ids) as u (id)
    cross join lateral (
      select x.limits, x.started_at, x.status, x.input_tokens::bigint + x.output_tokens as took,
        x.estimated_input_tokens::bigint + x.estimated_output_tokens as reserved
      from jobsworth.llm_calls x
      where x.id = u.id
      offset 0) c
    cross join lateral unnest(c.limits) as k (id)
    group by k.id) s
  where l.id = s.id;
end $$;

-- Let at most `most` calls that are open for more than a minute take their places in the buckets, at
-- their estimates: a bucket has refilled in a minute, so long calls need not hold up others. Returns
-- how many.
create function jobsworth.release_reserved(most int) returns bigint language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  long uuid[] := array(
    select c.id from jobsworth.llm_calls c
    where c.status = 'started' and c.started_at < clock_timestamp() - interval '1 minute'
      and c.limits is not null
    order by c.started_at
    limit most
    for no key update skip locked);
begin
  if long <> '{}' then
    perform jobsworth.lock_money();
    perform jobsworth.take_tokens(long);
    update jobsworth.llm_calls c set limits = null where c.id = any(long);
  end if;
  return cardinality(long);
end $$;

-- Ask a model more seldom, because its provider has refused a call that began at `started_at` for
-- its own rate limit, at `ended_at`. `wait_seconds` is the pause that it asked for, above 0; null if
-- it did not say. The caller holds the lock of the money.
create function jobsworth.slow_down(provider text, model text, started_at timestamptz,
  ended_at timestamptz, wait_seconds float8) returns void language plpgsql as $$
#variable_conflict use_column
begin
  insert into jobsworth.rate_limits (provider, model)
  values (slow_down.provider, slow_down.model)
  on conflict (team_id, provider, model) do nothing;
  update jobsworth.rate_limits l
  set refused_at = case when n.new then clock_timestamp() else l.refused_at end,
    refusals = l.refusals + n.new::int,
    pace_seconds = n.pace,
    paused_until = greatest(l.paused_until, slow_down.ended_at + make_interval(secs => least(
      31536000, (1 + 0.1 * random())
        * case when n.new and l.refusals = 0 then coalesce(slow_down.wait_seconds, 1)
          else greatest(slow_down.wait_seconds, n.pace, 1) end)))
  from (
    select x.id, x.refused_at is null or slow_down.started_at > x.refused_at as new,
      case when x.refused_at is null or slow_down.started_at > x.refused_at
        then least(60, coalesce(x.pace_seconds * 2, 0.25)) else x.pace_seconds end as pace
    from jobsworth.rate_limits x
    where x.team_id is null and x.provider = slow_down.provider
      and x.model = slow_down.model) n
  where l.id = n.id;
end $$;
