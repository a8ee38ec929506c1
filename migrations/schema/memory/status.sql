-- The life of a memory. A correction supersedes it by its successor; what was never true, or should not
-- be known, is retracted; what was true until a time has a `valid_to`. None of these deletes anything.

-- What a memory is at an instant.
create function jobsworth.memory_status(
  status jobsworth.memory_status, valid_to timestamptz, at timestamptz default now())
  returns jobsworth.memory_status
  language sql immutable parallel safe
return case when status = 'active' and valid_to <= at then 'expired' else status end;

-- Until when a memory was active, whoever lets it be superseded.
create function jobsworth.date_superseding() returns trigger
  language plpgsql
as $$
begin
  new.superseded_at := case when old.status = 'active' and new.status = 'superseded' then now() end;
  return new;
end $$;
create trigger date_superseding before update of status on jobsworth.memories
  for each row when ((old.status = 'superseded') <> (new.status = 'superseded'))
  execute function jobsworth.date_superseding();

-- Only active memories have vectors among those that are searched, whoever changes the status; those of
-- superseded ones are kept apart. The outbox first, and the vectors in a statement of their own: whoever
-- stores them holds the outbox's row, and they are there when it lets go.
create function jobsworth.follow_status() returns trigger
  language plpgsql
as $$
begin
  if new.status = 'active' then
    insert into jobsworth.embedding_outbox (memory_id, team_id) values (new.id, new.team_id)
    on conflict (memory_id) do update set superseded_at = null, space_id = null, next_try_at = now();
  elsif new.superseded_at is not null then
    update jobsworth.embedding_outbox o set superseded_at = new.superseded_at where o.memory_id = new.id;
  else
    delete from jobsworth.embedding_outbox o where o.memory_id = new.id;
  end if;
  if new.status <> 'active' then
    with left_now as (
      delete from jobsworth.embeddings e where e.memory_id = new.id
      returning e.memory_id, e.space_id, e.chunk_no, e.team_id, e.start_offset, e.end_offset, e.vector
    )
    insert into jobsworth.past_embeddings (
      memory_id, space_id, chunk_no, team_id, start_offset, end_offset, vector, superseded_at)
    select l.*, new.superseded_at from left_now l where new.superseded_at is not null;
  end if;
  if new.superseded_at is null then
    delete from jobsworth.past_embeddings p where p.memory_id = new.id;
  end if;
  return null;
end $$;
create trigger follow_status after update of status on jobsworth.memories
  for each row when (
    (old.status = 'active') <> (new.status = 'active')
    or (old.status = 'superseded') <> (new.status = 'superseded'))
  execute function jobsworth.follow_status();

-- A memory whose successor is deleted does not come back.
create function jobsworth.orphan_memories() returns trigger
  language plpgsql
as $$
begin
  update jobsworth.memories m
  set status = case when m.status = 'superseded' then 'retracted' else m.status end,
    status_reason = 'what superseded it was deleted', superseded_by = null
  from removed r
  where m.superseded_by = r.id;
  return null;
end $$;
create trigger orphan_memories after delete on jobsworth.memories
  referencing old table as removed
  for each statement execute function jobsworth.orphan_memories();

-- A memory, locked; raises if there is none.
create function jobsworth.memory_locked(memory_id uuid) returns jobsworth.memories
  language plpgsql
as $$
declare
  m jobsworth.memories;
begin
  select x.* into m from jobsworth.memories x where x.id = memory_id for no key update;
  if not found then
    raise exception 'there is no memory %', memory_id
      using errcode = 'no_data_found', hint = 'List them: jobsworth memory list.';
  end if;
  return m;
end $$;

-- Let a memory be superseded by another one, in the caller's transaction. Of two that supersede the same
-- one, the later is refused, and told of the other. Repeated, it changes nothing.
create function jobsworth.supersede_memory(memory_id uuid, successor_id uuid) returns void
  language plpgsql
as $$
declare
  old jobsworth.memories;
  successor jobsworth.memories;
