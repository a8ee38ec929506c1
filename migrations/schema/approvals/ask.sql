-- Questions of programs that are not Python workers: asked, and their decisions read, by SQL alone.

-- Ask people, for a run, a thread or a team; returns the approval's id. People vote as for every other one,
-- for the same hash of what is asked and shown. With an `id` of the caller's it is asked once: the same
-- again is the same approval, another question under that id is refused.
create function jobsworth.ask(
  proposal_text text, options text[] default '{approve,reject}', shown jsonb default null,
  deadline interval default null, on_timeout text default 'reject', votes_needed int default 1,
  asked_by text default null, self_approval boolean default false, editable boolean default false,
  run_id uuid default null, thread_id uuid default null, team_id uuid default null,
  id uuid default null)
  returns uuid language plpgsql as $$
#variable_conflict use_column
declare
  r jobsworth.runs;
  hash constant text := jobsworth.shown_hash(ask.proposal_text, ask.options, ask.shown);
  asked uuid := coalesce(ask.id, jobsworth.uuidv7());
  wrong text[];
begin
  wrong := case
    when coalesce(btrim(ask.proposal_text), '') = ''
      then array['a question needs a proposal_text', 'Say what is to be approved.']
    when coalesce(not 'reject' = any(ask.options), true)
      then array['the options have no reject', 'A no must always be possible: add ''reject''.']
    when exists (
        select 1 from unnest(ask.options) o
        where lower(btrim(o)) in ('no', 'nope', 'never', 'deny', 'denied', 'decline', 'declined',
          'refuse', 'refused', 'rejected', 'disapprove', 'don''t', 'do not'))
      then array['an option reads like a no, and would count as a yes',
        'Every option but ''reject'' approves: leave it to ''reject''.']
    when (ask.on_timeout = any(ask.options) or ask.on_timeout = 'escalate') is not true
      then array[format('on_timeout %L is not an option', ask.on_timeout),
        'Give one of the options, or escalate.']
    when not (extract(epoch from ask.deadline) between 0.001 and 315360000)
      then array[format('deadline %s is not above 0 and at most 10 years', ask.deadline),
        'Leave it out for none.']
    when (ask.votes_needed between 1 and 100) is not true
      then array['votes_needed is not from 1 to 100', 'Leave it out for one vote.']
  end;
  if wrong is not null then
    raise exception '%', wrong[1] using errcode = 'invalid_parameter_value', hint = wrong[2];
  end if;
  if ask.run_id is not null then
    select x.* into r from jobsworth.runs x where x.id = ask.run_id;
    if not found then
      raise exception 'there is no run %', ask.run_id using errcode = 'no_data_found',
        hint = 'List runs: jobsworth run list.';
    end if;
  end if;
  insert into jobsworth.approvals (
    id, team_id, thread_id, proposal_text, options, shown, shown_hash, deadline, on_timeout,
    votes_needed, asked_by, self_approval, editable)
  values (asked, coalesce(ask.team_id, r.team_id), coalesce(ask.thread_id, r.thread_id),
    ask.proposal_text, ask.options, ask.shown, hash, clock_timestamp() + ask.deadline,
    ask.on_timeout, ask.votes_needed, ask.asked_by, ask.self_approval, ask.editable)
  on conflict (id) do nothing;
  if not found and not exists (
    select 1 from jobsworth.approvals a where a.id = asked and a.shown_hash = hash)
  then
    raise exception 'approval % asks something else', asked
      using errcode = 'object_not_in_prerequisite_state', hint = 'Give each question an id of its own.';
  end if;
  return asked;
end $$;

-- How an approval stands: pending, or with the option that was chosen and who chose it. `document` is what
-- was approved: what was shown, or as a person has edited it. A deadline that has passed counts here too.
create function jobsworth.decision(
  approval_id uuid, out status jobsworth.approval_status, out chosen_option text,
  out decided_by text, out comment text, out document jsonb, out hash text)
  language plpgsql as $$
#variable_conflict use_column
begin
  -- The row of the job first, then the row of the approval: the order in which all lock them.
  perform 1 from jobsworth.reactive_jobs j
  where j.id = (select x.job_id from jobsworth.approvals x where x.id = decision.approval_id)
  for no key update;
  perform 1 from jobsworth.approvals x where x.id = decision.approval_id for update;
  if not found then
    raise exception 'there is no approval %', decision.approval_id using errcode = 'no_data_found',
      hint = 'List approvals: jobsworth approval list.';
  end if;
  perform jobsworth.time_out(decision.approval_id);
  select d.status, d.chosen_option, d.decided_by, d.comment, coalesce(d.edited, d.shown),
    coalesce(d.edited_hash, d.shown_hash)
  into decision.status, decision.chosen_option, decision.decided_by, decision.comment,
    decision.document, decision.hash
  from jobsworth.approvals_decided d where d.id = decision.approval_id;
end $$;
