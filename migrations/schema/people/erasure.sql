-- Erasure: what a user, a thread or a session has left leaves for good; the books keep their amounts.
--
-- What leaves is read from the catalogue: a row leaves if a column of it names something that leaves,
-- whatever its table. So a later table needs a word here only if it is to stay. The books (calls, ledger)
-- and deployments stay without words; ids of jobs and threads in them name nothing any more. Teams,
-- agents and projects stay.
--
-- What is written meanwhile: the jobs are locked first, then threads, sessions, users and runs, and then
-- all is looked for again. A message waits for its thread's lock, and is refused then, as later ones are.
-- A transaction that names the thread without a lock (a bare enqueue, a memory) may commit later: the
-- caller waits for those that were open, and calls `erase` again with the ids of the first call. What it has
-- to look for afterwards is in `unproven_erasures`, from the same commit on.

-- Each column of each table, by what it can hold: text, jsonb, bytea, vector, uuid, uuids.
create function jobsworth.columns_to_erase(
  out relation regclass, out table_name text, out column_name text, out kind text,
  out domain_name text)
  returns setof record language sql stable as $$
  select c.oid::regclass, c.relname::text, a.attname::text, k.kind,
    case when t.typtype = 'd' then t.typname::text end
  from pg_catalog.pg_class c
  join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  join pg_catalog.pg_type t on t.oid = a.atttypid
  join pg_catalog.pg_type b on b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
  cross join lateral (
    select case
      when b.typname in ('text', 'varchar', 'bpchar', 'name', '_text', '_varchar') then 'text'
      when b.typname in ('jsonb', 'json') then 'jsonb'
      when b.typname in ('halfvec', 'vector') then 'vector'
      when b.typname in ('bytea', 'uuid') then b.typname::text
      when b.typname = '_uuid' then 'uuids' end as kind) k
  where c.relkind in ('r', 'p') and not c.relispartition and c.relname not in ('alembic_version', 'unproven_erasures')
    and k.kind is not null and c.relnamespace = (
      select j.relnamespace from pg_catalog.pg_class j
      where j.oid = 'jobsworth.reactive_jobs'::regclass)
  order by c.relname, a.attnum
$$;

-- Whose rows stay, because they say what was spent, shipped or fired, or are shared.
create function jobsworth.stays(table_name text) returns boolean language sql immutable
  return table_name in ('llm_calls', 'token_ledger', 'call_windows', 'ledger_days', 'ledger_closing',
    'deployments', 'schedule_firings', 'teams', 'agents', 'projects', 'workers');

-- For each table, the condition under which a row of it belongs to `$1` (ids; `$2`: the same as texts; `$3`:
-- the names of the user, which are keys of limits), and the column by which others name it. A column that
-- names a team, an agent, what only points from elsewhere, or what is shared makes nothing belong.
create function jobsworth.tables_to_erase(
  out relation regclass, out table_name text, out belongs text, out key_column text, out guarded boolean)
  returns setof record language sql stable as $$
  select c.relation, c.table_name,
    case c.table_name when 'call_texts' then
      -- A text is kept once for all calls of a day.
      '(day, hash) in (
        select r.day, h from jobsworth.call_records r, unnest(r.asked) h where r.call_id = any($1)
        except
        select r.day, h from jobsworth.call_records r, unnest(r.asked) h
        where r.call_id <> all($1) and r.day in (
          select o.day from jobsworth.call_records o where o.call_id = any($1)))'
    else string_agg(format(
        case c.kind when 'uuid' then '%I = any($1)' when 'uuids' then '%I && $1'
          else case c.column_name when 'source_id' then '%I = any($2)' else '%I = any($2 || $3)' end end,
        c.column_name), ' or ') filter (where
      c.kind in ('uuid', 'uuids') and c.column_name not in (
        'team_id', 'for_team_id', 'owner_id', 'agent_id', 'author_agent_id', 'recipient_agent_id',
        'project_id', 'worker_id', 'webhook_id', 'budget_id', 'window_id', 'limits',
        'superseded_by', 'supersedes', 'merged_into', 'rollback_of', 'rollback_to', 'content_hash')
      or c.kind = 'text' and c.table_name <> 'reactive_jobs'
        and c.column_name in ('source_id', 'key', 'fair_key')) end,
    coalesce(
      min(c.column_name) filter (where c.kind = 'uuid' and c.column_name = 'id'),
      (select min(a.attname::text) from pg_catalog.pg_index i
       join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
       where i.indrelid = c.relation and i.indisprimary and i.indnkeyatts = 1
         and a.atttypid = 'uuid'::regtype)),
    exists (
      select 1 from pg_catalog.pg_trigger g
      join pg_catalog.pg_proc f on f.oid = g.tgfoid
      where g.tgrelid = c.relation and f.proname = 'refuse_change')
  from jobsworth.columns_to_erase() c
  group by c.relation, c.table_name
