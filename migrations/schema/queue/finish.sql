-- Finish jobs: one message for all attempts that ended meanwhile.
--
-- A function, as the claim is. The planner is kept on the primary key: with stale statistics, or
-- with an empty table when the statement was first planned, the join with the batch became a hash
-- join over a scan of the whole table, and 70,000 jobs/s became 9,000.
--
-- The fence locks by the primary key alone and compares the lease after that (see db/fence.py).
-- Scalar subqueries stand where `exists` would: that became a hash of a scan of the whole table,
-- 1.3 ms a batch at 20,000 rows and growing.

-- Apply each transition to its job, if the attempt still has its lease (the fence). Returns the
-- transitions that were applied, by their number in the arrays; a transition missing from the
-- result was not written. Never waits for another transaction; what may still wait (a trigger of a
-- user, a table that is being altered) is given up after a moment. An array may be null if none of
-- its values is set.
create function jobsworth.finish(
  ids uuid[], lease_nos bigint[], worker_ids uuid[], statuses jobsworth.job_status[],
  waiting_fors jobsworth.wait_reason[], waiting_details text[], delays float8[],
  faileds boolean[], results jsonb[], errors text[])
  returns table (n bigint, status text, unblocks boolean)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan
  set lock_timeout = '200ms' as $$
#variable_conflict use_column
begin
  return query
  with ended as materialized (
    -- An array whose values are all unset is sent as null, so nothing of it is written, sent or
    -- read.
    select e.n, e.id, e.lease_no, e.worker_id, coalesce(e.status, 'done') as status, e.waiting_for,
      e.waiting_detail, e.delay_seconds, coalesce(e.failed, false) as failed, e.result, e.error
    from unnest(
      finish.ids, finish.lease_nos, finish.worker_ids,
      finish.statuses, finish.waiting_fors,
      finish.waiting_details, finish.delays, finish.faileds,
      finish.results, finish.errors)
      with ordinality as e (id, lease_no, worker_id, status, waiting_for, waiting_detail,
        delay_seconds, failed, result, error, n)
  ), locked as materialized (
    -- Found by the primary key alone: the planner believes that the index of running jobs is empty,
    -- and would read all of it for each job. A row that is locked, because a signal or a decision
    -- is being delivered to it, is left for the next batch.
    select e.n, e.id, e.status, e.waiting_for, e.waiting_detail, e.delay_seconds, e.failed,
      e.result, e.error,
      j.status = 'running' and j.lease_no = e.lease_no and j.worker_id = e.worker_id as ours
    from ended e
    cross join lateral (
      select r.status, r.lease_no, r.worker_id
      from jobsworth.reactive_jobs r
      where r.id = e.id
      for no key update skip locked
    ) j
  ), held as materialized (
    -- The fence.
    select l.n, l.id, l.status, l.waiting_for, l.waiting_detail, l.delay_seconds, l.failed,
      l.result, l.error
    from locked l
    where l.ours
  )
  -- `any(array[…])` forces a look-up by the primary key for each held row. A plain equality was
  -- planned the other way round, over the whole index, when the table was empty. (`ctid` would save
  -- 1 µs a job, but would miss a row that changed between our snapshot and our lock.) The columns
  -- of the target itself are read after the lock, so a cancel that came just before is seen. A
  -- subquery would still see the snapshot from before the lock.
  update jobsworth.reactive_jobs j
  set status = case when j.cancel_requested and h.status in ('queued', 'waiting') then 'canceled'
      else h.status end,
    waiting_for = case when not j.cancel_requested then h.waiting_for end,
    waiting_detail = case when not j.cancel_requested then h.waiting_detail end,
    run_at = case when j.cancel_requested then null
      when h.status = 'waiting'
        then now() + h.delay_seconds::jobsworth.delay_seconds * interval '1 second'
      when h.status = 'queued' then now() end,
    position = case when h.status = 'queued' then nextval('jobsworth.job_position'::regclass)
      else j.position end,
    finished_at = case when j.cancel_requested or h.status in ('done', 'failed', 'canceled')
      then now() end,
    failures = j.failures + h.failed::int,
    result = case when h.status = 'done' then coalesce(h.result, 'null') else j.result end,
    error = case when h.status = 'done' then null
      when j.cancel_requested then coalesce(j.error, h.error)
      else coalesce(h.error, j.error) end
  from held h
  where j.id = any(array[h.id])
  returning h.n, j.status::text, (
    -- Scalar subqueries: `exists` may become a hash of a scan over the whole table.
    j.lane is not null or j.run_id is not null or j.is_child or j.status = 'waiting'
    or j.limited is not null
    or (select true from jobsworth.job_edges e where e.needs_job_id = j.id limit 1) is not null
    or (select true from jobsworth.approvals a
      where a.job_id = j.id and a.status = 'pending' limit 1) is not null
    or (select true from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null limit 1) is not null
    ) as unblocks;
end $$;
