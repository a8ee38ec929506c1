-- Budget windows that are over are forgotten in bounded batches.
--
-- Ninety days after its settlement a call counts off its windows, in the transaction that forgets
-- it, so the books balance at every instant.

-- Forget what each call counted in windows that are over, `days` after it was settled: at most
-- `most` calls, of the `most` windows after `after`. Delete windows of which nothing is left. What
-- is forgotten is taken off its window in the same commit, so a window is always the sum of its
-- calls.
--
-- A window is over if it is not the present one of its budget; a window of a run, if no job of the
-- run is open. Nothing reads such windows: a truth that comes later corrects the call and the
-- ledger. Returns how many calls it forgot, and the window after which the next call goes on (null:
-- from the first).
create function jobsworth.forget_windows(
  after uuid, days int, most int, out forgotten bigint, out next uuid)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  at timestamptz := clock_timestamp();
  seen uuid[] := array(
    select w.id from jobsworth.budget_windows w where w.id > forget_windows.after
    order by w.id limit most);
  over uuid[];
begin
  delete from jobsworth.budget_waits w
  where w.job_id = any(array(
    select x.job_id from jobsworth.budget_waits x
    where (
      select j.finished_at is null from jobsworth.reactive_jobs j where j.id = x.job_id
    ) is not true
    limit most
    for update skip locked));

  select array_agg(w.id) into over
  from unnest(seen) as s (id)
  cross join lateral (
    select x.id, x.budget_id, x.starts_at, x.run_id from jobsworth.budget_windows x
    where x.id = s.id
    offset 0) w
  cross join lateral (
    select x from jobsworth.budgets x where x.id = w.budget_id offset 0) b
  where w.starts_at < least(jobsworth.window_start(b.x, at), at - make_interval(days => days))
    or ((b.x).period = 'run'
      and (select 1 from jobsworth.reactive_jobs j
        where j.run_id = w.run_id and j.finished_at is null limit 1) is null
      and (select 1 from jobsworth.reactive_jobs j
        where j.id = w.run_id and j.finished_at is null) is null);
  forgotten := 0;
  next := case when cardinality(seen) = most then seen[most] end;
  if over is null then
    return;
  end if;

  -- A late settlement takes this lock too, before it looks for its windows.
  perform jobsworth.lock_money();
  with old as materialized (
    select p.call_id, p.window_id
    from unnest(over) as o (id)
    cross join lateral (
      select x.call_id, x.window_id from jobsworth.call_windows x
      where x.window_id = o.id and (
        select c.settled_at is null or c.settled_at >= at - make_interval(days => days)
        from jobsworth.llm_calls c where c.id = x.call_id) is not true
      limit most) p
    limit most
  ), gone as (
    delete from jobsworth.call_windows p
    using old o
    where p.call_id = o.call_id and p.window_id is not distinct from o.window_id
    returning p.window_id, p.reserved, p.spent
  ), taken_off as (
    update jobsworth.budget_windows w
    set reserved = w.reserved - g.reserved, spent = w.spent - g.spent
    from (
      select x.window_id, sum(x.reserved) as reserved, sum(x.spent) as spent
      from gone x
      group by x.window_id) g
    where w.id = g.window_id
  )
  select count(*) into forgotten from gone;
  delete from jobsworth.budget_windows w
  where w.id = any(over)
    and (select 1 from jobsworth.call_windows p where p.window_id = w.id limit 1) is null;
  if forgotten = most then
    next := forget_windows.after;  -- there may be more of these
  end if;
end $$;
