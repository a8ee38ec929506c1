"""The spine: queue, conversation, execution, books, consent, shipping and memory.

Every decision that a plain SQL client may cause (enqueue, resolve, signal, cancel, retry) is a
function here, so that each language gets the same behaviour. What only a daemon does (claim,
finish, heartbeat, rescue) is a statement in `db/`.

One function, `reconsider`, moves a waiting job on. Timers, decisions, signals, lane promotion,
children and every sweep call it: it locks in one statement and decides in the next, because a
subquery in a statement that waited for a lock still sees the snapshot from before the wait.
"""

from migrations.sql import run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TYPES = """
create extension if not exists vector;

create type jobsworth.job_status as enum
  ('queued', 'waiting', 'running', 'done', 'failed', 'canceled');
create type jobsworth.wait_reason as enum
  ('timer', 'lane', 'parents', 'children', 'approval', 'signal', 'limit', 'budget', 'handler',
   'person');
create type jobsworth.thread_status as enum ('active', 'archived', 'closed', 'deleted');
create type jobsworth.message_role as enum ('user', 'assistant', 'system', 'tool');
create type jobsworth.message_artifact_kind as enum
  ('voice_transcript', 'image_json', 'ocr_text', 'file_meta', 'tool_result');
create type jobsworth.step_effect as enum ('pure', 'idempotent', 'unsafe');
create type jobsworth.call_status as enum ('started', 'ok', 'error', 'cut', 'unknown');
create type jobsworth.usage_source as enum ('provider', 'estimated', 'unknown');
create type jobsworth.ledger_entry as enum ('reserve', 'settle', 'release', 'adjust');
create type jobsworth.ledger_scope as enum ('proactive', 'reactive');
create type jobsworth.approval_status as enum
  ('pending', 'approved', 'rejected', 'superseded', 'expired');
create type jobsworth.deployment_status as enum
  ('building', 'testing', 'deploying', 'healthy', 'rolled_back', 'failed');
"""

UUIDV7 = """
do $do$
begin
  if current_setting('server_version_num')::int >= 180000 then
    create function jobsworth.uuidv7() returns uuid
      language sql volatile parallel safe
      as $f$ select pg_catalog.uuidv7() $f$;
  else
    -- RFC 9562, version 7: 48 bits of milliseconds, 12 bits of the fraction below them, 62 random
    -- bits (the variant bits come from the random version 4 value).
    create function jobsworth.uuidv7() returns uuid
      language sql volatile parallel safe
      as $f$
        select encode(
          substring(int8send(micros / 1000) from 3)
            || int2send((28672 + (micros % 1000) * 4096 / 1000)::int2)
            || substring(uuid_send(gen_random_uuid()) from 9),
          'hex')::uuid
        from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint) as t(micros)
      $f$;
  end if;
end
$do$;
"""

QUEUE = """
create sequence jobsworth.job_position;
create sequence jobsworth.lane_position;
create sequence jobsworth.lease_no;

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
  run_at timestamptz,  -- waiting: when it is due; queued or later: since when it was ready again
  created_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz,
  status jobsworth.job_status not null default 'queued',
  waiting_for jobsworth.wait_reason,
  timeout_seconds real,
  attempt int not null default 0,
  failures int not null default 0,
  crashes int not null default 0,
  failures_max int,
  crashes_max int,
  priority smallint not null default 3,
  is_child boolean not null default false,
  holds_lane boolean not null default false,
  cancel_requested boolean not null default false,
  queue text not null default 'default',
  mode text not null,
  lane text,
  unique_key text,
  effect_key text,
  trace_parent text,
  waiting_detail text,
  error text,
  payload jsonb not null default '{}',
  result jsonb,
  constraint priority_is_1_to_4 check (priority between 1 and 4),
  constraint mode_is_named check (mode <> ''),
  constraint payload_is_an_object check (jsonb_typeof(payload) = 'object'),
  constraint payload_is_at_most_1_mib check (pg_column_size(payload) <= 1048576),
  constraint failures_max_is_positive check (failures_max > 0),
  constraint crashes_max_is_positive check (crashes_max > 0),
  constraint timeout_is_positive check (timeout_seconds > 0),
  constraint waiting_has_its_reason check ((status = 'waiting') = (waiting_for is not null)),
  constraint timer_has_its_time check (waiting_for is distinct from 'timer' or run_at is not null),
  constraint running_has_its_lease
    check (status <> 'running' or (lease_no is not null and worker_id is not null)),
  constraint final_has_its_end
    check ((status in ('done', 'failed', 'canceled')) = (finished_at is not null))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_analyze_scale_factor = 0.05);

-- the claim
create index jobs_ready on jobsworth.reactive_jobs (queue, priority, position)
  where status = 'queued';
-- rescue: running, and no living worker. The second condition keeps look-ups in a lane off this
-- index, whose dead entries (one for each job a worker ran) they would all have to read.
create index jobs_running on jobsworth.reactive_jobs (worker_id)
  where status = 'running' and worker_id is not null;
-- the backstop of lanes
create unique index jobs_one_running_in_lane on jobsworth.reactive_jobs (lane)
  where status = 'running' and lane is not null;
-- who is next in a lane; one parked for a person or a signal steps aside
create index jobs_lane_open on jobsworth.reactive_jobs (lane, lane_position, id)
  where lane is not null and lane_position is not null and finished_at is null
    and (waiting_for is null or waiting_for not in ('approval', 'signal') or holds_lane);
-- due timers, oldest first; a job that waits for others is due when they have ended
create index jobs_due on jobsworth.reactive_jobs (run_at)
  where status = 'waiting' and waiting_for in ('timer', 'signal') and run_at is not null;
-- the sweep and the counts by reason
create index jobs_waiting on jobsworth.reactive_jobs (waiting_for, id) where status = 'waiting';
create unique index jobs_unique_key on jobsworth.reactive_jobs (team_id, unique_key)
  nulls not distinct where unique_key is not null and finished_at is null;
-- children and follow-ups of a job; each effect once
create unique index jobs_effect on jobsworth.reactive_jobs (parent_id, effect_key)
  where parent_id is not null;
-- the last of many children
create index jobs_children_open on jobsworth.reactive_jobs (parent_id)
  where is_child and finished_at is null;
create index jobs_thread on jobsworth.reactive_jobs (thread_id, id) where thread_id is not null;
create index jobs_trigger_message on jobsworth.reactive_jobs (trigger_message_id)
  where trigger_message_id is not null;
create index jobs_failed on jobsworth.reactive_jobs (finished_at) where status = 'failed';

create table jobsworth.job_edges (
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  needs_job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  primary key (job_id, needs_job_id),
  constraint job_does_not_need_itself check (job_id <> needs_job_id)
);
create index job_edges_needs on jobsworth.job_edges (needs_job_id, job_id);

create table jobsworth.queues (
  name text primary key,
  paused boolean not null default false,
  changed_at timestamptz not null default now()
);

create table jobsworth.workers (
  id uuid primary key,
  host text not null,
  pid int not null,
  version text not null,
  modes text[] not null,
  queues text[] not null,
  slots int not null,
  running int not null default 0,
  idle boolean not null default false,
  draining boolean not null default false,
  started_at timestamptz not null default now(),
  beaten_at timestamptz not null default now()
) with (fillfactor = 50);

create table jobsworth.signals (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  name text not null,
  payload jsonb,
  sent_at timestamptz not null default now(),
  received_at timestamptz
);
create index signals_mailbox on jobsworth.signals (job_id, name, id) where received_at is null;
create index signals_of_job on jobsworth.signals (job_id);
"""

