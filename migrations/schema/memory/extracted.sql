-- Which messages a version of the extractor reads or has read (db/memory/extracted.py). A job takes a message
-- before it pays a model for it; `kept` is set in the commit that remembers what the message states, if
-- anything. What a job has taken and not kept is free again when it has ended. `unusable`: so many outputs of a
-- model on it were of no use; after the first it is read alone, after the second no more by this version.
create table jobsworth.extracted_messages (
  message_id uuid not null references jobsworth.chat_messages on delete cascade,
  extractor jobsworth.extractor not null,
  team_id uuid,
  thread_id uuid not null,
  job_id uuid not null,
  kept boolean not null default false,
  unusable jobsworth.unusable not null default 0,
  primary key (message_id, extractor)
);
