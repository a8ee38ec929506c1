-- One row for each running daemon. The daemon updates `beaten_at` every two seconds; a claim
-- requires this row. Half of each page stays free, so these updates happen in place.

create table jobsworth.workers (
  id uuid primary key,
  host text not null,
  pid int not null,
  version text not null,
  modes text[] not null,
  queues text[] not null,
  slots int not null,
  running int not null default 0,
  idle boolean not null default false,
  draining boolean not null default false,
  started_at jobsworth.started_at not null default now(),
  beaten_at jobsworth.beaten_at not null default now(),
  -- By job: {"seconds": since when, "thread": whether} of attempts that do not end when told to.
  deaf jsonb not null default '{}'
) with (fillfactor = 50);
