-- The claim of jobs that may have to pass a limit, step by step: pick the next jobs, leave those
-- that are not the first of their lane, admit what the limits let pass, take it.
--
-- The claim without limits (queue/claim.sql) does the first and the last in one statement. Here each
-- step is one of its own, and so each has a new snapshot: locked in one, decided in the next.

-- The next jobs of each queue and priority, in their order, locked. What is skipped: see
-- `jobsworth.claim`.
create function jobsworth.pick_next(
  worker_id uuid, queues text[], priorities smallint[], positions bigint[], modes text[],
  wanted int, crashes_max int, suspect_wanted boolean, alone boolean) returns uuid[]
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  return array(
    with found as materialized (
      select j.id, j.priority, j.position, j.suspect, j.apart, j.bytes
      from unnest(pick_next.queues, pick_next.priorities, pick_next.positions)
        as probe (queue, priority, position)
      cross join lateral (
        select r.id, r.priority, r.position,
          r.crashes > 0 and r.crashes >= coalesce(r.crashes_max, pick_next.crashes_max) - 1
            as suspect,
          r.crashes > 0 and r.crashes >= coalesce(r.crashes_max, pick_next.crashes_max) as apart,
          pg_column_size(r.payload) as bytes
        from jobsworth.reactive_jobs r
        where r.status = 'queued' and r.queue = probe.queue and r.priority = probe.priority
          and r.position > probe.position and r.mode = any(pick_next.modes)
          and jobsworth.may_start(
            r, pick_next.crashes_max, pick_next.suspect_wanted, pick_next.alone)
        order by r.position
        limit pick_next.wanted
        for no key update skip locked
      ) j
      where exists (select 1 from jobsworth.workers w where w.id = pick_next.worker_id)
        and not exists (
          select 1 from jobsworth.queues q
          where q.name = probe.queue and (q.paused or q.fair))
      limit pick_next.wanted
    ), lone as materialized (
      select f.id from found f
      where pick_next.alone and f.apart order by f.priority, f.position limit 1
    ), summed as (
      select f.id, f.suspect, sum(f.bytes) over before - f.bytes as bytes_before,
        count(*) filter (where f.suspect) over before as suspects
      from found f
      window before as (rows unbounded preceding)
    )
    select s.id from summed s
    where coalesce(
      s.id = (select l.id from lone l),
      s.bytes_before < 4194304 and not (s.suspect and s.suspects > 1)));
end $$;

-- Of these locked queued jobs those that are the lowest open ones of their lanes, in the same order;
-- the others of their lanes wait. (See queue/lanes.sql.)
create function jobsworth.leave_lanes(job_ids uuid[]) returns uuid[]
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  behind uuid[];
begin
  behind := array(
    with ready as materialized (
      select j.id, j.lane, j.lane_position
      from unnest(job_ids) as u (id)
      cross join lateral (
        select r.id, r.lane, r.lane_position from jobsworth.reactive_jobs r
        where r.id = u.id offset 0) j
      where j.lane is not null
    ), heads as materialized (
      select r.id, (
          row_number() over (partition by r.lane order by r.lane_position, r.id) = 1
          and not jobsworth.lane_blocked(r.lane, r.lane_position, r.id)
          and pg_try_advisory_xact_lock(hashtextextended('jobsworth.' || r.lane, 0))
        ) as is_head
      from ready r
    )
    select h.id from heads h where not h.is_head);
  if behind = '{}' then
    return job_ids;
  end if;
  update jobsworth.reactive_jobs j
  set status = 'waiting', waiting_for = 'lane', run_at = null
  where j.id = any(behind);
  return array(
    select u.id from unnest(job_ids) with ordinality as u (id, n)
    where u.id <> all(behind) order by u.n);
end $$;

-- Of these locked queued jobs those that pass all their gates now, in the same order; what a rate
-- lets pass is charged. A job that does not pass waits at the first gate that has no room for it, or
-- where another one waits that comes before it; it takes nothing of the others. A gate that another
-- transaction holds for longer than some milliseconds is closed for the moment: its jobs stay
-- queued.
create function jobsworth.admit(job_ids uuid[]) returns uuid[]
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan as $$
declare
  wanted text[];
  locked text[] := '{}';
  one record;
  passing uuid[] := '{}';
  held_up uuid[] := '{}';
  at_gates text[] := '{}';
  -- What the jobs before have taken: by the number of the gate, and of the pool that its keys share.
  used float8[];
  pooled float8[];
  -- The gates at which a job of this batch waits: those behind it do not overtake it.
  closed boolean[];
  shut int;
  number int;
  busy boolean;
