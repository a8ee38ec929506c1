-- The search for the nearest memories: exact where the scope is small, by an index above.
--
-- A filter and an HNSW index do not go together by themselves: the index gives its nearest rows, and
-- the filter may leave none of them. So the size of the scope is measured first. Up to `exact_rows`
-- vectors are compared one by one. Above, the index is read on, in strict order, until enough rows pass
-- the filter; pgvector gives up after `hnsw.max_scan_tuples` rows or at its memory limit, and then all
-- are compared after all. So no search returns fewer rows than asked for while there are more.
-- https://github.com/pgvector/pgvector#iterative-index-scans

-- The statement that makes the HNSW index of a space, for a connection without a transaction.
create function jobsworth.index_space(space_id int) returns text
  language sql stable strict
return (
  select format(
    'create index concurrently embeddings_space_%s on jobsworth.embeddings'
    ' using hnsw ((vector::%I.halfvec(%s)) %I.halfvec_cosine_ops) where space_id = %s',
    s.id, n.nspname, s.dimensions, n.nspname, s.id)
  from jobsworth.embedding_spaces s
  cross join pg_extension x
  join pg_namespace n on n.oid = x.extnamespace
  where s.id = index_space.space_id and x.extname = 'vector');

-- How long the vectors of a space are, whoever asks: spaces are of no team, so a team's role does not see
-- them, and its searches need this number.
create function jobsworth.space_dimensions(space_id int) returns int
  language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select s.dimensions from jobsworth.embedding_spaces s where s.id = space_dimensions.space_id
$$;

-- The index of each space that has one. It is not valid if its creation ended early.
create function jobsworth.space_indexes(
  out space_id int, out index_name text, out valid boolean, out bytes bigint)
  returns setof record
  language sql stable
begin atomic
  select substr(c.relname, length('embeddings_space_') + 1)::int, c.relname::text, i.indisvalid,
    pg_relation_size(c.oid)
  from pg_index i
  join pg_class c on c.oid = i.indexrelid
  where i.indrelid = 'jobsworth.embeddings'::regclass and c.relname ~ '^embeddings_space_[0-9]+$';
end;

-- Whether a memory belongs to a session: by itself, its thread, or its job.
create function jobsworth.is_of_session(m jobsworth.memories, session_id uuid) returns boolean
  language sql stable
return m.session_id is not distinct from is_of_session.session_id
  or exists (
    select 1 from jobsworth.chat_threads t
    where t.id = m.thread_id and t.session_id = is_of_session.session_id)
  or exists (
    select 1 from jobsworth.reactive_jobs j
    where j.id = m.job_id and j.session_id = is_of_session.session_id);

-- The nearest memories of a scope by its space's index, and the nearest chunk of each. The planner
-- settings leave the index as the only way to the order.
create function jobsworth.nearest_by_index(
  distance_text text,
  scope text,
  query halfvec,
  k int,
  team_id uuid,
  agent_id uuid,
  thread_id uuid,
  source_kind text,
  since timestamptz,
  until timestamptz,
  metadata jsonb,
  source_id text,
  session_id uuid,
  types jobsworth.memory_type[],
  at timestamptz,
  out memory_id uuid,
  out distance float8,
  out start_offset int,
  out end_offset int)
  returns setof record
  language plpgsql stable
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
as $$
declare
  found uuid[] := '{}';
begin
  -- They hold until the end of the transaction; no other statement of ours reads such an index.
  perform set_config('hnsw.iterative_scan', 'strict_order', true),
    set_config('hnsw.ef_search', least(greatest(2 * k, 100), 1000)::text, true);
  for memory_id, distance, start_offset, end_offset in
    execute format(
      'select e.memory_id, %s as distance, e.start_offset::int, e.end_offset::int %s order by 2',
      distance_text, scope)
    using query, k, team_id, agent_id, thread_id, source_kind, since, until, metadata,
      source_id, session_id, types, at
  loop
    continue when memory_id = any(found);
    found := found || memory_id;
    return next;
    exit when cardinality(found) = k;
  end loop;
end $$;

-- The nearest memories of a space, best first, with the nearest chunk of each. `k` is at most 10,000.
create function jobsworth.nearest(
  space_id int,
  query halfvec,
  k int,
  team_id uuid default null,
  any_team boolean default false,
  agent_id uuid default null,
  thread_id uuid default null,
  source_kind text default null,
  since timestamptz default null,
  until timestamptz default null,
  metadata jsonb default '{}',
  exact_rows int default 20000,
  source_id text default null,
  session_id uuid default null,
  types jobsworth.memory_type[] default null,
  as_of timestamptz default null,
  out memory_id uuid,
  out distance float8,
  out start_offset int,
  out end_offset int,
  out by_index boolean)
  returns setof record
  language plpgsql stable
