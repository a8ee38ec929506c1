-- Approvals: questions to people. An approval is bound to the hash of exactly what was asked and
-- shown.

create type jobsworth.approval_status as enum
  ('pending', 'approved', 'rejected', 'superseded', 'expired');

create table jobsworth.approvals (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  thread_id uuid,
  job_id uuid,
  effect_key text,
  proposal_text jobsworth.proposal_text not null,
  options text[] not null default '{approve,reject}',
  shown jsonb,
  shown_hash text not null,
  status jobsworth.approval_status not null default 'pending',
  deadline jobsworth.deadline,
  on_timeout text not null default 'reject',
  chosen_option text,
  superseded_by uuid,
  created_at jobsworth.created_at not null default now(),
  closed_at jobsworth.closed_at,
  votes_needed jobsworth.votes_needed not null default 1,
  asked_by jobsworth.asked_by,
  self_approval boolean not null default false,
  editable boolean not null default false,
  edited jsonb,
  edited_hash text,
  escalated_at jobsworth.escalated_at,
  -- The hash of the question that the job asked, if that differs from `shown_hash`: a person put
  -- this approval in the place of the one that the job had asked for.
  asked_hash text,
  supersedes uuid,
  difference text,
  -- The step that may consume this approval. Null: the job's wait consumes it.
  for_step text,
  consumed_at jobsworth.consumed_at,
  consumed_by text,
  constraint a_no_is_always_possible check ('reject' = any(options)),
  constraint timeout_is_an_option
    check (on_timeout = any(options) or on_timeout = 'escalate'),
  constraint choice_is_an_option check (chosen_option is null or chosen_option = any(options)),
  constraint pending_is_open check ((status = 'pending') = (closed_at is null)),
  constraint decided_has_its_choice
    check (status not in ('approved', 'rejected', 'expired') or chosen_option is not null),
  constraint an_edit_has_its_hash check ((edited is null) = (edited_hash is null)),
  constraint consumed_names_its_step check ((consumed_at is null) = (consumed_by is null))
);
create index approvals_open on jobsworth.approvals (job_id, id) where status = 'pending';
create index approvals_due on jobsworth.approvals (deadline)
  where status = 'pending' and deadline is not null;
create index approvals_thread on jobsworth.approvals (thread_id, id) where thread_id is not null;
-- Of the approvals that one question led to, one is current: the one without a successor.
create unique index approvals_effect on jobsworth.approvals (job_id, effect_key)
  where job_id is not null and superseded_by is null;
-- The violations look at what was consumed lately.
create index approvals_consumed on jobsworth.approvals (consumed_at) where consumed_at is not null;

-- The votes. A vote is for what the person saw: it counts for that version (`voted_hash`) only.
create table jobsworth.approval_decisions (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  approval_id uuid not null,
  option text not null,
  decided_by jobsworth.decided_by not null,
  channel jobsworth.channel not null,
  comment text,
  decided_at jobsworth.decided_at not null default now(),
  voted_hash text
);
create index decisions_of_approval on jobsworth.approval_decisions (approval_id, id);
create trigger decisions_are_append_only before update or delete on jobsworth.approval_decisions
  for each row execute function jobsworth.refuse_change('approval_id', 'team_id', 'id');
create trigger decisions_are_not_emptied before truncate on jobsworth.approval_decisions
  for each statement execute function jobsworth.refuse_change('approval_id', 'team_id', 'id');

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
