-- Named numbers over time, that jobs record.

create table jobsworth.run_metrics (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  run_id uuid,
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  effect_key text not null,
  name text not null,
  value jobsworth.metric not null,
  at jobsworth.at not null default clock_timestamp(),
  constraint name_is_not_empty check (name <> ''),
  constraint one_point_each unique (job_id, effect_key)
);
create index run_metrics_of_run on jobsworth.run_metrics (run_id, name, at)
  where run_id is not null;