as $$
declare
  dimensions int := jobsworth.space_dimensions($1);
  vectors text := (
    select quote_ident(n.nspname)
    from pg_extension x join pg_namespace n on n.oid = x.extnamespace where x.extname = 'vector');
  scope text := ' from jobsworth.embeddings e';
  filter text := '';
  at constant timestamptz := coalesce(as_of, now());
  size bigint;
  nearest_found jsonb;
begin
  -- A vector of zeros has no direction, and no distance to any other.
  if dimensions is null or jobsworth.cosine_distance(query, query) = 'nan' then
    return;
  end if;
  -- Only the conditions that apply, so that each search has a plan of its own.
  if agent_id is not null then
    filter := filter || ' and m.agent_id = $4';
  end if;
  if thread_id is not null then
    filter := filter || ' and m.thread_id = $5';
  end if;
  if source_kind is not null then
    filter := filter || ' and m.source_kind = $6';
  end if;
  if since is not null then
    filter := filter || ' and m.created_at >= $7';
  end if;
  if until is not null then
    filter := filter || ' and m.created_at < $8';
  end if;
  if source_id is not null then
    filter := filter || ' and m.source_id = $10';
  end if;
  if session_id is not null then
    filter := filter || ' and jobsworth.is_of_session(m, $11)';
  end if;
  if metadata <> '{}' then
    filter := filter || ' and m.metadata @> $9 and m.metadata <> ''{}''';
  end if;
  if types is not null then
    filter := filter || ' and m.type = any($12)';
  end if;
  -- Memories that hold for a time alone are few: only a scope that has some is looked at for it.
  if as_of is not null or exists (
    select 1 from jobsworth.memories m
    where (m.valid_from is not null or m.valid_to is not null)
      and (any_team or m.team_id = nearest.team_id))
    or (team_id is null and not any_team and exists (
      select 1 from jobsworth.memories m
      where (m.valid_from is not null or m.valid_to is not null) and m.team_id is null))
  then
    filter := filter || ' and coalesce(m.valid_from, m.created_at) <= $13'
      ' and (m.valid_to is null or m.valid_to > $13)';
  end if;
  if filter <> '' then
    scope := scope || ' join jobsworth.memories m on m.id = e.memory_id';
  end if;
  scope := scope || format(' where e.space_id = %s', space_id) || filter;
  if not any_team then
    scope := scope || case when team_id is null then ' and e.team_id is null'
                           else ' and e.team_id = $3' end;
  end if;

  if k <= 1000 and exists (
    select 1 from jobsworth.space_indexes() i where i.space_id = $1 and i.valid)
  then
    execute format('select count(*) from (select 1 %s limit %s) x', scope, exact_rows::bigint + 1)
    into size
    using query, k, team_id, agent_id, thread_id, source_kind, since, until, metadata,
      source_id, session_id, types, at;
    if size > exact_rows then
      nearest_found := (
        select jsonb_agg(n) from jobsworth.nearest_by_index(
          format('e.vector::%s.halfvec(%s) operator(%s.<=>) $1', vectors, dimensions, vectors),
          scope, query, k, team_id, agent_id, thread_id, source_kind, since, until, metadata,
          source_id, session_id, types, at) n);
      if jsonb_array_length(nearest_found) = k then
        return query
          select n.memory_id, n.distance, n.start_offset, n.end_offset, true
          from jsonb_to_recordset(nearest_found) as n (
            memory_id uuid, distance float8, start_offset int, end_offset int)
          order by n.distance, n.memory_id;
        return;
      end if;
    end if;
  end if;

  return query execute format($query$
    select d.memory_id, d.distance, d.start_offset, d.end_offset, false
    from (
      select distinct on (c.memory_id) c.memory_id, c.distance, c.start_offset, c.end_offset
      from (
        select e.memory_id, e.vector operator(%s.<=>) $1 as distance,
          e.start_offset::int as start_offset, e.end_offset::int as end_offset
        %s
      ) c
      where c.distance <> 'nan'
      order by c.memory_id, c.distance, c.start_offset) d
    order by d.distance, d.memory_id
    limit $2
    $query$, vectors, scope)
  using query, k, team_id, agent_id, thread_id, source_kind, since, until, metadata,
      source_id, session_id, types, at;
end $$;
