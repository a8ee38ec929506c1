-- The jobs. `queued` means ready to run now. A job that is not ready is `waiting`, and
-- `waiting_for` holds its one reason.
--
-- The index of running jobs has a condition more than its queries need (`worker_id is not null`),
-- which keeps look-ups of lanes off its dead entries; fences say `is not distinct from` for the
-- same reason.

create type jobsworth.job_status as enum
  ('queued', 'waiting', 'running', 'done', 'failed', 'canceled');
create type jobsworth.wait_reason as enum
  ('timer', 'lane', 'parents', 'children', 'approval', 'signal', 'limit', 'budget', 'handler',
   'person');
-- When a job gives its unique key up: at its end, or when it is first claimed.
create type jobsworth.unique_until as enum ('end', 'start');

-- The order of jobs within a queue and priority: a job draws a new position each time it becomes
-- queued.
create sequence jobsworth.job_position;
-- The order of jobs within a lane.
create sequence jobsworth.lane_position;
-- The number of a claim. Each later write of the attempt must name it, so an attempt that has lost
-- its job changes nothing.
create sequence jobsworth.lease_no;

-- Pages are filled completely (fillfactor 100): `status` is indexed, so an update never happens in
-- place. Room left for updates drew the new versions of running jobs into the cold pages of jobs
-- that had ended long ago: beside ten million of those a drain ran at 26,100 jobs/s with a fifth of
-- each page left free, at 29,900 without.
create table jobsworth.reactive_jobs (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  thread_id uuid,
  trigger_message_id uuid,
  parent_id uuid,
  worker_id uuid,
  lease_no bigint,
  position bigint not null default nextval('jobsworth.job_position'),
  lane_position bigint,
  -- Of a waiting job: when it is due. Of another one: since when it was ready again.
  run_at jobsworth.run_at,
  -- A job that has not begun its first attempt by then is canceled.
  expires_at jobsworth.expires_at,
  created_at jobsworth.created_at not null default now(),
  started_at jobsworth.started_at,
  finished_at jobsworth.finished_at,
  status jobsworth.job_status not null default 'queued',
  waiting_for jobsworth.wait_reason,
  timeout_seconds jobsworth.timeout_seconds,
  attempt jobsworth.attempt not null default 0,
  failures jobsworth.failures not null default 0,
  crashes jobsworth.crashes not null default 0,
  failures_max jobsworth.failures_max,
  crashes_max jobsworth.crashes_max,
  priority jobsworth.priority not null default 3,
  is_child boolean not null default false,
  holds_lane boolean not null default false,
  cancel_requested boolean not null default false,
  queue jobsworth.queue not null default 'default',
  mode jobsworth.mode not null,
  lane text,
  unique_key jobsworth.unique_key,
  unique_until jobsworth.unique_until,  -- null: its end
  effect_key text,
  trace_parent text,
  fair_key jobsworth.fair_key,  -- whose turn it is, in a fair queue
  waiting_detail text,
  error text,
  payload jobsworth.payload not null default '{}',
  result jsonb,
  run_id uuid,
  node text,  -- the name of this job in its run
  agent_id uuid,
  superseded_by uuid,  -- the message for which this job was stopped
  request_id jobsworth.request_id,  -- the request that this job works for; its other jobs have it too
  limit_key jobsworth.limit_key,  -- its key for limits per key
  limit_weight jobsworth.limit_weight,  -- how much of a rate its start takes; null: 1
  limited boolean,  -- whether its last attempt took slots of limits; null: no
  session_id uuid,
  -- What concerns several columns; each column has its own bounds in base/values.sql.
  constraint waiting_has_its_reason check ((status = 'waiting') = (waiting_for is not null)),
  constraint timer_has_its_time check (waiting_for is distinct from 'timer' or run_at is not null),
  constraint running_has_its_lease
    check (status <> 'running' or (lease_no is not null and worker_id is not null)),
  constraint final_has_its_end
    check ((status in ('done', 'failed', 'canceled')) = (finished_at is not null)),
  constraint node_is_of_a_run check (node is null or run_id is not null),
  -- A look from the start begins below it.
  constraint position_is_not_the_lowest check (position > -9223372036854775808)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05,
        fillfactor = 100);

