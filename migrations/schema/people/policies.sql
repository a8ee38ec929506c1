-- Who sees what. A role that is not named below sees the rows of the team that its transaction names,
-- and of the session, if it names one:
--
--   begin; set local jobsworth.team = 'ID'; set local jobsworth.session = 'ID'; …
--
-- Without a team it sees nothing, and it writes nothing that it would not see. `set local` ends with the
-- transaction, so a pooler in transaction mode hands nothing on. This keeps a program's mistakes apart from
-- other teams' rows; a program that may send any SQL may name any team.
--
-- Superusers and the owner of the tables see everything, and so does a role with the policy of
-- `see_all_rows` (a worker's). That policy is the constant true, which the planner drops: the plans of such
-- a role are those without row-level security. `jobsworth roles` forces the policies on the owner
-- too, who then has that policy; whoever does not run it pays nothing, and can dump and COPY as before.

-- Whether what names these belongs to the transaction's session. It runs as its owner, so that a table's
-- readers need no right on others.
create function jobsworth.in_session(job_id uuid, thread_id uuid, run_id uuid) returns boolean
  language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select exists (
      select 1 from jobsworth.reactive_jobs j where j.id = in_session.job_id
        and j.session_id = nullif(current_setting('jobsworth.session', true), '')::uuid)
    or exists (
      select 1 from jobsworth.chat_threads t where t.id = in_session.thread_id
        and t.session_id = nullif(current_setting('jobsworth.session', true), '')::uuid)
    or exists (
      select 1 from jobsworth.runs r where r.id = in_session.run_id
        and r.session_id = nullif(current_setting('jobsworth.session', true), '')::uuid)
$$;

-- Let the rows of a table be seen by their team and session alone. A row belongs to the team it names, or to
-- that of its job; to the session it names, or to that of its job, thread, run, memory or message. What has
-- no team is seen by none but those who see everything. Later tables are given to it by the revision that makes them.
create function jobsworth.isolate(of_table regclass) returns void language plpgsql as $$
declare
  named constant text := (select c.relname from pg_class c where c.oid = of_table);
  has constant text[] := array(
    select a.attname::text from pg_attribute a
    where a.attrelid = of_table and a.attnum > 0 and not a.attisdropped);
  -- As subqueries: read once for a statement, and a key for an index.
  team constant text := '(select nullif(current_setting(''jobsworth.team'', true), '''')::uuid)';
  session constant text := '(select nullif(current_setting(''jobsworth.session'', true), '''')::uuid)';
  of_team constant text := case
    when 'team_id' = any(has) then 'team_id = ' || team
    when named = 'teams' then 'id = ' || team
    when named = 'users'
      then 'id in (select m.user_id from jobsworth.team_memberships m where m.team_id = ' || team || ')'
    when 'job_id' = any(has)
      then 'exists (select 1 from jobsworth.reactive_jobs j where j.id = job_id)' end;
  of_session constant text := case
    when named in ('teams', 'users', 'team_memberships', 'agents', 'projects') then 'true'
    when named = 'sessions' then 'id = ' || session
    when 'session_id' = any(has) then 'session_id = ' || session
    -- Of a session if what they belong to is: the policy of that table says so.
    when named = 'message_artifacts'
      then 'exists (select 1 from jobsworth.chat_messages m where m.id = message_id)'
    when 'memory_id' = any(has)
      then 'exists (select 1 from jobsworth.memories m where m.id = memory_id)'
    when has && array['job_id', 'thread_id', 'run_id'] then format('jobsworth.in_session(%s, %s, %s)',
      case when 'job_id' = any(has) then 'job_id' else 'null' end,
      case when 'thread_id' = any(has) then 'thread_id' else 'null' end,
      case when 'run_id' = any(has) then 'run_id' else 'null' end)
    else 'false' end;
  seen text;
begin
  execute format('alter table %s enable row level security', of_table);
  if of_team is not null then
    seen := format('%s and (%s is null or %s)', of_team, session, of_session);
    execute format('create policy in_scope on %s using (%s) with check (%s)', of_table, seen,
      -- A foreign key does not ask whose thread it is.
      seen || case named
        when 'chat_messages'
          then ' and exists (select 1 from jobsworth.chat_threads t where t.id = thread_id)'
        when 'message_artifacts'
          then ' and exists (select 1 from jobsworth.chat_messages m where m.id = message_id)'
        else '' end);
  end if;
end $$;

-- Let a role see and write every row of every table, as a worker must. By the owner of the tables.
create function jobsworth.see_all_rows(role name) returns void language plpgsql as $$
declare
  t regclass;
begin
  for t in
    select c.oid from pg_class c
    where c.relrowsecurity and c.relnamespace = (
      select j.relnamespace from pg_class j where j.oid = 'jobsworth.reactive_jobs'::regclass)
    order by c.relname
  loop
    if not exists (
      select 1 from pg_policy p
      where p.polrelid = t and pg_get_expr(p.polqual, p.polrelid) = 'true'
        and p.polpermissive
        and (select r.oid from pg_roles r where r.rolname = see_all_rows.role) = any(p.polroles))
    then
      execute format('create policy %I on %s to %I using (true) with check (true)',
        left('every row for ' || see_all_rows.role, 63), t, see_all_rows.role);
    end if;
  end loop;
end $$;

-- A view shows what its reader may see, not what its owner may.
do $do$
declare
  o record;
begin
  for o in
    select c.oid::regclass as named, c.relkind from pg_class c
    where c.relkind in ('r', 'p', 'v') and c.relname <> 'alembic_version' and c.relnamespace = (
      select j.relnamespace from pg_class j where j.oid = 'jobsworth.reactive_jobs'::regclass)
    order by c.relname
  loop
    if o.relkind = 'v' then
      execute format('alter view %s set (security_invoker = true)', o.named);
    else
      perform jobsworth.isolate(o.named);
    end if;
  end loop;
end $do$;