CONVERSATION = """
create table jobsworth.chat_threads (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  user_id uuid,
  agent_id uuid,
  platform text not null,
  chat_id text not null,
  title text,
  status jobsworth.thread_status not null default 'active',
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  archived_at timestamptz,
  constraint archived_has_its_time check ((status = 'archived') = (archived_at is not null)),
  constraint one_thread_per_chat unique nulls not distinct (team_id, platform, chat_id)
);
create index chat_threads_user on jobsworth.chat_threads (user_id, id) where user_id is not null;

create table jobsworth.chat_messages (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  thread_id uuid not null references jobsworth.chat_threads on delete cascade,
  role jobsworth.message_role not null,
  text text not null,
  author_user_id uuid,
  author_agent_id uuid,
  recipient_agent_id uuid,
  request_id text,
  platform_message_id text,
  raw_payload jsonb,
  model text,
  input_tokens int,
  output_tokens int,
  latency_ms int,
  job_id uuid,
  effect_key text,
  created_at timestamptz not null default clock_timestamp()
);
create index chat_messages_recent on jobsworth.chat_messages (thread_id, id);
create unique index chat_messages_platform on jobsworth.chat_messages
  (thread_id, platform_message_id) where platform_message_id is not null;
create unique index chat_messages_effect on jobsworth.chat_messages (job_id, effect_key)
  where job_id is not null;

create table jobsworth.message_artifacts (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  message_id uuid not null references jobsworth.chat_messages on delete cascade,
  kind jobsworth.message_artifact_kind not null,
  content_json jsonb,
  uri text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint artifact_has_content_or_uri check (content_json is not null or uri is not null)
);
create index message_artifacts_message on jobsworth.message_artifacts (message_id, id);
"""

EXECUTION = """
create table jobsworth.steps (
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  team_id uuid,
  name text not null,
  kind text not null default 'step',
  effect jobsworth.step_effect not null default 'idempotent',
  input_hash text,
  output jsonb,
  attempt int not null,
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  primary key (job_id, name)
);

create table jobsworth.artifacts (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  effect_key text not null,
  name text not null,
  media_type text not null,
  bytes bigint,
  sha256 text,
  content bytea,
  uri text,
  created_at timestamptz not null default now(),
  constraint artifact_has_content_or_uri check ((content is null) <> (uri is null)),
  constraint content_has_its_hash
    check (content is null or (sha256 is not null and bytes is not null))
);
create unique index artifacts_effect on jobsworth.artifacts (job_id, effect_key);
"""

BOOKS = """
create table jobsworth.llm_calls (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid,
  thread_id uuid,
  lease_no bigint,
  attempt int,
  step_name text,
  scope jobsworth.ledger_scope not null default 'reactive',
  mode text,
  agent_id uuid,
  provider text not null,
  model text not null,
  status jobsworth.call_status not null default 'started',
  request_id text not null,
  estimated_input_tokens int not null default 0,
  estimated_output_tokens int not null default 0,
  estimated_cost numeric,
  input_tokens int,
  output_tokens int,
  cache_read_tokens int,
  cache_write_tokens int,
  usage_source jobsworth.usage_source,
  cost numeric,
  price_version text,
  latency_ms int,
  error text,
  started_at timestamptz not null default clock_timestamp(),
  settled_at timestamptz,
  constraint started_or_settled check ((status = 'started') = (settled_at is null)),
  constraint tokens_are_counts check (
    input_tokens >= 0 and output_tokens >= 0
    and cache_read_tokens >= 0 and cache_write_tokens >= 0
    and estimated_input_tokens >= 0 and estimated_output_tokens >= 0)
);
create index llm_calls_open on jobsworth.llm_calls (started_at) where status = 'started';
create index llm_calls_job on jobsworth.llm_calls (job_id, id) where job_id is not null;
create index llm_calls_settled on jobsworth.llm_calls (settled_at) where settled_at is not null;
create unique index llm_calls_request on jobsworth.llm_calls (request_id);

create table jobsworth.token_ledger (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  call_id uuid,
  job_id uuid,
  thread_id uuid,
  agent_id uuid,
  entry jobsworth.ledger_entry not null,
  scope jobsworth.ledger_scope not null default 'reactive',
  mode text,
  provider text not null,
  model text not null,
  input_tokens bigint not null default 0,
  output_tokens bigint not null default 0,
  cache_read_tokens bigint not null default 0,
  cache_write_tokens bigint not null default 0,
  total_tokens bigint not null generated always as (input_tokens + output_tokens) stored,
  cost numeric,
  price_version text,
  occurred_at timestamptz not null default clock_timestamp()
);
create unique index token_ledger_once on jobsworth.token_ledger (call_id, entry)
  where entry in ('reserve', 'settle');
create index token_ledger_time on jobsworth.token_ledger (occurred_at);
create index token_ledger_job on jobsworth.token_ledger (job_id) where job_id is not null;
"""

