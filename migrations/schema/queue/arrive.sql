-- An insert of a job that is not ready to run: it becomes waiting, with its reason. The `when`
-- clause keeps ready jobs out of the function, so they do not pay for it.

create function jobsworth.arrive() returns trigger language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  if new.status <> 'queued' and (new.status <> 'waiting' or new.waiting_for <> 'parents') then
    raise exception 'a job is inserted as queued, not as %', new.status
      using errcode = 'check_violation',
      hint = 'Leave status out: the database decides whether the job waits.';
  end if;
  if new.lane is null and new.thread_id is not null then
    new.lane := new.thread_id::text;
  end if;
  if new.lane = '' then
    new.lane := null;
  end if;
  if new.run_at <= clock_timestamp() then
    new.run_at := null;
  end if;
  if new.status = 'waiting' then
    null;
  elsif new.run_at is not null then
    new.status := 'waiting';
    new.waiting_for := 'timer';
    if new.run_at < clock_timestamp() + interval '1 second' then
      perform pg_notify('jobsworth.wake', 'timer');
    end if;
  end if;
  -- A job that is not due, or that needs other jobs, joins its lane later. Otherwise it could block
  -- the lane for a job that it needs, for ever.
  if new.lane is not null and new.status = 'queued' then
    new.lane_position := coalesce(new.lane_position, nextval('jobsworth.lane_position'::regclass));
    if jobsworth.lane_blocked(new.lane, new.lane_position, new.id) then
      new.status := 'waiting';
      new.waiting_for := 'lane';
    end if;
  else
    new.lane_position := null;
  end if;
  if new.fair_key is null and exists (
    select 1 from jobsworth.queues q where q.name = new.queue and q.fair)
  then
    new.fair_key := coalesce(new.team_id::text, 'none');
  end if;
  if new.fair_key is not null and new.status = 'queued' then
    perform jobsworth.announce_key(new.queue, new.priority, new.fair_key);
  end if;
  return new;
end $$;

-- A job that a message triggers works for the request of the message. Its follow-ups and children
-- are given the request by `db/queue/effects.py`.
create function jobsworth.take_request() returns trigger language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  select m.request_id into new.request_id
  from jobsworth.chat_messages m
  where m.id = new.trigger_message_id;
  return new;
end $$;
create trigger take_request before insert on jobsworth.reactive_jobs
  for each row when (new.trigger_message_id is not null and new.request_id is null)
  execute function jobsworth.take_request();
create trigger arrive before insert on jobsworth.reactive_jobs
  for each row when (new.lane is not null or new.thread_id is not null
    or new.run_at is not null or new.status <> 'queued' or new.fair_key is not null
    or (pg_sequence_last_value('jobsworth.fair_queues') >> (hashtext(new.queue) & 31)) & 1 = 1)
  execute function jobsworth.arrive();
