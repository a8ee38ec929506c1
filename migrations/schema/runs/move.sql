-- A run takes the status that its jobs imply.
--
-- All jobs of a run share its row, so nothing waits for it and no finishing transaction touches it.
-- After the commit, `move_runs` looks at the jobs; only if the run has to move it locks the row (or
-- skips a locked one, and the caller looks again), and then looks at the jobs once more, because a
-- look before the lock is no fence.
--
-- A run failed if a job failed that nobody tolerates; children are judged by their parent, and what
-- others outside the run hang on its jobs does not count.

-- Call this after a commit that moved jobs of these runs. Returns the runs that the caller must
-- look at again: those that have to move and that another transaction has locked, and those that
-- have just begun to wait, because a transaction that lets one of their jobs go on at this moment
-- still sees the run executing. Never waits.
create function jobsworth.move_runs(run_ids uuid[]) returns uuid[] language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  moving uuid[];
  held uuid[];
  one jobsworth.runs;
  verdict record;
  late uuid[];
  waiting uuid[] := '{}';
begin
  moving := array(
    select r.id from jobsworth.runs r
    where r.id = any(run_ids) and jobsworth.run_must_move(r)
    order by r.id);
  if moving = '{}' then
    return moving;
  end if;
  held := array(
    select r.id from jobsworth.runs r
    where r.id = any(moving) order by r.id for no key update skip locked);
  for one in
    select r.* from jobsworth.runs r
    where r.id = any(held) and jobsworth.run_must_move(r) order by r.id
  loop
    verdict := jobsworth.run_verdict(one.id);
    if verdict.status <> one.status or one.finished_at is not null then
      perform set_config('jobsworth.why', coalesce(verdict.error, 'as its jobs'), true);
      -- An ended run must execute again before it can end again.
      update jobsworth.runs r set status = 'executing'
      where r.id = one.id and r.finished_at is not null and verdict.status <> 'waiting';
      update jobsworth.runs r
      set status = verdict.status, result = verdict.result, error = verdict.error
      where r.id = one.id;
      perform set_config('jobsworth.why', '', true);
      if verdict.status = 'waiting' then
        waiting := waiting || one.id;
      end if;
    end if;
    -- Jobs that were added to a run that is being canceled are canceled too.
    if one.cancel_requested and one.finished_at is null then
      late := array(
        select j.id from jobsworth.reactive_jobs j
        where j.run_id = one.id and j.finished_at is null and not j.cancel_requested
        order by j.id for no key update skip locked);
      if late <> '{}' then
        perform jobsworth.cancel_locked(late, 'its run was canceled');
      end if;
    end if;
  end loop;
  return waiting || array(
    select m.id from unnest(moving) m (id) except select h.id from unnest(held) h (id));
end $$;

-- Whether the status of a run is not the one that its jobs imply. A draft without jobs, a plan
-- whose jobs have not been claimed, and a run that was ended after the last of its jobs keep their
-- status.
create function jobsworth.run_must_move(r jobsworth.runs) returns boolean language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  if r.finished_at is not null then
    return exists (
      select 1 from jobsworth.reactive_jobs j
      where j.run_id = r.id and (j.finished_at is null or j.finished_at > r.finished_at));
  end if;
  if r.cancel_requested and exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = r.id and j.finished_at is null and not j.cancel_requested)
  then
    return true;
  end if;
  if exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = r.id and j.finished_at is null
      and j.status::text in ('queued', 'running'))
  then
    return r.status = 'waiting' or r.status in ('draft', 'planning') and exists (
      select 1 from jobsworth.reactive_jobs j
      where j.run_id = r.id and (j.finished_at is not null or j.attempt > 0));
  elsif exists (
    select 1 from jobsworth.reactive_jobs j where j.run_id = r.id and j.finished_at is null)
  then
    return r.status = 'executing' or r.status in ('draft', 'planning') and exists (
      select 1 from jobsworth.reactive_jobs j
      where j.run_id = r.id and (j.finished_at is not null or j.attempt > 0));
  end if;
  return exists (select 1 from jobsworth.reactive_jobs j where j.run_id = r.id);
end $$;

