-- Limits of jobs: how many run at once (`slots`), and how many start in a time (`rate` in each
-- `per_seconds`, by the generic cell rate algorithm, ITU-T I.371), in all, or for each value of a
-- key (`per`).
--
-- A slot is a row of the lease that holds it, and counts while its job runs under that lease. So
-- whatever takes the job out of `running` gives the slot back in the same commit, once, and a slot
-- can neither be lost nor be given back twice: nothing is counted down.
--
-- A job that has to pass a limit and its key passes a gate. Whoever admits jobs at a gate holds the
-- gate's advisory lock until its commit, and counts in a later statement than it locks in: that
-- sees what the one before it has committed. Nobody waits for this lock.
--
-- Rejected: counters that are counted down at the end of a job (a release that came twice let eleven
-- jobs through a limit of one in a peer), a column with the gates of each job (the limits may change
-- after the enqueue), and a trigger that deletes slots (each finish would parse its condition).

create type jobsworth.limit_per as enum ('team', 'thread', 'lane', 'agent', 'key');

-- `queue` and `mode`: whose jobs it is for; null: of all. `per`: the key; a job without a value of it
-- is not limited. `key` is the `limit_key` of the job. `burst` of slots: how many a key may hold
-- while all keys of the limit together hold fewer than that. `burst` of a rate: how many may start
-- at once after a rest.
create table jobsworth.job_limits (
  limit_name jobsworth.limit_name not null primary key,
  queue jobsworth.queue,
  mode jobsworth.mode,
  per jobsworth.limit_per,
  slots jobsworth.slots,
  rate jobsworth.rate,
  per_seconds jobsworth.per_seconds,
  burst jobsworth.burst,
  changed_at jobsworth.changed_at not null default clock_timestamp(),
  constraint limit_has_one_of_slots_rate check (num_nonnulls(slots, rate) = 1),
  constraint rate_has_its_seconds
    check (num_nonnulls(rate, per_seconds, burst) = 3 or num_nonnulls(rate, per_seconds) = 0),
  constraint burst_of_slots_is_of_a_key
    check (slots is null or burst is null or burst >= slots and per is not null)
);

-- Who holds a slot: the lease of a job, or a queued job that was promoted and has its turn
-- (`lease_no` is null). What is neither of a running lease nor a young turn counts for nothing.
create table jobsworth.job_limit_slots (
  limit_name jobsworth.limit_name not null,
  key jobsworth.key not null,
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  lease_no bigint,
  turn_at jobsworth.turn_at not null default clock_timestamp(),
  primary key (limit_name, key, job_id)
);
-- What a job that ends gives back.
create index job_limit_slots_of_job on jobsworth.job_limit_slots (job_id);

-- Of each key of a rate: the theoretical time of the next arrival, and when the first of the jobs
-- that wait has its turn (null: none waits).
create table jobsworth.job_limit_rates (
  limit_name jobsworth.limit_name not null,
  key jobsworth.key not null,
  arrival_at jobsworth.arrival_at not null,
  due_at jobsworth.due_at,
  primary key (limit_name, key)
) with (fillfactor = 50);
create index job_limit_rates_due on jobsworth.job_limit_rates (due_at) where due_at is not null;
-- What is as good as new, and is deleted.
create index job_limit_rates_rested on jobsworth.job_limit_rates (arrival_at) where due_at is null;

-- The jobs that wait at a gate (a limit of jobs, or an environment), in their order. The hash keeps
-- long keys out of the index.
create index jobs_gated on jobsworth.reactive_jobs
  (hashtextextended(waiting_detail, 0), priority, created_at, id)
  where status = 'waiting' and waiting_for = 'limit' and run_at is null;

-- A gate, in words: the `waiting_detail` of the jobs that wait at it.
create function jobsworth.gate(limit_name text, per jobsworth.limit_per, key text) returns text
  language sql stable
  return 'limit ' || limit_name || coalesce(', ' || per::text || ' ' || key, '');

