-- What a person does with a whole run: cancel it, run it again, delete it.

-- Cancel a run: all its jobs, at once or when their attempts end, and the jobs that are added to it
-- later. Returns its status.
create function jobsworth.cancel_run(run_id uuid, reason text default 'canceled by a person')
  returns jobsworth.run_status language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  r jobsworth.runs;
  open_jobs uuid[];
begin
  -- The jobs first, then the run: the order in which all lock them. `move_runs` cancels the jobs
  -- that were added while this waited for a lock, or that are added later.
  open_jobs := array(
    select j.id from jobsworth.reactive_jobs j
    where j.run_id = cancel_run.run_id and j.finished_at is null and not j.cancel_requested
    order by j.id for no key update);
  if open_jobs <> '{}' then
    perform jobsworth.cancel_locked(open_jobs, cancel_run.reason);
  end if;
  select x.* into r from jobsworth.runs x where x.id = cancel_run.run_id for no key update;
  if not found then
    raise exception 'there is no run %', cancel_run.run_id using errcode = 'no_data_found',
      hint = 'List runs: jobsworth run list.';
  end if;
  if r.finished_at is not null then
    return r.status;
  end if;
  update jobsworth.runs x set cancel_requested = true where x.id = r.id;
  if exists (select 1 from jobsworth.reactive_jobs j where j.run_id = r.id) then
    perform jobsworth.move_runs(array[r.id]);
  else
    update jobsworth.runs x set status = 'canceled', error = cancel_run.reason where x.id = r.id;
  end if;
  return (select x.status from jobsworth.runs x where x.id = r.id);
end $$;

-- Run the failed and canceled jobs of a run again, and the jobs that were skipped because of them.
-- Jobs that are done stay done. A child runs again if its parent does. Returns how many jobs run
-- again.
create function jobsworth.retry_run(run_id uuid) returns int language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  r jobsworth.runs;
  open_job uuid;
  held uuid[];
  again uuid[];
begin
  -- The jobs first, then the run: the order in which all lock them. All jobs, so the statements
  -- after this see a job that ends, or is run again, just now.
  perform 1 from jobsworth.reactive_jobs j
  where j.run_id = retry_run.run_id order by j.id for no key update;
  select x.* into r from jobsworth.runs x where x.id = retry_run.run_id for no key update;
  if not found then
    raise exception 'there is no run %', retry_run.run_id using errcode = 'no_data_found',
      hint = 'List runs: jobsworth run list.';
  end if;
  select j.id into open_job from jobsworth.reactive_jobs j
  where j.run_id = r.id and j.finished_at is null limit 1;
  if found then
    raise exception 'run % is not over: its job % has not ended', r.id, open_job
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Wait until it is, or run a single job of it again: jobsworth job retry JOB.';
  end if;
  held := array(
    select j.id from jobsworth.reactive_jobs j
    where j.run_id = r.id and j.status::text in ('failed', 'canceled'));
  again := array(
    with recursive again as (
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(held) and not j.is_child
      union all
      select c.id from again a join jobsworth.reactive_jobs c on c.parent_id = a.id
      where c.is_child and c.id = any(held))
    select a.id from again a);
  if again = '{}' or r.status = 'done' then
    raise exception 'run % is %: there is nothing of it to run again', r.id, r.status
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'To do some of it again with other input, fork it: jobsworth run fork ' || r.id;
  end if;
  perform jobsworth.restart_locked(again);
  perform jobsworth.move_runs(array[r.id]);
  return cardinality(again);
end $$;

-- Delete a run that has ended, with its jobs and all rows that belong to them. Rows that only name
-- the jobs stay: ledger, calls, messages, approvals and decisions.
create function jobsworth.delete_run(run_id uuid) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  open_job uuid;
  branch uuid;
begin
  perform 1 from jobsworth.reactive_jobs j where j.run_id = delete_run.run_id
  order by j.id for update;
  perform 1 from jobsworth.runs r where r.id = delete_run.run_id for update;
  if not found then
    raise exception 'there is no run %', delete_run.run_id using errcode = 'no_data_found',
      hint = 'List runs: jobsworth run list.';
  end if;
  select j.id into open_job from jobsworth.reactive_jobs j
  where j.run_id = delete_run.run_id and j.finished_at is null limit 1;
  if found then
    raise exception 'run % is not over: its job % has not ended', delete_run.run_id, open_job
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Cancel it first: jobsworth run cancel ' || delete_run.run_id;
  end if;
  select b.run_id into branch from jobsworth.branches b
  where b.parent_run_id = delete_run.run_id limit 1;
  if found then
    raise exception 'run % is read by its branch %', delete_run.run_id, branch
      using errcode = 'object_not_in_prerequisite_state', hint = 'Delete the branch first.';
  end if;
  delete from jobsworth.reactive_jobs j where j.run_id = delete_run.run_id;
  delete from jobsworth.runs r where r.id = delete_run.run_id;
end $$;
