-- Environments. A row keeps what deploy.toml said of an environment at the last deployment. What is
-- live and who holds the environment is not written a second time: the view derives both from the
-- deployments, so they cannot disagree.

create table jobsworth.environments (
  id uuid not null default jobsworth.uuidv7() primary key,
  name jobsworth.name not null,
  approvals_needed jobsworth.approvals_needed not null default 0,
  repository text,
  created_at jobsworth.created_at not null default now(),
  updated_at jobsworth.updated_at not null default now(),
  constraint environments_name unique (name)
);

-- Each environment that anything was deployed to: what is live according to the books (the newest
-- healthy deployment; a failed or rolled back one changes nothing), and which deployment holds it.
create view jobsworth.environment_states (
  environment, approvals_needed, current_team_id, current_deployment_id, current_sha,
  current_release, current_host, current_since, locked_by_team_id, locked_by_deployment_id,
  locked_by_job_id, locked_since) as
select n.name, e.approvals_needed, live.team_id, live.id, live.sha, live.release, live.host,
  live.finished_at, held.team_id, held.id, held.job_id, held.created_at
from (
  select d.environment as name from jobsworth.deployments d
  union
  select k.name from jobsworth.environments k
) n
left join jobsworth.environments e on e.name = n.name
left join lateral (
  select d.id, d.team_id, d.sha, d.release, d.host, d.finished_at
  from jobsworth.deployments d
  where d.environment = n.name and d.status = 'healthy'
  order by d.id desc
  limit 1
) live on true
left join jobsworth.deployments held
  on held.environment = n.name and held.finished_at is null;

-- Whether a job that waits for an environment may go on: the environment is free, and no older job
-- waits for it. Such a job waits for a limit without a time; `waiting_detail` names the
-- environment.
create function jobsworth.environment_is_free(j jobsworth.reactive_jobs) returns boolean
  language sql stable
  return coalesce((j).waiting_detail not like 'environment %', true) or not exists (
      select 1 from jobsworth.deployments d
      where d.environment = substr((j).waiting_detail, 13) and d.finished_at is null)
    and not exists (
      select 1 from jobsworth.reactive_jobs o
      where o.status = 'waiting' and o.waiting_for = 'limit' and o.run_at is null
        and hashtextextended(o.waiting_detail, 0) = hashtextextended((j).waiting_detail, 0)
        and o.id < (j).id and o.waiting_detail = (j).waiting_detail);
