-- What a dead worker, or a late commit, left behind: upkeep asks `due_work` what there is to do, in
-- one message. Nothing here reads a whole table, or index entries that are long dead.
--
-- Upkeep asks once what there is to do and then does only that. Eight parts with a poll of their
-- own took 4 of the 7 statements a second of a worker without work. What does walk dead entries
-- comes more seldom the longer it takes: at most a hundredth of the time.

-- Running jobs without a living worker: the jobs of the workers in `dead` whose number of beats is
-- still the one in `beats`, and the jobs of ids that have no row in `workers`. The latter lie in the
-- index between the ids that have one. A scan of all running jobs read one dead index entry for each
-- job that any worker had run while somebody held a snapshot: 40 ms after 200,000 jobs.
create function jobsworth.jobs_of_dead_workers(dead uuid[], beats bigint[])
  returns table (id uuid, lease_no bigint, worker_id uuid) language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  -- `offset 0` keeps the order of the join: first a worker, or a gap, then the index of running
  -- jobs.
  return query
  with worker as materialized (
    select w.id, exists (
        select 1
        from unnest(jobs_of_dead_workers.dead, jobs_of_dead_workers.beats) as d (id, beats)
        where d.id = w.id and d.beats = w.beats) as is_dead
    from jobsworth.workers w
  ), gap as materialized (
    select e.id as above, lead(e.id) over (order by e.id) as below
    from (
      select w.id from worker w
      union values ('00000000-0000-0000-0000-000000000000'::uuid),
        ('ffffffff-ffff-ffff-ffff-ffffffffffff')
    ) e
  )
  select j.id, j.lease_no, j.worker_id
  from worker w
  cross join lateral (
    select r.id, r.lease_no, r.worker_id
    from jobsworth.reactive_jobs r
    where r.status = 'running' and r.worker_id is not null and r.worker_id = w.id
    offset 0
  ) j
  where w.is_dead
  union all
  select j.id, j.lease_no, j.worker_id
  from gap g
  cross join lateral (
    select r.id, r.lease_no, r.worker_id
    from jobsworth.reactive_jobs r
    where r.status = 'running' and r.worker_id is not null
      and r.worker_id > g.above and r.worker_id < g.below
    offset 0
  ) j;
end $$;

-- The heads of lanes that wait although nothing comes before them, because a crash or a late commit
-- kept anybody from moving them on. It goes through the index from lane to lane, so a deep lane
-- costs as much as a short one, and looks at up to `most` lanes after the lane `after`. `next` is
-- the lane after which the next look goes on (null: from the first).
create function jobsworth.stalled_lanes(after text, most int, out heads uuid[], out next text)
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  head record;
begin
  heads := '{}';
  next := after;
  for looked in 1 .. most loop
    select o.id, o.lane, o.lane_position, o.waiting_for into head
    from jobsworth.reactive_jobs o
    where o.lane > next and o.lane_position is not null and o.finished_at is null
      and (o.waiting_for is null or o.waiting_for not in ('approval', 'signal') or o.holds_lane)
    order by o.lane, o.lane_position, o.id
    limit 1;
    if not found then
      next := null;
      return;
    end if;
    next := head.lane;
    if head.waiting_for = 'lane'
      and not jobsworth.lane_blocked(head.lane, head.lane_position, head.id)
    then
      heads := heads || head.id;
    end if;
  end loop;
end $$;

-- The jobs that wait for `reason` although it is gone, among the `newest` newest ones and up to `most`
-- after the job `after`; at most 1,000 of the latter. `next` is the job after which the next look goes
-- on (null: from the first). One look into an index tells that most have to wait, in a sixth of the
-- time of `reason_gone`, which decides about the rest. With `exists` the planner read all open
-- approvals for each slice.
create function jobsworth.stalled_waits(
  reason jobsworth.wait_reason, after uuid, most int, newest int, out ids uuid[], out next uuid)
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  modes text[];
  recent uuid[];
begin
  if reason = 'handler' then
    modes := array(select distinct m.mode from jobsworth.workers w, unnest(w.modes) as m (mode));
  end if;
  recent := array(
    select j.id from jobsworth.reactive_jobs j
    where j.status = 'waiting' and j.waiting_for = stalled_waits.reason
    order by j.id desc
    limit newest);
  with slice as materialized (
    select j.id, j.mode, j.run_at
    from jobsworth.reactive_jobs j
    where j.status = 'waiting' and j.waiting_for = stalled_waits.reason
      and j.id > stalled_waits.after
    order by j.id
    limit most
  )
  select array(
      select s.id
      from slice s
      where case stalled_waits.reason
          when 'parents' then (
            select true from jobsworth.job_edges e
            join jobsworth.reactive_jobs p on p.id = e.needs_job_id
            where e.job_id = s.id and p.finished_at is null limit 1) is null
          when 'children' then (
            select true from jobsworth.reactive_jobs c
            where c.parent_id = s.id and c.is_child and c.finished_at is null limit 1) is null
          when 'approval' then (
            select true from jobsworth.approvals a
            where a.job_id = s.id and a.status = 'pending' limit 1) is null
          when 'signal' then (
            select true from jobsworth.signals g
            where g.job_id = s.id and g.received_at is null limit 1)
          when 'handler' then s.mode = any(modes)
          else true
        end
        or stalled_waits.reason not in ('parents', 'handler') and s.run_at <= clock_timestamp()
        or stalled_waits.reason in ('children', 'approval', 'signal') and (
          select true from jobsworth.steps m
          where m.job_id = s.id and m.name = 'waits#several' limit 1)
      order by s.id),
    (select (array_agg(s.id order by s.id desc))[1] from slice s having count(*) = most)
  into ids, next;
  ids := array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(ids) and j.status::text = 'waiting' and jobsworth.reason_gone(j)
    order by j.id
    limit 1000);
  next := coalesce(ids[1000], next);
  ids := ids || array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(recent) and j.status::text = 'waiting' and jobsworth.reason_gone(j));
