-- The proof of an erasure (erasure.sql): what a look through the whole catalogue finds.

-- Look through every text, JSON, byte and vector column of the catalogue for what is left of this, and through
-- the columns of ids for `named` (in tables whose rows do not stay). One row for each table: how many rows
-- and columns were read; `traced` says for each column with traces in how many rows, and the keys of three.
create function jobsworth.find_traces(
  words text[], bytes bytea[], vectors text[], names text[], named uuid[],
  out table_name text, out rows bigint, out columns int, out traced jsonb)
  returns setof record language plpgsql stable as $$
declare
  -- Literally, also what LIKE and regular expressions would read otherwise.
  likes constant text[] := array(
    select '%' || regexp_replace(w, '([\\%_])', '\\\1', 'g') || '%'
    from unnest(words || named::text[]) w);
  name_likes constant text[] := array(
    select '%' || regexp_replace(w, '([\\%_])', '\\\1', 'g') || '%' from unnest(names) w);
  whole_names constant text := (
    select '(^|[^[:alnum:]_])(' || string_agg(regexp_replace(w, '([^[:alnum:]])', '\\\1', 'g'), '|')
      || ')([^[:alnum:]_]|$)' from unnest(names) w);
  raw constant bytea[] := bytes || array(
    select convert_to(w, 'UTF8') from unnest(words || named::text[]) w);
  t record;
  c record;
  tests text[];
  counts bigint[];
  keys jsonb;
begin
  for t in
    select x.relation, x.table_name as name, array_agg(x.column_name) as names, array_agg(x.kind) as kinds,
      coalesce((
        select string_agg(format('%I::text', a.attname), ' || '' '' || ') from pg_catalog.pg_index i
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
        where i.indrelid = x.relation and i.indisprimary), 'ctid::text') as key
    from jobsworth.columns_to_erase() x
    group by x.relation, x.table_name order by x.table_name
  loop
    tests := array(
      select case k.kind
        when 'bytea' then format(
          'exists (select 1 from unnest($4) r where position(r in %I) > 0)', k.name)
        when 'vector' then format('cardinality($5) > 0 and %I::text = any($5)', k.name)
        when 'uuid' then case when jobsworth.stays(t.name) then 'false'
          else format('%I = any($6)', k.name) end
        when 'uuids' then format('%I && $6', k.name)
        else format('(%1$I::text like any($1) or %1$I::text like any($2) and %1$I::text ~ $3)', k.name)
      end
      from unnest(t.names, t.kinds) as k (name, kind));
    execute format('select count(*), array[%s] from %s', (
        select string_agg(format('count(*) filter (where %s)', x), ', ') from unnest(tests) x), t.relation)
    into find_traces.rows, counts
    using likes, name_likes, whole_names, raw, vectors, named;
    table_name := t.name;
    columns := cardinality(counts);
    traced := '{}';
    for c in
      select x.name, x.test, x.hits from unnest(t.names, tests, counts) as x (name, test, hits)
      where x.hits > 0
    loop
      execute format('select jsonb_agg(x.key) from (select %s as key from %s where %s limit 3) x',
        t.key, t.relation, c.test)
      into keys using likes, name_likes, whole_names, raw, vectors, named;
      traced := traced || jsonb_build_object(c.name, jsonb_build_object('rows', c.hits, 'keys', keys));
    end loop;
    return next;
  end loop;
end $$;