$$;

-- What names the person in words: an id of the platform, and the name if nobody else has it.
create function jobsworth.names_of(ids uuid[]) returns text[] language sql stable
  return array(
    select n.name
    from jobsworth.users u
    cross join lateral (values (u.id::text), (u.external_id::text), (u.name)) as n (name)
    where u.id = any(ids) and n.name <> '' and not exists (
      select 1 from jobsworth.users o where o.name = n.name and o.id <> all(ids)));

-- All that belongs to these things, and they themselves: their threads, sessions, jobs and what came of
-- them, whole runs with their branches, messages, memories, approvals, calls and so on, as ids.
create function jobsworth.belongings(ids uuid[]) returns uuid[] language plpgsql stable as $$
declare
  known uuid[] := ids;
  fresh uuid[] := ids || array(
    select r.id from jobsworth.runs r where r.actor = any(jobsworth.names_of(ids)));
  more uuid[];
  found uuid[];
  t record;
begin
  loop
    fresh := array(select distinct f from unnest(fresh) f where f is not null);
    more := array(
      select distinct j.run_id from jobsworth.reactive_jobs j
      where j.id = any(fresh) and j.run_id is not null);
    for t in
      select x.relation, x.belongs, x.key_column from jobsworth.tables_to_erase() x
      where x.key_column is not null and x.belongs is not null
        and (not jobsworth.stays(x.table_name) or x.table_name in ('llm_calls', 'deployments'))
    loop
      execute format('select array_agg(%I) from %s where %s', t.key_column, t.relation, t.belongs)
      into found using fresh, fresh::text[], '{}'::text[];
      more := more || coalesce(found, '{}');
    end loop;
    known := known || fresh;
    fresh := array(select m from unnest(more) m except select k from unnest(known) k);
    exit when fresh = '{}';
  end loop;
  return array(select distinct k from unnest(known) k);
end $$;

-- The thing itself: raises an error if there is none, and nothing that belongs to it.
create function jobsworth.to_erase(of text, id uuid) returns uuid[] language plpgsql stable as $$
#variable_conflict use_column
declare
  ids uuid[];
begin
  if of is null or of not in ('user', 'thread', 'session') then
    raise exception 'what is erased is %, not user, thread or session', coalesce(of, 'null')
      using errcode = 'invalid_parameter_value', hint = 'Give one of them, and its id.';
  elsif row_security_active('jobsworth.reactive_jobs') and not exists (
    select 1 from pg_catalog.pg_policy p cross join unnest(p.polroles) as r (role)
    where p.polrelid = 'jobsworth.reactive_jobs'::regclass and r.role <> 0
      and pg_has_role(r.role, 'usage'))
  then
    raise exception 'role % does not see every row, and could leave some', current_user
      using errcode = 'insufficient_privilege', hint = 'Erase as the owner of the tables.';
  end if;
  ids := jobsworth.belongings(array[to_erase.id]);
  if cardinality(ids) = 1 and not exists (
    select 1 from jobsworth.users u where u.id = to_erase.id
    union all select 1 from jobsworth.chat_threads t where t.id = to_erase.id
    union all select 1 from jobsworth.sessions s where s.id = to_erase.id)
  then
    raise exception 'there is no % %, and nothing that names it', of, coalesce(to_erase.id::text, 'without an id')
      using errcode = 'no_data_found', hint = format('List them: jobsworth %s list.', of);
  elsif of <> (case
    when exists (select 1 from jobsworth.users u where u.id = to_erase.id) then 'user'
    when exists (select 1 from jobsworth.chat_threads t where t.id = to_erase.id) then 'thread'
    when exists (select 1 from jobsworth.sessions s where s.id = to_erase.id) then 'session'
    else of end)
  then
    raise exception 'there is no % %: the id is of something else', of, to_erase.id
      using errcode = 'no_data_found', hint = format('List them: jobsworth %s list.', of);
  end if;
  return ids;
end $$;

-- What would leave, or stay without words: how many rows of each table. Writes nothing.
create function jobsworth.plan_erasure(
  of text, id uuid, out table_name text, out rows bigint, out stays boolean)
  returns setof record language plpgsql stable as $$
