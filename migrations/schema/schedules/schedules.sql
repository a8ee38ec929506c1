-- Schedules: jobs and runs that are enqueued at their times, once each, whatever the number of
-- daemons. Daemons compute the times (cron, time zones); this keeps what they have decided.
--
-- All times until `handled_to` are dealt with. A daemon that finds later ones fires them, moves
-- `handled_to` on and notes the next time, in one transaction that has locked the row. So a time is
-- dealt with once, also if that daemon dies or loses the answer to its commit. `next_at` is null
-- until a daemon has computed it.

-- What becomes of times at which nobody could fire. once: the last one is made up for. skip: none.
-- all: up to `missed_max` of them.
create type jobsworth.missed_policy as enum ('once', 'skip', 'all');
-- What happens at a time when the job of an earlier one has not ended. skip: nothing. queue: the new
-- one runs after it. replace: it is canceled, and the new one runs after it.
create type jobsworth.overlap_policy as enum ('skip', 'queue', 'replace');
create type jobsworth.firing_outcome as enum ('fired', 'skipped', 'missed', 'refused');

-- Domains of base/values.sql bound the numbers and times.
create table jobsworth.schedules (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  name jobsworth.name not null,
  -- When: a cron expression, a period in seconds, or one instant.
  cron text,
  every_seconds jobsworth.every_seconds,
  at jobsworth.at,
  time_zone text not null default 'UTC',
  -- What: a job of this mode, or a run of these nodes, whose request is the payload.
  mode jobsworth.mode,
  nodes jsonb,
  payload jobsworth.payload not null default '{}',
  -- The field of the payload that gets the time for which it fires.
  time_key text,
  queue jobsworth.queue not null default 'default',
  priority jobsworth.priority not null default 3,
  thread_id uuid,
  agent_id uuid,
  failures_max jobsworth.failures_max,
  timeout_seconds jobsworth.timeout_seconds,
  missed jobsworth.missed_policy not null default 'once',
  missed_max jobsworth.missed_max not null default 100,
  overlap jobsworth.overlap_policy not null default 'skip',
  -- Each job starts up to so much later, by chance; null: only what is made up for, within a minute.
  jitter_seconds jobsworth.jitter_seconds,
  paused boolean not null default false,
  -- Declared beside its handler: workers keep it as the code has it.
  declared boolean not null default false,
  -- Why it cannot fire; a change clears it.
  problem text,
  handled_to jobsworth.handled_to not null default clock_timestamp(),
  next_at jobsworth.next_at,
  ended_at jobsworth.ended_at,
  created_at jobsworth.created_at not null default clock_timestamp(),
  changed_at jobsworth.changed_at not null default clock_timestamp(),
  constraint schedule_key unique nulls not distinct (team_id, name),
  constraint schedule_has_one_of_cron_every_at check (num_nonnulls(cron, every_seconds, at) = 1),
  constraint schedule_has_one_of_mode_nodes check (num_nonnulls(mode, nodes) = 1),
  constraint nodes_are_an_array check (jsonb_typeof(nodes) = 'array'),
  constraint missed_all_needs_overlap_queue check (missed <> 'all' or overlap = 'queue'),
  constraint runs_are_not_queued check (nodes is null or overlap <> 'queue')
);
-- What is due, or not yet planned.
create index schedules_due on jobsworth.schedules (next_at nulls first)
  where not paused and ended_at is null and problem is null;

-- What became of the times of a schedule. `missed`: how many times before `at` had nobody to fire
-- them and are not made up for; at most 1,000 are counted.
create table jobsworth.schedule_firings (
  schedule_id uuid not null references jobsworth.schedules (id) on delete cascade,
  team_id uuid,
  at jobsworth.at not null,
  outcome jobsworth.firing_outcome not null,
  job_id uuid,
  run_id uuid,
  missed int not null default 0 check (missed between 0 and 1000),
  reason text,
  fired_at jobsworth.fired_at not null default clock_timestamp(),
  primary key (schedule_id, at)
);

-- In how many seconds a schedule that is not one of `without` fires, or has to be planned; null if
-- none does.
create function jobsworth.next_schedule_in(without uuid[] default '{}') returns float8
  language sql stable as $$
  select extract(epoch from coalesce(s.next_at, clock_timestamp()) - clock_timestamp())
  from jobsworth.schedules s
  where not s.paused and s.ended_at is null and s.problem is null
    and s.id <> all(next_schedule_in.without)
  order by s.next_at nulls first
  limit 1
$$;

-- The payload of what a schedule enqueues for the time `at`.
create function jobsworth.payload_at(s jobsworth.schedules, at text) returns jsonb
  language sql immutable return
    case when s.time_key is null then s.payload
      else s.payload || jsonb_build_object(s.time_key, at) end;

