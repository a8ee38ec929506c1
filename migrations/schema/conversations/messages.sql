-- Messages. They are append-only. Counts and the time of the last message are read from the index,
-- so they cannot drift.

create type jobsworth.message_role as enum ('user', 'assistant', 'system', 'tool');

create table jobsworth.chat_messages (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  thread_id uuid not null references jobsworth.chat_threads on delete cascade,
  role jobsworth.message_role not null,
  text text not null,
  author_user_id uuid,
  author_agent_id uuid,
  recipient_agent_id uuid,
  request_id jobsworth.request_id,
  platform_message_id text,
  raw_payload jsonb,
  model text,
  input_tokens jobsworth.input_tokens,
  output_tokens jobsworth.output_tokens,
  latency_ms jobsworth.latency_ms,
  job_id uuid,
  effect_key text,
  merged_into uuid,  -- the message whose job takes this one too
  created_at jobsworth.created_at not null default clock_timestamp()
);
create index chat_messages_recent on jobsworth.chat_messages (thread_id, id);
-- The messages of a request.
create index chat_messages_request on jobsworth.chat_messages (request_id, id)
  where request_id is not null;
-- A message of a platform arrives once.
create unique index chat_messages_platform on jobsworth.chat_messages
  (thread_id, platform_message_id) where platform_message_id is not null;
create unique index chat_messages_effect on jobsworth.chat_messages (job_id, effect_key)
  where job_id is not null;
-- The messages that a job took besides its own.
create index chat_messages_merged on jobsworth.chat_messages (merged_into, id)
  where merged_into is not null;
create trigger messages_are_immutable before update or delete on jobsworth.chat_messages
  for each row execute function jobsworth.refuse_change('thread_id');
create trigger messages_are_not_emptied before truncate on jobsworth.chat_messages
  for each statement execute function jobsworth.refuse_change('thread_id');