begin
  wanted := array(select distinct g.lock_name from jobsworth.gates_of(job_ids) g);
  if wanted = '{}' then
    return job_ids;
  end if;
  for tries in 1 .. 5 loop
    locked := locked || array(
      select w.name from unnest(wanted) as w (name)
      where w.name <> all(locked)
        and pg_try_advisory_xact_lock(hashtextextended(w.name, 1)));
    exit when cardinality(locked) = cardinality(wanted) or tries = 5;
    perform pg_sleep(0.002);
  end loop;

  used := array_fill(0::float8, array[cardinality(job_ids) * 4]);
  pooled := used;
  closed := array_fill(false, array[cardinality(job_ids) * 4]);
  for one in
    with passed as materialized (
      select g.n, g.job_id, g.limit_name, g.key, g.gate, g.is_rate, g.needs, g.charge,
        g.lock_name = any(locked) as ours, dense_rank() over (order by g.gate) as number,
        dense_rank() over (order by g.lock_name) as pool_number
      from jobsworth.gates_of(job_ids) g
    ), gates as materialized (
      select d.numbers[r.n] as number, r.share, r.beyond, r.pool
      from (
        select array_agg(x.number order by x.number) as numbers,
          array_agg(x.limit_name order by x.number) as limit_names,
          array_agg(x.key order by x.number) as keys
        from (
          select distinct p.number, p.limit_name, p.key from passed p where p.ours) x) d
      cross join lateral jobsworth.rooms_of(d.limit_names, d.keys) r
    ), judged as (
      select p.n, p.number, p.pool_number, p.gate, p.ours, g.share, g.beyond, g.pool, t.has_turn,
        -- The slot of a turn is taken already; a rate is charged when the job starts.
        case when t.has_turn and not p.is_rate then 0 else p.needs end as needs,
        case when t.has_turn and not p.is_rate then 0 else p.charge end as charge,
        -- The jobs of a gate start in their order, so one that waits comes first.
        not t.has_turn and (
          select true from jobsworth.reactive_jobs o
          where o.status = 'waiting' and o.waiting_for = 'limit' and o.run_at is null
            and hashtextextended(o.waiting_detail, 0) = hashtextextended(p.gate, 0)
            and o.waiting_detail = p.gate
            and (o.priority, o.created_at, o.id) < (j.priority, j.created_at, j.id)
          limit 1) is not null as is_behind
      from passed p
      left join gates g on g.number = p.number
      cross join lateral (
        select x.id, x.priority, x.created_at from jobsworth.reactive_jobs x
        where x.id = p.job_id offset 0) j
      cross join lateral (
        select exists (
          select 1 from jobsworth.job_limit_slots s
          where s.limit_name = p.limit_name and s.key = p.key and s.job_id = p.job_id
            and s.lease_no is null and s.turn_at > clock_timestamp() - interval '5 seconds'
          ) as has_turn
      ) t
    )
    select u.id, coalesce(a.gates, '{}') as gates, a.numbers, a.pools, a.ours, a.charges, a.needs,
      a.shares, a.beyonds, a.rests, a.turns, a.behind
    from unnest(job_ids) with ordinality as u (id, n)
    left join (
      select i.n, array_agg(i.gate order by i.number) as gates,
        array_agg(i.number order by i.number) as numbers,
        array_agg(i.pool_number order by i.number) as pools,
        array_agg(i.ours order by i.number) as ours,
        array_agg(i.charge order by i.number) as charges,
        array_agg(i.needs order by i.number) as needs,
        array_agg(i.share order by i.number) as shares,
        array_agg(i.beyond order by i.number) as beyonds,
        array_agg(i.pool order by i.number) as rests,
        array_agg(i.has_turn order by i.number) as turns,
        array_agg(i.is_behind order by i.number) as behind
      from judged i
      group by i.n
    ) a on a.n = u.n
    order by u.n
  loop
    shut := null;
    busy := false;
    for i in 1 .. cardinality(one.gates) loop
      number := one.numbers[i];
      if not one.ours[i] then
        busy := true;
      elsif shut is null and (
        one.behind[i] or closed[number] and not one.turns[i]
        or one.shares[i] - used[number] < one.needs[i] and (
          one.beyonds[i] - used[number] < one.needs[i]
          or one.rests[i] - pooled[one.pools[i]] < one.needs[i]))
      then
        shut := i;
      end if;
    end loop;
    if shut is not null then
      held_up := held_up || one.id;
      at_gates := at_gates || one.gates[shut];
      closed[one.numbers[shut]] := true;
    elsif not busy then
      passing := passing || one.id;
      for i in 1 .. cardinality(one.gates) loop
        used[one.numbers[i]] := used[one.numbers[i]] + one.charges[i];
        pooled[one.pools[i]] := pooled[one.pools[i]] + one.charges[i];
      end loop;
    end if;
  end loop;

  if held_up <> '{}' then
    perform jobsworth.set_aside(held_up, at_gates);
  end if;
  perform jobsworth.charge_rates(passing);
  return passing;
