-- Set and remove limits of jobs.

-- Set a limit of jobs, or change the given parts of one. It holds for the claims that begin after
-- the commit; jobs that match and run by then count for it too. Those that a claim of that very
-- moment has begun may not.
create function jobsworth.set_job_limit(
  limit_name text, queue text default null, mode text default null, per text default null,
  slots int default null, rate int default null, per_seconds float8 default null,
  burst int default null)
  returns jobsworth.job_limits language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  l jobsworth.job_limits;
  wrong text[];
begin
  select x.* into l from jobsworth.job_limits x
  where x.limit_name = set_job_limit.limit_name for no key update;
  wrong := case
    when coalesce(set_job_limit.limit_name, '') !~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$'
      then array[format('%L is not the name of a limit', set_job_limit.limit_name),
        'Use 1 to 100 letters, digits and _ . : -, a letter or digit first.']
    when least(set_job_limit.slots, set_job_limit.rate, set_job_limit.burst) < 1
      then array[format('limit %s of %s lets nothing run', set_job_limit.limit_name,
          least(set_job_limit.slots, set_job_limit.rate, set_job_limit.burst)),
        'Give a number from 1 on. To let nothing run, pause the queue: jobsworth queue pause.']
    when set_job_limit.queue = '' or octet_length(set_job_limit.queue) > 1000
      then array['queue must have 1 to 1000 bytes', 'Leave it out for all queues.']
    when set_job_limit.mode = ''
      then array['mode is empty', 'Leave it out for all modes.']
    when set_job_limit.slots is not null
        and (set_job_limit.rate is not null or set_job_limit.per_seconds is not null)
      then array[format('limit %s has both slots and a rate', set_job_limit.limit_name),
        'Set two limits: a job may have to pass up to four.']
    when set_job_limit.per not in ('team', 'thread', 'lane', 'agent', 'key')
      then array[format('a limit per %s is not known', set_job_limit.per),
        'Give team, thread, lane, agent or key (the limit_key of the job), or nothing.']
    when not (set_job_limit.per_seconds >= 0.001 and set_job_limit.per_seconds <= 3153600000)
      then array[format('%s seconds is not a time', set_job_limit.per_seconds),
        'Give 0.001 seconds to 100 years.']
  end;
  if wrong is null then
    l.limit_name := set_job_limit.limit_name;
    l.queue := coalesce(set_job_limit.queue, l.queue);
    l.mode := coalesce(set_job_limit.mode, l.mode);
    l.per := coalesce(set_job_limit.per::jobsworth.limit_per, l.per);
    if set_job_limit.slots is not null then
      l.burst := case when l.rate is null then l.burst end;
      l.slots := set_job_limit.slots;
      l.rate := null;
      l.per_seconds := null;
    elsif set_job_limit.rate is not null or set_job_limit.per_seconds is not null then
      l.burst := case when l.slots is null and l.burst is distinct from l.rate then l.burst end;
      l.slots := null;
      l.rate := coalesce(set_job_limit.rate, l.rate);
      l.per_seconds := coalesce(set_job_limit.per_seconds, l.per_seconds, 60);
    end if;
    l.burst := coalesce(set_job_limit.burst, l.burst, l.rate);
    l.changed_at := clock_timestamp();
    wrong := case
      when l.slots is null and l.rate is null
        then array[format('limit %s has no number', l.limit_name),
          'Give slots (how many run at once), or rate and per_seconds (how many start in a time).']
      when l.burst < l.slots
        then array[format('the burst %s of limit %s is below its %s slots', l.burst, l.limit_name,
            l.slots), 'Give a burst from the number of slots on.']
      when l.slots is not null and l.burst is not null and l.per is null
        then array[format('limit %s has a burst but no key', l.limit_name),
          'A burst lets one key have what others leave: say per what (team, thread, key, …).']
      when l.rate / l.per_seconds > 100000
        then array[format('limit %s lets more than 100,000 jobs a second start', l.limit_name),
          'Give a lower rate, or remove the limit.']
      when (
        select max(c.limits) from (
          select count(*) as limits
          from jobsworth.job_limits a, jobsworth.job_limits b, jobsworth.job_limits o
          where (o.queue is null or o.queue = coalesce(a.queue, l.queue))
            and (o.mode is null or o.mode = coalesce(b.mode, l.mode))
            and (l.queue is null or l.queue = coalesce(a.queue, l.queue))
            and (l.mode is null or l.mode = coalesce(b.mode, l.mode))
            and o.limit_name <> l.limit_name
          group by a.limit_name, b.limit_name) c) >= 4
        then array['a job may have to pass at most four limits; with this one some would pass five',
          'Remove one (jobsworth job-limit list), or set this one for another queue or mode.']
    end;
  end if;
  if wrong is not null then
    raise exception '%', wrong[1] using errcode = 'invalid_parameter_value', hint = wrong[2];
  end if;
  insert into jobsworth.job_limits as x (
    limit_name, queue, mode, per, slots, rate, per_seconds, burst, changed_at)
  values (l.limit_name, l.queue, l.mode, l.per, l.slots, l.rate, l.per_seconds, l.burst,
    l.changed_at)
  on conflict (limit_name) do update
  set queue = excluded.queue, mode = excluded.mode, per = excluded.per, slots = excluded.slots,
    rate = excluded.rate, per_seconds = excluded.per_seconds, burst = excluded.burst,
    changed_at = excluded.changed_at;
  if l.slots is not null then
    perform jobsworth.count_running(l.limit_name);
  end if;
  perform jobsworth.wake();
  return l;
