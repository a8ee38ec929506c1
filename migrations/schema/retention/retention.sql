-- How long jobs that have ended are kept. Without a rule they are kept for ever: their steps are paid
-- answers and their attempts what happened, so nothing leaves that nobody has named.
--
-- What leaves with a job: its steps, artifacts, signals, edges, attempts, metrics and its part in
-- branches. What stays, because it is somebody else's or the books: calls and ledger, approvals and
-- their decisions, deployments, messages, memories (also those still to be embedded), what a schedule
-- fired, and what models were asked (JOBSWORTH_RECORD_CALLS has its own days). A run leaves whole.
-- An `enqueue` that is repeated with an id of its own after its job has left adds the job anew.

create table jobsworth.retention (
  id uuid not null default jobsworth.uuidv7() primary key,
  -- Null: whichever. Of the rules that fit a job, that which names its mode counts, then its queue,
  -- then its status.
  status jobsworth.job_status,
  mode jobsworth.mode,
  queue jobsworth.queue,
  -- From the end of the job. Null: for ever.
  keep_seconds jobsworth.keep_seconds,
  created_at jobsworth.created_at not null default now(),
  constraint status_is_an_end check (status in ('done', 'failed', 'canceled'))
);
create unique index retention_rule on jobsworth.retention (status, mode, queue) nulls not distinct;

-- Whether a job has been kept long enough. A plain SQL expression, so that a statement takes it in.
create function jobsworth.kept_long_enough(
  job_status jobsworth.job_status, job_mode text, job_queue text, job_finished_at timestamptz)
  returns boolean language sql stable
  return coalesce(job_finished_at < now() - interval '1 second' * (
    select r.keep_seconds from jobsworth.retention r
    where (r.status is null or r.status = job_status) and (r.mode is null or r.mode = job_mode)
      and (r.queue is null or r.queue = job_queue)
    order by r.mode is null, r.queue is null, r.status is null
    limit 1), false);

-- Whether nothing needs a job that has ended any more; the jobs of a run leave together, so they do not
-- count for each other. A job that did not end well may be run again,
-- and then finds its children and follow-ups by their keys, so these stay as long as it does: without
-- them it would start, and pay for, each a second time.
create function jobsworth.may_leave(j jobsworth.reactive_jobs) returns boolean
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return j.finished_at is not null
    and not exists (
      select 1 from jobsworth.reactive_jobs p
      where p.id = j.parent_id and p.status <> 'done'
        and (j.run_id is null or p.run_id is distinct from j.run_id))
    and not exists (
      select 1 from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null)
    -- A job that needs it reads its result, in a retry too.
    and not exists (
      select 1 from jobsworth.job_edges e
      join jobsworth.reactive_jobs d on d.id = e.job_id
      where e.needs_job_id = j.id and d.status <> 'done'
        and (j.run_id is null or d.run_id is distinct from j.run_id))
    and not exists (select 1 from jobsworth.branch_reads b where b.from_job_id = j.id)
    and not exists (
      select 1 from jobsworth.approvals a where a.job_id = j.id and a.status = 'pending')
    and not exists (
      select 1 from jobsworth.deployments d where d.job_id = j.id and d.finished_at is null)
    and not exists (
      select 1 from jobsworth.llm_calls c where c.job_id = j.id and c.status = 'started');
end $$;

-- The lowest id (UUIDv7) that can have been made at this time.
create function jobsworth.first_id_at(at timestamptz) returns uuid language sql immutable
  return rpad(lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0'), 32, '0')::uuid;

-- Look at the next `most` jobs after the id `after`, and remove those, and the runs, that have been
-- kept long enough and that nothing needs. `next` is the id after which the next look goes on, null at
-- the end. Ids tell when a job came: those that came too late for any rule are passed over, which
-- leaves the ids that clients have made up at the end. Skips what others hold; does nothing while
-- another worker does the same (`busy`).
create function jobsworth.remove_ended(
  after uuid, most int, out jobs int, out runs int, out next uuid, out busy boolean)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan
  set lock_timeout = '200ms' as $$
declare
  shortest float8 := (select min(r.keep_seconds) from jobsworth.retention r);
  young uuid;
  future uuid := jobsworth.first_id_at(now() + interval '1 hour');
  page uuid[];
  old uuid[];
  held uuid[];
  one uuid;
begin
  jobs := 0;
  runs := 0;
  busy := not pg_try_advisory_xact_lock(hashtextextended('jobsworth.retention', 0));
  if shortest is null or busy then
    return;
  end if;
  young := jobsworth.first_id_at(
    greatest(now() - shortest * interval '1 second', '1970-01-01 00:00:00+00'));
  if after < young then
    page := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id > after and j.id < young order by j.id limit most);
    next := coalesce(page[most], greatest(young, future));
  else
    page := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id > greatest(after, future) order by j.id limit most);
    next := page[most];
  end if;

  old := array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(page) and j.finished_at is not null
      and jobsworth.kept_long_enough(j.status, j.mode, j.queue, j.finished_at));
  if old = '{}' then
    return;
  end if;
  -- Lock, then look again: a retry, or a job that needs it, may have come in between.
  held := array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(old) and j.run_id is null and jobsworth.may_leave(j)
    order by j.id for update skip locked);
  delete from jobsworth.reactive_jobs j
  where j.id = any(held) and jobsworth.may_leave(j)
    and jobsworth.kept_long_enough(j.status, j.mode, j.queue, j.finished_at);
  get diagnostics jobs = row_count;

  for one in
    select distinct j.run_id from jobsworth.reactive_jobs j
    where j.id = any(old) and j.run_id is not null
  loop
    begin
      if jobsworth.run_may_leave(one) then
        perform jobsworth.delete_run(one);
        runs := runs + 1;
      end if;
    -- Somebody holds one of its jobs, has run one again, or has just forked it.
    exception when lock_not_available or object_not_in_prerequisite_state
      or foreign_key_violation then
      null;
    end;
  end loop;
end $$;

-- Whether a run and all its jobs have been kept long enough, and nothing needs any of them. While a
-- branch reads a run, the run stays.
create function jobsworth.run_may_leave(run_id uuid) returns boolean language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return exists (
      select 1 from jobsworth.runs r
      where r.id = run_may_leave.run_id and r.finished_at is not null)
    and not exists (
      select 1 from jobsworth.branches b where b.parent_run_id = run_may_leave.run_id)
    and not exists (
      select 1 from jobsworth.reactive_jobs j
      where j.run_id = run_may_leave.run_id and (j.finished_at is null
        or not jobsworth.kept_long_enough(j.status, j.mode, j.queue, j.finished_at)
        or not jobsworth.may_leave(j)));
end $$;