-- The claim.
create index jobs_ready on jobsworth.reactive_jobs (queue, priority, position)
  where status = 'queued';
-- Rescue: running jobs whose worker is dead. The second condition keeps look-ups in a lane off this
-- index; they would have to read all its dead entries, one for each job that a worker ran.
create index jobs_running on jobsworth.reactive_jobs (worker_id)
  where status = 'running' and worker_id is not null;
-- The last line of defence of lanes: two running jobs of one lane are impossible.
create unique index jobs_one_running_in_lane on jobsworth.reactive_jobs (lane)
  where status = 'running' and lane is not null;
-- The next job of a lane. A job that waits for a person or a signal steps aside, unless it holds
-- its lane.
create index jobs_lane_open on jobsworth.reactive_jobs (lane, lane_position, id)
  where lane is not null and lane_position is not null and finished_at is null
    and (waiting_for is null or waiting_for not in ('approval', 'signal') or holds_lane);
-- Since when nothing has kept the head of a lane from moving on (`violations`).
create index jobs_lane_ended on jobsworth.reactive_jobs (lane, finished_at)
  where lane is not null and finished_at is not null;
-- The sweep, and the counts by reason.
create index jobs_waiting on jobsworth.reactive_jobs (waiting_for, id) where status = 'waiting';
-- One job holds each unique key of a team: until it ends, or until it starts. `attempt` never goes
-- back to 0, so a retry or a rescue of a started job does not need the key again.
create unique index jobs_unique_key on jobsworth.reactive_jobs (team_id, unique_key)
  nulls not distinct where unique_key is not null and finished_at is null
    and (unique_until is distinct from 'start' or attempt = 0);
-- The children and follow-ups of a job; each effect exists once.
create unique index jobs_effect on jobsworth.reactive_jobs (parent_id, effect_key)
  where parent_id is not null;
-- Finds out whether the last child of a job has ended, however many there are.
create index jobs_children_open on jobsworth.reactive_jobs (parent_id)
  where is_child and finished_at is null;
-- The jobs of a thread.
create index jobs_thread on jobsworth.reactive_jobs (thread_id, id) where thread_id is not null;
-- The jobs that a message triggered.
create index jobs_trigger_message on jobsworth.reactive_jobs (trigger_message_id)
  where trigger_message_id is not null;
-- The jobs of a request.
create index jobs_request on jobsworth.reactive_jobs (request_id, id)
  where request_id is not null;
-- The jobs of a session.
create index jobs_session on jobsworth.reactive_jobs (session_id, id)
  where session_id is not null;
-- The failed jobs, by time.
create index jobs_failed on jobsworth.reactive_jobs (finished_at) where status = 'failed';
-- The same, newest first, for who looks for one.
create index jobs_failed_ids on jobsworth.reactive_jobs (id) where status = 'failed';
-- The nodes of a run.
create unique index jobs_node on jobsworth.reactive_jobs (run_id, node) where run_id is not null;
-- Due jobs, oldest first: timers, and whatever a handler waits for until a time (`reason_gone`).
create index jobs_due on jobsworth.reactive_jobs (run_at)
  where status = 'waiting' and waiting_for not in ('lane', 'parents', 'handler')
    and run_at is not null;
-- Jobs that are canceled unless they begin in time, soonest first (`expire_jobs`).
create index jobs_expiring on jobsworth.reactive_jobs (expires_at)
  where expires_at is not null and attempt = 0 and status in ('queued', 'waiting');
-- The jobs of a run that have not ended.
create index jobs_open_in_run on jobsworth.reactive_jobs (run_id, status)
  where run_id is not null and finished_at is null;