-- The gates that jobs have to pass. `needs`: how much of the gate's room; of a rate, the weight of
-- the job. A job heavier than the burst passes when the gate is at rest, and is charged in full.
create function jobsworth.gates_of(job_ids uuid[])
  returns table (
    n bigint, job_id uuid, limit_name text, key text, gate text, lock_name text, is_rate boolean,
    needs float8, charge float8)
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  return query
  select u.n, j.id, l.limit_name::text, k.key, jobsworth.gate(l.limit_name, l.per, k.key),
    -- Keys that share a burst are admitted one after the other.
    'jobsworth.limit ' || case when l.slots is not null and l.burst is not null
      then l.limit_name::text else jobsworth.gate(l.limit_name, l.per, k.key) end,
    l.rate is not null,
    (case when l.rate is null then 1 else least(coalesce(j.limit_weight, 1), l.burst) end)::float8,
    (case when l.rate is null then 1 else coalesce(j.limit_weight, 1) end)::float8
  from unnest(gates_of.job_ids) with ordinality as u (id, n)
  cross join lateral (
    select r.id, r.queue, r.mode, r.team_id, r.thread_id, r.lane, r.agent_id, r.limit_key,
      r.limit_weight
    from jobsworth.reactive_jobs r
    where r.id = u.id
    offset 0
  ) j
  cross join jobsworth.job_limits l
  cross join lateral (
    select case when octet_length(v.value) > 1000 then 'md5 ' || md5(v.value) else v.value end as key
    from (select case
      when l.per is null then ''
      when l.per = 'team' then j.team_id::text
      when l.per = 'thread' then j.thread_id::text
      when l.per = 'lane' then j.lane
      when l.per = 'agent' then j.agent_id::text
      else j.limit_key end as value) v
  ) k
  where (l.queue is null or l.queue = j.queue) and (l.mode is null or l.mode = j.mode)
    and k.key is not null;
end $$;

-- Whether a row of `job_limit_slots` counts, by what its job is now: a running lease, or a turn that
-- is younger than five seconds. An older turn was not used (its queue is paused, all workers are busy),
-- and holds up nobody.
create function jobsworth.slot_counts(
  slot_lease_no bigint, turn_at timestamptz, status jobsworth.job_status, lease_no bigint)
  returns boolean language sql stable
  return case when slot_lease_no is null
    then status = 'queued' and turn_at > statement_timestamp() - interval '5 seconds'
    else status = 'running' and slot_lease_no = lease_no end;

-- How much room gates have, in their order: free slots, or what a rate lets start now. `share`: of
-- the key's own. `beyond`: up to its burst, as far as `pool` has it, which all keys share. Infinite if
-- there is no such limit (any more).
create function jobsworth.rooms_of(limit_names text[], keys text[])
  returns table (n bigint, share float8, beyond float8, pool float8, taken bigint)
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  return query
  select g.n,
    case when l.rate is not null then l.burst - coalesce(
        greatest(0, extract(epoch from r.arrival_at - clock_timestamp()))
          * l.rate / l.per_seconds, 0)
      when l.slots is not null then l.slots - t.taken
      else 'infinity' end::float8,
    coalesce((l.burst - t.taken)::float8, '-infinity'),
    coalesce((l.burst - p.taken)::float8, '-infinity'),
    coalesce(t.taken, 0)
  from unnest(rooms_of.limit_names, rooms_of.keys) with ordinality as g (limit_name, key, n)
  left join lateral (
    select x.slots, x.rate, x.per_seconds, x.burst from jobsworth.job_limits x
    where x.limit_name = g.limit_name
    offset 0) l on true
  left join lateral (
    select x.arrival_at from jobsworth.job_limit_rates x
    where x.limit_name = g.limit_name and x.key = g.key
    offset 0) r on l.rate is not null
  left join lateral (
    select count(*) as taken
    from jobsworth.job_limit_slots s
    cross join lateral (
      select x.status, x.lease_no from jobsworth.reactive_jobs x where x.id = s.job_id offset 0) j
    where s.limit_name = g.limit_name and s.key = g.key
      and jobsworth.slot_counts(s.lease_no, s.turn_at, j.status, j.lease_no)
    ) t on l.slots is not null
  left join lateral (
    select count(*) as taken
    from jobsworth.job_limit_slots s
    cross join lateral (
      select x.status, x.lease_no from jobsworth.reactive_jobs x where x.id = s.job_id offset 0) j
    where s.limit_name = g.limit_name
      and jobsworth.slot_counts(s.lease_no, s.turn_at, j.status, j.lease_no)
    ) p on l.slots is not null and l.burst is not null;
end $$;

create function jobsworth.room_at(of_limit text, of_key text) returns float8
  language sql stable as $$
  select greatest(r.share, least(r.beyond, r.pool))
  from jobsworth.rooms_of(array[of_limit], array[of_key]) r
$$;

-- How many slots of a limit, or turns of a rate, are taken; `of_key` null: of all keys together.
create function jobsworth.slots_taken(of_limit text, of_key text) returns bigint
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return (
    select count(*) from jobsworth.job_limit_slots s
    cross join lateral (
      select r.status, r.lease_no from jobsworth.reactive_jobs r where r.id = s.job_id offset 0) j
    where s.limit_name = of_limit and (of_key is null or s.key = of_key)
      and jobsworth.slot_counts(s.lease_no, s.turn_at, j.status, j.lease_no));
end $$;