#variable_conflict use_column
declare
  ids constant uuid[] := jobsworth.to_erase(plan_erasure.of, plan_erasure.id);
  t record;
begin
  for t in select x.* from jobsworth.tables_to_erase() x where x.belongs is not null loop
    execute format('select count(*) from %s where %s', t.relation, t.belongs)
    into plan_erasure.rows using ids, ids::text[], jobsworth.names_of(ids);
    plan_erasure.table_name := t.table_name;
    plan_erasure.stays := jobsworth.stays(t.table_name);
    continue when plan_erasure.rows = 0;
    return next;
  end loop;
end $$;

-- Lock what belongs to it, the jobs first, as all do; then look again, because something may have come in
-- between. Refuses what cannot leave now.
create function jobsworth.lock_to_erase(of text, id uuid, again uuid[]) returns uuid[]
  language plpgsql as $$
#variable_conflict use_column
declare
  ids uuid[] := case when again = '{}' then jobsworth.to_erase(of, id)
    else jobsworth.belongings(again || id) end;
  locked uuid[] := '{}';
  found uuid;
  other text;
begin
  while not ids <@ locked loop
    perform 1 from jobsworth.reactive_jobs j where j.id = any(ids) order by j.id for update;
    select j.id into found from jobsworth.reactive_jobs j
    where j.id = any(ids) and j.status = 'running' limit 1;
    if found is not null then
      raise exception 'job % is running, and could write again what is erased', found
        using errcode = 'object_not_in_prerequisite_state',
        hint = format('Cancel it, wait until it has ended, then erase again: jobsworth job cancel %s.', found);
    end if;
    perform 1 from jobsworth.chat_threads t where t.id = any(ids) order by t.id for update;
    perform 1 from jobsworth.sessions s where s.id = any(ids) order by s.id for update;
    perform 1 from jobsworth.users u where u.id = any(ids) order by u.id for update;
    perform 1 from jobsworth.runs r where r.id = any(ids) order by r.id for update;
    locked := ids;
    ids := jobsworth.belongings(ids);
  end loop;

  select c.id into found from jobsworth.llm_calls c
  where c.status = 'started' and (c.id = any(ids) or c.job_id = any(ids)) limit 1;
  if found is not null then
    raise exception 'call % is being made: its answer would come after the erasure', found
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Wait until it is settled; a call whose worker is gone is given up after some minutes.';
  end if;
  select d.id into found from jobsworth.deployments d
  where d.job_id = any(ids) and d.finished_at is null limit 1;
  if found is not null then
    raise exception 'deployment % of it has not ended', found
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Let its job go on, or cancel it; a worker gives the deployment up then.';
  end if;
  select t.name into other from jobsworth.teams t where t.owner_id = any(ids) limit 1;
  if other is not null then
    raise exception 'user % owns team %', id, other
      using errcode = 'object_not_in_prerequisite_state',
      hint = 'Give the team another owner first: jobsworth team save.';
  end if;
  -- It would spawn again what it no longer finds.
  select p.id into found from jobsworth.reactive_jobs j
  join jobsworth.reactive_jobs p on p.id = j.parent_id
  where j.id = any(ids) and j.is_child and p.finished_at is null and p.id <> all(ids) limit 1;
  if found is not null then
    raise exception 'job % waits for a job that would be erased', found
      using errcode = 'object_not_in_prerequisite_state',
      hint = format('Let it end, or cancel it: jobsworth job cancel %s.', found);
  end if;
  return ids;
end $$;

-- Remove all that belongs to a user, a thread or a session. It adds to `unproven_erasures` how many rows of
-- each table left (`removed`) or lost their words (`emptied`), what left, and what to look for afterwards:
-- fragments of the words, of the bytes and the vectors, the names, and the ids of persons, threads and sessions.
create function jobsworth.erase(of text, id uuid, again uuid[] default '{}') returns void
  language plpgsql
  set lock_timeout = '5s' as $$
#variable_conflict use_column
declare
  removed jsonb;
  emptied jsonb;
  ids uuid[];
  words text[];
  bytes bytea[];
  vectors text[];
  names text[];
  named uuid[];
  last constant text[] := array['branch_reads', 'branches', 'call_records', 'reactive_jobs', 'runs',
    'run_transitions', 'message_artifacts', 'chat_messages', 'chat_threads', 'memories', 'sessions', 'users'];
  chunk uuid[];
  t record;
  n bigint;
  gone bigint;
