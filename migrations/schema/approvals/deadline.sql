-- Deadlines of approvals.

-- Close at most `most` approvals whose deadline has passed with their default, or escalate them.
-- The jobs that wait for them go on. Returns how many there were.
create function jobsworth.expire_approvals(most int) returns int language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  due record;
  expired int := 0;
begin
  for due in
    select a.id, a.job_id from jobsworth.approvals a
    where a.status = 'pending' and a.deadline <= clock_timestamp()
    order by a.deadline limit most for update skip locked
  loop
    -- A locked job is left for the next round, because the expiry never waits.
    perform 1 from jobsworth.reactive_jobs j
    where j.id = due.job_id for no key update skip locked;
    continue when not found
      and exists (select 1 from jobsworth.reactive_jobs j where j.id = due.job_id);
    perform jobsworth.time_out(due.id);
    expired := expired + 1;
  end loop;
  return expired;
end $$;

-- Apply the deadline of an approval that the caller has locked. If it has passed, the approval
-- takes its default, or is escalated, once, with the same time again. Returns the row as it is
-- then.
create function jobsworth.time_out(approval_id uuid) returns jobsworth.approvals language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  a jobsworth.approvals;
  escalates boolean;
  taken text;
begin
  select x.* into a from jobsworth.approvals x where x.id = time_out.approval_id;
  if a.status <> 'pending' or a.deadline is null or a.deadline > clock_timestamp() then
    return a;
  end if;
  escalates := a.on_timeout = 'escalate' and not 'escalate' = any(a.options);
  if escalates and a.escalated_at is null then
    update jobsworth.approvals x
    set escalated_at = clock_timestamp(),
      deadline = clock_timestamp() + greatest(a.deadline - a.created_at, interval '1 minute')
    where x.id = a.id
    returning x.* into a;
    return a;
  end if;
  -- The default was meant for the question as it was asked. An edited one is rejected.
  taken := case when escalates or a.edited_hash is not null then 'reject' else a.on_timeout end;
  insert into jobsworth.approval_decisions
    (approval_id, team_id, option, decided_by, channel, voted_hash)
  values (a.id, a.team_id, taken, 'deadline', 'deadline', coalesce(a.edited_hash, a.shown_hash));
  update jobsworth.approvals x
  set status = 'expired', closed_at = clock_timestamp(), chosen_option = taken
  where x.id = a.id
  returning x.* into a;
  perform jobsworth.reconsider(array[a.job_id], wait_for_locks => true) where a.job_id is not null;
  return a;
end $$;
