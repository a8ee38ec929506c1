-- Memories: texts with their embeddings. A job that finishes writes the text into the outbox; the
-- embedding is computed after that.

-- The vectors of one model and size are comparable: they share a space.
create table jobsworth.embedding_spaces (
  id int generated always as identity primary key,
  model jobsworth.model not null,
  dimensions jobsworth.dimensions not null,
  created_at jobsworth.created_at not null default now(),
  constraint one_space_per_model unique (model, dimensions)
);

create table jobsworth.embedding_outbox (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  thread_id uuid,
  job_id uuid,
  effect_key text,
  source_kind jobsworth.source_kind not null,
  source_id text,
  text text not null,
  metadata jsonb not null default '{}',
  tries jobsworth.tries_made not null default 0,
  next_try_at jobsworth.next_try_at not null default now(),
  last_error text,
  created_at jobsworth.created_at not null default now()
);
create unique index embedding_outbox_effect on jobsworth.embedding_outbox (job_id, effect_key)
  where job_id is not null;
create index embedding_outbox_due on jobsworth.embedding_outbox (next_try_at);

create table jobsworth.embeddings (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  thread_id uuid,
  job_id uuid,
  effect_key text,
  space_id int not null references jobsworth.embedding_spaces,
  source_kind jobsworth.source_kind not null,
  source_id text,
  text text not null,
  metadata jsonb not null default '{}',
  vector halfvec not null,
  created_at jobsworth.created_at not null default now()
);
create unique index embeddings_effect on jobsworth.embeddings (job_id, effect_key, space_id)
  where job_id is not null;
create index embeddings_scope on jobsworth.embeddings (space_id, team_id);
create index embeddings_source on jobsworth.embeddings (source_kind, source_id);
