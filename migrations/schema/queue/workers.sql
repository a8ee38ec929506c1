-- One row for each running daemon. The daemon counts `beats` up every two seconds; a claim requires
-- this row. Half of each page stays free, so these updates happen in place.
--
-- Other daemons watch `beats`: clocks can jump, a number cannot. `pid_space` says where `pid` means
-- this process (the host's boot, and the namespaces of pids and of time), and `process_start` tells
-- it from a later process with the same pid. Both are null where the system does not tell.

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
  deaf jsonb not null default '{}',
  beats bigint not null default 0,
  pid_space text,
  process_start bigint
) with (fillfactor = 50);