CONSENT = """
create table jobsworth.approvals (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  thread_id uuid,
  job_id uuid,
  effect_key text,
  proposal_text text not null,
  options text[] not null default '{approve,reject}',
  shown jsonb,
  shown_hash text not null,
  status jobsworth.approval_status not null default 'pending',
  deadline timestamptz,
  on_timeout text not null default 'reject',
  chosen_option text,
  superseded_by uuid,
  created_at timestamptz not null default now(),
  closed_at timestamptz,
  constraint a_no_is_always_possible check ('reject' = any(options)),
  constraint timeout_is_an_option check (on_timeout = any(options)),
  constraint choice_is_an_option check (chosen_option is null or chosen_option = any(options)),
  constraint pending_is_open check ((status = 'pending') = (closed_at is null)),
  constraint decided_has_its_choice
    check (status not in ('approved', 'rejected', 'expired') or chosen_option is not null)
);
create unique index approvals_effect on jobsworth.approvals (job_id, effect_key)
  where job_id is not null;
create index approvals_open on jobsworth.approvals (job_id, id) where status = 'pending';
create index approvals_due on jobsworth.approvals (deadline)
  where status = 'pending' and deadline is not null;
create index approvals_thread on jobsworth.approvals (thread_id, id) where thread_id is not null;

create table jobsworth.approval_decisions (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  approval_id uuid not null,
  option text not null,
  decided_by text not null,
  channel text not null,
  comment text,
  decided_at timestamptz not null default now(),
  constraint decided_once unique (approval_id)
);
"""

SHIPPING = """
create table jobsworth.deployments (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid,
  step_name text,
  environment text not null,
  repository text,
  sha text not null,
  branch text,
  status jobsworth.deployment_status not null default 'building',
  release text,
  report_text text,
  probe jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  finished_at timestamptz,
  constraint healthy_has_a_passing_probe
    check (status <> 'healthy' or coalesce((probe ->> 'passed')::boolean, false)),
  constraint final_has_its_end
    check ((status in ('healthy', 'rolled_back', 'failed')) = (finished_at is not null))
);
create unique index deployments_one_at_a_time on jobsworth.deployments (team_id, environment)
  nulls not distinct where finished_at is null;
create unique index deployments_step on jobsworth.deployments (job_id, step_name)
  where job_id is not null;
create index deployments_recent on jobsworth.deployments (environment, id);

create function jobsworth.guard_deployment() returns trigger language plpgsql as $$
declare
  legal boolean := new.status = old.status or case old.status
      when 'building' then new.status in ('testing', 'deploying', 'failed')
      when 'testing' then new.status in ('deploying', 'failed')
      when 'deploying' then new.status in ('healthy', 'rolled_back', 'failed')
      else false
    end;
begin
  if not legal then
    raise exception 'deployment % cannot go from % to %', old.id, old.status, new.status
      using errcode = 'check_violation',
      hint = 'building, testing, deploying, then healthy, rolled_back or failed; '
        'a finished deployment stays as it is.';
  end if;
  new.updated_at := now();
  return new;
end $$;
create trigger guard_deployment before update on jobsworth.deployments
  for each row execute function jobsworth.guard_deployment();
"""

MEMORY = """
create table jobsworth.embedding_spaces (
  id int generated always as identity primary key,
  model text not null,
  dimensions int not null,
  created_at timestamptz not null default now(),
  constraint one_space_per_model unique (model, dimensions),
  constraint dimensions_fit_halfvec check (dimensions between 1 and 16000)
);

create table jobsworth.embedding_outbox (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  thread_id uuid,
  job_id uuid,
  effect_key text,
  source_kind text not null,
  source_id text,
  text text not null,
  metadata jsonb not null default '{}',
  tries int not null default 0,
  next_try_at timestamptz not null default now(),
  last_error text,
  created_at timestamptz not null default now()
);
create unique index embedding_outbox_effect on jobsworth.embedding_outbox (job_id, effect_key)
  where job_id is not null;
create index embedding_outbox_due on jobsworth.embedding_outbox (next_try_at);

create table jobsworth.embeddings (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  thread_id uuid,
  job_id uuid,
  effect_key text,
  space_id int not null references jobsworth.embedding_spaces,
  source_kind text not null,
  source_id text,
  text text not null,
  metadata jsonb not null default '{}',
  vector halfvec not null,
  created_at timestamptz not null default now()
);
create unique index embeddings_effect on jobsworth.embeddings (job_id, effect_key, space_id)
  where job_id is not null;
create index embeddings_scope on jobsworth.embeddings (space_id, team_id);
create index embeddings_source on jobsworth.embeddings (source_kind, source_id);

-- The types and operators of pgvector live wherever the extension was created; these wrappers are
-- bound to that place now, so no statement depends on the search path.
create function jobsworth.halfvec(value text) returns halfvec
  language sql immutable strict parallel safe return value::halfvec;
create function jobsworth.cosine_distance(a halfvec, b halfvec) returns float8
  language sql immutable strict parallel safe return a <=> b;
"""

IMMUTABLE = """
create function jobsworth.refuse_change() returns trigger language plpgsql as $$
begin
  if tg_op = 'DELETE' and current_setting('jobsworth.erase', true) = 'on' then
    return old;
  end if;
  raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
    using errcode = 'restrict_violation',
    hint = 'Write a new row instead; only erasing a whole thread deletes.';
end $$;
create trigger messages_are_immutable before update or delete on jobsworth.chat_messages
  for each row execute function jobsworth.refuse_change();
create trigger ledger_is_append_only before update or delete on jobsworth.token_ledger
  for each row execute function jobsworth.refuse_change();
create trigger decisions_are_append_only before update or delete on jobsworth.approval_decisions
  for each row execute function jobsworth.refuse_change();

create function jobsworth.touch() returns trigger language plpgsql as $$
begin
  new.updated_at := now();
  return new;
end $$;
create trigger touch before update on jobsworth.chat_threads
  for each row execute function jobsworth.touch();
create trigger touch before update on jobsworth.message_artifacts
  for each row execute function jobsworth.touch();
"""

