-- Messages that were taken back (`retract_message`). They stay, for messages are append-only, but no model is told
-- of them as what was said.
create table jobsworth.retracted_messages (
  message_id uuid not null primary key references jobsworth.chat_messages on delete cascade,
  team_id uuid,
  thread_id uuid not null,
  reason text,
  retracted_at jobsworth.retracted_at not null default now()
);
