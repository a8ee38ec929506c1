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
