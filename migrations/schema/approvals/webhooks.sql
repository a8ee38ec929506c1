-- Webhooks hear what happens to an approval. A trigger announces it, in the transaction that
-- changes the approval, whoever changes it.

create table jobsworth.webhooks (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  url jobsworth.url not null,
  events text[] not null
    default '{approval.opened,approval.edited,approval.escalated,approval.closed}',
  active boolean not null default true,
  created_at jobsworth.created_at not null default now(),
  off_because text,  -- what its receiver answered when it was switched off
  constraint known_events check (events <@
    '{approval.opened,approval.edited,approval.escalated,approval.closed}'::text[])
);

-- What webhooks are to be told. `next_try_at` is also the lease of the worker that is sending: it
-- is moved on before the network is touched. `tries` is the fence of what is written afterwards.
create table jobsworth.webhook_outbox (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  webhook_id uuid not null,
  approval_id uuid not null,
  event text not null,
  payload jsonb not null,
  created_at jobsworth.created_at not null default clock_timestamp(),
  tries jobsworth.tries_made not null default 0,
  next_try_at jobsworth.next_try_at not null default clock_timestamp(),
  last_status int,
  last_error text,
  delivered_at jobsworth.delivered_at,
  dead_at jobsworth.dead_at,
  constraint ends_once check (delivered_at is null or dead_at is null)
);
-- By receiver: each is asked for its own deliveries, so one that is dead is passed over.
create index webhook_outbox_due on jobsworth.webhook_outbox (webhook_id, next_try_at)
  where delivered_at is null and dead_at is null;
create index webhook_outbox_dead on jobsworth.webhook_outbox (dead_at) where dead_at is not null;
create index webhook_outbox_done on jobsworth.webhook_outbox (delivered_at)
  where delivered_at is not null;

-- Tells the webhooks that want to know.
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
