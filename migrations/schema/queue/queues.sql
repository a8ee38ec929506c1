-- Queues that somebody has paused or resumed. A queue without a row here is not paused.

create table jobsworth.queues (
  name text primary key,
  paused boolean not null default false,
  changed_at timestamptz not null default now()
);
