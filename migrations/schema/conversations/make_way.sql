-- What a new message means for the work on the thread's earlier messages.
--
-- A poster asks `make_way` before it stores its message, in the same transaction: posts to a thread whose
-- policy is not `queue` come one after the other, because they lock the thread's row (an insert of a
-- message or a job does not wait for that). docs/messages.md has a table of what becomes of each job.

-- Make way for a message in a thread, by its policy or that of the thread. Returns the id that the
-- message must be stored with; and, if a waiting job takes it too, the message to which it belongs
-- (`merged_into`): then nothing is to be enqueued. A message that the platform has delivered before
-- changes nothing. `mode` is that of the job that the message would get.
create function jobsworth.make_way(
  thread_id uuid, mode text, policy text default null, platform_message_id text default null,
  out message_id uuid, out merged_into uuid)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  chosen text;
  held uuid[] := '{}';
  j jobsworth.reactive_jobs;
begin
  select coalesce(make_way.policy, t.message_policy::text) into chosen
  from jobsworth.chat_threads t
  where t.id = make_way.thread_id
  for no key update;
  if not found then
    raise exception 'there is no thread %', coalesce(make_way.thread_id::text, 'without an id')
      using errcode = 'no_data_found', hint = 'Create it first, and name it.';
  elsif chosen not in ('queue', 'merge', 'interrupt', 'supersede') then
    raise exception 'the policy is ''%'', not queue, merge, interrupt or supersede', chosen
      using errcode = 'invalid_parameter_value', hint = 'Leave it out for that of the thread.';
  end if;
  message_id := jobsworth.uuidv7();
  if chosen = 'queue' or exists (
    select 1 from jobsworth.chat_messages m
    where m.thread_id = make_way.thread_id
      and m.platform_message_id = make_way.platform_message_id)
  then
    return;
  end if;

  -- Again until nothing new is found: a job that ended while its lock was waited for may have left a
  -- follow-up, which only a new snapshot shows.
  loop
    held := held || array(
      select x.id from jobsworth.reactive_jobs x
      where x.thread_id = make_way.thread_id and x.finished_at is null
        and x.id <> all(held) and jobsworth.is_work_on_message(x)
      order by x.id
      for no key update);
    exit when not exists (
      select 1 from jobsworth.reactive_jobs x
      where x.thread_id = make_way.thread_id and x.finished_at is null
        and x.id <> all(held) and jobsworth.is_work_on_message(x));
  end loop;

  if chosen = 'merge' then
    -- Only the last one, so that no message overtakes another.
    select x.* into j from jobsworth.reactive_jobs x
    where x.id = any(held) and x.finished_at is null
    order by x.lane_position is null desc, x.lane_position desc, x.id desc
    limit 1;
    if found and j.attempt = 0 and j.parent_id is null and j.run_id is null
      and j.mode = make_way.mode
    then
      merged_into := j.trigger_message_id;
    end if;
    return;
  end if;
  held := array(
    select x.id from jobsworth.reactive_jobs x
    where x.id = any(held) and x.finished_at is null
      and (x.status <> 'running' or chosen = 'interrupt'));
  update jobsworth.reactive_jobs x
  set superseded_by = make_way.message_id
  where x.id = any(held);
  perform jobsworth.cancel_locked(held, 'superseded by message ' || message_id);
end $$;

-- Whether a job is work on a message of its thread, as against a child of such work (which ends with its
-- parent) and a follow-up for later (a reminder), which a new message does not touch.
create function jobsworth.is_work_on_message(j jobsworth.reactive_jobs) returns boolean
  language sql immutable
  return j.trigger_message_id is not null and not j.is_child
    and (j.parent_id is null or j.attempt > 0 or j.status <> 'waiting' or j.waiting_for <> 'timer');
