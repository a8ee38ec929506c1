-- Jobs that are of no use unless they begin in time: `expires_at`.
--
-- The claim looks at the time, so no job begins after it. One that has begun its first attempt in time
-- goes on: its retries and waits do not expire. It ends as canceled, not as failed (as Celery revokes
-- such a task): nothing went wrong that a retry or an alarm could help.

-- Cancel up to `most` jobs that should have begun by now and have not; returns how many. Skips those
-- that others have locked. The claim looks at the time too, so none of them has begun.
create function jobsworth.expire_jobs(most int) returns int language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  expired uuid[];
begin
  expired := array(
    select j.id from jobsworth.reactive_jobs j
    where j.expires_at is not null and j.expires_at <= clock_timestamp() and j.attempt = 0
      and j.status in ('queued', 'waiting')
    order by j.expires_at
    limit most
    for no key update skip locked);
  if expired <> '{}' then
    perform jobsworth.cancel_locked(expired, 'expired: it had not started by its expires_at');
  end if;
  return cardinality(expired);
end $$;
