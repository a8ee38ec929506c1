-- What was made of a message, or came with it: transcripts, images, recognised text, files, tool
-- results.

create type jobsworth.message_artifact_kind as enum
  ('voice_transcript', 'image_json', 'ocr_text', 'file_meta', 'tool_result');

create table jobsworth.message_artifacts (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  message_id uuid not null references jobsworth.chat_messages on delete cascade,
  kind jobsworth.message_artifact_kind not null,
  content_json jsonb,
  uri jobsworth.uri,
  created_at jobsworth.created_at not null default now(),
  updated_at jobsworth.updated_at not null default now(),
  constraint artifact_has_content_or_uri check (content_json is not null or uri is not null)
);
create index message_artifacts_message on jobsworth.message_artifacts (message_id, id);
create trigger touch before update on jobsworth.message_artifacts
  for each row execute function jobsworth.touch();
