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
  metadata jsonb,  -- the caller's own; null is read as {}
  model text,
  input_tokens jobsworth.input_tokens,
  output_tokens jobsworth.output_tokens,
  latency_ms jobsworth.latency_ms,
  job_id uuid,
  effect_key text,
  merged_into uuid,  -- the message whose job takes this one too
  created_at jobsworth.created_at not null default clock_timestamp(),
  constraint metadata_is_an_object check (jsonb_typeof(metadata) = 'object')
);
-- The last messages of a thread, and counts by role without a look at the messages.
create index chat_messages_recent on jobsworth.chat_messages (thread_id, id) include (role);
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
  for each row execute function jobsworth.refuse_change('thread_id', 'id');
create trigger messages_are_not_emptied before truncate on jobsworth.chat_messages
  for each statement execute function jobsworth.refuse_change('thread_id', 'id');

-- A deleted thread takes no messages, whoever writes them. A message that is being written while the
-- thread is deleted comes before that.
create function jobsworth.guard_thread() returns trigger language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  if (select t.status = 'deleted' from jobsworth.chat_threads t where t.id = new.thread_id) then
    raise exception 'thread % is deleted: it takes no messages', new.thread_id
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Take the deletion back first: jobsworth thread undelete ' || new.thread_id;
  end if;
  return new;
end $$;
create trigger guard_thread before insert on jobsworth.chat_messages
  for each row execute function jobsworth.guard_thread();
