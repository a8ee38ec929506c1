-- Jobs that wait at a gate go on when it has room for them, in their order: by priority, then by
-- age. As many as there is room for get a turn and are queued; the claim that takes one admits it.
--
-- Whoever sets a job aside, or ends one that held a slot, looks here after the commit, with a fresh
-- snapshot, so that an end and a wait that cross are seen by one of them. Of a rate it is known when
-- the next one has its turn (`due_at`), so nobody looks before. A sweep goes from gate to gate, for
-- crashes: a gate costs it the same however many wait there.

-- The first jobs that wait at a gate, in their order.
create function jobsworth.waiters_at(gate text, most int) returns uuid[]
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return array(
    select j.id from jobsworth.reactive_jobs j
    where j.status = 'waiting' and j.waiting_for = 'limit' and j.run_at is null
      and hashtextextended(j.waiting_detail, 0) = hashtextextended(waiters_at.gate, 0)
      and j.waiting_detail = waiters_at.gate
    order by j.priority, j.created_at, j.id
    limit most);
end $$;

-- Whether a job that waits at a gate has room there. Without the limit, or if it is not for this job
-- any more, nothing keeps it.
create function jobsworth.gate_is_open(j jobsworth.reactive_jobs) returns boolean
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return not exists (
    select 1 from jobsworth.gates_of(array[j.id]) g
    where g.gate = j.waiting_detail
      and jobsworth.room_at(g.limit_name, g.key) < g.needs);
end $$;

-- Give turns to the first jobs that wait at a gate, as many as it has room for, and note when the
-- next one has its turn. Returns the ids that another transaction holds. `claimant` and `room`: see
-- `reconsider`.
create function jobsworth.promote_gate(
  of_limit text, of_key text, gate text, claimant uuid default null, room int default 0)
  returns uuid[] language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  l jobsworth.job_limits;
  free float8 := jobsworth.room_at(of_limit, of_key);
  first_ids uuid[];
  turns uuid[];
  again uuid[] := '{}';
  next_needs float8;
begin
  select x.* into l from jobsworth.job_limits x where x.limit_name = of_limit;
  if l.rate is not null then
    free := free - jobsworth.slots_taken(of_limit, of_key);
  elsif free < 1 then
    return again;
  end if;
  first_ids := jobsworth.waiters_at(
    promote_gate.gate, case when l.limit_name is null then 1000
      else least(1000, greatest(0, floor(free)) + 1)::int end);
  turns := array(
    select s.id
    from (
      select u.id, u.n,
        sum(coalesce(g.needs, 0)) over (order by u.n) as needs
      from unnest(first_ids) with ordinality as u (id, n)
      left join jobsworth.gates_of(first_ids) g
        on g.job_id = u.id and g.gate = promote_gate.gate
    ) s
    where s.needs <= free
    order by s.n);
  if turns <> '{}' then
    again := jobsworth.reconsider(turns, false, claimant, promote_gate.room);
    if l.limit_name is not null then
      -- Locked: another promotion may have queued a job meanwhile, and the claim that takes it now
      -- must not find its slot turned into a turn, which counts for nothing while the job runs.
      insert into jobsworth.job_limit_slots (limit_name, key, job_id)
      select of_limit, of_key, j.id
      from (
        select r.id from jobsworth.reactive_jobs r
        where r.id = any(turns) and r.status::text = 'queued'
        for no key update skip locked) j
      on conflict (limit_name, key, job_id) do update
      set lease_no = null, turn_at = excluded.turn_at;
    end if;
  end if;
  if l.rate is not null then
    select min(g.needs) into next_needs
    from jobsworth.gates_of(array[first_ids[cardinality(turns) + 1]]) g
    where g.gate = promote_gate.gate;
    update jobsworth.job_limit_rates k
    set due_at = clock_timestamp() + interval '1 second' * case
        when again <> '{}' then 0.1
        when next_needs is not null then greatest(0.001, (next_needs
          + coalesce((
              select sum(g.charge) from jobsworth.gates_of(turns) g where g.gate = promote_gate.gate), 0)
          - free) * l.per_seconds / l.rate) end
    where k.limit_name = of_limit and k.key = of_key;
  end if;
  return again;
end $$;

-- After the commit that ended, parked or set aside these jobs, promote those that wait at their
-- gates. Slots of leases, and turns, that are over are deleted. Returns the ids that another transaction holds.
create function jobsworth.release_gates(
  job_ids uuid[], claimant uuid default null, room int default 0) returns uuid[]
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  one record;
  freed text[];
  keys text[];
  again uuid[] := '{}';
