-- Agents: what makes one agent differ from another. Without a team it is the installation's.
-- What it may spend is in `budgets`, by `agent_id`.

-- What an agent can do: what all may and what it alone may, without what is switched off.
create function jobsworth.effective_skills(shared text[], private text[], disabled text[])
  returns text[] language sql immutable parallel safe
  return array(
    select s.name from unnest(shared || private) as s (name)
    where s.name is not null
    except
    select d.name from unnest(disabled) as d (name)
    order by 1);

create table jobsworth.agents (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid references jobsworth.teams on delete cascade,
  name jobsworth.name not null,
  model jobsworth.model,  -- null: the worker's
  personality text,
  instructions text,
  skills_shared text[] not null default '{}',
  skills_private text[] not null default '{}',
  skills_disabled text[] not null default '{}',
  skills text[] generated always as
    (jobsworth.effective_skills(skills_shared, skills_private, skills_disabled)) stored,
  -- How memories are weighed when it recalls; null: as for everybody.
  similarity_weight jobsworth.similarity_weight,
  recency_weight jobsworth.recency_weight,
  importance_weight jobsworth.importance_weight,
  half_life_seconds jobsworth.half_life_seconds,
  metadata jsonb not null default '{}',
  created_at jobsworth.created_at not null default now(),
  updated_at jobsworth.updated_at not null default now(),
  constraint one_agent_per_name unique nulls not distinct (team_id, name)
);
create trigger touch before update on jobsworth.agents
  for each row execute function jobsworth.touch();
