-- A message is taken back: what was remembered of it is suspended, until a person restores it
-- (`restore_memory`) or retracts it.

-- Take a message back; returns how many memories that suspends. What is remembered of it later, or at
-- this moment, is suspended too. Repeated, it changes nothing.
create function jobsworth.retract_message(message_id uuid, reason text default null) returns bigint
  language plpgsql
as $$
declare
  m jobsworth.chat_messages;
  suspended bigint;
begin
  -- Whoever remembers something of it holds its row, and ends first.
  select x.* into m from jobsworth.chat_messages x where x.id = retract_message.message_id for update;
  if not found then
    raise exception 'there is no message %', retract_message.message_id
      using errcode = 'no_data_found', hint = 'Give the whole id of a message.';
  end if;
  insert into jobsworth.retracted_messages (message_id, team_id, thread_id, reason)
  values (m.id, m.team_id, m.thread_id, retract_message.reason)
  on conflict do nothing;
  if not found then
    return 0;
  end if;
  update jobsworth.memories x
  set status = 'suspended', status_reason = 'message ' || m.id || ' was retracted'
  where x.message_ids @> array[m.id] and x.status = 'active';
  get diagnostics suspended = row_count;
  return suspended;
end $$;

-- What is remembered of a message that was retracted is suspended from the start.
create function jobsworth.suspend_derived() returns trigger
  language plpgsql
as $$
declare
  retracted uuid;
begin
  perform from jobsworth.chat_messages m
  where m.id = any(new.message_ids) order by m.id for key share;
  retracted := (
    select min(r.message_id::text)::uuid from jobsworth.retracted_messages r
    where r.message_id = any(new.message_ids));
  if retracted is not null then
    new.status := 'suspended';
    new.status_reason := 'message ' || retracted || ' was retracted';
  end if;
  return new;
end $$;
create trigger suspend_derived before insert on jobsworth.memories
  for each row when (new.message_ids is not null and new.status = 'active')
  execute function jobsworth.suspend_derived();
