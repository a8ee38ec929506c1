"""Consent: votes, the last word before consumption, successors, edits, escalation, and webhooks.

An approval is bound to the hash of exactly what was asked. A yes counts until a no comes, and a no
counts until what was approved is consumed, by the one step that it names. Everybody who decides,
supersedes or consumes locks the job's row first, then the approval's, and judges after that.

What happens to an approval is announced by a trigger, so that whoever changes it, webhooks hear of
it in the same transaction.
"""

from migrations.sql import amended, earlier, run

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLES = r"""
alter table jobsworth.approvals
  add column votes_needed int not null default 1
    constraint somebody_decides check (votes_needed between 1 and 100),
  add column asked_by text,
  add column self_approval boolean not null default false,
  add column editable boolean not null default false,
  add column edited jsonb,
  add column edited_hash text,
  add column escalated_at timestamptz,
  -- The request that a job makes and that this answers, where that is not `shown_hash`: a successor
  -- that a person put in the place of what the job had asked.
  add column asked_hash text,
  add column supersedes uuid,
  add column difference text,
  -- The step that may consume it; null: the wait itself does.
  add column for_step text,
  add column consumed_at timestamptz,
  add column consumed_by text,
  drop constraint timeout_is_an_option,
  add constraint timeout_is_an_option
    check (on_timeout = any(options) or on_timeout = 'escalate'),
  add constraint an_edit_has_its_hash check ((edited is null) = (edited_hash is null)),
  add constraint consumed_names_its_step check ((consumed_at is null) = (consumed_by is null));

-- Of the approvals that one question led to, one is current: that without a successor.
drop index jobsworth.approvals_effect;
create unique index approvals_effect on jobsworth.approvals (job_id, effect_key)
  where job_id is not null and superseded_by is null;
-- The view of violations looks at what was consumed lately.
create index approvals_consumed on jobsworth.approvals (consumed_at) where consumed_at is not null;

-- One name for one person, however it is spelt: "Ann ", "ann", an é in one character or in two.
-- (Capitals beyond ASCII are as the locale of the database has them.)
create function jobsworth.person(name text) returns text
  language sql immutable strict parallel safe
  return btrim(regexp_replace(lower(normalize(name, nfkc)), '\s+', ' ', 'g'));

-- A vote is for what its person saw: it counts for that version only.
alter table jobsworth.approval_decisions
  drop constraint decided_once,
  add column voted_hash text;
create index decisions_of_approval on jobsworth.approval_decisions (approval_id, id);

-- Each approval with the vote that closed it, if one did.
create view jobsworth.approvals_decided as
select a.id, a.team_id, a.thread_id, a.job_id, a.effect_key, a.proposal_text, a.options, a.shown,
  a.shown_hash, a.status, a.deadline, a.on_timeout, a.chosen_option, a.superseded_by, a.created_at,
  a.closed_at, d.decided_by, d.channel, d.comment, d.decided_at, a.votes_needed, a.asked_by,
  a.self_approval, a.editable, a.edited, a.edited_hash, a.escalated_at, a.asked_hash, a.supersedes,
  a.difference, a.for_step, a.consumed_at, a.consumed_by
from jobsworth.approvals a
left join lateral (
  select v.decided_by, v.channel, v.comment, v.decided_at
  from jobsworth.approval_decisions v
  where v.approval_id = a.id and a.chosen_option is not null
  order by v.id desc
  limit 1
) d on true;

create table jobsworth.webhooks (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  url text not null,
  events text[] not null
    default '{approval.opened,approval.edited,approval.escalated,approval.closed}',
  active boolean not null default true,
  created_at timestamptz not null default now(),
  constraint known_events check (events <@
    '{approval.opened,approval.edited,approval.escalated,approval.closed}'::text[])
);

-- What webhooks are to be told. `next_try_at` is also the lease of a worker that is sending: it is
-- moved on before the network is touched. `tries` is the fence of what is written afterwards.
create table jobsworth.webhook_outbox (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  webhook_id uuid not null,
  approval_id uuid not null,
  event text not null,
  payload jsonb not null,
  created_at timestamptz not null default clock_timestamp(),
  tries int not null default 0,
  next_try_at timestamptz not null default clock_timestamp(),
  last_status int,
  last_error text,
  delivered_at timestamptz,
  dead_at timestamptz,
  constraint ends_once check (delivered_at is null or dead_at is null)
);
create index webhook_outbox_due on jobsworth.webhook_outbox (next_try_at)
  where delivered_at is null and dead_at is null;
create index webhook_outbox_dead on jobsworth.webhook_outbox (dead_at) where dead_at is not null;
create index webhook_outbox_done on jobsworth.webhook_outbox (delivered_at)
  where delivered_at is not null;
"""

