-- Steps: named, durable pieces of a job. The answer of a committed step is read by a later attempt,
-- never paid again.

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
  primary key (job_id, name)
);
