-- Queues that somebody has paused or resumed. A queue without a row here is not paused.
--
-- Queued jobs of a paused queue stay queued: the claim skips the queue as a whole, so pausing
-- touches one row.

create table jobsworth.queues (
  name jobsworth.name primary key,
  paused boolean not null default false,
  changed_at jobsworth.changed_at not null default now()
);