HASH = """
-- JSON in one form: keys in order, no spaces, numbers without exponent and trailing zeros.
create function jobsworth.canonical(value jsonb) returns text language plpgsql immutable strict
  parallel safe as $$
begin
  return case jsonb_typeof(value)
    when 'object' then (
      select '{' || coalesce(string_agg(
          to_json(e.key)::text || ':' || jobsworth.canonical(e.value), ','
          order by e.key collate "C"), '') || '}'
      from jsonb_each(value) e)
    when 'array' then (
      select '[' || coalesce(string_agg(jobsworth.canonical(e.value), ',' order by e.n), '') || ']'
      from jsonb_array_elements(value) with ordinality e (value, n))
    when 'number' then trim_scale((value #>> '{}')::numeric)::text
    else value::text
  end;
end $$;

-- What an approval is bound to: exactly what is asked and shown.
create function jobsworth.shown_hash(proposal_text text, options text[], shown jsonb) returns text
  language sql immutable parallel safe
  return encode(sha256(convert_to(jobsworth.canonical(jsonb_build_object(
    'proposal_text', proposal_text, 'options', to_jsonb(options),
    'shown', coalesce(shown, 'null'))), 'UTF8')), 'hex');
"""

DECIDE = """
-- The deadline of an approval that the caller has locked: if it has passed, the approval takes its
-- default, or is escalated, once, with as much time again. Returns the row as it stands then.
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
  -- The default was meant for what was asked, not for what somebody has made of it meanwhile.
  taken := case when escalates or a.edited_hash is not null then 'reject' else a.on_timeout end;
  insert into jobsworth.approval_decisions
    (approval_id, team_id, option, decided_by, channel, voted_hash)
  values (a.id, a.team_id, taken, 'deadline', 'deadline', coalesce(a.edited_hash, a.shown_hash));
  update jobsworth.approvals x
  set status = 'expired', closed_at = now(), chosen_option = taken
  where x.id = a.id
  returning x.* into a;
  perform jobsworth.reconsider(array[a.job_id], patient => true) where a.job_id is not null;
  return a;
end $$;

drop function jobsworth.resolve(uuid, text, text, text, text);
-- Vote on an approval. The first no rejects it, and so does a later one, until what was approved is
-- consumed; the last vote that is needed for the same option approves it. The waiting job resumes
-- in the same transaction. Of what one person says, the last counts. The deadline counts here, not
-- only in the sweep. `edited` approves another document than the one that was shown (votes for that
-- one count no longer); `seen_hash` refuses a yes to something else than was seen.
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
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approvals.';
  end if;
  if coalesce(jobsworth.person(resolve.decided_by), '') = '' then
    raise exception 'nobody is named as deciding' using errcode = 'invalid_parameter_value',
      hint = 'Say who: decided_by.';
  elsif jobsworth.person(resolve.decided_by) = 'deadline' then
    raise exception 'a deadline decides by itself' using errcode = 'invalid_parameter_value',
      hint = 'Say which person decides: decided_by.';
  end if;
  -- The job's row first, as everybody does, then the approval's.
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
        hint = 'Read it again: jobsworth approvals ' || a.id;
    end if;
  end if;
  if resolve.edited is not null then
    if is_no or not a.editable then
      raise exception 'approval % cannot be approved with changes%', a.id,
          case when is_no then ' by a no' else '' end
        using errcode = 'invalid_parameter_value',
        hint = 'Approve or reject what it shows; only one that was asked as editable can change.';
    -- What no program can read back would keep everybody from seeing what is open.
    elsif resolve.edited @? 'strict $.**{200}'
      or resolve.edited @? 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))'
    then
      raise exception 'the edited document is too deep, or has a number that is too large'
        using errcode = 'invalid_parameter_value',
        hint = 'Nest it less than 200 levels, with numbers below 1e308.';
    end if;
    hash := jobsworth.shown_hash(a.proposal_text, a.options, resolve.edited);
  end if;
  -- Who has said the same of the same before has one vote; who says something else has changed it.
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
    closed_at = case when resolve.status <> 'pending' then now() end,
    edited = coalesce(resolve.edited, x.edited),
    edited_hash = case when resolve.edited is null then x.edited_hash else hash end
  where x.id = a.id;
  if status <> 'pending' and a.job_id is not null then
    perform jobsworth.reconsider(array[a.job_id], patient => true);
  end if;
end $$;

-- Close approvals past their deadline with their default, or escalate them; the jobs that wait for
-- them resume.
create or replace function jobsworth.expire_approvals(most int) returns int language plpgsql
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
    -- Whatever somebody holds is left for the next round: expiry waits for nobody.
    perform 1 from jobsworth.reactive_jobs j
    where j.id = due.job_id for no key update skip locked;
    continue when not found
      and exists (select 1 from jobsworth.reactive_jobs j where j.id = due.job_id);
    perform jobsworth.time_out(due.id);
    expired := expired + 1;
  end loop;
  return expired;
end $$;

-- Replace an approval that nothing was done with yet by another, by hand. What a job asked is
-- answered by the successor then, and its wait goes there: so only if that asks the same, or if
-- the job said that what it shows may be edited.
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
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approvals.';
  end if;
  select x.* into new from jobsworth.approvals x where x.id = supersede.successor;
  if not found then
    raise exception 'there is no approval %', supersede.successor
      using errcode = 'no_data_found', hint = 'List the open ones: jobsworth approvals.';
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
      hint = 'List the open ones: jobsworth approvals.';
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
  perform jobsworth.reconsider(array[old.job_id], patient => true) where old.job_id is not null;
end $$;
"""

