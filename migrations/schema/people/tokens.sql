-- Tokens of programs that act for a user or an agent. Only the SHA-256 of a token is kept: a token is
-- 256 random bits, so its hash needs neither salt nor time.

create table jobsworth.api_tokens (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid references jobsworth.teams on delete cascade,
  user_id uuid references jobsworth.users on delete cascade,
  agent_id uuid references jobsworth.agents on delete cascade,
  name jobsworth.name not null,
  hash bytea not null,
  scopes text[] not null default '{}',
  created_at jobsworth.created_at not null default now(),
  expires_at jobsworth.expires_at,
  last_used_at jobsworth.last_used_at,
  revoked_at jobsworth.revoked_at,
  constraint one_token_per_hash unique (hash),
  constraint hash_is_sha_256 check (octet_length(hash) = 32)
);
create index api_tokens_team on jobsworth.api_tokens (team_id, id);
create index api_tokens_user on jobsworth.api_tokens (user_id);
create index api_tokens_agent on jobsworth.api_tokens (agent_id);
