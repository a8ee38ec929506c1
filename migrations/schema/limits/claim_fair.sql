-- Claim from a fair queue: choose keys in the order of their virtual times, their oldest jobs, and take
-- these. `fairness.sql` says what virtual times are. The planner settings are those of `claim_fair`, which
-- calls the other functions.

-- Claim jobs that this transaction has locked, with the rules of `claim`: of a lane only its head (the
-- others are put off, and returned without a lease), at most one suspect, nothing beside one that is to run
-- alone, and about 4 MiB of payloads. The first ones of `job_ids` come first. A job that is not returned
-- stays as it is; a row without an id says that there is one.
create function jobsworth.claim_locked(
  worker_id uuid, job_ids uuid[], crashes_max int, alone boolean)
  returns setof jobsworth.claimed
  language plpgsql as $$
#variable_conflict use_column
begin
  if exists (select 1 from jobsworth.job_limits) then
    return query select g.* from jobsworth.claim_locked_gated(
      claim_locked.worker_id, claim_locked.job_ids, claim_locked.crashes_max, claim_locked.alone) g;
    return;
  end if;
  return query
  with found as materialized (
    select j.id, j.queue, j.priority, j.position, j.lane, j.lane_position, j.fair_key, j.suspect,
      claim_locked.alone and j.apart as lone,
      sum(j.bytes) over so_far - j.bytes as bytes_before,
      count(*) filter (where j.suspect) over so_far as suspects,
      count(*) filter (where claim_locked.alone and j.apart) over so_far as lones,
      bool_or(claim_locked.alone and j.apart) over () as has_lone
    from unnest(claim_locked.job_ids) with ordinality as r (id, n)
    cross join lateral (
      select x.id, x.queue, x.priority, x.position, x.lane, x.lane_position, x.fair_key,
        pg_column_size(x.payload) as bytes, x.crashes > 0
          and x.crashes >= coalesce(x.crashes_max, claim_locked.crashes_max) - 1 as suspect,
        x.crashes > 0
          and x.crashes >= coalesce(x.crashes_max, claim_locked.crashes_max) as apart
      from jobsworth.reactive_jobs x
      where x.id = r.id
      offset 0) j
    window so_far as (order by r.n rows unbounded preceding)
  ), ready as materialized (
    select f.id, f.queue, f.priority, f.position, f.lane, f.lane_position, f.fair_key, f.lone
    from found f
    where case when f.has_lone then f.lone and f.lones = 1
      else f.bytes_before < 4194304 and (not f.suspect or f.suspects = 1) end
  ), heads as materialized (
    select r.id, r.lane, (
        row_number() over (partition by r.lane order by r.lane_position, r.id) = 1
        and not jobsworth.lane_blocked(r.lane, r.lane_position, r.id)
        and pg_try_advisory_xact_lock(hashtextextended('jobsworth.' || r.lane, 0))
      ) as is_head
    from ready r
    where r.lane is not null
  ), deferred as (
    update jobsworth.reactive_jobs j
    set status = 'waiting', waiting_for = 'lane', run_at = null
    where j.id = any(array(select h.id from heads h where not h.is_head))
    returning j.id, j.lane
  ), taken as (
    update jobsworth.reactive_jobs j
    set status = 'running', attempt = j.attempt + 1, lease_no = nextval('jobsworth.lease_no'::regclass),
      worker_id = claim_locked.worker_id, started_at = now()
    where j.id = any(array(
      select r.id from ready r where r.lane is null
      union all
      select h.id from heads h where h.is_head))
    returning j.id, j.lease_no, j.queue, j.priority, j.position, j.mode, j.payload, j.attempt,
      j.failures, j.failures_max, j.timeout_seconds, j.team_id, j.thread_id, j.trigger_message_id,
      j.parent_id, j.is_child, j.lane, j.trace_parent, j.request_id, j.run_id, j.node,
      j.agent_id, greatest(0, date_part('epoch', now() - coalesce(j.run_at, j.created_at))) as waited_seconds,
      j.crashes > 0
        and j.crashes >= coalesce(j.crashes_max, claim_locked.crashes_max) - 1 as suspect,
      case when j.id = any(array(select r.id from ready r where r.lone)) then 60.0 * 2.0 ^ least(
        j.crashes - coalesce(j.crashes_max, claim_locked.crashes_max), 10) end::float8
        as alone_seconds,
      j.fair_key
  )
  select t.id, t.lease_no, t.queue::text, t.priority::smallint, t.position, t.mode::text,
    t.payload::jsonb, t.attempt::int, t.failures::int, t.failures_max::int,
    t.timeout_seconds::real, t.team_id, t.thread_id, t.trigger_message_id, t.parent_id, t.is_child,
    t.lane, t.trace_parent, t.request_id::text, t.run_id, t.node, t.agent_id, t.waited_seconds,
    t.suspect, t.alone_seconds, t.fair_key::text
  from taken t
  union all
  select d.id, null, r.queue::text, r.priority::smallint, r.position, null, null, null, null, null,
    null, null, null, null, null, null, d.lane, null, null, null, null, null, null, null, null,
    r.fair_key::text
  from deferred d join ready r on r.id = d.id
  union all
  select null, null, null, 0::smallint, 0, null, null, null, null, null, null, null, null, null,
    null, null, null, null, null, null, null, null, null, null, null, null
  where (select count(*) from found) > (select count(*) from ready);
