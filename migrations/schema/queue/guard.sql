-- What a plain update or delete of a job may not do.

-- Refuses a change of status that no function makes, and tells claims of the key of a job that is queued again.
-- Each legal change leaves a mark that a plain
-- `update … set status = …` does not: a claim draws a lease, a return to the queue a position, `done`
-- has a result, a failure is counted, a retry sets the counts back. This stops mistakes; an update that
-- imitates a mark passes. (A setting that the functions switch on would stop these too, and would be
-- read for each job that is claimed or finished.)
create function jobsworth.guard_status() returns trigger language plpgsql as $$
declare
  legal boolean := new.status = old.status or case old.status
    when 'queued' then new.status = 'waiting' or new.status = 'canceled' and new.cancel_requested
    when 'waiting' then case new.status
      when 'queued' then new.position <> old.position
      when 'canceled' then new.cancel_requested or old.waiting_for = 'parents'
      when 'failed' then old.waiting_for = 'parents'
      else false end
    when 'running' then case new.status
      when 'queued' then new.position <> old.position
      when 'failed' then new.failures > old.failures or new.crashes > old.crashes
      when 'canceled' then new.cancel_requested or new.error is not null
      when 'waiting' then true
      else false end
    when 'done' then false
    else new.failures = 0 and new.crashes = 0 and case new.status
      when 'queued' then new.position <> old.position
      when 'waiting' then new.waiting_for in ('timer', 'parents')
      else false end
  end;
begin
  if not legal then
    raise exception 'job % cannot go from % to % by a plain update', old.id, old.status, new.status
      using errcode = 'restrict_violation',
      hint = 'Use the functions: cancel, retry, send_signal and resolve; a worker does the rest.';
  end if;
  if new.status = 'queued' and new.fair_key is not null then
    perform jobsworth.announce_key(new.queue, new.priority, new.fair_key);
  end if;
  return null;
end $$;
-- After the update: the old row is read for the foreign keys anyhow. The condition leaves out the claim
-- and the end with a result, so these do not call the function. It is short because each statement
-- parses it anew.
create trigger guard_status after update of status on jobsworth.reactive_jobs
  for each row when (new.lease_no is not distinct from old.lease_no
    and (old.status <> 'running' or new.result is null))
  execute function jobsworth.guard_status();

-- Tells the workers that a running job was deleted, so that its attempt is stopped.
create function jobsworth.tell_deleted() returns trigger language plpgsql as $$
begin
  perform pg_notify('jobsworth.cancel', '');
  return null;
end $$;
create trigger tell_deleted after delete on jobsworth.reactive_jobs
  for each row when (old.status = 'running') execute function jobsworth.tell_deleted();
