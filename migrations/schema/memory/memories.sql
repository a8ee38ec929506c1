-- Memories: texts, and beside them their vectors. A job that finishes writes a memory; its vectors are
-- computed after that, by a daemon that finds it in the outbox.

-- The vectors of one space are comparable. Another provider, model, length or way to cut texts into
-- chunks makes another space. A memory may have vectors in several. `switched_at`: all memories shall
-- have vectors in the space that was switched to last; others stay in use until that is so.
create table jobsworth.embedding_spaces (
  id int generated always as identity primary key,
  provider jobsworth.provider not null,
  model jobsworth.model not null,
  dimensions jobsworth.dimensions not null,
  chunker jobsworth.chunker not null,
  created_at jobsworth.created_at not null default now(),
  switched_at jobsworth.switched_at,
  constraint one_space_per_embedder unique (provider, model, dimensions, chunker)
);

-- The words of a text that name one thing, in lower case: a digit beside letters or signs (inv-2041,
-- 2026-05-01, v1.2), four digits or more, an underscore, a path, an address, a capital within a word.
-- Vectors tell such words apart badly, so they are looked up literally.
create function jobsworth.identifiers(of text) returns text[]
  language sql immutable strict parallel safe
return (
  select coalesce(array_agg(distinct lower(w.word)), '{}')
  from (
    -- Most words have none of these signs, and cost no more than this.
    select distinct s.word
    from string_to_table(translate(left(of, 100000), e'\t\n\r', '   '), ' ') as s (word)
    where s.word ~ '[0-9_@#/\\]|[^\s][.:][^\s]|[[:lower:]][[:upper:]]'
  ) s
  cross join lateral regexp_matches(
    s.word, '[[:alnum:]_]+(?:[-./:@#+\\]+[[:alnum:]_]+)*', 'g') as f (found)
  -- A compound, and its parts: inv-2041/inv-2042.
  cross join lateral (
    select f.found[1] as word
    union all
    select parts.word from regexp_split_to_table(f.found[1], '[/:@#\\]+') as parts (word)
    where f.found[1] ~ '[/:@#\\]'
  ) w
  where octet_length(w.word) between 2 and 200
    and (
      w.word ~ '[0-9].*[^0-9]|[^0-9].*[0-9]|^[0-9]{4,}$|[[:alnum:]]_+[[:alnum:]]'
      or w.word ~ '[[:alnum:]]{2}(@|::|#|\.|[/\\].*[/\\])[[:alnum:]]{2}|[[:lower:]][[:upper:]]'));

create type jobsworth.memory_type as enum (
  'fact', 'preference', 'decision', 'procedure', 'episode', 'summary');
-- `expired` is never stored: an active memory is that from its `valid_to` on. `suspended`: what it was
-- derived from has been retracted, so a person should look at it.
create type jobsworth.memory_status as enum (
  'active', 'suspended', 'superseded', 'retracted', 'expired');

-- Active ones have vectors or wait for them, and so do superseded ones, apart (status.sql). `superseded_at`: until
-- then it was active; null for one that was suspended before.
create table jobsworth.memories (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  agent_id uuid,
  thread_id uuid,
  job_id uuid,
  effect_key text,
  source_kind jobsworth.source_kind not null,
  source_id text,
  text text not null,
  metadata jsonb not null default '{}',
  created_at jobsworth.created_at not null default now(),
  updated_at jobsworth.updated_at not null default now(),
  session_id uuid,
  type jobsworth.memory_type not null default 'fact',
  status jobsworth.memory_status not null default 'active',
  status_reason text,
  superseded_by uuid,
  superseded_at jobsworth.superseded_at,
  importance jobsworth.importance not null default 0.5,
  confidence jobsworth.confidence not null default 1,
  -- It holds from the first to before the second; null: since it was made, and for good.
  valid_from jobsworth.valid_from,
  valid_to jobsworth.valid_to,
  -- Its evidence: messages, and a step and a file of its job.
  message_ids uuid[],
  step_name jobsworth.step_name,
  file_name jobsworth.file_name,
  constraint expired_is_never_stored check (status <> 'expired'),
  constraint superseded_has_a_successor check (status <> 'superseded' or superseded_by is not null),
  constraint superseded_at_is_of_superseded check (superseded_at is null or status = 'superseded'),
  constraint valid_to_is_after_valid_from check (valid_to > valid_from),
  constraint message_ids_has_1_to_100 check (cardinality(message_ids) between 1 and 100),
  -- Stored, or each search would compute them again.
  identifiers text[] generated always as (nullif(jobsworth.identifiers(text), '{}')) stored
);
create unique index memories_effect on jobsworth.memories (job_id, effect_key)
  where job_id is not null;
create index memories_source on jobsworth.memories (source_kind, source_id)
  where source_id is not null;