begin
  -- In the order of ids, so that two that supersede each other do not deadlock: one is refused.
  perform jobsworth.memory_locked(least(memory_id, successor_id)),
    jobsworth.memory_locked(greatest(memory_id, successor_id));
  old := jobsworth.memory_locked(memory_id);
  successor := jobsworth.memory_locked(successor_id);
  if old.superseded_by = successor_id then
    return;
  elsif memory_id = successor_id then
    raise exception 'memory % cannot supersede itself', memory_id
      using errcode = 'invalid_parameter_value', hint = 'Name another one as its successor.';
  elsif old.team_id is distinct from successor.team_id then
    raise exception 'memory % and its successor % are not of one team', memory_id, successor_id
      using errcode = 'invalid_parameter_value', hint = 'Name a successor of the same team.';
  elsif old.status not in ('active', 'suspended') then
    raise exception 'memory % is % already%', memory_id, old.status, coalesce(' by ' || old.superseded_by, '')
      using errcode = 'unique_violation',
        hint = coalesce('Look at that one, and supersede it: jobsworth memory show ' || old.superseded_by || '.',
          'Remember the new text without superseding it.');
  elsif successor.status <> 'active' then
    raise exception 'memory % is %, so it supersedes nothing', successor_id, successor.status
      using errcode = 'unique_violation', hint = 'Name a successor that is active.';
  end if;
  update jobsworth.memories m
  set status = 'superseded', superseded_by = successor_id, status_reason = null
  where m.id = memory_id;
end $$;

-- Take a memory back: it is recalled no more. Repeated, it changes nothing.
create function jobsworth.retract_memory(memory_id uuid, reason text default null) returns void
  language plpgsql
as $$
begin
  if (jobsworth.memory_locked(memory_id)).status <> 'retracted' then
    update jobsworth.memories m
    set status = 'retracted', status_reason = reason
    where m.id = memory_id;
  end if;
end $$;

-- Let a memory that was retracted or suspended be recalled again, once it is embedded anew.
create function jobsworth.restore_memory(memory_id uuid) returns void
  language plpgsql
as $$
declare
  m jobsworth.memories := jobsworth.memory_locked(memory_id);
begin
  if m.superseded_by is not null then
    raise exception 'memory % was superseded by %', memory_id, m.superseded_by
      using errcode = 'unique_violation', hint = 'Remember its text again, or retract its successor and do so.';
  end if;
  update jobsworth.memories x set status = 'active', status_reason = null where x.id = memory_id;
end $$;

-- Which memories went into what a job did: those that it recalled, best first, and for what it asked. A
-- recall is a step; `score` is the sum of `parts`.
create view jobsworth.recalls as
select s.team_id, s.job_id, s.attempt, s.name as step_name, s.finished_at as recalled_at,
  s.input #>> '{0,0}' as query, h.place, (h.memory ->> 'id')::uuid as memory_id,
  (h.memory ->> 'score')::float8 as score, h.memory -> 'parts' as parts,
  jobsworth.memory_status(m.status, m.valid_to) as status, m.text
from jobsworth.steps s
cross join lateral jsonb_array_elements(
  case when s.kind = 'recall' and jsonb_typeof(s.output) = 'array' then s.output else '[]' end)
  with ordinality as h (memory, place)
left join jobsworth.memories m on m.id = (h.memory ->> 'id')::uuid
where s.kind = 'recall';

-- Remember a text: it is embedded by a daemon after the commit. With `supersedes`, it takes the place of
-- that memory in the same commit.
create function jobsworth.remember(
  text text,
  type jobsworth.memory_type default 'fact',
  team_id uuid default null,
  agent_id uuid default null,
  thread_id uuid default null,
  session_id uuid default null,
  importance float8 default 0.5,
  confidence float8 default 1,
  valid_from timestamptz default null,
  valid_to timestamptz default null,
  message_ids uuid[] default null,
  source_kind text default 'note',
  source_id text default null,
  metadata jsonb default '{}',
  supersedes uuid default null)
  returns uuid
  language plpgsql
as $$
declare
  made uuid;
begin
  insert into jobsworth.memories as m (
    text, type, team_id, agent_id, thread_id, session_id, importance, confidence, valid_from, valid_to,
    message_ids, source_kind, source_id, metadata)
  values (
    remember.text, remember.type, remember.team_id, remember.agent_id, remember.thread_id,
    remember.session_id, remember.importance, remember.confidence, remember.valid_from,
    remember.valid_to, remember.message_ids, remember.source_kind, remember.source_id,
    remember.metadata)
  returning m.id into made;
  if supersedes is not null then
    perform jobsworth.supersede_memory(supersedes, made);
  end if;
  return made;
end $$;
