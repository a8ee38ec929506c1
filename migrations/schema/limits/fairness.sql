-- Fairness: the jobs of a fair queue start in turns of their fairness keys, by weight. A flood of one
-- key delays no other, into however many lanes its owner spreads it.
--
-- Fairness is within a priority: urgent jobs first, whosever they are; among equally urgent ones each
-- key has its share. (As in Temporal's task queues and in the API priority and fairness of Kubernetes.)
-- The key is the job's `fair_key`, by default its team.
--
-- Each key with ready jobs has a virtual time: the number of its jobs that were started, divided by its
-- weight. A claim serves the keys with the lowest ones: start-time fair queueing (Goyal, Vin and Cheng,
-- 1996). A key that comes, or comes back, begins at the virtual time of the queue, which is the lowest of
-- the keys that are ready: what it did not use is not saved for it. Weights are read by the claim, so
-- they act when jobs start.
--
-- Only one claim at a time changes virtual times of a queue: the one that has the queue's advisory lock.
-- A claim that does not get the lock does not wait. It serves the same order without writing it, and
-- leaves a row with what it took, which the next holder of the lock adds. So shares stay exact however
-- many workers claim, and a claimer that hangs stops nobody. (With locked rows of keys and `skip locked`
-- two claimers on two keys took one each, whatever the weights.)
--
-- An insert waits for nobody. It leaves a row for its key unless it sees one that is ready. The row is
-- placed by the next claim. A claim that took the last job of a key keeps the key as not ready for a
-- while: an insert that was not committed yet may have relied on it. Such late commits are found by a
-- rescan, as in other queues.
--
-- Updates of virtual times leave dead index entries, which stay as long as somebody holds a snapshot.
-- No look walks over them: each version of a row has a new `turn`, the newest is read first, and its
-- `floor` says below which nothing lives.

create table jobsworth.fair_keys (
  queue jobsworth.queue not null,
  priority jobsworth.priority not null,
  fair_key jobsworth.fair_key not null,
  -- Drawn anew with each change. Among equal virtual times the lowest is first.
  turn bigint not null default nextval('jobsworth.job_position'),
  -- Null until a claim with the queue's lock has placed the key.
  virtual_time jobsworth.virtual_time,
  -- Whether it has queued jobs, as far as claims have seen.
  ready boolean not null default true,
  -- Jobs that were started without the queue's lock, to be added to the key's virtual time.
  started int not null default 0,
  -- Queued jobs of the key lie beyond this position, but for late commits.
  position bigint not null default -9223372036854775808,
  -- When it was last looked for jobs before that position; of a key that is not ready: when it ran out.
  since jobsworth.since not null default now(),
  -- When this was written: no key that is ready is below this virtual time, or has the same one and a
  -- lower turn. And the last turn that was placed.
  floor jobsworth.floor,
  floor_turn bigint,
  arrived bigint,
  primary key (queue, priority, fair_key, turn)
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);
-- The order of service.
create index fair_keys_order on jobsworth.fair_keys (queue, priority, virtual_time, turn)
  where ready and virtual_time is not null;
-- The last change: its floor.
create index fair_keys_last on jobsworth.fair_keys (queue, priority, turn)
  where virtual_time is not null;
-- What is to be placed.
create index fair_keys_arrived on jobsworth.fair_keys (queue, priority, turn)
  where virtual_time is null;
-- Keys that ran out of jobs lately.
create index fair_keys_idle on jobsworth.fair_keys (queue, priority, turn)
  where not ready and virtual_time is not null;

-- Weights other than 1.
create table jobsworth.fair_weights (
  queue jobsworth.queue not null,
  fair_key jobsworth.fair_key not null,
  weight jobsworth.weight not null,
  primary key (queue, fair_key)
);

-- The queued jobs of a key, in order. The condition does not say `status = 'queued'`, so that no
-- statement about keys can be planned on the index `jobs_ready`, which has all jobs of the queue.
create index jobs_fair on jobsworth.reactive_jobs (queue, priority, fair_key, position)
  where fair_key is not null and finished_at is null and status not in ('waiting', 'running');

-- Let claims know that this key has a queued job. It waits for nobody.
create function jobsworth.announce_key(in_queue text, at_priority smallint, key text) returns void
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  known boolean;
begin
  -- What a snapshot of a whole transaction shows may have changed since.
  if current_setting('transaction_isolation') = 'read committed' then
    -- The newest first: the others may be long dead.
    select k.virtual_time is null or k.ready into known
    from jobsworth.fair_keys k
    where k.queue = in_queue and k.priority = at_priority and k.fair_key = key
    order by k.turn desc
    limit 1;
    if known then
      return;
    end if;
  end if;
  insert into jobsworth.fair_keys (queue, priority, fair_key)
  select in_queue, at_priority, key
  where exists (select 1 from jobsworth.queues q where q.name = in_queue and q.fair);
end $$;

-- A queued job was given another queue, priority or key.
create function jobsworth.announce_moved() returns trigger language plpgsql as $$
begin
  perform jobsworth.announce_key(new.queue, new.priority, new.fair_key);
  return null;
end $$;
create trigger announce_moved after update of queue, priority, fair_key on jobsworth.reactive_jobs
  for each row when (new.status = 'queued' and new.fair_key is not null)
  execute function jobsworth.announce_moved();

-- The virtual time of a queue, with its turn: the lowest of the keys that are ready. If none is, the highest
-- that was reached: nobody waited meanwhile, so nobody has to catch up.
create function jobsworth.fair_time(
  in_queue text, at_priority smallint, out at float8, out turn bigint)
  language plpgsql stable as $$
#variable_conflict use_column
declare
  bottom record;
begin
  select coalesce(k.floor, 0) as floor, coalesce(k.floor_turn, 0) as turn into bottom
  from jobsworth.fair_keys k
  where k.queue = in_queue and k.priority = at_priority and k.virtual_time is not null
  order by k.turn desc
  limit 1;
  if not found then
    at := 0;
    turn := 0;
    return;
  end if;
  select k.virtual_time, k.turn into at, turn
  from jobsworth.fair_keys k
  where k.queue = in_queue and k.priority = at_priority and k.ready
    and k.virtual_time is not null and (k.virtual_time, k.turn) >= (bottom.floor, bottom.turn)
  order by k.virtual_time, k.turn
  limit 1;
  if not found then
    select max(r.virtual_time), 0 into at, turn from (
      select k.virtual_time from jobsworth.fair_keys k
      where k.queue = in_queue and k.priority = at_priority and k.virtual_time is not null
      order by k.turn desc
      limit 100) r;
  end if;
end $$;

-- Place keys that came, and add what was started without the queue's lock: up to 1000 rows. The caller has
-- the lock. With `rescan` also those that were committed late.
create function jobsworth.place_keys(in_queue text, at_priority smallint, beyond bigint)
  returns void language plpgsql as $$
#variable_conflict use_column
declare
  now_at float8;
  now_turn bigint;
begin
  select t.at, t.turn into now_at, now_turn from jobsworth.fair_time(in_queue, at_priority) t;
  with came as materialized (
    delete from jobsworth.fair_keys k
    where k.ctid = any(array(
      select x.ctid from jobsworth.fair_keys x
      where x.queue = in_queue and x.priority = at_priority and x.virtual_time is null
        and x.turn > beyond
      order by x.turn
      limit 1000
      for update skip locked))
    returning k.fair_key, k.turn, k.started
  ), one as materialized (
    -- Several transactions may have announced a key at once.
    select c.fair_key, coalesce(w.weight, 1) as weight, sum(c.started) as started, k.at,
      min(c.turn) filter (where c.started = 0) as announced, max(max(c.turn)) over () as arrived
    from came c
    left join lateral (
      select x.weight from jobsworth.fair_weights x
      where x.queue = in_queue and x.fair_key = c.fair_key
      offset 0) w on true
    left join lateral (
      select x.ctid as at from jobsworth.fair_keys x
      -- Not `is not null`: so it cannot be planned on `fair_keys_last`, which has all keys.
      where x.queue = in_queue and x.priority = at_priority and x.fair_key = c.fair_key
        and num_nulls(x.virtual_time) = 0
      order by x.turn desc
      limit 1) k on true
    group by c.fair_key, w.weight, k.at
  ), back as (
    update jobsworth.fair_keys k
    set virtual_time = greatest(k.virtual_time, now_at) + o.started / o.weight, ready = true,
      turn = nextval('jobsworth.job_position'::regclass), floor = now_at, floor_turn = now_turn,
      -- Its job drew its position a little before, and may be committed after later ones.
      position = least(k.position, o.announced - 1000),
      arrived = greatest(beyond, o.arrived)
    from one o
    -- By its place, which only who has the lock changes. A join by the key was planned, without
    -- statistics, as a walk over all keys of the queue.
    where k.ctid = o.at
  )
  insert into jobsworth.fair_keys (
    queue, priority, fair_key, virtual_time, floor, floor_turn, arrived)
  select in_queue, at_priority, o.fair_key, now_at + o.started / o.weight, now_at, now_turn,
    greatest(beyond, o.arrived)
  from one o
  where o.at is null;
end $$;

-- Look again at keys that ran out of jobs: a late commit may have brought one. Forget those that have
-- been without jobs for a while and that no longer have more than their share. The caller has the lock.
create function jobsworth.review_idle_keys(in_queue text, at_priority smallint) returns void
  language plpgsql as $$
#variable_conflict use_column
declare
  now_at float8;
  now_turn bigint;
  reached bigint;
  newest bigint;
begin
  select t.at, t.turn into now_at, now_turn from jobsworth.fair_time(in_queue, at_priority) t;
  select k.turn, k.arrived into newest, reached
  from jobsworth.fair_keys k
  where k.queue = in_queue and k.priority = at_priority and k.virtual_time is not null
  order by k.turn desc
  limit 1;
  with idle as materialized (
    select k.ctid as at, k.since < now() - interval '10 seconds' and k.virtual_time <= now_at
        and k.turn <> newest as stale,
      exists (
        select 1 from jobsworth.reactive_jobs r
        where r.queue = in_queue and r.priority = at_priority and r.fair_key = k.fair_key
          and r.finished_at is null and r.status not in ('waiting', 'running')) as late
    from jobsworth.fair_keys k
    where k.queue = in_queue and k.priority = at_priority and not k.ready
      and k.virtual_time is not null
    order by k.turn desc
    limit 1000
  ), back as (
    update jobsworth.fair_keys k
    set virtual_time = greatest(k.virtual_time, now_at), ready = true,
      turn = nextval('jobsworth.job_position'::regclass), position = -9223372036854775808,
      floor = now_at, floor_turn = now_turn, arrived = reached
    where k.ctid = any(array(select i.at from idle i where i.late))
  )
  delete from jobsworth.fair_keys k
  where k.ctid = any(array(select i.at from idle i where i.stale and not i.late));
end $$;

-- Start the jobs of a queue in turns of their keys, or in their order again. Jobs that are there already
-- get their keys by and by, from the workers.
create function jobsworth.set_fair(queue text, fair boolean) returns void language plpgsql as $$
#variable_conflict use_variable
begin
  if coalesce(queue, '') = '' or octet_length(queue) > 1000 or fair is null then
    raise exception 'a queue has a name of 1 to 1000 bytes, and is fair or not'
      using errcode = 'invalid_parameter_value', hint = 'For example: set_fair(''default'', true).';
  end if;
  insert into jobsworth.queues as q (name, fair) values (set_fair.queue, set_fair.fair)
  on conflict (name) do update
  set fair = excluded.fair,
    changed_at = case when q.fair = excluded.fair then q.changed_at else now() end;
  if not fair then
    delete from jobsworth.fair_keys k where k.queue = set_fair.queue;
  end if;
  perform jobsworth.wake();
end $$;

-- Set the weight of a key in a queue: with weight 3 it is served three times as often as one with 1, which
-- is the weight of all others.
create function jobsworth.set_fair_weight(queue text, fair_key text, weight float8) returns void
  language plpgsql as $$
#variable_conflict use_variable
begin
  if coalesce(queue, '') = '' or octet_length(queue) > 1000 then
    raise exception 'a queue has a name of 1 to 1000 bytes'
      using errcode = 'invalid_parameter_value', hint = 'Jobs are in queue default by default.';
  elsif coalesce(fair_key, '') = '' or octet_length(fair_key) > 1000 then
    raise exception 'fair_key must have 1 to 1000 bytes'
      using errcode = 'invalid_parameter_value',
      hint = 'Name the key of the jobs: their fair_key, or the id of their team.';
  elsif weight is null or not weight between 0.001 and 1000 then
    raise exception 'weight % is not between 0.001 and 1000', coalesce(weight::text, 'null')
      using errcode = 'invalid_parameter_value', hint = '1 is the weight of all other keys.';
  elsif weight = 1 then
    delete from jobsworth.fair_weights w
    where w.queue = set_fair_weight.queue and w.fair_key = set_fair_weight.fair_key;
  else
    insert into jobsworth.fair_weights as w (queue, fair_key, weight)
    values (set_fair_weight.queue, set_fair_weight.fair_key, set_fair_weight.weight)
    on conflict on constraint fair_weights_pkey do update set weight = excluded.weight;
  end if;
end $$;

-- The place of a queued job's key in its fair queue; null in another queue.
create function jobsworth.why_fair(j jobsworth.reactive_jobs) returns text
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off as $$
declare
  own record;
  others record;
  weight float8;
begin
  if j.fair_key is null or not exists (
    select 1 from jobsworth.queues q where q.name = j.queue and q.fair)
  then
    return null;
  end if;
  select k.virtual_time, k.turn, k.ready into own
  from jobsworth.fair_keys k
  where k.queue = j.queue and k.priority = j.priority and k.fair_key = j.fair_key
  order by k.turn desc
  limit 1;
  if not found or not own.ready then
    return '; its key ' || j.fair_key || ' gets its place within some seconds';
  elsif own.virtual_time is null then
    return '; its key ' || j.fair_key || ' gets its place with the next claim';
  end if;
  weight := coalesce((
    select w.weight from jobsworth.fair_weights w
    where w.queue = j.queue and w.fair_key = j.fair_key), 1);
  select count(*) filter (where (k.virtual_time, k.turn) < (own.virtual_time, own.turn)) as before,
    sum(k.weight) as weights
  into others
  from (
    select r.virtual_time, r.turn, coalesce(w.weight, 1) as weight
    from jobsworth.fair_keys r
    left join jobsworth.fair_weights w on w.queue = r.queue and w.fair_key = r.fair_key
    where r.queue = j.queue and r.priority = j.priority and r.ready and r.virtual_time is not null
    order by r.virtual_time, r.turn
    limit 10000) k;
  return '; ' || case others.before when 0 then 'its key ' || j.fair_key || ' is next'
      when 1 then '1 key is before its key ' || j.fair_key
      else others.before || ' keys are before its key ' || j.fair_key end
    || ', whose share is ' || round((100 * weight / greatest(others.weights, weight))::numeric, 1)
    || ' %';
end $$;
