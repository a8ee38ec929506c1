"""Environments: what is live where, who holds it, and how a deployment goes back.

A row of `environments` keeps what deploy.toml said of an environment when something was last
deployed there. What is live and who holds it are not written down a second time: the view
`environment_states` derives both from the deployments, so they cannot disagree.

A deployment that goes back is a row of its own: `rollback_of` is the one that was live when it was
asked for, `rollback_to` the healthy one whose commit is live again.

One whose job does not run keeps its environment for a bounded time only. `idle_since` is when it
was first seen so, under `idle_lease_no`: a claim after that makes the mark worthless, without
anybody having to take it back.
"""

from migrations.sql import earlier, run

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLES = """
create table jobsworth.environments (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  name text not null,
  approvals_needed smallint not null default 0,
  repository text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint environments_name unique nulls not distinct (team_id, name),
  constraint approvals_are_none_one_or_two check (approvals_needed between 0 and 2)
);

alter table jobsworth.deployments
  add column host text,
  add column rollback_of uuid,
  add column rollback_to uuid,
  add column idle_lease_no bigint,
  add column idle_since timestamptz,
  add constraint going_back_is_from_one_to_another
    check ((rollback_of is null) = (rollback_to is null) and rollback_of <> rollback_to);
create index deployments_live on jobsworth.deployments (environment, id)
  where status = 'healthy';

-- A person who runs a job again ships anew what did not become healthy: `retry` renames the
-- deployment's step, and then its recorded outcome, and the consent that it has consumed, must make
-- way as well.
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
"""

STATES = """
-- Each environment that anything was deployed to: what is live by the books (the newest healthy
-- deployment; one that was rolled back or failed changes nothing), and who holds it.
create view jobsworth.environment_states (
  team_id, environment, approvals_needed, current_deployment_id, current_sha, current_release,
  current_host, current_since, locked_by_deployment_id, locked_by_job_id, locked_since) as
select n.team_id, n.name, e.approvals_needed, live.id, live.sha, live.release, live.host,
  live.finished_at, held.id, held.job_id, held.created_at
from (
  select d.team_id, d.environment as name from jobsworth.deployments d
  union
  select k.team_id, k.name from jobsworth.environments k
) n
left join jobsworth.environments e on e.name = n.name and e.team_id is not distinct from n.team_id
left join lateral (
  select d.id, d.sha, d.release, d.host, d.finished_at
  from jobsworth.deployments d
  where d.environment = n.name and d.team_id is not distinct from n.team_id
    and d.status = 'healthy'
  order by d.id desc
  limit 1
) live on true
left join jobsworth.deployments held
  on held.environment = n.name and held.team_id is not distinct from n.team_id
  and held.finished_at is null;
"""

WAITING = """
-- Who waits for an environment waits for a limit: one deployment at a time, in the order of the
-- jobs. `waiting_detail` names it; there is no time.
create or replace function jobsworth.environment_is_free(j jobsworth.reactive_jobs) returns boolean
  language sql stable
  return coalesce((j).waiting_detail not like 'environment %', true) or not exists (
      select 1 from jobsworth.deployments d
      where d.environment = substr((j).waiting_detail, 13) and d.finished_at is null
        and d.team_id is not distinct from (j).team_id)
    and not exists (
      select 1 from jobsworth.reactive_jobs o
      where o.status = 'waiting' and o.waiting_for = 'limit' and o.id < (j).id
        and o.waiting_detail = (j).waiting_detail and o.team_id is not distinct from (j).team_id);

create or replace function jobsworth.why_environment(
  job_id uuid, out detail text, out remedy text) language sql stable begin atomic
  select j.waiting_detail || coalesce(
      ' is held by deployment ' || d.id || ' of ' || left(d.sha, 12) || ' (' || d.status || ')',
      ' is free: next to be promoted'),
    case when d.id is null then 'nothing to do: a worker promotes it'
      else coalesce('jobsworth why ' || d.job_id, 'end it: it has no job') end
  from jobsworth.reactive_jobs j
  left join jobsworth.deployments d on d.environment = substr(j.waiting_detail, 13)
    and d.finished_at is null and d.team_id is not distinct from j.team_id
  where j.id = why_environment.job_id and j.waiting_for = 'limit' and j.run_at is null
    and j.waiting_detail like 'environment %';
end;
"""

VIOLATIONS = """
create or replace view jobsworth.violations_of_shipping (invariant, subject_id, detail, at) as
select 'healthy without a passing probe', d.id, d.environment, 'infinity'::timestamptz
from jobsworth.deployments d
where d.status = 'healthy' and not coalesce((d.probe ->> 'passed')::boolean, false)
union all
select 'unfinished deployment of a finished job', d.id, d.environment, 'infinity'
from jobsworth.deployments d
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = d.job_id offset 0) j
where d.finished_at is null and j.finished_at < now() - interval '30 seconds'
union all
select 'two deployments at once in an environment', d.id, d.environment, 'infinity'
from jobsworth.deployments d
where d.finished_at is null and exists (
  select 1 from jobsworth.deployments o
  where o.finished_at is null and o.environment = d.environment
    and o.team_id is not distinct from d.team_id and o.id <> d.id)
union all
select 'environment held by nobody', d.id, d.environment, 'infinity'
from jobsworth.deployments d
left join lateral (
  select r.status, r.lease_no, r.finished_at from jobsworth.reactive_jobs r
  where r.id = d.job_id offset 0) j on true
where d.finished_at is null and d.job_id is not null
  and (j.status is null and d.updated_at < now() - interval '30 minutes'
    or j.finished_at is null and j.status <> 'running' and d.idle_lease_no = j.lease_no
      and d.idle_since < now() - interval '30 minutes')
union all
select 'rolled back to what was never healthy there', d.id, d.environment, 'infinity'
from jobsworth.deployments d
left join jobsworth.deployments t on t.id = d.rollback_to
where d.rollback_to is not null
  and (t.id is null or t.status <> 'healthy' or t.environment <> d.environment
    or t.team_id is distinct from d.team_id or t.sha <> d.sha);
"""

DOWN = """
-- As they were, in the form they were made: nothing waits for an environment.
create or replace function jobsworth.environment_is_free(j jobsworth.reactive_jobs) returns boolean
  language sql stable return true;
create or replace function jobsworth.why_environment(job_id uuid, out detail text, out remedy text)
  language sql stable return row(null::text, null::text);
drop view jobsworth.environment_states;
drop trigger set_outcome_aside on jobsworth.deployments;
drop function jobsworth.set_outcome_aside();
drop index jobsworth.deployments_live;
alter table jobsworth.deployments
  drop constraint going_back_is_from_one_to_another,
  drop column host, drop column rollback_of, drop column rollback_to, drop column idle_lease_no,
  drop column idle_since;
drop table jobsworth.environments;
"""


def upgrade() -> None:
    for part in (TABLES, STATES, WAITING, VIOLATIONS):
        run(part)


def downgrade() -> None:
    violations = earlier("0006_runs", "view jobsworth.violations_of_shipping")
    run(violations.replace("create view", "create or replace view"))
    run(DOWN)