# Functions keep the planner on their indexes: a session plans them once, perhaps while the tables
# are empty, and a scan of a whole table is only cheap then.
WAITING = """
-- Is somebody ahead in this lane? Running, or lower and not stepped aside.
create function jobsworth.lane_blocked(in_lane text, at_position bigint, job_id uuid)
  returns boolean language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return exists (
      select 1 from jobsworth.reactive_jobs o
      where o.lane = in_lane and o.status = 'running' and o.id <> job_id)
    or exists (
      select 1 from jobsworth.reactive_jobs o
      where o.lane = in_lane and o.lane_position is not null and o.finished_at is null
        and (o.waiting_for is null or o.waiting_for not in ('approval', 'signal') or o.holds_lane)
        and (o.lane_position, o.id) < (at_position, job_id));
end $$;

-- The lowest open job of a lane, if there is one.
create function jobsworth.lane_head(in_lane text) returns uuid language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  select o.id
  from jobsworth.reactive_jobs o
  where o.lane = in_lane and o.lane_position is not null and o.finished_at is null
    and (o.waiting_for is null or o.waiting_for not in ('approval', 'signal') or o.holds_lane)
  order by o.lane_position, o.id
  limit 1
$$;

-- May this waiting job go on?
create function jobsworth.reason_gone(j jobsworth.reactive_jobs)
  returns boolean language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return case j.waiting_for
    when 'timer' then j.run_at <= clock_timestamp()
    when 'lane' then not jobsworth.lane_blocked(j.lane, j.lane_position, j.id)
    when 'parents' then not exists (
      select 1 from jobsworth.job_edges e
      join jobsworth.reactive_jobs p on p.id = e.needs_job_id
      where e.job_id = j.id and p.finished_at is null)
    when 'children' then not exists (
      select 1 from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null)
    when 'approval' then not exists (
      select 1 from jobsworth.approvals a where a.job_id = j.id and a.status = 'pending')
    when 'signal' then coalesce(j.run_at <= clock_timestamp(), false) or exists (
      select 1 from jobsworth.signals s
      where s.job_id = j.id and s.name = j.waiting_detail and s.received_at is null)
    when 'handler' then exists (
      select 1 from jobsworth.workers w where j.mode = any(w.modes))
    else false
  end;
end $$;

-- Tell idle workers that there may be work. A busy system does not notify: a commit with NOTIFY
-- takes a lock that the whole cluster shares.
create function jobsworth.wake() returns void language plpgsql as $$
begin
  if exists (select 1 from jobsworth.workers w where w.idle) then
    perform pg_notify('jobsworth.wake', '');
  end if;
end $$;

-- Move on those of the given jobs whose reason to wait is gone: to their next reason, else to
-- queued. Returns the ids that another transaction holds and that must be looked at again.
-- `patient` waits for their locks instead: for deliverers, which must not be missed.
create function jobsworth.reconsider(job_ids uuid[], patient boolean default false)
  returns uuid[] language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  held uuid[];
  gone uuid[];
  doomed uuid[];
  ended uuid[] := '{}';
  again uuid[] := '{}';
  at timestamptz;
  one jobsworth.reactive_jobs;
  next_reason jobsworth.wait_reason;
  moved int := 0;
begin
  -- `status::text`: by the enum itself the planner may read the whole index of waiting jobs.
  if patient then
    held := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(job_ids) and j.status::text = 'waiting'
      order by j.id for no key update);
  else
    held := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(job_ids) and j.status::text = 'waiting'
      order by j.id for no key update skip locked);
  end if;

  gone := array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(held) and j.status::text = 'waiting' and jobsworth.reason_gone(j));

  -- A job whose parent did not end well cannot run, nor can those that need it in turn. A loop: a
  -- chain of a thousand would be too deep for a recursion.
  doomed := gone;
  loop
    doomed := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(doomed) and j.status::text = 'waiting' and j.waiting_for = 'parents'
        and jobsworth.reason_gone(j) and exists (
          select 1 from jobsworth.job_edges e
          join jobsworth.reactive_jobs p on p.id = e.needs_job_id
          where e.job_id = j.id and p.status in ('failed', 'canceled')));
    exit when doomed = '{}';
    update jobsworth.reactive_jobs j
    set status = 'canceled', waiting_for = null, waiting_detail = null, finished_at = now(),
        error = 'a job it needs did not end well: ' || (
          select string_agg(p.id || ' is ' || p.status, ', ')
          from jobsworth.job_edges e join jobsworth.reactive_jobs p on p.id = e.needs_job_id
          where e.job_id = j.id and p.status in ('failed', 'canceled'))
    where j.id = any(doomed);
    ended := ended || doomed;
    doomed := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(array(
          select e.job_id from jobsworth.job_edges e where e.needs_job_id = any(doomed)))
        and j.status::text = 'waiting' and j.waiting_for = 'parents'
      order by j.id for no key update skip locked);
  end loop;
  if ended <> '{}' then
    again := jobsworth.unblock(ended);
  end if;

  -- One by one, what was due first goes first; a join with the table might scan all of it.
  at := clock_timestamp();
  for one in
    select w.* from jobsworth.reactive_jobs w
    where w.id = any(gone) and w.status::text = 'waiting'
    order by w.run_at, w.lane_position, w.id
  loop
    next_reason := null;
    if one.waiting_for in ('parents', 'handler') and one.run_at > at then
      next_reason := 'timer';
    elsif one.lane is not null then
      -- A scheduled job joins its lane when it is due, one that needs others when they have ended.
      one.lane_position := coalesce(one.lane_position, nextval('jobsworth.lane_position'));
      if jobsworth.lane_blocked(one.lane, one.lane_position, one.id) then
        next_reason := 'lane';
      end if;
    end if;
    update jobsworth.reactive_jobs x
    set status = case when next_reason is null then 'queued'::jobsworth.job_status
          else 'waiting' end,
        waiting_for = next_reason, waiting_detail = null, lane_position = one.lane_position,
        run_at = case when next_reason = 'timer' then one.run_at
          when next_reason is null then at end,
        position = case when next_reason is null then nextval('jobsworth.job_position')
          else one.position end
    where x.id = one.id;
    moved := moved + 1;
  end loop;

  if moved > 0 then
    perform jobsworth.wake();
  end if;
  return again || array(
    select j.id from jobsworth.reactive_jobs j
    where j.status::text = 'waiting' and j.id = any(array(
      select u.id from unnest(job_ids) u(id) except select h.id from unnest(held) h(id))));
end $$;

-- After a commit that ended or parked these jobs: look again, with a fresh snapshot, at whatever
-- that unblocks, and close what hangs on the finished ones. Returns what must be looked at again
-- because somebody holds it: a waiting job, or an ended one on which something open hangs. Never
-- waits for another transaction.
create function jobsworth.unblock(job_ids uuid[]) returns uuid[] language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  candidates uuid[];
  orphans uuid[];
  again uuid[] := '{}';
begin
  candidates := array(
    select jobsworth.lane_head(l.lane)
    from (select distinct j.lane from jobsworth.reactive_jobs j
          where j.id = any(job_ids) and j.lane is not null) l
    union
    select j.parent_id from jobsworth.reactive_jobs j
    where j.id = any(job_ids) and j.is_child and j.finished_at is not null
    union
    select e.job_id from jobsworth.job_edges e where e.needs_job_id = any(job_ids)
    union
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(job_ids) and j.status::text = 'waiting');
  candidates := array_remove(candidates, null);
  if candidates <> '{}' then
    again := jobsworth.reconsider(candidates);
  end if;

  update jobsworth.approvals a
  set status = 'superseded', closed_at = now()
  where a.status = 'pending' and a.id = any(array(
    select p.id from jobsworth.approvals p
    join jobsworth.reactive_jobs j on j.id = p.job_id
    where p.job_id = any(job_ids) and p.status = 'pending' and j.finished_at is not null
    for update of p skip locked));

  orphans := array(
    select c.id from jobsworth.reactive_jobs c
    join jobsworth.reactive_jobs p on p.id = c.parent_id
    where c.parent_id = any(job_ids) and c.is_child and c.finished_at is null
      and not c.cancel_requested and p.finished_at is not null
    for no key update of c skip locked);
  if orphans <> '{}' then
    perform jobsworth.cancel_locked(orphans, 'the job that spawned it has ended');
  end if;
  return again || array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(job_ids) and j.finished_at is not null and (
      exists (select 1 from jobsworth.approvals a where a.job_id = j.id and a.status = 'pending')
      or exists (
        select 1 from jobsworth.reactive_jobs c
        where c.parent_id = j.id and c.is_child and c.finished_at is null
          and not c.cancel_requested)));
end $$;

-- Cancel jobs whose rows this transaction holds: unstarted ones now, running ones at their ending.
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
"""