begin
  with over as (
    delete from jobsworth.job_limit_slots s
    using unnest(job_ids) as u (id)
    cross join lateral (
      select r.status, r.lease_no from jobsworth.reactive_jobs r where r.id = u.id offset 0) j
    where s.job_id = u.id and not case when s.lease_no is null then j.status = 'queued'
      else j.status = 'running' and j.lease_no = s.lease_no end
    returning s.limit_name, s.key
  )
  select array_agg(o.limit_name), array_agg(o.key) into freed, keys from over o;
  for one in
    select d.limit_name, d.key, jobsworth.gate(d.limit_name, l.per, d.key) as gate
    from (
      select u.limit_name, u.key from unnest(freed, keys) as u (limit_name, key)
      union
      -- Another key may go beyond its share now.
      select s.limit_name::text, s.key::text from unnest(freed) as u (limit_name)
      join jobsworth.job_limits b on b.limit_name = u.limit_name and b.burst is not null
      join jobsworth.job_limit_slots s on s.limit_name = b.limit_name
      union
      select g.limit_name, g.key from jobsworth.gates_of(array(
        select j.id from jobsworth.reactive_jobs j
        where j.id = any(job_ids) and j.status::text = 'waiting' and j.waiting_for = 'limit'
          and j.run_at is null)) g
    ) d
    join jobsworth.job_limits l on l.limit_name = d.limit_name
    order by d.limit_name, d.key
  loop
    again := again || jobsworth.promote_gate(one.limit_name, one.key, one.gate, claimant, room);
  end loop;
  return again;
end $$;

-- Give turns at the rates at which somebody is due, up to `most` keys. Returns how many seconds from
-- now the next one is due: null if nobody waits for a rate.
create function jobsworth.promote_due_rates(most int) returns float8
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  one record;
begin
  for one in
    select k.limit_name, k.key, l.per
    from jobsworth.job_limit_rates k
    left join jobsworth.job_limits l on l.limit_name = k.limit_name
    where k.due_at <= clock_timestamp()
    order by k.due_at
    limit most
    for no key update of k skip locked
  loop
    perform jobsworth.promote_gate(
      one.limit_name, one.key, jobsworth.gate(one.limit_name, one.per, one.key));
  end loop;
  return jobsworth.next_rate_in();
end $$;

create function jobsworth.next_rate_in() returns float8 language sql stable as $$
  select extract(epoch from k.due_at - clock_timestamp())::float8
  from jobsworth.job_limit_rates k
  where k.due_at is not null
  order by k.due_at
  limit 1
$$;

-- Look at up to `most` gates after the one with this hash, and promote jobs that crashes, expired
-- turns and changed limits have left there. Returns the hash after which the next look goes on
-- (null: from the first). What counts for nothing any more is deleted.
create function jobsworth.sweep_gates(after bigint, most int) returns bigint
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  hash bigint := sweep_gates.after;
  head record;
  passed record;
begin
  for looked in 1 .. most loop
    select j.id, j.waiting_detail, hashtextextended(j.waiting_detail, 0) as hash into head
    from jobsworth.reactive_jobs j
    where j.status = 'waiting' and j.waiting_for = 'limit' and j.run_at is null
      and hashtextextended(j.waiting_detail, 0) > hash
    order by hashtextextended(j.waiting_detail, 0), j.priority, j.created_at, j.id
    limit 1;
    if not found then
      hash := null;
      exit;
    end if;
    hash := head.hash;
    select g.limit_name, g.key into passed
    from jobsworth.gates_of(array[head.id]) g where g.gate = head.waiting_detail;
    if found then
      perform jobsworth.promote_gate(passed.limit_name, passed.key, head.waiting_detail);
    else
      -- An environment, or a limit that was removed or is not for this job any more.
      perform jobsworth.reconsider(array(
        select j.id from jobsworth.reactive_jobs j
        where j.id = any(jobsworth.waiters_at(head.waiting_detail, 1000))
          and jobsworth.reason_gone(j)));
    end if;
  end loop;
  delete from jobsworth.job_limit_slots s
  where s.turn_at < clock_timestamp() - interval '1 minute' and (s.limit_name, s.key, s.job_id) in (
    select o.limit_name, o.key, o.job_id from jobsworth.job_limit_slots o
    cross join lateral (
      select r.status, r.lease_no from jobsworth.reactive_jobs r where r.id = o.job_id offset 0) j
    where not jobsworth.slot_counts(o.lease_no, o.turn_at, j.status, j.lease_no)
    limit 500
    for update of o skip locked);
  delete from jobsworth.job_limit_rates k
  where (k.limit_name, k.key) in (
    select o.limit_name, o.key from jobsworth.job_limit_rates o
    where o.due_at is null and o.arrival_at < clock_timestamp() - interval '1 minute'
    order by o.arrival_at
    limit 500
    for update skip locked);
  return hash;
end $$;