begin
  ids := jobsworth.lock_to_erase(of, id, again);
  names := jobsworth.names_of(ids) || array(
    select c.chat_id::text from jobsworth.chat_threads c where c.id = any(ids));
  named := array[id] || array(
    select u.id from jobsworth.users u where u.id = any(ids)
    union select x.id from jobsworth.chat_threads x where x.id = any(ids)
    union select s.id from jobsworth.sessions s where s.id = any(ids));
  select r.words, r.bytes, r.vectors into words, bytes, vectors from jobsworth.remains(ids) r;

  perform jobsworth.cancel_locked(array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(ids) and j.finished_at is null order by j.id), 'erased');
  removed := '{}';
  for t in
    select x.* from jobsworth.tables_to_erase() x
    where x.belongs is not null and not jobsworth.stays(x.table_name)
    order by coalesce(array_position(last, x.table_name), 0), x.table_name
  loop
    gone := 0;
    -- An append-only table lets go of what is named. A short list: it is read for each row.
    for i in 1 .. case when t.guarded then cardinality(ids) else 1 end by 500 loop
      chunk := case when t.guarded then ids[i : i + 499] else ids end;
      perform set_config('jobsworth.erase', case when t.guarded then array_to_string(chunk, ',') end, true);
      execute format('delete from %s where %s', t.relation,
        case when t.guarded then format('%I = any($1)', t.key_column) else t.belongs end)
      using chunk, chunk::text[], names;
      get diagnostics n = row_count;
      gone := gone + n;
    end loop;
    if gone > 0 then
      removed := removed || jsonb_build_object(t.table_name, gone);
    end if;
  end loop;
  emptied := jobsworth.empty_books(ids, names);
  perform set_config('jobsworth.erase', '', true);

  insert into jobsworth.unproven_erasures as u (
    erased_id, of_kind, xid, ids, removed, emptied, words, bytes, vectors, names, named)
  values (id, of, pg_current_xact_id()::text::bigint, ids, removed, emptied, words, bytes, vectors,
    names, named)
  on conflict (erased_id) do update
  set ids = u.ids || excluded.ids, words = u.words || excluded.words, bytes = u.bytes || excluded.bytes,
    vectors = u.vectors || excluded.vectors, names = u.names || excluded.names,
    named = u.named || excluded.named, late = u.late + (
      select coalesce(sum(e.value::bigint), 0) from jsonb_each_text(excluded.removed) e);
end $$;

-- The words, bytes and vectors of what leaves or loses its words, as fragments that tell it from others': of
-- each column up to 20, each 16 to 80 characters of one value. What several of 2,000 rows that stay have in
-- the same column too (a template, a common answer) tells nobody from anybody, and is left out.
create function jobsworth.remains(
  ids uuid[], out words text[], out bytes bytea[], out vectors text[])
  language plpgsql stable as $$
declare
  named constant text[] := jobsworth.names_of(ids);
  touched text[] := '{}';
  is_touched boolean;
  t record;
  found text[];
  pieces bytea[];
