-- Put another approval in the place of an open one.

-- Replace an approval that is still open by another, by hand. The successor then answers what the
-- job asked. So it must ask the same, unless the job said that its question may be edited.
create function jobsworth.supersede(approval_id uuid, successor uuid, difference text default null)
  returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  old jobsworth.approvals;
  new jobsworth.approvals;
begin
  select x.* into old from jobsworth.approvals x where x.id = supersede.approval_id;
  if not found then
    raise exception 'there is no approval %', supersede.approval_id
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approval list.';
  end if;
  select x.* into new from jobsworth.approvals x where x.id = supersede.successor;
  if not found then
    raise exception 'there is no approval %', supersede.successor
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approval list.';
  elsif new.id = old.id then
    raise exception 'approval % cannot replace itself', old.id
      using errcode = 'invalid_parameter_value', hint = 'Name the newer one.';
  end if;
  perform 1 from jobsworth.reactive_jobs j where j.id in (old.job_id, new.job_id)
  order by j.id for no key update;
  perform 1 from jobsworth.approvals x where x.id in (old.id, new.id) order by x.id for update;
  select x.* into old from jobsworth.approvals x where x.id = supersede.approval_id;
  select x.* into new from jobsworth.approvals x where x.id = supersede.successor;
  if old.status <> 'pending' then
    raise exception 'approval % is already %', old.id, old.status
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'List the open ones: jobsworth approval list.';
  elsif new.status <> 'pending'
    or exists (select 1 from jobsworth.approval_decisions v where v.approval_id = new.id)
  then
    raise exception 'approval % has been decided already, by other rules than those of %',
      new.id, old.id
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Ask anew; people decide the successor after it has taken this place.';
  elsif new.superseded_by is not null or new.supersedes is not null
    or new.job_id <> old.job_id or new.job_id is not null and old.job_id is null
  then
    raise exception 'approval % stands for something else than %', new.id, old.id
      using errcode = 'invalid_parameter_value', hint = 'Ask anew, for the same job or for none.';
  elsif old.effect_key is not null and new.shown_hash <> old.shown_hash and not old.editable then
    raise exception 'the job of approval % takes an answer to exactly what it asked', old.id
      using errcode = 'invalid_parameter_value',
      hint = 'Reject it; only what was asked as editable can be replaced by something else.';
  end if;
  update jobsworth.approvals x
  set status = 'superseded', superseded_by = new.id, closed_at = now()
  where x.id = old.id;
  update jobsworth.approvals x
  set supersedes = old.id, difference = supersede.difference,
    job_id = old.job_id, team_id = coalesce(x.team_id, old.team_id),
    thread_id = coalesce(x.thread_id, old.thread_id),
    effect_key = coalesce(x.effect_key, old.effect_key), for_step = old.for_step,
    asked_hash = coalesce(old.asked_hash, old.shown_hash), editable = old.editable,
    asked_by = coalesce(old.asked_by, x.asked_by),
    self_approval = old.self_approval and x.self_approval,
    votes_needed = greatest(x.votes_needed, old.votes_needed)
  where x.id = new.id;
  perform jobsworth.reconsider(array[old.job_id], wait_for_locks => true) where old.job_id is not null;
end $$;