end $$;

-- `claim_locked` where jobs may have to pass limits.
create function jobsworth.claim_locked_gated(
  worker_id uuid, job_ids uuid[], crashes_max int, alone boolean)
  returns setof jobsworth.claimed
  language plpgsql as $$
#variable_conflict use_column
declare
  picked uuid[];
begin
  picked := array(
      with found as materialized (
        select j.id, r.n, j.suspect,
          claim_locked_gated.alone and j.apart as lone,
          sum(j.bytes) over so_far - j.bytes as bytes_before,
          count(*) filter (where j.suspect) over so_far as suspects,
          count(*) filter (where claim_locked_gated.alone and j.apart) over so_far as lones,
          bool_or(claim_locked_gated.alone and j.apart) over () as has_lone
        from unnest(claim_locked_gated.job_ids) with ordinality as r (id, n)
        cross join lateral (
          select x.id, pg_column_size(x.payload) as bytes, x.crashes > 0
              and x.crashes >= coalesce(x.crashes_max, claim_locked_gated.crashes_max) - 1 as suspect,
            x.crashes > 0
              and x.crashes >= coalesce(x.crashes_max, claim_locked_gated.crashes_max) as apart
          from jobsworth.reactive_jobs x
          where x.id = r.id
          offset 0) j
        window so_far as (order by r.n rows unbounded preceding)
      ), ready as materialized (
        select f.id, f.n
        from found f
        where case when f.has_lone then f.lone and f.lones = 1
          else f.bytes_before < 4194304 and (not f.suspect or f.suspects = 1) end
    )
    select r.id from ready r order by r.n);
  if cardinality(jobsworth.start_passing(claim_locked_gated.worker_id, picked))
    < cardinality(picked)
  then
    -- However many jobs of a key wait at a gate, they keep the others only for a moment.
    perform jobsworth.set_aside_behind(picked, array(
      select n.id
      from (
        select distinct j.queue, j.priority, j.fair_key
        from unnest(picked) as u (id)
        cross join lateral (
          select x.queue, x.priority, x.fair_key, x.waiting_for
          from jobsworth.reactive_jobs x
          where x.id = u.id
          offset 0) j
        where j.waiting_for = 'limit') k
      cross join lateral (
        select x.id
        from jobsworth.reactive_jobs x
        where x.queue = k.queue and x.priority = k.priority and x.fair_key = k.fair_key
          and x.finished_at is null and x.status not in ('waiting', 'running') and x.lane is null
        order by x.position
        limit 1000) n
      limit 1000));
  end if;
  return query
  select r.*
  from jobsworth.told_of(picked, claim_locked_gated.crashes_max, claim_locked_gated.alone) r
  union all
  select null, null, null, 0::smallint, 0, null, null, null, null, null, null, null, null, null,
    null, null, null, null, null, null, null, null, null, null, null, null
  where cardinality(picked) < cardinality(claim_locked_gated.job_ids);
