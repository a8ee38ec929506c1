-- Erasures that are committed and whose proof nobody has seen yet: what has left, and what to look for, which
-- is nowhere else any more. So whoever erases the same again comes to the proof, whatever died in between
-- (db/people/erasure.py). A row leaves with its proof; no erasure and no proof reads this table, and no
-- program that sees one team alone. `of_kind`: user, thread or session. `removed` and `emptied`: rows by table;
-- `late`: rows that came while it was erased. `xid`: who began to write before it may still commit.
create table jobsworth.unproven_erasures (
  erased_id uuid not null primary key,
  of_kind text not null,
  begun_at jobsworth.begun_at not null default now(),
  xid bigint not null,
  ids uuid[] not null,
  removed jsonb not null,
  emptied jsonb not null,
  late bigint not null default 0,
  words text[] not null,
  bytes bytea[] not null,
  vectors text[] not null,
  names text[] not null,
  named uuid[] not null
);
