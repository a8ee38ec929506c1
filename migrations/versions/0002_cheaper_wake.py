"""An insert learns without a query, and without calling a function, that nobody waits to be woken.

How many workers are idle is kept in a sequence besides: its value is read by one built-in function,
in the trigger's condition. A trigger on `workers` sets it, at most once a second for each worker.

Inserts by eight connections, one each commit, no worker idle, as a share of the same inserts into
a copy of the table without triggers (medians of 21 to 25 alternating pairs of 4,000):

    0.84  a function that calls `wake()`, which queries `workers` (revision 0001)
    0.86  one function with the query inline; the same before the statement (0.9 us less)
    0.95  one function that reads the sequence
    0.96  no function: the sequence is read in the condition (this)
    0.94  a function that does nothing, for comparison

The query costs 3 us of the 50 that the server spends on an insert, a call 1 to 2. What is left is
mostly the condition of the trigger `arrive`, which is parsed anew by each statement; written with
`num_nulls` it takes as long.

While a worker is idle every commit notifies, and commits that notify go one after the other. To
let only the first one notify, it would have to clear the flag and the worker set it again: an
update on both sides for each job that comes alone, and an insert that saw the flag cleared but
commits after the worker's second look is left to the poll. So it stays: a queue with that many
inserts does not leave a worker idle for longer than a second.

A sequence is not transactional. What a rollback leaves wrong is corrected at the next change: too
much is a notification in vain, too little is found by the poll.
"""

from migrations.sql import run

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UP = """
-- How many workers are idle: read with every insert, without a query.
create sequence jobsworth.idle_workers minvalue 0 start 0;

create function jobsworth.count_idle_workers() returns trigger language plpgsql as $$
declare
  idle bigint;
begin
  -- One after the other, so that each sees what those before it have committed.
  perform pg_advisory_xact_lock(
    'pg_class'::regclass::oid::int, 'jobsworth.idle_workers'::regclass::oid::int);
  select count(*) into idle from jobsworth.workers w where w.idle;
  if idle is distinct from pg_sequence_last_value('jobsworth.idle_workers') then
    perform setval('jobsworth.idle_workers', idle);
  end if;
  return null;
end $$;
create trigger count_idle_workers
  after insert or update of idle or delete or truncate on jobsworth.workers
  for each statement execute function jobsworth.count_idle_workers();

create or replace function jobsworth.wake() returns void language plpgsql as $$
begin
  if pg_sequence_last_value('jobsworth.idle_workers') > 0 then
    perform pg_notify('jobsworth.wake', '');
  end if;
end $$;

create or replace function jobsworth.wake_on_insert() returns trigger language plpgsql as $$
begin
  perform pg_notify('jobsworth.wake', '');
  return null;
end $$;
drop trigger wake_on_insert on jobsworth.reactive_jobs;
create trigger wake_on_insert after insert on jobsworth.reactive_jobs
  for each statement when (pg_sequence_last_value('jobsworth.idle_workers') > 0)
  execute function jobsworth.wake_on_insert();

select setval('jobsworth.idle_workers', (select count(*) from jobsworth.workers w where w.idle));
"""

DOWN = """
create or replace function jobsworth.wake() returns void language plpgsql as $$
begin
  if exists (select 1 from jobsworth.workers w where w.idle) then
    perform pg_notify('jobsworth.wake', '');
  end if;
end $$;

drop trigger wake_on_insert on jobsworth.reactive_jobs;
create or replace function jobsworth.wake_on_insert() returns trigger language plpgsql as $$
begin
  perform jobsworth.wake();
  return null;
end $$;
create trigger wake_on_insert after insert on jobsworth.reactive_jobs
  for each statement execute function jobsworth.wake_on_insert();

drop trigger count_idle_workers on jobsworth.workers;
drop function jobsworth.count_idle_workers();
drop sequence jobsworth.idle_workers;
"""


def upgrade() -> None:
    run(UP)


def downgrade() -> None:
    run(DOWN)
