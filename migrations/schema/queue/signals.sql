-- Signals: a mailbox for each job. A signal that comes before the job waits for it is kept.
--
-- A signal, a decision and a cancel lock the job's row first; a finish skips locked rows. What
-- comes before the wait is kept, and the look after the park finds it.

create table jobsworth.signals (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  name jobsworth.name not null,
  payload jsonb,
  sent_at jobsworth.sent_at not null default now(),
  received_at jobsworth.received_at
);
-- The signals that a job has not received yet.
create index signals_mailbox on jobsworth.signals (job_id, name, id) where received_at is null;
-- Deletes the signals of a job with the job.
create index signals_of_job on jobsworth.signals (job_id);

-- Put a signal into a job's mailbox. A job that waits for it goes on in the same transaction. A call
-- that is repeated with the same `id` sends nothing more.
create function jobsworth.send_signal(
  job_id uuid, name text, payload jsonb default null, id uuid default null)
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
  elsif exists (
    select 1 from jobsworth.signals s where s.id = send_signal.id and s.job_id = j.id)
  then
    return send_signal.id;
  elsif j.finished_at is not null then
    raise exception 'job % is already %: it will not read a signal', j.id, j.status
      using errcode = 'object_not_in_prerequisite_state', hint = 'Retry the job first.';
  end if;
  insert into jobsworth.signals (id, job_id, team_id, name, payload)
  values (coalesce(send_signal.id, jobsworth.uuidv7()), j.id, j.team_id, send_signal.name,
    send_signal.payload)
  returning signals.id into signal_id;
  perform jobsworth.reconsider(array[j.id], wait_for_locks => true);
  return signal_id;
end $$;
