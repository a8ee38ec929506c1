-- Threads: one for each chat of a platform.

create type jobsworth.thread_status as enum ('active', 'archived', 'closed', 'deleted');

-- What a new message means for the work on earlier ones: it waits behind them, the job that waits takes
-- it too, all of it is stopped, or what waits is canceled.
create type jobsworth.message_policy as enum ('queue', 'merge', 'interrupt', 'supersede');

create table jobsworth.chat_threads (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  user_id uuid,
  agent_id uuid,
  platform jobsworth.platform not null,
  chat_id jobsworth.chat_id not null,
  title text,
  status jobsworth.thread_status not null default 'active',
  message_policy jobsworth.message_policy not null default 'queue',
  metadata jsonb not null default '{}',
  created_at jobsworth.created_at not null default now(),
  updated_at jobsworth.updated_at not null default now(),
  archived_at jobsworth.archived_at,
  session_id uuid,
  constraint archived_has_its_time check ((status = 'archived') = (archived_at is not null)),
  constraint one_thread_per_chat unique nulls not distinct (team_id, platform, chat_id)
);
create index chat_threads_user on jobsworth.chat_threads (user_id, id) where user_id is not null;
create index chat_threads_session on jobsworth.chat_threads (session_id, id)
  where session_id is not null;
create trigger touch before update on jobsworth.chat_threads
  for each row execute function jobsworth.touch();
