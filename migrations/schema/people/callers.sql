-- What roles call that may call nothing else (`jobsworth roles`). These functions run as their owner, so
-- the caller needs no right on any table; nobody may call them unless it is granted.

-- Enqueue a job, and return its id: `enqueue` for a role that may only enqueue. Within `set local
-- jobsworth.team` the job is of that team, and what it names must be of it too.
create function jobsworth.submit(
  mode text, payload jsonb default '{}', queue text default 'default', priority int default 3,
  run_at timestamptz default null, delay interval default null, unique_key text default null,
  thread_id uuid default null, agent_id uuid default null, session_id uuid default null,
  request_id text default null, team_id uuid default null)
  returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  scope uuid := nullif(current_setting('jobsworth.team', true), '')::uuid;
  team uuid := coalesce(submit.team_id, scope);
begin
  if scope is not null and (team <> scope
    or submit.thread_id is not null and not exists (
      select 1 from jobsworth.chat_threads t where t.id = submit.thread_id and t.team_id = scope)
    or submit.agent_id is not null and not exists (
      select 1 from jobsworth.agents a where a.id = submit.agent_id and a.team_id = scope)
    or submit.session_id is not null and not exists (
      select 1 from jobsworth.sessions s where s.id = submit.session_id and s.team_id = scope))
  then
    raise exception 'the job names a team, thread, agent or session that is not of team %', scope
      using errcode = 'insufficient_privilege', hint = 'Name those of this team, or none.';
  end if;
  return jobsworth.enqueue(
    submit.mode, submit.payload, submit.queue, submit.priority, submit.run_at, submit.delay,
    thread_id => submit.thread_id, unique_key => submit.unique_key, agent_id => submit.agent_id,
    request_id => submit.request_id, team_id => team, session_id => coalesce(
      submit.session_id, nullif(current_setting('jobsworth.session', true), '')::uuid));
end $$;

-- Decide about an approval of the transaction's team: `resolve` for a role that may only approve.
create function jobsworth.vote(
  approval_id uuid, option text, decided_by text, channel text default 'sql',
  comment text default null, seen_hash text default null,
  out accepted boolean, out status jobsworth.approval_status, out chosen_option text)
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  if not exists (
    select 1 from jobsworth.approvals a
    where a.id = vote.approval_id
      and a.team_id = nullif(current_setting('jobsworth.team', true), '')::uuid)
  then
    raise exception 'there is no approval %', vote.approval_id
      using errcode = 'no_data_found', hint = 'Name its team first: set local jobsworth.team = ''ID''.';
  end if;
  select r.accepted, r.status, r.chosen_option into vote.accepted, vote.status, vote.chosen_option
  from jobsworth.resolve(vote.approval_id, vote.option, vote.decided_by, vote.channel,
    vote.comment, null, vote.seen_hash) r;
end $$;

do $do$
begin
  revoke execute on function jobsworth.submit, jobsworth.vote from public;
end $do$;