end $$;

-- Lock the next jobs of a fair queue and priority: up to `wanted`, in the shares of their keys. Keys are
-- looked at beyond (`after_time`, `after_turn`). Returns a row for each of these keys, also for one without
-- a job that this worker can run; `emptied` says that the key has no other queued job, for any worker.
--
-- How many of each key: the lowest level to which the wanted jobs raise the virtual times of the lowest
-- keys, as water fills a vessel. So one claim of many jobs has the same shares as many of one.
create function jobsworth.pick_fair(
  in_queue text, at_priority smallint, modes text[], wanted int, crashes_max int,
  suspect_wanted boolean, alone boolean, rescan boolean, after_time float8, after_turn bigint)
  returns table (
    fair_key text, turn bigint, virtual_time float8, weight float8, ids uuid[],
    emptied boolean, from_start boolean)
  language plpgsql as $$
#variable_conflict use_column
begin
  return query
  with lowest as materialized (
    select k.fair_key, k.turn, k.virtual_time, coalesce(w.weight, 1) as weight,
      k.virtual_time - after_time as height,
      pick_fair.rescan or k.since < now() - interval '3 seconds' as from_start,
      case when pick_fair.rescan or k.since < now() - interval '3 seconds'
        then -9223372036854775808 else k.position end as beyond
    from jobsworth.fair_keys k
    left join lateral (
      select x.weight from jobsworth.fair_weights x
      where x.queue = k.queue and x.fair_key = k.fair_key
      offset 0) w on true
    where k.queue = in_queue and k.priority = at_priority and k.ready
      and k.virtual_time is not null and (k.virtual_time, k.turn) > (after_time, after_turn)
    order by k.virtual_time, k.turn
    limit wanted
  ), level as materialized (
    select min(l.level) as level
    from (
      select (wanted + sum(o.weight * o.height) over next) / sum(o.weight) over next as level
      from lowest o
      window next as (order by o.virtual_time, o.turn rows unbounded preceding)) l
  ), share as materialized (
    select s.turn, count(*) as jobs
    from (
      select o.turn
      from lowest o
      cross join level v
      cross join lateral generate_series(
        0, ceil(o.weight * (v.level - o.height))::int - 1) as n
      order by o.height + n / o.weight, o.turn
      limit wanted) s
    group by s.turn
  )
  select o.fair_key::text, o.turn, o.virtual_time::float8, o.weight::float8, coalesce(f.ids, '{}'),
    -- Whether it has no other job, whoever can run it. Of many at once the next claim finds out.
    case when s.jobs > 16 and cardinality(f.ids) = s.jobs then false
      else not exists (
        select 1 from jobsworth.reactive_jobs r
        where r.queue = in_queue and r.priority = at_priority and r.fair_key = o.fair_key
          and r.finished_at is null and r.status not in ('waiting', 'running')
          and r.position > o.beyond and r.id <> all(coalesce(f.ids, '{}')))
    end,
    o.from_start
  from share s
  join lowest o on o.turn = s.turn
  cross join lateral (
    select array_agg(j.id order by j.position) as ids
    from (
      select r.id, r.position
      from jobsworth.reactive_jobs r
      where r.queue = in_queue and r.priority = at_priority and r.fair_key = o.fair_key
        and r.finished_at is null and r.status not in ('waiting', 'running')
        and r.position > o.beyond and r.mode = any(pick_fair.modes)
        and jobsworth.may_start(
          r, pick_fair.crashes_max, pick_fair.suspect_wanted, pick_fair.alone)
      order by r.position
      limit s.jobs
      for no key update skip locked) j
  ) f
  order by o.virtual_time, o.turn;