begin
  words := '{}'; bytes := '{}'; vectors := '{}';
  for t in select x.* from jobsworth.tables_to_erase() x where x.belongs is not null loop
    execute format('select exists (select 1 from %s where %s)', t.relation, t.belongs)
    into is_touched using ids, ids::text[], named;
    if is_touched then
      touched := touched || t.table_name;
    end if;
  end loop;
  for t in
    with x as materialized (select * from jobsworth.tables_to_erase()),
      c as materialized (select * from jobsworth.columns_to_erase())
    select x.relation, x.belongs, c.column_name, c.kind
    from x join c on c.relation = x.relation
    where x.belongs is not null and x.table_name = any(touched) and c.kind in ('text', 'jsonb', 'bytea', 'vector')
      and not (c.table_name = 'call_records')
      and (not jobsworth.stays(c.table_name) or c.column_name = any(jobsworth.words_of(c.table_name)))
      -- These are names of the program's own things.
      and coalesce(c.domain_name, '') not in ('provider', 'model', 'mode', 'queue', 'media_type',
        'environment', 'name', 'node', 'step_name', 'chunker', 'platform', 'channel')
      and c.column_name not in ('name', 'kind', 'effect_key', 'lane')
  loop
    if t.kind = 'vector' then
      execute format('select array_agg(v) from (
          select distinct g.%1$I::text as v from %2$s g where (%3$s) limit 20) x
        where (select count(*) from (
          select from %2$s s where (%3$s) is not true and s.%1$I::text = x.v limit 2) y) < 2',
        t.column_name, t.relation, t.belongs)
      into found using ids, ids::text[], named;
      vectors := vectors || coalesce(found, '{}');
    elsif t.kind = 'bytea' then
      execute format('select array_agg(v) from (
          select distinct substring(g.%1$I from 1 + length(g.%1$I) / 3 for 32) as v
          from %2$s g where (%3$s) and length(g.%1$I) >= 16 limit 20) x
        where (select count(*) from (select from (
          select s.%1$I as other from %2$s s where (%3$s) is not true limit 2000) s
          where position(x.v in s.other) > 0 limit 2) y) < 2',
        t.column_name, t.relation, t.belongs)
      into pieces using ids, ids::text[], named;
      bytes := bytes || coalesce(pieces, '{}');
    else
      execute format($q$select array_agg(v) from (
          select distinct f.v from %2$s g
          cross join lateral (
            select btrim(m[1]) as v
            from regexp_matches(left(g.%1$I::text, 20000), '[^"\\[:cntrl:]{}]{6,80}', 'g') as r (m)
            where octet_length(btrim(m[1])) >= 16
            order by length(m[1]) desc limit 3) f
          where (%3$s) limit 200) x
        where (select count(*) from (select from (
          select s.%1$I::text as other from %2$s s where (%3$s) is not true limit 2000) s
          where position(x.v in s.other) > 0 limit 2) y) < 2$q$,
        t.column_name, t.relation, t.belongs)
      into found using ids, ids::text[], named;
      words := words || coalesce(found[1:20], '{}');
    end if;
  end loop;
  words := array(select distinct w from unnest(words) w);
end $$;

-- The columns of rows that stay in which words may stand.
create function jobsworth.words_of(table_name text) returns text[] language sql immutable
  return case table_name
    when 'llm_calls' then '{error,step_name}'::text[]
    when 'deployments' then '{report_text,probe,step_name}'::text[]
    when 'schedule_firings' then '{reason}'::text[]
    else '{}' end;

-- Empty the words of rows that stay, and the person's names where they say who did something in
-- others' rows.
create function jobsworth.empty_books(ids uuid[], names text[]) returns jsonb language plpgsql as $$
declare
  emptied jsonb := '{}';
  chunk uuid[];
  calls bigint := 0;
  shipped bigint := 0;
  n bigint;
  t record;
begin
  for i in 1 .. cardinality(ids) by 500 loop
    chunk := ids[i : i + 499];
    perform set_config('jobsworth.erase', array_to_string(chunk, ','), true);
    update jobsworth.llm_calls c set error = null, step_name = null, request_id = c.id::text
    where c.id = any(chunk);
    get diagnostics n = row_count;
    calls := calls + n;
    update jobsworth.deployments d
    set report_text = null, step_name = null,
      probe = case when d.probe is not null then jsonb_build_object('passed', d.probe -> 'passed') end
    where d.id = any(chunk);
    get diagnostics n = row_count;
    shipped := shipped + n;
  end loop;
  update jobsworth.schedule_firings f set reason = null
  where (f.job_id = any(ids) or f.run_id = any(ids)) and f.reason is not null;

  for t in
    with x as materialized (select * from jobsworth.tables_to_erase()),
      c as materialized (select * from jobsworth.columns_to_erase())
    select x.relation, x.table_name, x.key_column, x.guarded, c.column_name
    from x join c on c.relation = x.relation
    where cardinality(names) > 0 and c.kind = 'text' and c.column_name ~ 'ed_by$|^actor$'
  loop
    if t.guarded then
      execute format($q$select set_config('jobsworth.erase', coalesce(string_agg(%I::text, ','), ''), true)
        from %s where jobsworth.person(%I) = any($1)$q$, t.key_column, t.relation, t.column_name)
      using array(select jobsworth.person(m) from unnest(names) m);
    end if;
    execute format('update %s set %2$I = ''erased'' where jobsworth.person(%2$I) = any($1)',
      t.relation, t.column_name)
    using array(select jobsworth.person(m) from unnest(names) m);
    get diagnostics n = row_count;
    if n > 0 then
      emptied := emptied || jsonb_build_object(t.table_name, n);
    end if;
  end loop;
  return jsonb_strip_nulls(emptied || jsonb_build_object(
    'llm_calls', nullif(calls, 0), 'deployments', nullif(shipped, 0)));
end $$;
