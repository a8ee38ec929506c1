-- The extension pgvector. Its types and operators live in the schema in which the extension was
-- created. These wrappers are bound to that schema now, so no statement depends on the search path.

create extension if not exists vector;

create function jobsworth.halfvec(value text) returns halfvec
  language sql immutable strict parallel safe return value::halfvec;
create function jobsworth.cosine_distance(a halfvec, b halfvec) returns float8
  language sql immutable strict parallel safe return a <=> b;
