-- Projects, and sessions in them. A session is a sitting of a user or an agent: jobs, runs and threads
-- name it, and what a job makes (steps, messages, memories, calls) belongs to the session of its job.

create table jobsworth.projects (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid references jobsworth.teams on delete cascade,
  name jobsworth.name not null,
  description text,
  metadata jsonb not null default '{}',
  created_at jobsworth.created_at not null default now(),
  updated_at jobsworth.updated_at not null default now(),
  constraint one_project_per_name unique nulls not distinct (team_id, name)
);
create trigger touch before update on jobsworth.projects
  for each row execute function jobsworth.touch();

create type jobsworth.session_status as enum ('open', 'closed');

create table jobsworth.sessions (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid references jobsworth.teams on delete cascade,
  project_id uuid references jobsworth.projects on delete cascade,
  user_id uuid references jobsworth.users,
  agent_id uuid references jobsworth.agents on delete cascade,
  title text,
  status jobsworth.session_status not null default 'open',
  metadata jsonb not null default '{}',
  created_at jobsworth.created_at not null default now(),
  -- When it was made, resumed, or said to be in use. Its jobs do not lock it to write here.
  last_active_at jobsworth.last_active_at not null default now(),
  closed_at jobsworth.closed_at,
  constraint closed_has_its_time check ((status = 'closed') = (closed_at is not null))
);
create index sessions_team on jobsworth.sessions (team_id, id);
create index sessions_project on jobsworth.sessions (project_id, id);
create index sessions_user on jobsworth.sessions (user_id, id);
create index sessions_agent on jobsworth.sessions (agent_id, id);
