-- Memories that say the same in nearly the same words. A recall makes one hit of them; here they are listed, and
-- merged into one by whoever has looked at them. Nothing merges by itself.

-- What a text says: its words in their order, without case, punctuation and words that change nothing. Two
-- texts of which a number, a name, a negation or the order differs say different things. As `said` of
-- worker/memory/ranking.py.
create function jobsworth.said(of text) returns text
  language sql immutable strict parallel safe
return (
  select coalesce(string_agg(w.word, ' ' order by w.no), of)
  from (
    select btrim(s.word, $$.,;:!?"'()[]{}<>«»„“”‘’…*`$$) as word, s.no
    from regexp_split_to_table(lower(of), '\s+') with ordinality as s (word, no)
  ) w
  where w.word not in ('', 'a', 'an', 'the', 'also', 'just', 'please', 'really', 'very'));

-- The active memories that say the same, of the same type, and belong to the same: only those can be merged. `keep`:
-- the most important, of those the surest, of those the latest. Reads the texts of all memories that its
-- reader's filter (by team) leaves.
create view jobsworth.duplicate_memories as
select g.team_id, g.agent_id, g.thread_id, g.session_id, g.type, g.ids[1] as keep, g.ids[2:] as others,
  (select m.text from jobsworth.memories m where m.id = g.ids[1]) as text
from (
  select m.team_id, m.agent_id, m.thread_id, m.session_id, m.type,
    array_agg(m.id order by m.importance desc, m.confidence desc, m.id desc) as ids
  from jobsworth.memories m
  where m.status = 'active' and (m.valid_to is null or m.valid_to > now())
  group by m.team_id, m.agent_id, m.thread_id, m.session_id, m.type, m.valid_from, m.valid_to,
    jobsworth.said(m.text)
  having count(*) > 1) g;

-- Let one memory stand for others that say the same, in the caller's transaction: it supersedes them, rests on
-- the messages of all, and is as important and as sure as the most of them. Its text and vectors stay. Of two merges
-- at once the later is refused, and told of the other; so is one of what was retracted meanwhile. Repeated, it
-- changes nothing.
create function jobsworth.merge_memories(keep uuid, others uuid[]) returns void
  language plpgsql
as $$
declare
  kept jobsworth.memories;
  one jobsworth.memories;
  evidence uuid[];
begin
  if others is null or cardinality(others) not between 1 and 1000 or array_position(others, null) > 0 then
    raise exception 'there is nothing to merge into memory %', keep
      using errcode = 'invalid_parameter_value', hint = 'Name 1 to 1,000 memories that say the same as it.';
  end if;
  -- First the messages, as `retract_message` does: who retracts one sees its memory before this, or after it.
  perform from jobsworth.chat_messages c
  where c.id in (
    select unnest(m.message_ids) from jobsworth.memories m where m.id = any(keep || others))
  order by c.id
  for key share;
  -- All in the order of ids, so that two merges of the same ones do not deadlock.
  perform from jobsworth.memories m
  where m.id = any(keep || others)
  order by m.id
  for no key update;
  kept := jobsworth.memory_locked(keep);
  evidence := coalesce(kept.message_ids, '{}');
  for one in
    select (jobsworth.memory_locked(o.id)).* from (select distinct unnest(others) as id order by 1) o
  loop
    continue when one.superseded_by = keep;
    if one.status = 'suspended' then
      raise exception 'memory % is suspended: %', one.id, one.status_reason
        using errcode = 'unique_violation', hint = 'Restore or retract it first: jobsworth memory show ' || one.id || '.';
    elsif (one.team_id, one.agent_id, one.thread_id, one.session_id)
      is distinct from (kept.team_id, kept.agent_id, kept.thread_id, kept.session_id)
    then
      raise exception 'memory % and memory % are not of one team, agent, thread and session', one.id, keep
        using errcode = 'invalid_parameter_value',
          hint = 'Leave it as it is: who may find the one would no longer find the other.';
    end if;
    perform jobsworth.supersede_memory(one.id, keep);
    evidence := evidence || array(
      select e from unnest(one.message_ids) with ordinality as x (e, no) where e <> all(evidence) order by x.no);
    kept.importance := greatest(kept.importance, one.importance);
    kept.confidence := greatest(kept.confidence, one.confidence);
  end loop;
  if cardinality(evidence) > 100 then
    raise exception 'together they rest on % messages, and a memory on at most 100', cardinality(evidence)
      using errcode = 'invalid_parameter_value', hint = 'Merge fewer of them.';
  end if;
  update jobsworth.memories m
  set message_ids = nullif(evidence, '{}'), importance = kept.importance, confidence = kept.confidence
  where m.id = keep and (m.message_ids, m.importance, m.confidence)
    is distinct from (nullif(evidence, '{}'), kept.importance, kept.confidence);
end $$;
