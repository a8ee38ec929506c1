-- Artifacts: files by content or by address, which a job has produced or another program has saved for a run.

create table jobsworth.artifacts (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid references jobsworth.reactive_jobs on delete cascade,
  effect_key text not null,
  name text not null,
  media_type jobsworth.media_type not null,
  bytes jobsworth.bytes,
  sha256 text,
  content bytea,
  uri jobsworth.uri,
  created_at jobsworth.created_at not null default now(),
  -- Of a file that was saved for a run; a job's file is found by its job.
  run_id uuid references jobsworth.runs on delete cascade,
  step_name text,  -- the step that made it
  metadata jsonb,  -- the caller's own
  constraint name_is_not_empty check (name <> ''),
  constraint artifact_has_content_or_uri check ((content is null) <> (uri is null)),
  constraint content_has_its_hash
    check (content is null or (sha256 is not null and bytes is not null)),
  constraint artifact_is_of_a_job_or_a_run check ((job_id is null) <> (run_id is null)),
  constraint metadata_is_an_object check (jsonb_typeof(metadata) = 'object')
);
create unique index artifacts_effect on jobsworth.artifacts (job_id, effect_key);
create unique index artifacts_of_run on jobsworth.artifacts (run_id, effect_key);