TRIGGERS = """
-- A job that is not ready to run now becomes waiting, with its reason. Ready ones never get here.
create function jobsworth.arrive() returns trigger language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  if new.status <> 'queued' and (new.status <> 'waiting' or new.waiting_for <> 'parents') then
    raise exception 'a job is inserted as queued, not as %', new.status
      using errcode = 'check_violation',
      hint = 'Leave status out: the database decides whether the job waits.';
  end if;
  if new.lane is null and new.thread_id is not null then
    new.lane := new.thread_id::text;
  end if;
  if new.lane = '' then
    new.lane := null;
  end if;
  if new.run_at <= clock_timestamp() then
    new.run_at := null;
  end if;
  if new.status = 'waiting' then
    null;
  elsif new.run_at is not null then
    new.status := 'waiting';
    new.waiting_for := 'timer';
    if new.run_at < clock_timestamp() + interval '1 second' then
      perform pg_notify('jobsworth.wake', 'timer');
    end if;
  end if;
  -- One that is not due, or needs other jobs, joins its lane when that is over: it could otherwise
  -- keep from the lane the very job it needs, for ever.
  if new.lane is not null and new.status = 'queued' then
    new.lane_position := coalesce(new.lane_position, nextval('jobsworth.lane_position'));
    if jobsworth.lane_blocked(new.lane, new.lane_position, new.id) then
      new.status := 'waiting';
      new.waiting_for := 'lane';
    end if;
  else
    new.lane_position := null;
  end if;
  return new;
end $$;
create trigger arrive before insert on jobsworth.reactive_jobs
  for each row when (new.lane is not null or new.thread_id is not null
    or new.run_at is not null or new.status <> 'queued')
  execute function jobsworth.arrive();

create function jobsworth.wake_on_insert() returns trigger language plpgsql as $$
begin
  perform jobsworth.wake();
  return null;
end $$;
create trigger wake_on_insert after insert on jobsworth.reactive_jobs
  for each statement execute function jobsworth.wake_on_insert();
"""

