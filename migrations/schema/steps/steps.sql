-- Steps: named, durable pieces of a job. The answer of a committed step is read by a later attempt,
-- never paid again.

-- A step that failed leaves its row, with `failed_at` and its error, until a later try records it.
--
-- `unsafe`: a step that must not be repeated. If it was begun and not recorded, a person decides.
create type jobsworth.step_effect as enum ('pure', 'idempotent', 'unsafe');

create table jobsworth.steps (
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  team_id uuid,
  name jobsworth.name not null,
  kind text not null default 'step',
  effect jobsworth.step_effect not null default 'idempotent',
  input_hash text,
  output jsonb,
  attempt jobsworth.attempt not null,
  started_at jobsworth.started_at not null default clock_timestamp(),
  finished_at jobsworth.finished_at,
  error text,
  begun_by text,
  -- Its positional and its keyword arguments: [[1], {"by": 10}]. Masked; of a long one its beginning:
  -- {"cut": "[[1]…", "bytes": 70000}. Null without arguments.
  input jsonb,
  -- When it failed: it raised an error, or was stopped while it ran. Of an unsafe step null: nobody
  -- knows whether it happened.
  failed_at jobsworth.failed_at,
  blob bytea,  -- what a checkpoint keeps beside its state
  primary key (job_id, name)
);