# Whoever runs a job again that ended with a no wants the question asked again. The no stays in the
# books, as an answer to nothing that is asked now.
RESTART = amended(
    "0008_run_functions",
    "function jobsworth.restart_locked",
    "  -- They wait on a timer",
    """  update jobsworth.approvals a set effect_key = null
  where a.job_id = any(job_ids) and a.superseded_by is null and a.chosen_option = 'reject';

  -- They wait on a timer""",
)

# A step that a person lets run again has not begun: its yes is unspent, and can be taken back.
DECIDE_STEP = amended(
    "0009_steps",
    "function jobsworth.decide_step",
    """x.name = s.name;
  end if;
  perform""",
    """x.name = s.name;
    update jobsworth.approvals a set consumed_at = null, consumed_by = null
    where a.job_id = j.id and a.consumed_by = s.name and a.superseded_by is null;
  end if;
  perform""",
)

ANNOUNCE = """
-- Tell the webhooks that want to know, within the transaction that changed the approval.
create function jobsworth.announce_approval() returns trigger language plpgsql as $$
declare
  happened text;
begin
  if not exists (select 1 from jobsworth.webhooks w where w.active) then
    return null;
  end if;
  happened := case
    when tg_op = 'INSERT' then 'approval.opened'
    when new.status is distinct from old.status then 'approval.closed'
    when new.escalated_at is distinct from old.escalated_at then 'approval.escalated'
    else 'approval.edited'
  end;
  insert into jobsworth.webhook_outbox (team_id, webhook_id, approval_id, event, payload)
  select new.team_id, w.id, new.id, happened, jsonb_build_object(
    'type', happened, 'timestamp', clock_timestamp(), 'data', jsonb_build_object(
      'approval_id', new.id, 'job_id', new.job_id, 'thread_id', new.thread_id,
      'team_id', new.team_id, 'status', new.status, 'proposal', new.proposal_text,
      'options', new.options, 'shown', coalesce(new.edited, new.shown),
      'hash', coalesce(new.edited_hash, new.shown_hash), 'editable', new.editable,
      'asked_by', new.asked_by, 'votes_needed', new.votes_needed,
      'deadline', new.deadline, 'on_timeout', new.on_timeout,
      'supersedes', new.supersedes, 'superseded_by', new.superseded_by,
      'difference', new.difference, 'chosen_option', new.chosen_option,
      'decided_by', case when new.status <> 'superseded' then (
        select v.decided_by from jobsworth.approval_decisions v
        where v.approval_id = new.id and new.chosen_option is not null
        order by v.id desc limit 1) end,
      'decide', case when new.status = 'pending' then jsonb_build_object(
        'cli', 'jobsworth approve ' || new.id || ', or jobsworth reject ' || new.id,
        'sql', format('select * from jobsworth.resolve(%L, option, decided_by, seen_hash => %L)',
          new.id, coalesce(new.edited_hash, new.shown_hash))) end))
  from jobsworth.webhooks w
  where w.active and happened = any(w.events)
    and (w.team_id is null or w.team_id = new.team_id);
  return null;
end $$;
create trigger announce_open after insert on jobsworth.approvals
  for each row when (new.status = 'pending') execute function jobsworth.announce_approval();
create trigger announce_change after update on jobsworth.approvals
  for each row when (new.status is distinct from old.status
    or new.status = 'pending' and (new.escalated_at is distinct from old.escalated_at
      or new.edited_hash is distinct from old.edited_hash))
  execute function jobsworth.announce_approval();
"""