OPERATIONS = """
-- Enqueue a job and return its id; with a unique key, the open job that already has it.
create function jobsworth.enqueue(
  mode text, payload jsonb default '{}', queue text default 'default', priority int default 3,
  run_at timestamptz default null, delay interval default null, thread_id uuid default null,
  trigger_message_id uuid default null, lane text default null, unique_key text default null,
  failures_max int default null, timeout_seconds float8 default null,
  trace_parent text default null, team_id uuid default null, after uuid[] default null,
  holds_lane boolean default false, crashes_max int default null, id uuid default null)
  returns uuid language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  new_id uuid := coalesce(enqueue.id, jobsworth.uuidv7());
  found_id uuid;
  needs uuid[] := coalesce(enqueue.after, '{}');
  unknown uuid;
begin
  if enqueue.mode is null or enqueue.mode = '' then
    raise exception 'a job needs a mode: which handler runs it'
      using errcode = 'invalid_parameter_value', hint = 'For example: enqueue(''answer'', …).';
  end if;
  if enqueue.delay < interval '0' or enqueue.delay is not null and enqueue.run_at is not null then
    raise exception 'the delay of a % job is negative, or given together with run_at', enqueue.mode
      using errcode = 'invalid_parameter_value', hint = 'Give one of them, or none for now.';
  end if;
  if pg_column_size(enqueue.payload) > 1048576 then
    raise exception 'the payload of a % job has % bytes; at most 1048576 are allowed',
      enqueue.mode, pg_column_size(enqueue.payload)
      using errcode = 'program_limit_exceeded',
      hint = 'Store the document as an artifact or a file and pass its address.';
  end if;
  select u.id into unknown from unnest(needs) u(id)
  where not exists (select 1 from jobsworth.reactive_jobs p where p.id = u.id) limit 1;
  if found then
    raise exception 'job % in after does not exist', unknown
      using errcode = 'foreign_key_violation', hint = 'Enqueue the jobs it needs first.';
  end if;
  loop
    insert into jobsworth.reactive_jobs (
      id, mode, payload, queue, priority, run_at, thread_id, trigger_message_id, lane, unique_key,
      failures_max, crashes_max, timeout_seconds, trace_parent, team_id, holds_lane,
      status, waiting_for)
    values (
      new_id, enqueue.mode, coalesce(enqueue.payload, '{}'), coalesce(enqueue.queue, 'default'),
      coalesce(enqueue.priority, 3)::smallint,
      coalesce(enqueue.run_at, clock_timestamp() + enqueue.delay),
      enqueue.thread_id, enqueue.trigger_message_id, enqueue.lane, enqueue.unique_key,
      enqueue.failures_max, enqueue.crashes_max, enqueue.timeout_seconds, enqueue.trace_parent,
      enqueue.team_id, coalesce(enqueue.holds_lane, false),
      case when needs = '{}' then 'queued' else 'waiting' end::jobsworth.job_status,
      case when needs <> '{}' then 'parents'::jobsworth.wait_reason end)
    on conflict do nothing
    returning reactive_jobs.id into found_id;
    if found_id is not null then
      if needs <> '{}' then
        insert into jobsworth.job_edges (job_id, needs_job_id)
        select found_id, u.id from unnest(needs) u(id) group by u.id;
        perform jobsworth.reconsider(array[found_id], patient => true);
      end if;
      return found_id;
    end if;
    -- Its own id came back (a repeated call), or the key's holder: unless that ended just now.
    select j.id into found_id from jobsworth.reactive_jobs j where j.id = new_id;
    if not found then
      select j.id into found_id from jobsworth.reactive_jobs j
      where j.unique_key = enqueue.unique_key and j.team_id is not distinct from enqueue.team_id
        and j.finished_at is null;
    end if;
    if found_id is not null then
      return found_id;
    end if;
  end loop;
end $$;

-- Decide an approval once; the waiting job resumes in the same transaction. The deadline counts
-- here, not only in the sweep: after it, the approval takes its default and this vote is refused.
create function jobsworth.resolve(
  approval_id uuid, option text, decided_by text, channel text default 'sql',
  comment text default null,
  out accepted boolean, out status jobsworth.approval_status, out chosen_option text)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  a jobsworth.approvals;
begin
  select x.* into a from jobsworth.approvals x where x.id = resolve.approval_id;
  if not found then
    raise exception 'there is no approval %', resolve.approval_id
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approvals.';
  end if;
  -- The job's row first, as everybody does, then the approval's.
  perform 1 from jobsworth.reactive_jobs j where j.id = a.job_id for no key update;
  select x.* into a from jobsworth.approvals x where x.id = resolve.approval_id for update;
  if (resolve.option = any(a.options)) is not true then
    raise exception '% is not an option of approval %', coalesce(resolve.option, 'null'), a.id
      using errcode = 'invalid_parameter_value',
      hint = 'Its options are: ' || array_to_string(a.options, ', ');
  end if;

  if a.status = 'pending' then
    accepted := a.deadline is null or a.deadline > clock_timestamp();
    chosen_option := case when accepted then resolve.option else a.on_timeout end;
    status := case
      when not accepted then 'expired'
      when chosen_option = 'reject' then 'rejected'
      else 'approved'
    end;
    update jobsworth.approvals x
    set status = resolve.status, chosen_option = resolve.chosen_option, closed_at = now()
    where x.id = a.id;
    insert into jobsworth.approval_decisions
      (approval_id, team_id, option, decided_by, channel, comment)
    values (a.id, a.team_id, chosen_option,
      case when accepted then resolve.decided_by else 'deadline' end,
      case when accepted then resolve.channel else 'deadline' end,
      case when accepted then resolve.comment end);
    perform jobsworth.reconsider(array[a.job_id], patient => true) where a.job_id is not null;
  else
    accepted := false;
    status := a.status;
    chosen_option := a.chosen_option;
  end if;
end $$;

-- Close approvals past their deadline with their default; the jobs that wait for them resume.
create function jobsworth.expire_approvals(most int) returns int language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  due record;
  expired int := 0;
begin
  for due in
    select a.id, a.job_id, a.on_timeout from jobsworth.approvals a
    where a.status = 'pending' and a.deadline <= clock_timestamp()
    order by a.deadline limit most for update skip locked
  loop
    -- Whatever somebody holds is left for the next round: expiry waits for nobody.
    perform 1 from jobsworth.reactive_jobs j
    where j.id = due.job_id for no key update skip locked;
    continue when not found
      and exists (select 1 from jobsworth.reactive_jobs j where j.id = due.job_id);
    perform jobsworth.resolve(due.id, due.on_timeout, 'deadline', 'deadline');
    expired := expired + 1;
  end loop;
  return expired;
end $$;

-- Put a signal into a job's mailbox; a job that waits for it resumes in the same transaction, one
-- that will wait for it later finds it.
create function jobsworth.send_signal(job_id uuid, name text, payload jsonb default null)
  returns uuid language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  j jobsworth.reactive_jobs;
  signal_id uuid;
begin
  select x.* into j from jobsworth.reactive_jobs x
  where x.id = send_signal.job_id for no key update;
  if not found then
    raise exception 'there is no job %', send_signal.job_id using errcode = 'no_data_found',
      hint = 'List jobs: jobsworth jobs.';
  elsif j.finished_at is not null then
    raise exception 'job % is already %: it will not read a signal', j.id, j.status
      using errcode = 'object_not_in_prerequisite_state', hint = 'Retry the job first.';
  end if;
  insert into jobsworth.signals (job_id, team_id, name, payload)
  values (j.id, j.team_id, send_signal.name, send_signal.payload)
  returning id into signal_id;
  perform jobsworth.reconsider(array[j.id], patient => true);
  return signal_id;
end $$;

-- Cancel a job: at once if it is not running, at its next ending if it is. Returns its status.
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

-- Give a failed or canceled job a fresh start, as a new insert would have; run a scheduled or
-- backing-off job now. Returns its status.
create function jobsworth.retry(job_id uuid) returns jobsworth.job_status language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  j jobsworth.reactive_jobs;
  holder uuid;
  needs boolean;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = retry.job_id for no key update;
  if not found then
    raise exception 'there is no job %', retry.job_id using errcode = 'no_data_found',
      hint = 'List jobs: jobsworth jobs.';
  end if;
  if j.status = 'waiting' and j.waiting_for = 'timer' then
    update jobsworth.reactive_jobs x set run_at = clock_timestamp() where x.id = j.id;
  elsif j.status in ('failed', 'canceled') then
    select x.id into holder from jobsworth.reactive_jobs x
    where x.unique_key = j.unique_key and x.team_id is not distinct from j.team_id
      and x.finished_at is null;
    if found then
      raise exception 'job % cannot run again: job % holds its unique key %',
        j.id, holder, j.unique_key
        using errcode = 'unique_violation', hint = 'Wait for that job, or cancel it first.';
    end if;
    -- Its steps stay recorded and paid. Only a deployment that did not become healthy is shipped
    -- anew.
    delete from jobsworth.steps p
    using jobsworth.deployments d
    where d.job_id = j.id and d.status in ('failed', 'rolled_back')
      and p.job_id = j.id and p.kind = 'phase' and starts_with(p.name, d.step_name || ':');
    update jobsworth.deployments d
    set step_name = d.step_name || ' before ' || d.id
    where d.job_id = j.id and d.status in ('failed', 'rolled_back');

    -- It waits on a timer that is due, so that reconsider gives it its place; or again for the jobs
    -- it needs, as long as one of them is open.
    needs := exists (
      select 1 from jobsworth.job_edges e join jobsworth.reactive_jobs p on p.id = e.needs_job_id
      where e.job_id = j.id and p.finished_at is null);
    begin
      update jobsworth.reactive_jobs x
      set status = 'waiting', run_at = clock_timestamp(), finished_at = null,
          waiting_for = case when needs then 'parents' else 'timer' end::jobsworth.wait_reason,
          failures = 0, crashes = 0, cancel_requested = false, error = null, result = null,
          lane_position = null
      where x.id = j.id;
    exception when unique_violation then
      raise exception 'job % cannot run again: another job has just taken its unique key %',
        j.id, j.unique_key
        using errcode = 'unique_violation', hint = 'Wait for that job, or cancel it first.';
    end;
  else
    raise exception 'job % is %: only a failed, canceled or timed job can be run again',
      j.id, j.status using errcode = 'object_not_in_prerequisite_state',
      hint = 'see what it waits for: jobsworth why ' || j.id;
  end if;
  perform jobsworth.reconsider(array[j.id], patient => true);
  return (select x.status from jobsworth.reactive_jobs x where x.id = j.id);
end $$;
"""

