-- Queues that somebody has paused, resumed or made fair. A queue without a row here is neither.
--
-- Queued jobs of a paused queue stay queued: the claim skips the queue as a whole, so pausing
-- touches one row.

create table jobsworth.queues (
  name jobsworth.name primary key,
  paused boolean not null default false,
  fair boolean not null default false,  -- its jobs start in turns of their keys (limits/fairness.sql)
  changed_at jobsworth.changed_at not null default now()
);

-- A set of bits, one for each fair queue, by the hash of its name. The condition of a trigger can read a
-- sequence without a query, so inserts into other queues stay out of the trigger's function.
create sequence jobsworth.fair_queues minvalue 0 start 0;
select setval('jobsworth.fair_queues', 0);

create function jobsworth.note_fair_queues() returns trigger language plpgsql as $$
begin
  -- One transaction after the other, so each sees what the ones before it have committed.
  perform pg_advisory_xact_lock(
    'pg_class'::regclass::oid::int, 'jobsworth.fair_queues'::regclass::oid::int);
  perform setval('jobsworth.fair_queues', coalesce(
    (select bit_or(1::bigint << (hashtext(q.name) & 31)) from jobsworth.queues q where q.fair), 0));
  return null;
end $$;
create trigger note_fair_queues after insert or update of name, fair or delete or truncate
  on jobsworth.queues for each statement execute function jobsworth.note_fair_queues();