end $$;

-- Let locked queued jobs wait at these gates, one for each. A turn that they had is over.
create function jobsworth.set_aside(job_ids uuid[], gates text[]) returns void
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  delete from jobsworth.job_limit_slots s
  where s.job_id = any(job_ids) and s.lease_no is null;
  update jobsworth.reactive_jobs j
  set status = 'waiting', waiting_for = 'limit', waiting_detail = u.gate, run_at = null
  from unnest(job_ids, gates) as u (id, gate)
  where j.id = any(array[u.id]);
  -- A look at once finds out when the first of those that wait for a rate has its turn.
  insert into jobsworth.job_limit_rates as k (limit_name, key, arrival_at, due_at)
  select d.limit_name, d.key, clock_timestamp(), clock_timestamp()
  from (
    select distinct g.limit_name, g.key
    from unnest(job_ids, gates) as u (id, gate)
    join jobsworth.gates_of(job_ids) g on g.job_id = u.id and g.gate = u.gate
    where g.is_rate
    order by 1, 2) d
  on conflict (limit_name, key) do update
  set due_at = least(k.due_at, excluded.due_at)
  where k.due_at is null;
end $$;

-- Charge the rates that these jobs pass. The gates are locked.
create function jobsworth.charge_rates(job_ids uuid[]) returns void
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  insert into jobsworth.job_limit_rates as k (limit_name, key, arrival_at)
  select c.limit_name, c.key,
    clock_timestamp() + c.charge * c.each_seconds * interval '1 second'
  from (
    select g.limit_name, g.key, sum(g.charge) as charge, min(l.per_seconds / l.rate) as each_seconds
    from jobsworth.gates_of(job_ids) g
    join jobsworth.job_limits l on l.limit_name = g.limit_name
    where l.rate is not null
    group by g.limit_name, g.key
    order by g.limit_name, g.key
  ) c
  on conflict (limit_name, key) do update
  set arrival_at = greatest(k.arrival_at, clock_timestamp())
    + (excluded.arrival_at - clock_timestamp());
end $$;

-- Start those of these locked queued jobs that are the heads of their lanes and pass their gates. Returns
-- their ids.
create function jobsworth.start_passing(worker_id uuid, job_ids uuid[]) returns uuid[]
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  passing uuid[] := jobsworth.admit(jobsworth.leave_lanes(start_passing.job_ids));
  holding uuid[];
begin
  holding := array(
    select distinct g.job_id from jobsworth.gates_of(passing) g where not g.is_rate);
  update jobsworth.reactive_jobs j
  set status = 'running', attempt = j.attempt + 1, lease_no = nextval('jobsworth.lease_no'::regclass),
    worker_id = start_passing.worker_id, started_at = now(),
    limited = case when j.id = any(holding) then true end
  where j.id = any(passing);
  perform jobsworth.hold_slots(passing, holding);
  return passing;
end $$;

-- What a claim returns of the jobs that it picked: those that run now, and without a lease those that
-- wait. What is neither stays queued, and is not told.
create function jobsworth.told_of(picked uuid[], crashes_max int, alone boolean)
  returns setof jobsworth.claimed
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  return query
  select j.id, case when j.status = 'running' then j.lease_no end, j.queue::text,
    j.priority::smallint, j.position, j.mode::text,
    case when j.status = 'running' then j.payload::jsonb end, j.attempt::int, j.failures::int,
    j.failures_max::int, j.timeout_seconds::real, j.team_id, j.thread_id,
    j.trigger_message_id, j.parent_id, j.is_child,
    case when j.status = 'running' or j.waiting_for = 'lane' then j.lane end, j.trace_parent,
    j.request_id::text, j.run_id, j.node, j.agent_id,
    greatest(0, date_part('epoch', now() - coalesce(j.run_at, j.created_at))),
    j.crashes > 0 and j.crashes >= coalesce(j.crashes_max, told_of.crashes_max) - 1,
    case when told_of.alone and j.crashes > 0
        and j.crashes >= coalesce(j.crashes_max, told_of.crashes_max)
      then 60.0 * 2.0 ^ least(
        j.crashes - coalesce(j.crashes_max, told_of.crashes_max), 10) end::float8,
    j.fair_key::text
  from unnest(told_of.picked) as u (id)
  cross join lateral (
    select r.* from jobsworth.reactive_jobs r where r.id = u.id offset 0) j
  where j.status in ('running', 'waiting');
end $$;