REPORTS = """
-- Why is this job not running? Exactly one reason, and the one thing that would unblock it.
create function jobsworth.why(job_id uuid)
  returns table (status jobsworth.job_status, reason text, detail text, remedy text)
  language plpgsql stable as $$
#variable_conflict use_column
declare
  j jobsworth.reactive_jobs;
  other record;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = why.job_id;
  if not found then
    return;
  end if;
  status := j.status;
  if j.status = 'waiting' then
    reason := j.waiting_for::text;
    case j.waiting_for
    when 'timer' then
      detail := 'until ' || to_char(j.run_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
        || case when j.failures > 0 then ', after failure ' || j.failures || ': '
             || coalesce(j.error, 'no message') else '' end;
      remedy := 'wait, or run it now: jobsworth retry ' || j.id;
    when 'lane' then
      select x.id, x.status into other from jobsworth.reactive_jobs x
      where x.lane = j.lane and x.status = 'running' limit 1;
      if not found then
        select x.id, x.status into other from jobsworth.reactive_jobs x
        where x.id = jobsworth.lane_head(j.lane) and x.id <> j.id;
      end if;
      detail := 'lane ' || j.lane || coalesce(', behind job ' || other.id || ' (' || other.status
        || ')', ', next to be promoted');
      remedy := coalesce('jobsworth why ' || other.id, 'nothing to do: a worker promotes it');
    when 'parents' then
      select p.id, p.status into other from jobsworth.job_edges e
      join jobsworth.reactive_jobs p on p.id = e.needs_job_id
      where e.job_id = j.id and p.finished_at is null limit 1;
      detail := coalesce('needs job ' || other.id || ' (' || other.status || ')',
        'next to be promoted');
      remedy := coalesce('jobsworth why ' || other.id, 'nothing to do: a worker promotes it');
    when 'children' then
      select count(*) as open, min(c.id::text) as id into other from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null;
      detail := other.open || ' of its children have not ended';
      remedy := coalesce('jobsworth why ' || other.id, 'nothing to do: a worker promotes it');
    when 'approval' then
      select a.id, a.proposal_text, a.deadline into other from jobsworth.approvals a
      where a.job_id = j.id and a.status = 'pending' limit 1;
      detail := coalesce('approval ' || other.id || ': ' || left(other.proposal_text, 120),
        'decided, next to be promoted');
      remedy := coalesce('jobsworth approve ' || other.id || ', or jobsworth reject ' || other.id,
        'nothing to do: a worker promotes it');
    when 'signal' then
      detail := 'signal ' || coalesce(j.waiting_detail, '?')
        || coalesce(', at most until ' || to_char(j.run_at at time zone 'utc',
             'YYYY-MM-DD HH24:MI:SS') || ' UTC', '');
      remedy := format('select jobsworth.send_signal(%L, %L, ''{}'')', j.id, j.waiting_detail);
    when 'handler' then
      detail := 'no living worker knows the mode ' || j.mode;
      remedy := 'start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job';
    else
      detail := coalesce(j.waiting_detail, j.waiting_for::text);
      remedy := 'jobsworth job ' || j.id;
    end case;
  elsif j.status = 'queued' then
    if exists (select 1 from jobsworth.queues q where q.name = j.queue and q.paused) then
      reason := 'paused';
      detail := 'queue ' || j.queue || ' is paused';
      remedy := 'jobsworth queue resume ' || j.queue;
    elsif not exists (select 1 from jobsworth.workers w
        where w.beaten_at > now() - interval '12 seconds' and not w.draining) then
      reason := 'no worker';
      detail := 'no worker is alive';
      remedy := 'start one: jobsworth worker';
    elsif not exists (select 1 from jobsworth.workers w
        where j.mode = any(w.modes) and w.beaten_at > now() - interval '12 seconds'
          and not w.draining) then
      reason := 'no handler';
      detail := 'no living worker knows the mode ' || j.mode;
      remedy := 'start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job';
    elsif not exists (select 1 from jobsworth.workers w
        where j.mode = any(w.modes) and j.queue = any(w.queues)
          and w.beaten_at > now() - interval '12 seconds' and not w.draining) then
      reason := 'no worker';
      detail := 'no worker that knows ' || j.mode || ' serves the queue ' || j.queue;
      remedy := 'add ' || j.queue || ' to a worker''s JOBSWORTH_QUEUES';
    else
      reason := 'no slot';
      detail := 'ready: the next free slot takes it in its turn';
      remedy := 'nothing to do, or add workers or slots (JOBSWORTH_SLOTS)';
    end if;
  elsif j.status = 'running' then
    reason := 'running';
    select w.host, w.pid into other from jobsworth.workers w where w.id = j.worker_id;
    detail := 'attempt ' || j.attempt || coalesce(' on ' || other.host || ', process ' || other.pid,
      ' of a worker that is gone: it will be rescued')
      || case when j.cancel_requested then ', cancel requested' else '' end;
    remedy := 'wait, or cancel it: jobsworth cancel ' || j.id;
  else
    reason := j.status::text;
    detail := coalesce(j.error, 'ended at ' || to_char(j.finished_at at time zone 'utc',
      'YYYY-MM-DD HH24:MI:SS') || ' UTC');
    remedy := case when j.status = 'done' then 'nothing to do'
      else 'run it again: jobsworth retry ' || j.id end;
  end if;
  return next;
end $$;

-- Every breach of an invariant. It is empty, always.
create view jobsworth.violations as
select 'two running in a lane' as invariant, j.id as subject_id, 'lane ' || j.lane as detail
from jobsworth.reactive_jobs j
where j.status = 'running' and j.lane is not null and exists (
  select 1 from jobsworth.reactive_jobs o
  where o.lane = j.lane and o.status = 'running' and o.id <> j.id)
union all
select 'running without a living worker', j.id, 'since ' || j.started_at
from jobsworth.reactive_jobs j
where j.status = 'running' and j.worker_id is not null
  and j.started_at < now() - interval '30 seconds' and not exists (
  select 1 from jobsworth.workers w
  where w.id = j.worker_id and w.beaten_at > now() - interval '30 seconds')
union all
select 'waiting though its reason is gone', j.id, j.waiting_for::text
from jobsworth.reactive_jobs j
where j.status = 'waiting' and jobsworth.reason_gone(j)
  and coalesce(j.run_at, j.created_at) < now() - interval '30 seconds'
union all
select 'ended with an open approval', a.job_id, 'approval ' || a.id
from jobsworth.approvals a join jobsworth.reactive_jobs j on j.id = a.job_id
where a.status = 'pending' and j.finished_at < now() - interval '30 seconds'
union all
select 'ended with an open child', c.id, 'parent ' || p.id
from jobsworth.reactive_jobs c join jobsworth.reactive_jobs p on p.id = c.parent_id
where c.is_child and c.finished_at is null and not c.cancel_requested
  and p.finished_at < now() - interval '30 seconds'
union all
select 'settled call without its ledger entry', c.id, c.provider || ' ' || c.model
from jobsworth.llm_calls c
where c.settled_at is not null and not exists (
  select 1 from jobsworth.token_ledger l where l.call_id = c.id and l.entry = 'settle')
union all
select 'open call without its attempt', c.id, c.provider || ' ' || c.model
from jobsworth.llm_calls c
where c.status = 'started' and c.started_at < now() - interval '60 seconds'
  and c.job_id is not null and not exists (
  select 1 from jobsworth.reactive_jobs j
  where j.id = c.job_id and j.lease_no = c.lease_no and j.status = 'running')
union all
select 'ledger entry that contradicts its call', c.id,
  row(l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost)
  || ' is not ' || row(c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens,
    c.cost)
from jobsworth.token_ledger l join jobsworth.llm_calls c on c.id = l.call_id
where l.entry = 'settle' and (l.cost is distinct from c.cost
  or l.input_tokens <> coalesce(c.input_tokens, 0)
  or l.output_tokens <> coalesce(c.output_tokens, 0)
  or l.cache_read_tokens <> coalesce(c.cache_read_tokens, 0)
  or l.cache_write_tokens <> coalesce(c.cache_write_tokens, 0))
union all
select 'healthy without a passing probe', d.id, d.environment
from jobsworth.deployments d
where d.status = 'healthy' and not coalesce((d.probe ->> 'passed')::boolean, false)
union all
select 'unfinished deployment of a finished job', d.id, d.environment
from jobsworth.deployments d join jobsworth.reactive_jobs j on j.id = d.job_id
where d.finished_at is null and j.finished_at < now() - interval '30 seconds';
"""