end $$;

-- Claim up to `wanted` queued jobs of one fair queue: urgent ones first, and within a priority in the shares
-- of their keys. Returns what `claim` returns. With `rescan` it also finds what was committed late, and
-- walks the dead index entries that somebody's open snapshot keeps.
create function jobsworth.claim_fair(
  worker_id uuid, queue text, modes text[], wanted int, crashes_max int default 5,
  suspect_wanted boolean default true, alone boolean default false, rescan boolean default false)
  returns setof jobsworth.claimed
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  has_lock boolean;
  placed boolean := false;
  lowest_times float8[];
  lowest_turns bigint[];
  arrived_turns bigint[];
  came boolean[];
  round record;
  found_ids uuid[] := '{}';
  served_priorities smallint[] := '{}';
  served_keys text[] := '{}';
  served_turns bigint[] := '{}';
  served_weights float8[] := '{}';
  served_jobs int[] := '{}';
  served_empty boolean[] := '{}';
  served_full boolean[] := '{}';
  asked int;
  after_time float8;
  after_turn bigint;
begin
  if not exists (select 1 from jobsworth.workers w where w.id = claim_fair.worker_id)
    or not exists (
      select 1 from jobsworth.queues q
      where q.name = claim_fair.queue and q.fair and not q.paused)
  then
    return;
  end if;
  has_lock := pg_try_advisory_xact_lock(hashtextextended('jobsworth.fair ' || claim_fair.queue, 0));
  loop
    -- Of each priority: the lowest key, and whether a key is to be placed. Those are looked for from a
    -- little before the last one on: transactions commit in another order than they draw turns.
    select array_agg(f.virtual_time order by p.priority), array_agg(f.turn order by p.priority),
      array_agg(h.arrived order by p.priority), array_agg(c.came order by p.priority)
    into lowest_times, lowest_turns, arrived_turns, came
    from unnest('{1,2,3,4}'::smallint[]) as p (priority)
    left join lateral (
      select k.floor, k.floor_turn, k.arrived
      from jobsworth.fair_keys k
      where k.queue = claim_fair.queue and k.priority = p.priority and k.virtual_time is not null
      order by k.turn desc
      limit 1) h on true
    left join lateral (
      select k.virtual_time, k.turn
      from jobsworth.fair_keys k
      where k.queue = claim_fair.queue and k.priority = p.priority and k.ready
        and k.virtual_time is not null and (k.virtual_time, k.turn) >= (h.floor, h.floor_turn)
      order by k.virtual_time, k.turn
      limit 1) f on true
    cross join lateral (
      select exists (
        select 1 from jobsworth.fair_keys k
        where k.queue = claim_fair.queue and k.priority = p.priority and k.virtual_time is null
          and k.turn > case when h.arrived is null or claim_fair.rescan then -9223372036854775808
            else h.arrived - 10000 end) as came) c;
    exit when placed or not has_lock or not (claim_fair.rescan or true = any(came));
    placed := true;
    for n in 1 .. 4 loop
      if came[n] then
        perform jobsworth.place_keys(
          claim_fair.queue, n::smallint, case when arrived_turns[n] is null or claim_fair.rescan
            then -9223372036854775808 else arrived_turns[n] - 10000 end);
      end if;
      if claim_fair.rescan then
        perform jobsworth.review_idle_keys(claim_fair.queue, n::smallint);
      end if;
    end loop;
  end loop;

  for n in 1 .. 4 loop
    continue when lowest_times[n] is null;
    after_time := lowest_times[n];
    after_turn := lowest_turns[n] - 1;
    -- A key without a job for this worker does not keep it from the next ones.
    for tries in 1 .. 100 loop
      asked := claim_fair.wanted - cardinality(found_ids);
      exit when asked <= 0;
      with picked as materialized (
        select p.*, row_number() over (order by p.virtual_time, p.turn) as n
        from jobsworth.pick_fair(
          claim_fair.queue, n::smallint, claim_fair.modes, asked, claim_fair.crashes_max,
          claim_fair.suspect_wanted, claim_fair.alone, claim_fair.rescan, after_time, after_turn) p
      )
      select
        array(
          select u.id from picked p cross join lateral unnest(p.ids) with ordinality as u (id, n)
          order by p.n, u.n) as ids,
        max(p.virtual_time) as last_time,
        array_agg(p.turn order by p.n) as turns,
        array_agg(p.fair_key order by p.n) as keys,
        array_agg(p.weight order by p.n) as weights,
        array_agg(cardinality(p.ids) order by p.n) as jobs,
        array_agg(p.emptied order by p.n) as emptied,
        array_agg(p.from_start order by p.n) as from_start
      into round
      from picked p;
      exit when round.turns is null;
      after_time := round.last_time;
      after_turn := round.turns[cardinality(round.turns)];
      found_ids := found_ids || round.ids;
      served_keys := served_keys || round.keys;
      served_turns := served_turns || round.turns;
      served_weights := served_weights || round.weights;
      served_jobs := served_jobs || round.jobs;
      served_empty := served_empty || round.emptied;
      served_full := served_full || round.from_start;
      served_priorities := served_priorities
        || array_fill(n::smallint, array[cardinality(round.turns)]);
    end loop;
  end loop;
  if served_keys = '{}' then
    return;
  end if;

  return query
  with claimed as materialized (
    select c.*
    from jobsworth.claim_locked(
      claim_fair.worker_id, found_ids, claim_fair.crashes_max, claim_fair.alone) c
  ), tally as materialized (
    select s.priority, s.fair_key, s.turn, s.weight, s.from_start,
      -- A suspect that was left, or what was too much for one answer, is still there.
      s.emptied and s.jobs = coalesce(c.jobs, 0) as emptied, coalesce(c.jobs, 0) as jobs,
      coalesce(c.started, 0) as started, c.reached
    from unnest(served_priorities, served_keys, served_turns, served_weights, served_jobs,
        served_empty, served_full)
      as s (priority, fair_key, turn, weight, jobs, emptied, from_start)
    left join (
      select x.priority, x.fair_key, count(*) as jobs, count(x.lease_no)::int as started,
        max(x.position) as reached
      from claimed x
      group by x.priority, x.fair_key) c on c.priority = s.priority and c.fair_key = s.fair_key
  ), counted as (
    update jobsworth.fair_keys k
    set virtual_time = k.virtual_time + t.started / t.weight, ready = not t.emptied,
      turn = nextval('jobsworth.job_position'::regclass),
      position = greatest(k.position, t.reached), floor = lowest_times[t.priority],
      floor_turn = lowest_turns[t.priority],
      arrived = arrived_turns[t.priority],
      since = case when t.from_start or t.emptied then now() else k.since end
    from tally t
    -- By its place, as in `place_keys`.
    cross join lateral (
      select x.ctid as at from jobsworth.fair_keys x
      where x.queue = claim_fair.queue and x.priority = t.priority and x.fair_key = t.fair_key
        and x.turn = t.turn
      offset 0) o
    where has_lock and (t.jobs > 0 or t.emptied) and k.ctid = o.at
  ), noted as (
    insert into jobsworth.fair_keys (queue, priority, fair_key, started)
    select claim_fair.queue, t.priority, t.fair_key, t.started
    from tally t
    where not has_lock and t.started > 0
  )
  select c.*
  from claimed c;
end $$;