-- The status, result and error that the jobs of a run imply; null if it has no jobs.
--
-- When all jobs have ended, the run is failed (else canceled) if one of its jobs is, unless that
-- job is tolerated:
-- - a child: its parent gathers it and judges;
-- - a job that was skipped: the job that it needed is judged;
-- - a job that other jobs of the run need, if the edges of all these say `skip` or `run`.
-- The last two do not apply to a job that a person canceled, nor to a run of which no job is done.
-- Only jobs of this run count: a job of another run that needs one of them changes nothing here.
create function jobsworth.run_verdict(
  run_id uuid, out status jobsworth.run_status, out result jsonb, out error text)
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  failed text;
  canceled text;
  sinks int;
  bytes bigint;
  results jsonb;
begin
  -- `status::text`: by the enum itself the planner may read another index, of all queued jobs.
  if exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = run_verdict.run_id and j.finished_at is null
      and j.status::text in ('queued', 'running'))
  then
    status := 'executing';
  elsif exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = run_verdict.run_id and j.finished_at is null)
  then
    status := 'waiting';
  end if;
  if status is not null then
    return;
  end if;

  select string_agg(b.said, '; ' order by b.id) filter (where b.ended = 'failed'),
    string_agg(b.said, '; ' order by b.id) filter (where b.ended = 'canceled')
  into failed, canceled
  from (
    select j.id, j.status::text as ended,
      coalesce(j.node, j.id::text) || ': ' || left(coalesce(j.error, 'no message'), 200) as said
    from jobsworth.reactive_jobs j
    where j.run_id = run_verdict.run_id and j.status::text in ('failed', 'canceled')
      and not j.is_child and (
        j.status::text = 'canceled' and j.cancel_requested
        or not (
          j.status::text = 'canceled' and exists (
            select 1 from jobsworth.job_edges e
            join jobsworth.reactive_jobs p on p.id = e.needs_job_id
            where e.job_id = j.id and e.on_failure = 'skip' and p.status <> 'done')
          or (
            select bool_and(e.on_failure <> 'fail') from jobsworth.job_edges e
            join jobsworth.reactive_jobs n on n.id = e.job_id
            where e.needs_job_id = j.id and n.run_id = j.run_id) is true))
    order by j.id
    limit 20
  ) b;

  -- The ends of the run: the jobs that no other job came after.
  select count(*), sum(pg_column_size(s.result)),
    jsonb_object_agg(s.name, s.result) filter (where s.status = 'done')
  into sinks, bytes, results
  from (
    select coalesce(j.node, j.id::text) as name, j.status, j.result
    from jobsworth.reactive_jobs j
    where j.run_id = run_verdict.run_id and not j.is_child
      and not exists (
        select 1 from jobsworth.job_edges e
        join jobsworth.reactive_jobs n on n.id = e.job_id
        where e.needs_job_id = j.id and n.run_id = j.run_id)
      and not exists (
        select 1 from jobsworth.reactive_jobs f
        where f.parent_id = j.id and not f.is_child and f.run_id = j.run_id)
  ) s;
  if sinks = 0 then
    return;
  end if;

  if failed is null and canceled is null and results is null and not exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = run_verdict.run_id and j.status::text = 'done' and not j.is_child)
  then
    select string_agg(b.said, '; ' order by b.id) filter (where b.ended = 'failed'),
      string_agg(b.said, '; ' order by b.id)
    into failed, canceled
    from (
      select j.id, j.status::text as ended,
        coalesce(j.node, j.id::text) || ': ' || left(coalesce(j.error, 'no message'), 200) as said
      from jobsworth.reactive_jobs j
      where j.run_id = run_verdict.run_id and j.status::text in ('failed', 'canceled')
        and not j.is_child
      order by j.status::text = 'canceled', j.id
      limit 20
    ) b;
  end if;

  status := case when failed is not null then 'failed' when canceled is not null then 'canceled'
    else 'done' end;
  error := left(coalesce(failed, canceled), 2000);
  if bytes <= 1048576 then
    result := case when sinks = 1 then (select r.value from jsonb_each(results) r) else results end;
  end if;
end $$;