DOWN = """
drop view jobsworth.violations;
drop function jobsworth.why(uuid);
drop function jobsworth.retry(uuid);
drop function jobsworth.cancel(uuid, text);
drop function jobsworth.send_signal(uuid, text, jsonb);
drop function jobsworth.expire_approvals(int);
drop function jobsworth.resolve(uuid, text, text, text, text);
drop function jobsworth.enqueue(text, jsonb, text, int, timestamptz, interval, uuid, uuid, text,
  text, int, float8, text, uuid, uuid[], boolean, int, uuid);
drop function jobsworth.unblock(uuid[]);
drop function jobsworth.cancel_locked(uuid[], text);
drop function jobsworth.reconsider(uuid[], boolean);
drop function jobsworth.reason_gone(jobsworth.reactive_jobs);
drop function jobsworth.cosine_distance(halfvec, halfvec);
drop function jobsworth.halfvec(text);
drop table jobsworth.embeddings, jobsworth.embedding_outbox, jobsworth.embedding_spaces,
  jobsworth.deployments, jobsworth.approval_decisions, jobsworth.approvals,
  jobsworth.token_ledger, jobsworth.llm_calls, jobsworth.artifacts, jobsworth.steps,
  jobsworth.message_artifacts, jobsworth.chat_messages, jobsworth.chat_threads,
  jobsworth.signals, jobsworth.workers, jobsworth.queues, jobsworth.job_edges,
  jobsworth.reactive_jobs;
drop function jobsworth.lane_head(text);
drop function jobsworth.lane_blocked(text, bigint, uuid);
drop function jobsworth.wake_on_insert();
drop function jobsworth.wake();
drop function jobsworth.arrive();
drop function jobsworth.touch();
drop function jobsworth.refuse_change();
drop function jobsworth.guard_deployment();
drop sequence jobsworth.job_position, jobsworth.lane_position, jobsworth.lease_no;
drop function jobsworth.uuidv7();
drop type jobsworth.job_status, jobsworth.wait_reason, jobsworth.thread_status,
  jobsworth.message_role, jobsworth.message_artifact_kind, jobsworth.step_effect,
  jobsworth.call_status, jobsworth.usage_source, jobsworth.ledger_entry, jobsworth.ledger_scope,
  jobsworth.approval_status, jobsworth.deployment_status;
"""


def upgrade() -> None:
    for part in (
        TYPES,
        UUIDV7,
        QUEUE,
        CONVERSATION,
        EXECUTION,
        BOOKS,
        CONSENT,
        SHIPPING,
        MEMORY,
        IMMUTABLE,
        WAITING,
        TRIGGERS,
        OPERATIONS,
        REPORTS,
    ):
        run(part)


def downgrade() -> None:
    run(DOWN)
