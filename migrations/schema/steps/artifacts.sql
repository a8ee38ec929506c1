-- Artifacts: files that a job has produced, by content or by address.

create table jobsworth.artifacts (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  effect_key text not null,
  name text not null,
  media_type jobsworth.media_type not null,
  bytes jobsworth.bytes,
  sha256 text,
  content bytea,
  uri jobsworth.uri,
  created_at jobsworth.created_at not null default now(),
  constraint name_is_not_empty check (name <> ''),
  constraint artifact_has_content_or_uri check ((content is null) <> (uri is null)),
  constraint content_has_its_hash
    check (content is null or (sha256 is not null and bytes is not null))
);
create unique index artifacts_effect on jobsworth.artifacts (job_id, effect_key);
