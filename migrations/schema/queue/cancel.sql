-- Cancel jobs.

-- Cancel a job: at once if it is not running, else when its attempt ends. Returns its status.
create function jobsworth.cancel(job_id uuid, reason text default 'canceled by a person')
  returns jobsworth.job_status language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  j jobsworth.reactive_jobs;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = cancel.job_id for no key update;
  if not found then
    raise exception 'there is no job %', cancel.job_id using errcode = 'no_data_found',
      hint = 'List jobs: jobsworth jobs.';
  end if;
  if j.finished_at is null then
    perform jobsworth.cancel_locked(array[j.id], cancel.reason);
  end if;
  return (select x.status from jobsworth.reactive_jobs x where x.id = j.id);
end $$;

-- Cancel jobs that this transaction has locked: at once if they are not running, else when their
-- attempts end.
create function jobsworth.cancel_locked(job_ids uuid[], reason text) returns void
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  ended uuid[];
begin
  update jobsworth.reactive_jobs j
  set cancel_requested = true, error = reason
  where j.id = any(job_ids) and j.status = 'running';
  if found then
    perform pg_notify('jobsworth.cancel', '');
  end if;
  with stopped as (
    update jobsworth.reactive_jobs j
    set status = 'canceled', waiting_for = null, waiting_detail = null, run_at = null,
        cancel_requested = true, error = reason, finished_at = now()
    where j.id = any(job_ids) and j.status in ('queued', 'waiting')
    returning j.id)
  select array_agg(s.id) into ended from stopped s;
  if ended is not null then
    perform jobsworth.unblock(ended);
  end if;
end $$;