end $$;

-- Let the jobs that run already count for a limit.
create function jobsworth.count_running(of_limit text) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  ids uuid[];
begin
  delete from jobsworth.job_limit_slots s where s.limit_name = of_limit;
  ids := array(
    select j.id from jobsworth.workers w
    cross join lateral (
      select r.id from jobsworth.reactive_jobs r
      where r.status = 'running' and r.worker_id is not null and r.worker_id = w.id offset 0) j);
  insert into jobsworth.job_limit_slots (limit_name, key, job_id, lease_no)
  select g.limit_name, g.key, g.job_id, j.lease_no
  from jobsworth.gates_of(ids) g
  cross join lateral (
    select r.lease_no from jobsworth.reactive_jobs r where r.id = g.job_id offset 0) j
  where g.limit_name = of_limit
  -- A claim that has committed since the rows were deleted has counted its jobs itself.
  on conflict do nothing;
  -- So that their ends look who waits. One that somebody holds is left to the sweep.
  update jobsworth.reactive_jobs j set limited = true
  where j.id = any(array(
    select r.id from jobsworth.reactive_jobs r
    where r.id = any(array(
        select s.job_id from jobsworth.job_limit_slots s where s.limit_name = of_limit))
      and r.status::text = 'running' and r.limited is null
    for no key update skip locked));
end $$;

-- Remove a limit. Jobs that wait for it go on: a worker's sweep frees a thousand at a time.
create function jobsworth.remove_job_limit(limit_name text) returns void language plpgsql as $$
begin
  delete from jobsworth.job_limits l where l.limit_name = remove_job_limit.limit_name;
  if not found then
    raise exception 'there is no limit %', remove_job_limit.limit_name
      using errcode = 'no_data_found', hint = 'List limits: jobsworth job-limit list.';
  end if;
  delete from jobsworth.job_limit_slots s where s.limit_name = remove_job_limit.limit_name;
  delete from jobsworth.job_limit_rates k where k.limit_name = remove_job_limit.limit_name;
  perform jobsworth.wake();
end $$;

-- Refuse a job that is heavier than the burst of a rate: it would pass only after a rest of the whole
-- rate.
create function jobsworth.check_weight(queue text, mode text, weight int) returns void
  language plpgsql as $$
#variable_conflict use_column
declare
  l jobsworth.job_limits;
begin
  select x.* into l from jobsworth.job_limits x
  where x.rate is not null and x.burst < check_weight.weight
    and (x.queue is null or x.queue = check_weight.queue)
    and (x.mode is null or x.mode = check_weight.mode)
  limit 1;
  if found then
    raise exception 'the weight % of a % job is above the burst % of limit %', check_weight.weight,
      check_weight.mode, l.burst, l.limit_name
      using errcode = 'invalid_parameter_value',
      hint = 'Give a lower weight, or raise the burst: jobsworth job-limit set ' || l.limit_name
        || ' --burst ' || check_weight.weight;
  end if;
end $$;