-- What is extracted from a message (db/memory/extracted.py), once for each version of the extractor.
create unique index memories_extracted on jobsworth.memories (
    source_id, (metadata ->> 'extractor'), (metadata ->> 'statement'))
  where source_kind = 'extracted';
-- What a search filters by, of those memories that have it.
create index memories_thread on jobsworth.memories (thread_id) where thread_id is not null;
create index memories_metadata on jobsworth.memories using gin (metadata jsonb_path_ops)
  where metadata <> '{}';
create index memories_identifiers on jobsworth.memories using gin (identifiers)
  where identifiers is not null;
-- What is left out of searches, what a search must look at times for, and who follows from what.
create index memories_inactive on jobsworth.memories (id) where status <> 'active';
create index memories_bounded on jobsworth.memories (team_id)
  where valid_from is not null or valid_to is not null;
create index memories_superseded_by on jobsworth.memories (superseded_by)
  where superseded_by is not null;
create index memories_message_ids on jobsworth.memories using gin (message_ids)
  where message_ids is not null;
create trigger touch before update on jobsworth.memories
  for each row execute function jobsworth.touch();

-- The memories that wait to be embedded. `space_id`: in this space, by its embedder alone, because they
-- have vectors in another; null: by any embedder. `superseded_at`: of the memory; its vectors are kept apart.
-- `dead_at`: refused so often that it is not tried again until a person asks for it.
create table jobsworth.embedding_outbox (
  memory_id uuid not null primary key references jobsworth.memories on delete cascade,
  team_id uuid,
  tries jobsworth.tries_made not null default 0,
  refusals jobsworth.refusals not null default 0,
  next_try_at jobsworth.next_try_at not null default now(),
  last_error text,
  dead_at jobsworth.dead_at,
  created_at jobsworth.created_at not null default now(),
  -- Without a reference, whose index would hold everybody's rows: spaces are never deleted.
  space_id int,
  superseded_at jobsworth.superseded_at
);
create index embedding_outbox_due on jobsworth.embedding_outbox (next_try_at)
  where dead_at is null and space_id is null;
create index embedding_outbox_switched on jobsworth.embedding_outbox (space_id, next_try_at)
  where space_id is not null;
create index embedding_outbox_dead on jobsworth.embedding_outbox (dead_at)
  where dead_at is not null;

-- An active memory is embedded, whoever inserts it: plain SQL too; and one that was active until a time.
create function jobsworth.queue_memories() returns trigger
  language plpgsql
as $$
begin
  insert into jobsworth.embedding_outbox (memory_id, team_id, superseded_at)
  select a.id, a.team_id, a.superseded_at
  from added a
  where a.status = 'active' or a.superseded_at is not null;
  return null;
end $$;
create trigger queue_memories
  after insert on jobsworth.memories
  referencing new table as added
  for each statement execute function jobsworth.queue_memories();

-- The vectors, only ever inserted and deleted. A long text has several, one for each chunk: `text` from
-- `start_offset` to before `end_offset`, in characters from 0. `content_hash` is of the chunk's text: a
-- content that has a vector in a space is not embedded there again.
--
-- All spaces share the table, and each may have an HNSW index of its own (search.sql). A partition for
-- each space was rejected: daemons would create tables, each with its own rights and policies.
create table jobsworth.embeddings (
  memory_id uuid not null references jobsworth.memories on delete cascade,
  space_id int not null references jobsworth.embedding_spaces,
  chunk_no jobsworth.chunk_no not null,
  team_id uuid,
  start_offset jobsworth.start_offset not null,
  end_offset jobsworth.end_offset not null,
  content_hash uuid not null,
  vector halfvec not null,
  created_at jobsworth.created_at not null default now(),
  primary key (memory_id, space_id, chunk_no)
);
create index embeddings_scope on jobsworth.embeddings (space_id, team_id);
create index embeddings_content on jobsworth.embeddings (space_id, content_hash);

-- The vectors of memories that were superseded, for whoever asks what held before (`as_of`). Apart from those of
-- active ones, so that no other search and no index meets them. A space that is filled later has them too, and so
-- has a memory that was superseded before it was embedded.
create table jobsworth.past_embeddings (
  memory_id uuid not null references jobsworth.memories on delete cascade,
  space_id int not null references jobsworth.embedding_spaces,
  chunk_no jobsworth.chunk_no not null,
  team_id uuid,
  start_offset jobsworth.start_offset not null,
  end_offset jobsworth.end_offset not null,
  vector halfvec not null,
  superseded_at jobsworth.superseded_at not null,
  primary key (memory_id, space_id, chunk_no)
);
create index past_embeddings_scope on jobsworth.past_embeddings (space_id, team_id, superseded_at);
