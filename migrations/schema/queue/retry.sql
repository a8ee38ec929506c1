-- Run jobs again.

-- Give a failed or canceled job a fresh start, as if it had just been inserted, and with it those of
-- its children that did not end well: it would find them as they are, and fail again. Run a job that
-- waits for a timer now. Returns its status.
create function jobsworth.retry(job_id uuid) returns jobsworth.job_status
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  j jobsworth.reactive_jobs;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = retry.job_id for no key update;
  if not found then
    raise exception 'there is no job %', retry.job_id using errcode = 'no_data_found',
      hint = 'List jobs: jobsworth jobs.';
  elsif j.status not in ('failed', 'canceled')
    and (j.status <> 'waiting' or j.waiting_for <> 'timer')
  then
    raise exception 'job % is %: only a failed, canceled or timed job can be run again',
      j.id, j.status using errcode = 'object_not_in_prerequisite_state',
      hint = 'see what it waits for: jobsworth why ' || j.id;
  end if;
  perform jobsworth.retry_locked(array[j.id]);
  return (select x.status from jobsworth.reactive_jobs x where x.id = j.id);
end $$;

-- Run jobs again that this transaction has locked: those that failed, were canceled or wait for a
-- timer. The others are left alone.
create function jobsworth.retry_locked(job_ids uuid[]) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  timed uuid[];
  ended uuid[];
begin
  with due as (
    update jobsworth.reactive_jobs x set run_at = clock_timestamp()
    where x.id = any(job_ids) and x.status::text = 'waiting' and x.waiting_for = 'timer'
    returning x.id)
  select array_agg(d.id) into timed from due d;
  if timed is not null then
    perform jobsworth.reconsider(timed, wait_for_locks => true);
  end if;
  ended := array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(job_ids) and j.status::text in ('failed', 'canceled'));
  if ended <> '{}' then
    perform jobsworth.restart_locked(ended || array(
      with recursive below as (
        select c.id from jobsworth.reactive_jobs c
        where c.parent_id = any(ended) and c.is_child and c.status in ('failed', 'canceled')
        union
        select c.id from below b
        join jobsworth.reactive_jobs c on c.parent_id = b.id
        where c.is_child and c.status in ('failed', 'canceled')
      )
      select x.id from below b
      join jobsworth.reactive_jobs x on x.id = b.id
      where x.status in ('failed', 'canceled')
      for no key update of x));
  end if;
end $$;

-- Give a fresh start to failed and canceled jobs that this transaction has locked. A job that ended
-- with a no asks its question again; the no stays in the books. One that expired does not expire again:
-- a person wants it now.
create function jobsworth.restart_locked(job_ids uuid[]) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  taken record;
  free uuid[];
  others uuid[];
begin
  select j.id, j.unique_key, x.id as holder into taken
  from jobsworth.reactive_jobs j
  join jobsworth.reactive_jobs x
    on x.unique_key = j.unique_key and x.team_id is not distinct from j.team_id
  where j.id = any(job_ids) and x.finished_at is null
    and (x.unique_until is distinct from 'start' or x.attempt = 0)
    and (j.unique_until is distinct from 'start' or j.attempt = 0)
  limit 1;
  if found then
    raise exception 'job % cannot run again: job % holds its unique key %',
      taken.id, taken.holder, taken.unique_key
      using errcode = 'unique_violation', hint = 'Wait for that job, or cancel it first.';
  end if;
  -- Their steps stay recorded and paid. Only a deployment that did not become healthy is made anew.
  delete from jobsworth.steps p
  using jobsworth.deployments d
  where d.job_id = any(job_ids) and d.status in ('failed', 'rolled_back')
    and p.job_id = d.job_id and p.kind = 'phase' and starts_with(p.name, d.step_name || ':');
  update jobsworth.deployments d
  set step_name = d.step_name || ' before ' || d.id
  where d.job_id = any(job_ids) and d.status in ('failed', 'rolled_back');

  update jobsworth.llm_calls c set limited = false where c.job_id = any(job_ids) and c.limited;
  update jobsworth.approvals a set effect_key = null
  where a.job_id = any(job_ids) and a.superseded_by is null and a.chosen_option = 'reject';

  -- A job that has no lane, needs no other and is part of no run is queued at once: for many that takes
  -- half as long. The others wait for a timer that is due, so `reconsider` gives each its place. If a
  -- job that they need is open, or is restarted here too, they wait for that job.
  select coalesce(array_agg(j.id) filter (where j.free), '{}'),
    coalesce(array_agg(j.id) filter (where not j.free), '{}')
  into free, others
  from (
    select x.id, x.lane is null and x.run_id is null and not exists (
      select 1 from jobsworth.job_edges e where e.job_id = x.id) as free
    from jobsworth.reactive_jobs x
    where x.id = any(job_ids)) j;
  begin
    with placed as materialized (
      select u.id, nextval('jobsworth.job_position'::regclass) as position
      from (select f.id from unnest(free) as f (id) order by f.id) u
    )
    update jobsworth.reactive_jobs x
    set status = 'queued', run_at = clock_timestamp(), finished_at = null, position = p.position,
        failures = 0, crashes = 0, cancel_requested = false, error = null, result = null,
        expires_at = null, superseded_by = null
    from placed p
    where x.id = any(array[p.id]);
    update jobsworth.reactive_jobs x
    set status = 'waiting', run_at = clock_timestamp(), finished_at = null,
        waiting_for = case when exists (
            select 1 from jobsworth.job_edges e
            join jobsworth.reactive_jobs p on p.id = e.needs_job_id
            where e.job_id = x.id and (p.finished_at is null or p.id = any(job_ids)))
          then 'parents' else 'timer' end::jobsworth.wait_reason,
        failures = 0, crashes = 0, cancel_requested = false, error = null, result = null,
        lane_position = null, expires_at = null, superseded_by = null
    where x.id = any(others);
  exception when unique_violation then
    raise exception 'job % cannot run again: another job has just taken its unique key %',
      (select string_agg(j.id::text, ' or ') from jobsworth.reactive_jobs j
        where j.id = any(job_ids) and j.unique_key is not null),
      (select string_agg(distinct j.unique_key, ' or ') from jobsworth.reactive_jobs j
        where j.id = any(job_ids))
      using errcode = 'unique_violation', hint = 'Wait for that job, or cancel it first.';
  end;
  if free <> '{}' then
    perform jobsworth.wake(free);
  end if;
  if others <> '{}' then
    perform jobsworth.reconsider(others, wait_for_locks => true);
  end if;
end $$;
