-- Wake-ups. NOTIFY is a hint and polling is the truth. A commit with NOTIFY takes a lock that the
-- whole cluster shares, so an insert notifies only while a worker is idle.
--
-- The number of idle workers is in a sequence, because the condition of a trigger can read a
-- sequence without a query. Inserts of eight connections, one insert in each commit, no worker
-- idle, as a share of the same inserts into a copy of the table without triggers (medians of 21 to
-- 25 alternating pairs of 4,000): 0.84 with a trigger function that queries `workers`; 0.95 with
-- one that reads the sequence; 0.96 with the sequence read in the condition, as here; 0.94 with a
-- function that does nothing. What is left is mostly the condition of the trigger `arrive`, which
-- each statement parses anew.
--
-- While a worker is idle every commit notifies. A flag that only lets the first one notify would
-- cost an update on both sides for each job that comes alone, and would leave to the poll an insert
-- that saw the flag cleared and commits after the worker has looked again.
--
-- A sequence is not transactional. The next change of a worker corrects what a rollback left wrong:
-- a count that is too high costs a notification in vain, the poll makes up for one that is too low.

-- How many workers are idle.
create sequence jobsworth.idle_workers minvalue 0 start 0;
select setval('jobsworth.idle_workers', 0);

create function jobsworth.count_idle_workers() returns trigger language plpgsql as $$
declare
  idle bigint;
begin
  -- One transaction after the other, so each sees what the ones before it have committed.
  perform pg_advisory_xact_lock(
    'pg_class'::regclass::oid::int, 'jobsworth.idle_workers'::regclass::oid::int);
  select count(*) into idle from jobsworth.workers w where w.idle;
  if idle is distinct from pg_sequence_last_value('jobsworth.idle_workers') then
    perform setval('jobsworth.idle_workers', idle);
  end if;
  return null;
end $$;
create trigger count_idle_workers
  after insert or update of idle or delete or truncate on jobsworth.workers
  for each statement execute function jobsworth.count_idle_workers();

-- Tell idle workers that there may be work: all of them, or for these queued jobs one worker each,
-- which is named and can run it. Every worker that is told looks, most of them in vain: of 24 workers
-- on one lane all looked after each job. `claimant` is told nothing: it looks by itself and takes
-- up to `room` jobs.
create function jobsworth.wake(
  job_ids uuid[] default null, claimant uuid default null, room int default 0)
  returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  if pg_sequence_last_value('jobsworth.idle_workers') > 0 then
    if job_ids is null or cardinality(job_ids) > 16 then
      perform pg_notify('jobsworth.wake', '');
    else
      perform pg_notify('jobsworth.wake', w.id::text)
      from (
        select j.mode, j.queue, o.id is not null as own,
          row_number() over (partition by o.id is not null) as n
        from jobsworth.reactive_jobs j
        left join lateral (
          select c.id from jobsworth.workers c
          where c.id = claimant and j.mode = any(c.modes) and j.queue = any(c.queues)) o on true
        where j.id = any(job_ids)
      ) r
      cross join lateral (
        select i.id from jobsworth.workers i
        where i.idle and not i.draining and i.id is distinct from claimant
          and r.mode = any(i.modes) and r.queue = any(i.queues)
        -- One that has not beaten lately may be dead. By the clock, because this is only a hint.
        order by i.beaten_at < now() - interval '5 seconds', random()
        limit 1
      ) w
      where not r.own or r.n > room;
    end if;
  end if;
end $$;

create function jobsworth.wake_on_insert() returns trigger language plpgsql as $$
begin
  perform pg_notify('jobsworth.wake', '');
  return null;
end $$;
create trigger wake_on_insert after insert on jobsworth.reactive_jobs
  for each statement when (pg_sequence_last_value('jobsworth.idle_workers') > 0)
  execute function jobsworth.wake_on_insert();