-- A changed time, or the end of a pause, begins anew: nothing before it is made up for.
create function jobsworth.plan_again() returns trigger language plpgsql as $$
begin
  new.handled_to := clock_timestamp();
  new.next_at := null;
  new.ended_at := null;
  new.problem := null;
  return new;
end $$;

create trigger plan_again before update on jobsworth.schedules
for each row when (
  (old.cron, old.every_seconds, old.at, old.time_zone)
    is distinct from (new.cron, new.every_seconds, new.at, new.time_zone)
  or old.paused and not new.paused)
execute function jobsworth.plan_again();

-- What is changed otherwise may have been the problem.
create function jobsworth.forget_problem() returns trigger language plpgsql as $$
begin
  new.problem := null;
  return new;
end $$;

create trigger forget_problem before update on jobsworth.schedules
for each row when (
  old.problem is not null and new.problem is not distinct from old.problem
  and old.handled_to = new.handled_to)
execute function jobsworth.forget_problem();

-- Make a schedule and return its id. A schedule of that name that says the same is left as it is.
-- One that says something else is refused, or changed if `replace`. `every` is a period without
-- months, because they differ.
create function jobsworth.schedule(
  name text, mode text default null, payload jsonb default '{}', cron text default null,
  every interval default null, at timestamptz default null, time_zone text default 'UTC',
  nodes jsonb default null, time_key text default null, queue text default 'default',
  priority int default 3, thread_id uuid default null, agent_id uuid default null,
  failures_max int default null, timeout_seconds float8 default null,
  missed text default 'once', missed_max int default 100, overlap text default 'skip',
  jitter_seconds float8 default null, team_id uuid default null, replace boolean default false,
  declared boolean default false)
  returns uuid language plpgsql as $$
#variable_conflict use_column
declare
  s jobsworth.schedules;
  moment timestamptz := clock_timestamp();
  wrong text[];