-- `jobsworth.claim` for a worker some of whose jobs may have to pass a limit. Each step takes the ids
-- of locked queued jobs and returns those that go on.
create function jobsworth.claim_gated(
  worker_id uuid, queues text[], priorities smallint[], positions bigint[], modes text[],
  wanted int, crashes_max int, suspect_wanted boolean, alone boolean)
  returns setof jobsworth.claimed
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  picked uuid[];
  passing uuid[];
begin
  picked := jobsworth.pick_next(
    claim_gated.worker_id, claim_gated.queues, claim_gated.priorities, claim_gated.positions,
    claim_gated.modes, claim_gated.wanted, claim_gated.crashes_max, claim_gated.suspect_wanted,
    claim_gated.alone);
  passing := jobsworth.start_passing(claim_gated.worker_id, picked);
  if cardinality(passing) < cardinality(picked) then
    perform jobsworth.set_flood_aside(
      picked, claim_gated.queues, claim_gated.priorities, claim_gated.positions,
      claim_gated.modes);
  end if;
  return query
  select r.*
  from jobsworth.told_of(picked, claim_gated.crashes_max, claim_gated.alone) r
  union all
  -- There may be more: behind what waits now, or behind a gate that another claim held.
  select null, null, null, 0::smallint, 0, null, null, null, null, null, null, null, null, null,
    null, null, null, null, null, null, null, null, null, null, null, null
  where cardinality(passing) < cardinality(picked) or 4194304 <= (
    select sum(pg_column_size(r.payload)) from jobsworth.reactive_jobs r where r.id = any(picked));
end $$;

-- Note the slots that the new leases of the jobs in `holding` take. The turns of all are over.
create function jobsworth.hold_slots(job_ids uuid[], holding uuid[]) returns void
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  delete from jobsworth.job_limit_slots s where s.job_id = any(job_ids);
  insert into jobsworth.job_limit_slots (limit_name, key, job_id, lease_no)
  select g.limit_name, g.key, g.job_id, j.lease_no
  from jobsworth.gates_of(holding) g
  cross join lateral (
    select r.lease_no from jobsworth.reactive_jobs r where r.id = g.job_id offset 0) j
  where not g.is_rate;
end $$;

-- Of the next thousand queued jobs, let those wait that would have to wait at the same gates as the
-- jobs of this claim: however many they are, what can run behind them is found soon.
create function jobsworth.set_flood_aside(
  picked uuid[], queues text[], priorities smallint[], positions bigint[], modes text[])
  returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  if not exists (
    select 1
    from unnest(picked) as u (id)
    cross join lateral (
      select r.waiting_for, r.status from jobsworth.reactive_jobs r where r.id = u.id offset 0) j
    where j.status = 'waiting' and j.waiting_for = 'limit')
  then
    return;
  end if;
  perform jobsworth.set_aside_behind(picked, array(
    select j.id
    from unnest(queues, priorities, positions) as probe (queue, priority, position)
    cross join lateral (
      select r.id from jobsworth.reactive_jobs r
      where r.status = 'queued' and r.queue = probe.queue and r.priority = probe.priority
        and r.position > probe.position and r.mode = any(modes) and r.lane is null
      order by r.position
      limit 1000
    ) j
    limit 1000));
end $$;

-- Let those of the queued jobs in `next_ids` wait that would have to wait at the gates where the jobs in
-- `picked` wait.
create function jobsworth.set_aside_behind(picked uuid[], next_ids uuid[]) returns void
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  closed text[];
  aside uuid[];
  at_gates text[];
begin
  closed := array(
    select distinct j.waiting_detail
    from unnest(picked) as u (id)
    cross join lateral (
      select r.waiting_for, r.waiting_detail, r.status from jobsworth.reactive_jobs r
      where r.id = u.id offset 0) j
    where j.status = 'waiting' and j.waiting_for = 'limit');
  if closed = '{}' then
    return;
  end if;
  select array_agg(f.job_id order by f.n), array_agg(f.gate order by f.n) into aside, at_gates
  from (
    select distinct on (g.n) g.n, g.job_id, g.gate
    from jobsworth.gates_of(next_ids) g
    where g.gate = any(closed) and not exists (
      select 1 from jobsworth.job_limit_slots s where s.job_id = g.job_id and s.lease_no is null)
    order by g.n
  ) f;
  if aside is null then
    return;
  end if;
  select array_agg(l.id order by l.n), array_agg(l.gate order by l.n) into aside, at_gates
  from (
    select u.id, u.gate, u.n
    from unnest(aside, at_gates) with ordinality as u (id, gate, n)
    cross join lateral (
      select 1 from jobsworth.reactive_jobs r
      where r.id = u.id and r.status = 'queued'
      for no key update skip locked) j
  ) l;
  if aside is not null then
    perform jobsworth.set_aside(aside, at_gates);
  end if;
end $$;
