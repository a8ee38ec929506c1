-- The history of attempts: one row for each attempt that did not end well. An attempt that is done,
-- or parks for a reason of its own, has none, so most jobs have no row here. Each row is written in
-- the transaction that ends its attempt, under the lock of the job's row.

create table jobsworth.attempt_history (
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  team_id uuid,
  attempt jobsworth.attempt not null,
  -- How it ended. failed: its handler failed, or what it wrote was refused. canceled: by a person, or
  -- by its handler. released: its worker was told to stop. interrupted: the database was away.
  -- crashed: its worker died. lost: its worker runs, and has no attempt at the job (the answer to a
  -- claim was lost, or the worker gave its attempts up during an outage).
  outcome text not null constraint outcome_is_known check (
    outcome in ('failed', 'canceled', 'released', 'interrupted', 'crashed', 'lost')),
  worker_id uuid,
  -- Null if the worker's row was gone by then.
  host text,
  pid int,
  began_at jobsworth.began_at,
  ended_at jobsworth.ended_at not null default clock_timestamp(),
  error text,
  -- The user's own frame first, then the exception, then its causes. Secrets are masked.
  traceback text,
  primary key (job_id, attempt)
);

-- What ran beside a job whose worker died: `db/queue/rescue.py`.
create index attempt_history_crashed on jobsworth.attempt_history (worker_id)
  where outcome = 'crashed';

-- Write the rows of attempts whose jobs this transaction has locked and ended: of each job its newest
-- attempt. Only the newest rows of a job are kept, so a job that fails for ever stays small.
create function jobsworth.tell_attempts(
  job_ids uuid[], outcomes text[], errors text[], tracebacks text[]) returns void
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  insert into jobsworth.attempt_history (
    job_id, team_id, attempt, outcome, worker_id, host, pid, began_at, error, traceback)
  select j.id, j.team_id, j.attempt, t.outcome, j.worker_id, w.host, w.pid, j.started_at, t.error,
    t.traceback
  from unnest(
    tell_attempts.job_ids, tell_attempts.outcomes, tell_attempts.errors, tell_attempts.tracebacks)
    as t (job_id, outcome, error, traceback)
  cross join lateral (
    select r.id, r.team_id, r.attempt, r.worker_id, r.started_at
    from jobsworth.reactive_jobs r
    where r.id = t.job_id
    offset 0
  ) j
  left join lateral (
    select x.host, x.pid from jobsworth.workers x where x.id = j.worker_id offset 0
  ) w on true
  on conflict do nothing;

  delete from jobsworth.attempt_history h
  using unnest(tell_attempts.job_ids) as t (job_id)
  where h.job_id = t.job_id and h.attempt <= (
    select o.attempt
    from jobsworth.attempt_history o
    where o.job_id = t.job_id
    order by o.attempt desc
    offset 100 limit 1);
end $$;
