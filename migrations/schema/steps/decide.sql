-- Decisions about unsafe steps that were begun and not recorded.

-- Who decided what about which step. Nothing is ever deleted here.
create table jobsworth.step_decisions (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid not null,
  step_name jobsworth.step_name not null,
  decision text not null,
  output jsonb,
  attempt jobsworth.attempt not null,
  begun_at jobsworth.begun_at not null,
  begun_by text,
  error text,
  decided_by jobsworth.decided_by not null,
  decided_at jobsworth.decided_at not null default clock_timestamp(),
  constraint decision_is_done_or_again check (decision in ('done', 'again'))
);
create index step_decisions_of_job on jobsworth.step_decisions (job_id, id);
create trigger step_decisions_are_append_only
  before update or delete on jobsworth.step_decisions
  for each row execute function jobsworth.refuse_change('job_id', 'team_id', 'id');
create trigger step_decisions_are_not_emptied before truncate on jobsworth.step_decisions
  for each statement execute function jobsworth.refuse_change('job_id', 'team_id', 'id');

-- Decide about an unsafe step that was begun and not recorded: it is `done`, with this output, or
-- it did not happen and runs `again`. The job that waits for this goes on in the same transaction.
-- Returns the job's status. A step that runs again has not consumed its approval: a no can still
-- come.
create function jobsworth.decide_step(
  job_id uuid, name text, decision text, output jsonb default null, decided_by text default null)
  returns jobsworth.job_status language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  j jobsworth.reactive_jobs;
  s jobsworth.steps;
  said jobsworth.step_decisions;
begin
  if (decide_step.decision in ('done', 'again')) is not true then
    raise exception '% is no decision about a step', coalesce(decide_step.decision, 'null')
      using errcode = 'invalid_parameter_value', hint = 'Say done, or again.';
  elsif decide_step.decision = 'again' and decide_step.output is not null then
    raise exception 'a step that is to run again has no output yet'
      using errcode = 'invalid_parameter_value', hint = 'Leave the output out, or say done.';
  end if;
  -- The row of the job first, as all do. Nothing can begin or record a step meanwhile.
  select x.* into j from jobsworth.reactive_jobs x
  where x.id = decide_step.job_id for no key update;
  if not found then
    raise exception 'there is no job %', decide_step.job_id using errcode = 'no_data_found',
      hint = 'List jobs: jobsworth jobs.';
  elsif j.status = 'running' then
    raise exception 'job % is running: its attempt % may still record step %',
      j.id, j.attempt, decide_step.name
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Wait until it has ended, or cancel it first: jobsworth job cancel ' || j.id;
  end if;
  select x.* into s from jobsworth.steps x
  where x.job_id = j.id and x.name = decide_step.name for update;
  if not found or s.finished_at is not null then
    select x.* into said from jobsworth.step_decisions x
    where x.job_id = j.id and x.step_name = decide_step.name order by x.id desc limit 1;
    if s.name is null and said.id is null then
      raise exception 'job % has no step %', j.id, decide_step.name
        using errcode = 'no_data_found', hint = coalesce('Its open steps: ' || (
            select string_agg(o.name, ', ' order by o.started_at) from jobsworth.steps o
            where o.job_id = j.id and o.effect = 'unsafe' and o.kind <> 'phase'
              and o.finished_at is null), 'None of its steps waits for a person.');
    end if;
    raise exception 'step % of job % is not open%', decide_step.name, j.id,
      case when said.id is not null then ': ' || said.decided_by || ' said ' || said.decision
          || to_char(said.decided_at at time zone 'utc', ' "at" YYYY-MM-DD HH24:MI:SS "UTC"')
        else ': it is recorded' end
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'See the job''s steps: jobsworth job show ' || j.id;
  elsif s.effect <> 'unsafe' or s.kind = 'phase' then
    raise exception 'step % of job % needs no decision: its next attempt goes on with it by itself',
      s.name, j.id
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Only a step that was begun as unsafe waits for a person.';
  end if;
  insert into jobsworth.step_decisions (
    team_id, job_id, step_name, decision, output, attempt, begun_at, begun_by, error, decided_by)
  values (j.team_id, j.id, s.name, decide_step.decision, decide_step.output, s.attempt,
    s.started_at, s.begun_by, s.error, coalesce(nullif(decide_step.decided_by, ''), session_user));
  if decide_step.decision = 'done' then
    update jobsworth.steps x
    set output = coalesce(decide_step.output, 'null'), finished_at = clock_timestamp()
    where x.job_id = j.id and x.name = s.name;
  else
    delete from jobsworth.steps x where x.job_id = j.id and x.name = s.name;
    update jobsworth.approvals a set consumed_at = null, consumed_by = null
    where a.job_id = j.id and a.consumed_by = s.name and a.superseded_by is null;
  end if;
  perform jobsworth.reconsider(array[j.id], wait_for_locks => true);
  return (select x.status from jobsworth.reactive_jobs x where x.id = j.id);
end $$;
