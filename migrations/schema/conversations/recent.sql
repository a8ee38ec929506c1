-- The end of a thread, and the threads that spoke last. Both read the index of messages from its end, whatever
-- the planner knows of the table: a plan made for short threads would read a long one whole.

-- The last messages of a thread, newest first, as a model is told them: without those that were retracted.
create function jobsworth.recent_messages(thread_id uuid, messages int default 50)
  returns setof jobsworth.chat_messages language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
  set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  select m.* from jobsworth.chat_messages m
  where m.thread_id = recent_messages.thread_id
    and not exists (select from jobsworth.retracted_messages r where r.message_id = m.id)
  order by m.id desc
  limit recent_messages.messages
$$;

-- The threads that spoke last, with how many of their newest `counted` messages have each role. `last_id` is the
-- id of the last message, or that of the thread before the first one; a page ends before `before_id`. Without
-- `status`, all but the deleted ones.
create function jobsworth.recent_threads(
  threads int default 20, status jobsworth.thread_status default null, user_id uuid default null,
  agent_id uuid default null, team_id uuid default null, platform text default null,
  before_id uuid default null, counted int default 1000)
  returns table (
    thread_id uuid, last_id uuid, last_message_at timestamptz, messages bigint, by_role jsonb)
  language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  with page as materialized (
    select t.id, coalesce(l.id, t.id) as last_id, l.created_at as last_message_at
    from jobsworth.chat_threads t
    left join lateral (
      select m.id, m.created_at from jobsworth.chat_messages m
      where m.thread_id = t.id order by m.id desc limit 1
    ) l on true
    where case when recent_threads.status is null then t.status <> 'deleted'
        else t.status = recent_threads.status end
      and (recent_threads.user_id is null or t.user_id = recent_threads.user_id)
      and (recent_threads.agent_id is null or t.agent_id = recent_threads.agent_id)
      and (recent_threads.team_id is null or t.team_id = recent_threads.team_id)
      and (recent_threads.platform is null or t.platform = recent_threads.platform)
      and (recent_threads.before_id is null
        or coalesce(l.id, t.id) < recent_threads.before_id)
    order by last_id desc
    limit recent_threads.threads
  )
  select p.id, p.last_id, p.last_message_at, coalesce(c.messages, 0)::bigint,
    coalesce(c.by_role, '{}')
  from page p
  cross join lateral (
    select sum(r.messages) as messages, jsonb_object_agg(r.role, r.messages) as by_role
    from (
      select n.role, count(*) as messages
      from (
        select m.role from jobsworth.chat_messages m
        where m.thread_id = p.id order by m.id desc limit recent_threads.counted
      ) n
      group by n.role
    ) r
  ) c
  order by p.last_id desc
$$;