begin
  wrong := case
    when coalesce(schedule.name, '') = ''
      then array['a schedule needs a name', 'For example: schedule(''report'', …).']
    when num_nonnulls(schedule.cron, schedule.every, schedule.at) <> 1
      then array['exactly one of cron, every and at is needed',
        'For example cron => ''0 8 * * mon-fri'', or every => ''10 minutes''.']
    when num_nonnulls(schedule.mode, schedule.nodes) <> 1
      then array['exactly one of mode and nodes is needed',
        'A mode enqueues a job, nodes start a run.']
    when extract(year from schedule.every) <> 0 or extract(month from schedule.every) <> 0
      then array[format('every %s has months, which differ in length', schedule.every),
        'Give cron => ''0 0 1 * *'' for the first of each month, or a number of days.']
    when not (extract(epoch from schedule.every) between 1 and 3153600000)
      then array[format('every %s is not from one second to a hundred years', schedule.every),
        'Give such a period.']
    when array_length(regexp_split_to_array(trim(schedule.cron), '\s+'), 1) <> 5
        and schedule.cron !~ '^\s*@[a-z]+\s*$'
      then array[format('cron %L does not have five fields', schedule.cron),
        'They are: minute hour day-of-month month day-of-week.']
    when not exists (
        select 1 from pg_timezone_names z where z.name = schedule.time_zone)
      then array[format('there is no time zone %L', schedule.time_zone),
        'Give an IANA name, like Europe/Berlin or UTC.']
    when schedule.at <= moment and not exists (
        select 1 from jobsworth.schedules x
        where x.name = schedule.name and x.team_id is not distinct from schedule.team_id
          and x.at = schedule.at)
      then array[format('at %s has passed', schedule.at), 'Give a later time, or enqueue a job now.']
    when schedule.declared and exists (
        select 1 from jobsworth.schedules x
        where x.name = schedule.name and x.team_id is not distinct from schedule.team_id
          and not x.declared)
      then array['a schedule of that name was made by hand',
        format('Give the handler another mode, or: jobsworth schedule remove %s.', schedule.name)]
    when schedule.missed = 'all' and schedule.overlap is distinct from 'queue'
      then array['missed => ''all'' makes up for every time, so its jobs must queue',
        'Give overlap => ''queue'' too, or missed => ''once''.']
    when schedule.nodes is not null and schedule.overlap = 'queue'
      then array['the nodes of runs run side by side, so runs do not queue',
        'Give overlap => ''skip'' or ''replace''.']
    when not (schedule.jitter_seconds between 0 and 86400)
      then array[format('jitter_seconds %s is not from 0 to 86400', schedule.jitter_seconds),
        'Leave it out for none.']
    when schedule.time_key = ''
      then array['time_key is empty', 'Name a field of the payload, or leave it out.']
  end;
  if wrong is not null then
    raise exception '%', wrong[1] || coalesce(format(' (in schedule %L)', nullif(schedule.name, '')), '')
      using errcode = 'invalid_parameter_value', hint = wrong[2];
  end if;
  if schedule.nodes is not null then
    perform jobsworth.check_nodes(schedule.nodes);
  end if;
  insert into jobsworth.schedules as x (
    team_id, name, cron, every_seconds, at, time_zone, mode, nodes, payload, time_key, queue,
    priority, thread_id, agent_id, failures_max, timeout_seconds, missed, missed_max, overlap,
    jitter_seconds, declared, created_at, changed_at)
  values (
    schedule.team_id, schedule.name, trim(schedule.cron), extract(epoch from schedule.every),
    schedule.at, schedule.time_zone, schedule.mode, schedule.nodes,
    coalesce(schedule.payload, '{}'), schedule.time_key, coalesce(schedule.queue, 'default'),
    coalesce(schedule.priority, 3)::smallint, schedule.thread_id, schedule.agent_id,
    schedule.failures_max, schedule.timeout_seconds,
    coalesce(schedule.missed, 'once')::jobsworth.missed_policy,
    coalesce(schedule.missed_max, 100), coalesce(schedule.overlap, 'skip')::jobsworth.overlap_policy,
    schedule.jitter_seconds, coalesce(schedule.declared, false), moment, moment)
  on conflict on constraint schedule_key do update
  set cron = excluded.cron, every_seconds = excluded.every_seconds, at = excluded.at,
    time_zone = excluded.time_zone, mode = excluded.mode, nodes = excluded.nodes,
    payload = excluded.payload, time_key = excluded.time_key, queue = excluded.queue,
    priority = excluded.priority, thread_id = excluded.thread_id, agent_id = excluded.agent_id,
    failures_max = excluded.failures_max, timeout_seconds = excluded.timeout_seconds,
    missed = excluded.missed, missed_max = excluded.missed_max, overlap = excluded.overlap,
    jitter_seconds = excluded.jitter_seconds, declared = excluded.declared,
    changed_at = excluded.changed_at
  where (
    x.cron, x.every_seconds, x.at, x.time_zone, x.mode, x.nodes, x.payload, x.time_key, x.queue,
    x.priority, x.thread_id, x.agent_id, x.failures_max, x.timeout_seconds, x.missed, x.missed_max,
    x.overlap, x.jitter_seconds, x.declared) is distinct from (
    excluded.cron, excluded.every_seconds, excluded.at, excluded.time_zone, excluded.mode,
    excluded.nodes, excluded.payload, excluded.time_key, excluded.queue, excluded.priority,
    excluded.thread_id, excluded.agent_id, excluded.failures_max, excluded.timeout_seconds,
    excluded.missed, excluded.missed_max, excluded.overlap, excluded.jitter_seconds,
    excluded.declared)
  returning x.* into s;
  if s.id is null then  -- there is one that says the same
    return (
      select x.id from jobsworth.schedules x
      where x.name = schedule.name and x.team_id is not distinct from schedule.team_id);
  end if;
  if s.created_at <> s.changed_at and not coalesce(schedule.replace, false) then
    raise exception 'there is another schedule named %', schedule.name
      using errcode = 'unique_violation',
      hint = 'Give another name, or change that one with replace => true (--replace).';
  end if;
  return s.id;
end $$;

-- Fire nothing until it is resumed; what it has enqueued goes on.
create function jobsworth.pause_schedule(name text, team_id uuid default null) returns void
  language plpgsql as $$
#variable_conflict use_column
begin
  update jobsworth.schedules s set paused = true
  where s.id = jobsworth.schedule_named(pause_schedule.name, pause_schedule.team_id);
end $$;

-- Fire again from now on; nothing is made up for.
create function jobsworth.resume_schedule(name text, team_id uuid default null) returns void
  language plpgsql as $$
#variable_conflict use_column
begin
  update jobsworth.schedules s set paused = false
  where s.id = jobsworth.schedule_named(resume_schedule.name, resume_schedule.team_id);
end $$;

-- Remove a schedule and its history; what it has enqueued goes on.
create function jobsworth.remove_schedule(name text, team_id uuid default null) returns void
  language plpgsql as $$
#variable_conflict use_column
begin
  delete from jobsworth.schedules s
  where s.id = jobsworth.schedule_named(remove_schedule.name, remove_schedule.team_id);
end $$;

-- The id of a schedule.
create function jobsworth.schedule_named(name text, team_id uuid) returns uuid
  language plpgsql stable as $$
#variable_conflict use_column
declare
  found_id uuid;
begin
  select s.id into found_id from jobsworth.schedules s
  where s.name = schedule_named.name and s.team_id is not distinct from schedule_named.team_id;
  if not found then
    raise exception 'there is no schedule named %', schedule_named.name
      using errcode = 'no_data_found', hint = 'List them: jobsworth schedule list.';
  end if;
  return found_id;
end $$;
