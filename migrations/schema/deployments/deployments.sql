-- Deployments. An environment is a place: one folder of releases, one link to the live one, one
-- service. So all teams that deploy there share its lock, and one deployment is live there, of
-- whatever team.
--
-- A deployment that goes back is a row of its own: `rollback_of` is the deployment
-- that was live when it was asked for, `rollback_to` the healthy one whose commit is live again.
--
-- A deployment whose job does not run keeps its environment for a bounded time only. `idle_since`
-- is when it was first seen so, under the lease `idle_lease_no`: a claim after that makes the mark
-- worthless, and nobody has to take it back.

create type jobsworth.deployment_status as enum
  ('building', 'testing', 'deploying', 'healthy', 'rolled_back', 'failed');

create table jobsworth.deployments (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  job_id uuid,
  step_name text,
  environment jobsworth.environment not null,
  repository text,
  sha jobsworth.sha not null,
  branch text,
  status jobsworth.deployment_status not null default 'building',
  release text,
  report_text text,
  probe jsonb,
  created_at jobsworth.created_at not null default now(),
  updated_at jobsworth.updated_at not null default now(),
  finished_at jobsworth.finished_at,
  host text,
  rollback_of uuid,
  rollback_to uuid,
  idle_lease_no bigint,
  idle_since jobsworth.idle_since,
  constraint healthy_has_a_passing_probe
    check (status <> 'healthy' or coalesce((probe ->> 'passed')::boolean, false)),
  constraint final_has_its_end
    check ((status in ('healthy', 'rolled_back', 'failed')) = (finished_at is not null)),
  constraint going_back_is_from_one_to_another
    check ((rollback_of is null) = (rollback_to is null) and rollback_of <> rollback_to)
);
-- One deployment at a time in each environment.
create unique index deployments_one_at_a_time on jobsworth.deployments (environment)
  where finished_at is null;
create unique index deployments_step on jobsworth.deployments (job_id, step_name)
  where job_id is not null;
create index deployments_recent on jobsworth.deployments (environment, id);
create index deployments_live on jobsworth.deployments (environment, id)
  where status = 'healthy';

-- Refuses a status that a deployment cannot have next, and a change of one that has ended. What an
-- ended one does not say yet can still be added, and an erasure that names it takes its words away.
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
  if old.finished_at is not null and (
    row(new.sha, new.branch, new.repository, new.environment, new.finished_at, new.created_at,
        new.rollback_of, new.rollback_to)
      is distinct from row(old.sha, old.branch, old.repository, old.environment, old.finished_at,
        old.created_at, old.rollback_of, old.rollback_to)
    or (old.id::text = any(string_to_array(current_setting('jobsworth.erase', true), ',')))
      is not true and (new.report_text is distinct from old.report_text and old.report_text is not null
    or new.release is distinct from old.release and old.release is not null
    or new.probe is distinct from old.probe and old.probe is not null
    or new.host is distinct from old.host and old.host is not null))
  then
    raise exception 'deployment % is %: what it shipped and its report are final',
      old.id, old.status
      using errcode = 'restrict_violation', hint = 'Deploy again: that is a row of its own.';
  end if;
  new.updated_at := now();
  return new;
end $$;
create trigger guard_deployment before update on jobsworth.deployments
  for each row execute function jobsworth.guard_deployment();

-- A person who runs a job again deploys anew what did not become healthy: `retry` renames the step
-- of the deployment. This renames the recorded outcome of that step and what consumed its approval,
-- so that both make way.
create function jobsworth.set_outcome_aside() returns trigger language plpgsql as $$
begin
  update jobsworth.steps s set name = new.step_name
  where s.job_id = old.job_id and s.name = old.step_name and s.kind = 'deploy';
  update jobsworth.approvals a set consumed_by = new.step_name
  where a.job_id = old.job_id and a.consumed_by = old.step_name;
  return null;
end $$;
create trigger set_outcome_aside after update of step_name on jobsworth.deployments
  for each row when (old.step_name is distinct from new.step_name)
  execute function jobsworth.set_outcome_aside();
