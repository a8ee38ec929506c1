-- What another program did for a run, saved by it: steps here, files in `artifacts`, calls by `save_llm_call`.
-- Saved twice it is there once, so a caller whose answer was lost may save it again.

create table jobsworth.saved_steps (
  run_id uuid not null references jobsworth.runs on delete cascade,
  team_id uuid,
  name jobsworth.name not null,
  kind text not null default 'step',
  input jsonb,
  output jsonb,
  error text,
  metadata jsonb,
  started_at jobsworth.started_at not null default clock_timestamp(),
  finished_at jobsworth.finished_at not null default clock_timestamp(),
  primary key (run_id, name),
  constraint metadata_is_an_object check (jsonb_typeof(metadata) = 'object'),
  constraint begins_before_its_end check (started_at <= finished_at)
);

-- Save a step of a run; with `error`, one that failed. Returns whether it is new, or takes the place of a failed
-- one. The first output stands: the same again changes nothing, another one is refused.
create function jobsworth.save_step(
  run_id uuid, name text, output jsonb default null, input jsonb default null,
  error text default null, kind text default 'step', metadata jsonb default null,
  started_at timestamptz default null, finished_at timestamptz default null)
  returns boolean language plpgsql as $$
#variable_conflict use_column
declare
  ended timestamptz := coalesce(save_step.finished_at, clock_timestamp());
  stands jobsworth.saved_steps;
begin
  insert into jobsworth.saved_steps as s (
    run_id, team_id, name, kind, input, output, error, metadata, started_at, finished_at)
  select r.id, r.team_id, save_step.name, save_step.kind, save_step.input, save_step.output,
    save_step.error, save_step.metadata, coalesce(save_step.started_at, ended), ended
  from jobsworth.runs r
  where r.id = save_step.run_id
  on conflict (run_id, name) do update
  set kind = excluded.kind, input = excluded.input, output = excluded.output,
    error = excluded.error, metadata = excluded.metadata, started_at = excluded.started_at,
    finished_at = excluded.finished_at
  where s.error is not null and s.error is distinct from excluded.error;
  if found then
    return true;
  end if;
  select s.* into stands from jobsworth.saved_steps s
  where s.run_id = save_step.run_id and s.name = save_step.name;
  if not found then
    raise exception 'there is no run %', coalesce(save_step.run_id::text, 'without an id')
      using errcode = 'no_data_found', hint = 'List runs: jobsworth run list.';
  elsif row(stands.output, stands.error) is distinct from row(save_step.output, save_step.error)
  then
    raise exception 'step % of run % is saved with another output', stands.name, stands.run_id
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'The first one stands. Give the step another name.';
  end if;
  return false;
end $$;

-- Save a file of a run, by content or by address; returns its id. The same again under the same name is the
-- same file, another one is refused.
create function jobsworth.save_artifact(
  run_id uuid, name text, content bytea default null, uri text default null,
  media_type text default 'application/octet-stream', metadata jsonb default null,
  step_name text default null)
  returns uuid language plpgsql as $$
#variable_conflict use_column
declare
  saved uuid;
  hash text := encode(sha256(save_artifact.content), 'hex');
  stands jobsworth.artifacts;
begin
  if (save_artifact.content is null) = (save_artifact.uri is null) then
    raise exception 'file % needs either content or uri', save_artifact.name
      using errcode = 'invalid_parameter_value', hint = 'Give one of them.';
  end if;
  insert into jobsworth.artifacts (
    team_id, run_id, effect_key, name, media_type, bytes, sha256, content, uri, metadata, step_name)
  select r.team_id, r.id, save_artifact.name, save_artifact.name, save_artifact.media_type,
    length(save_artifact.content), hash, save_artifact.content, save_artifact.uri,
    save_artifact.metadata, save_artifact.step_name
  from jobsworth.runs r
  where r.id = save_artifact.run_id
  on conflict (run_id, effect_key) do nothing
  returning id into saved;
  if saved is not null then
    return saved;
  end if;
  select a.* into stands from jobsworth.artifacts a
  where a.run_id = save_artifact.run_id and a.effect_key = save_artifact.name;
  if not found then
    raise exception 'there is no run %', coalesce(save_artifact.run_id::text, 'without an id')
      using errcode = 'no_data_found', hint = 'List runs: jobsworth run list.';
  elsif row(stands.sha256, stands.uri) is distinct from row(hash, save_artifact.uri::text) then
    raise exception 'run % has another file %', stands.run_id, stands.name
      using errcode = 'object_not_in_prerequisite_state', hint = 'Give the file another name.';
  end if;
  return stands.id;
end $$;