end $$;

-- Close the open approvals and children of jobs that have ended. It looks at the newest open ones,
-- and at the `most` approvals and `most` children after the job `after`. Returns for how many jobs
-- it closed something, and the job after which the next call goes on (null: from the first). It
-- starts from what is open: a join from the jobs read the whole table once many approvals were
-- pending (0.4 s at a million).
create function jobsworth.close_orphans(after uuid, most int, out closed int, out next uuid)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  newest uuid[];
  asked uuid[];
  parents uuid[];
  ended uuid[];
begin
  newest := array(
    (select a.job_id from jobsworth.approvals a
     where a.status = 'pending' and a.job_id is not null
     order by a.job_id desc limit most)
    union
    (select c.parent_id from jobsworth.reactive_jobs c
     where c.is_child and c.finished_at is null and c.parent_id is not null
     order by c.parent_id desc limit most));
  asked := array(
    select a.job_id from jobsworth.approvals a
    where a.status = 'pending' and a.job_id > close_orphans.after
    order by a.job_id limit most);
  parents := array(
    select c.parent_id from jobsworth.reactive_jobs c
    where c.is_child and c.finished_at is null and c.parent_id > close_orphans.after
    order by c.parent_id limit most);
  -- A child that was asked to stop already is left alone.
  ended := array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(newest || asked || parents) and j.finished_at is not null and (
      exists (select 1 from jobsworth.approvals a where a.job_id = j.id and a.status = 'pending')
      or exists (
        select 1 from jobsworth.reactive_jobs c
        where c.parent_id = j.id and c.is_child and c.finished_at is null
          and not c.cancel_requested)));
  if ended <> '{}' then
    perform jobsworth.unblock(ended);
  end if;
  closed := cardinality(ended);
  -- The next slice begins where the first of the two lists ended. A list that is shorter than
  -- `most` has reached its end.
  next := least(asked[most], parents[most]);
end $$;

-- What upkeep has to do now. `rescue`: the worker of a running job has no row. `sweep`: the reasons
-- for which a job waits, `orphan` if something open might belong to an ended job, `run` if a run is
-- open. `gates`: jobs wait at gates, or something of limits may have to be deleted. `schedule_in`: in
-- how many seconds a schedule fires or has to be planned, null if none does. `rate_in`: in how many
-- seconds a job that waits for the rate of a limit has its turn, null if none does.
-- `fair_queues`: their names. `looked_seconds`: how long it took to find out.
create function jobsworth.due_work(
  out rescue boolean, out expire boolean, out expired_jobs boolean, out deployments boolean,
  out sweep text[], out gates boolean, out schedule_in float8, out rate_in float8, out fair_queues text[],
  out looked_seconds float8)
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  rescue := exists (select 1 from jobsworth.jobs_of_dead_workers('{}', '{}'));
  expire := exists (
    select 1 from jobsworth.approvals a
    where a.status = 'pending' and a.deadline <= clock_timestamp());
  expired_jobs := exists (
    select 1 from jobsworth.reactive_jobs j
    where j.expires_at is not null and j.expires_at <= clock_timestamp() and j.attempt = 0
      and j.status in ('queued', 'waiting'));
  deployments := exists (
    select 1
    from jobsworth.deployments d
    cross join lateral (
      select 1 from jobsworth.reactive_jobs j
      where j.id = d.job_id and j.finished_at is not null
    ) ended
    where d.finished_at is null);
  sweep := array(
    select r.reason::text
    from unnest(array['lane', 'children', 'approval', 'signal', 'parents', 'handler',
      'budget', 'person']::jobsworth.wait_reason[]) as r (reason)
    where exists (
      select 1 from jobsworth.reactive_jobs j
      where j.status = 'waiting' and j.waiting_for = r.reason));
  if exists (select 1 from jobsworth.approvals a where a.status = 'pending')
    or exists (
      select 1 from jobsworth.reactive_jobs c where c.is_child and c.finished_at is null)
  then
    sweep := sweep || 'orphan'::text;
  end if;
  if exists (
    select 1 from jobsworth.runs r where r.finished_at is null and r.status <> 'draft')
  then
    sweep := sweep || 'run'::text;
  end if;
  -- Of what waits at gates, one look for each gate.
  gates := exists (
      select 1 from jobsworth.reactive_jobs j
      where j.status = 'waiting' and j.waiting_for = 'limit' and j.run_at is null)
    or exists (select 1 from jobsworth.job_limit_slots)
    or exists (select 1 from jobsworth.job_limit_rates);
  fair_queues := array(select q.name::text from jobsworth.queues q where q.fair);
  schedule_in := jobsworth.next_schedule_in();
  rate_in := jobsworth.next_rate_in();
  looked_seconds := extract(epoch from clock_timestamp() - statement_timestamp());
end $$;
