-- Votes. A yes counts until a no comes; a no counts until what was approved is consumed by the step
-- that it is for. Everybody who decides, supersedes or consumes locks the row of the job first and
-- the row of the approval second, and judges after that.

-- One name for one person, however it is spelt: "Ann ", "ann", an é in one character or in two.
-- (Capitals beyond ASCII follow the locale of the database.)
create function jobsworth.person(name text) returns text
  language sql immutable strict parallel safe
  return btrim(regexp_replace(lower(normalize(name, nfkc)), '\s+', ' ', 'g'));

-- Vote on an approval. A no rejects it, before a yes and after it, until what was approved is
-- consumed. The last vote that is needed for the same option approves it. The job that waits goes
-- on in the same transaction. The last vote of a person replaces the earlier ones. The deadline
-- counts here too, not only in the sweep.
--
-- `edited` approves another document than the one that was shown; votes for the shown one no longer
-- count. `seen_hash` refuses a yes if the approval shows something else by now.
create function jobsworth.resolve(
  approval_id uuid, option text, decided_by text, channel text default 'sql',
  comment text default null, edited jsonb default null, seen_hash text default null,
  out accepted boolean, out status jobsworth.approval_status, out chosen_option text)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  a jobsworth.approvals;
  is_no boolean := resolve.option = 'reject';
  hash text;
  votes int;
begin
  select x.* into a from jobsworth.approvals x where x.id = resolve.approval_id;
  if not found then
    raise exception 'there is no approval %', resolve.approval_id
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approval list.';
  end if;
  if coalesce(jobsworth.person(resolve.decided_by), '') = '' then
    raise exception 'nobody is named as deciding' using errcode = 'invalid_parameter_value',
      hint = 'Say who: decided_by.';
  elsif jobsworth.person(resolve.decided_by) = 'deadline' then
    raise exception 'a deadline decides by itself' using errcode = 'invalid_parameter_value',
      hint = 'Say which person decides: decided_by.';
  end if;
  -- The row of the job first, then the row of the approval: the order in which all lock them.
  perform 1 from jobsworth.reactive_jobs j where j.id = a.job_id for no key update;
  select x.* into a from jobsworth.approvals x where x.id = resolve.approval_id for update;
  if (resolve.option = any(a.options)) is not true then
    raise exception '% is not an option of approval %', coalesce(resolve.option, 'null'), a.id
      using errcode = 'invalid_parameter_value',
      hint = 'Its options are: ' || array_to_string(a.options, ', ');
  end if;

  a := jobsworth.time_out(a.id);
  accepted := a.status = 'pending' or is_no and a.consumed_at is null
    and a.superseded_by is null and a.status in ('approved', 'expired')
    and a.chosen_option <> 'reject';
  if not accepted then
    status := a.status;
    chosen_option := a.chosen_option;
    return;
  end if;

  hash := coalesce(a.edited_hash, a.shown_hash);
  if not is_no then
    if not a.self_approval and jobsworth.person(resolve.decided_by) = jobsworth.person(a.asked_by)
    then
      raise exception '% asked for approval % and cannot say yes to it', a.asked_by, a.id
        using errcode = 'object_not_in_prerequisite_state',
        hint = 'Somebody else must; a no is always possible.';
    elsif resolve.seen_hash <> hash then
      raise exception 'approval % has changed since it was seen', a.id
        using errcode = 'object_not_in_prerequisite_state',
        hint = 'Read it again: jobsworth approval show ' || a.id;
    end if;
  end if;
  if resolve.edited is not null then
    if is_no or not a.editable then
      raise exception 'approval % cannot be approved with changes%', a.id,
          case when is_no then ' by a no' else '' end
        using errcode = 'invalid_parameter_value',
        hint = 'Approve or reject what it shows; only one that was asked as editable can change.';
    -- A document that no program can parse would make the list of open approvals unreadable.
    elsif resolve.edited @? 'strict $.**{200}'
      or resolve.edited @? 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))'
    then
      raise exception 'the edited document is too deep, or has a number that is too large'
        using errcode = 'invalid_parameter_value',
        hint = 'Nest it less than 200 levels, with numbers below 1e308.';
    end if;
    hash := jobsworth.shown_hash(a.proposal_text, a.options, resolve.edited);
  end if;
  -- A person who repeats the same vote for the same version has one vote. A different vote replaces
  -- it.
  if not is_no and resolve.option = (
    select v.option from jobsworth.approval_decisions v
    where v.approval_id = a.id and v.voted_hash = hash
      and jobsworth.person(v.decided_by) = jobsworth.person(resolve.decided_by)
    order by v.id desc
    limit 1)
  then
    accepted := false;
    status := a.status;
    return;
  end if;
  insert into jobsworth.approval_decisions
    (approval_id, team_id, option, decided_by, channel, comment, voted_hash)
  values (a.id, a.team_id, resolve.option, resolve.decided_by, resolve.channel, resolve.comment,
    hash);
  select count(*) into votes from (
    select distinct on (jobsworth.person(v.decided_by)) v.option
    from jobsworth.approval_decisions v
    where v.approval_id = a.id and v.voted_hash = hash
    order by jobsworth.person(v.decided_by), v.id desc) last_of_each
  where last_of_each.option = resolve.option;
  status := case when is_no then 'rejected' when votes >= a.votes_needed then 'approved'
    else 'pending' end;
  chosen_option := case when status <> 'pending' then resolve.option end;
  update jobsworth.approvals x
  set status = resolve.status, chosen_option = resolve.chosen_option,
    closed_at = case when resolve.status <> 'pending' then clock_timestamp() end,
    edited = coalesce(resolve.edited, x.edited),
    edited_hash = case when resolve.edited is null then x.edited_hash else hash end
  where x.id = a.id;
  if status <> 'pending' and a.job_id is not null then
    perform jobsworth.reconsider(array[a.job_id], wait_for_locks => true);
  end if;
end $$;