VIOLATIONS = """
create or replace view jobsworth.violations_of_consent (invariant, subject_id, detail, at) as
select 'ended with an open approval', a.job_id, 'approval ' || a.id, 'infinity'::timestamptz
from jobsworth.approvals a
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = a.job_id offset 0) j
where a.status = 'pending' and j.finished_at < now() - interval '30 seconds'
union all
select 'consumed by a step that does not exist', a.id, a.consumed_by, a.consumed_at
from jobsworth.approvals a
cross join lateral (
  select r.id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0) j
where a.consumed_at is not null and not exists (
  select 1 from jobsworth.steps s where s.job_id = j.id and s.name = a.consumed_by)
union all
select 'consumed without a yes', a.id, a.status || coalesce(', ' || a.chosen_option, ''),
  a.consumed_at
from jobsworth.approvals a
where a.consumed_at is not null and (a.status not in ('approved', 'expired')
  or a.chosen_option = 'reject' or a.superseded_by is not null)
union all
select 'superseded without its successor', a.id, coalesce(a.superseded_by::text, 'by nothing'),
  a.closed_at
from jobsworth.approvals a
where a.superseded_by is null and a.status = 'superseded' and a.job_id is null
  or a.superseded_by is not null and not exists (
    select 1 from jobsworth.approvals s where s.id = a.superseded_by and s.supersedes = a.id)
union all
select 'two approvals for one question', a.id, a.effect_key, a.created_at
from jobsworth.approvals a
where a.superseded_by is null and a.effect_key is not null and exists (
  select 1 from jobsworth.approvals b
  where b.job_id = a.job_id and b.effect_key = a.effect_key and b.superseded_by is null
    and b.id > a.id);
"""

DOWN = """
drop trigger announce_change on jobsworth.approvals;
drop trigger announce_open on jobsworth.approvals;
drop function jobsworth.announce_approval();
drop function jobsworth.supersede(uuid, uuid, text);
drop function jobsworth.resolve(uuid, text, text, text, text, jsonb, text);
drop function jobsworth.time_out(uuid);
drop function jobsworth.shown_hash(text, text[], jsonb);
drop function jobsworth.canonical(jsonb);
drop table jobsworth.webhook_outbox, jobsworth.webhooks;
drop view jobsworth.approvals_decided;
create or replace view jobsworth.violations_of_consent (invariant, subject_id, detail, at) as
select 'ended with an open approval', a.job_id, 'approval ' || a.id, 'infinity'::timestamptz
from jobsworth.approvals a
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = a.job_id offset 0) j
where a.status = 'pending' and j.finished_at < now() - interval '30 seconds';

-- There was one decision for each approval, and one approval for each question: what came later
-- than the first of them, or earlier than the last, is left out.
alter table jobsworth.approval_decisions disable trigger decisions_are_append_only;
delete from jobsworth.approval_decisions d
where exists (
    select 1 from jobsworth.approval_decisions v
    where v.approval_id = d.approval_id and v.id > d.id)
  or exists (
    select 1 from jobsworth.approvals a where a.id = d.approval_id and a.status = 'pending');
alter table jobsworth.approval_decisions enable trigger decisions_are_append_only;
drop index jobsworth.decisions_of_approval;
drop function jobsworth.person(text);
alter table jobsworth.approval_decisions
  drop column voted_hash, add constraint decided_once unique (approval_id);

update jobsworth.approvals set effect_key = null where superseded_by is not null;
update jobsworth.approvals set on_timeout = 'reject'
where on_timeout = 'escalate' and not 'escalate' = any(options);
drop index jobsworth.approvals_consumed;
drop index jobsworth.approvals_effect;
create unique index approvals_effect on jobsworth.approvals (job_id, effect_key)
  where job_id is not null;
alter table jobsworth.approvals
  drop constraint an_edit_has_its_hash, drop constraint consumed_names_its_step,
  drop constraint timeout_is_an_option,
  add constraint timeout_is_an_option check (on_timeout = any(options)),
  drop column votes_needed, drop column asked_by, drop column self_approval, drop column editable,
  drop column edited, drop column edited_hash, drop column escalated_at, drop column asked_hash,
  drop column supersedes, drop column difference, drop column for_step, drop column consumed_at,
  drop column consumed_by;
"""


def upgrade() -> None:
    for part in (TABLES, HASH, DECIDE, RESTART, DECIDE_STEP, ANNOUNCE, VIOLATIONS):
        run(part)


def downgrade() -> None:
    run(DOWN)
    for revision_file, name in (
        ("0001_first_light", "function jobsworth.resolve"),
        ("0001_first_light", "function jobsworth.expire_approvals"),
        ("0008_run_functions", "function jobsworth.restart_locked"),
        ("0009_steps", "function jobsworth.decide_step"),
    ):
        run(earlier(revision_file, name))
