-- Which job needs which other jobs to end first.

-- What happens to a job if a job that it needs does not end well: it fails too (`fail`), it is
-- canceled (`skip`), or it runs all the same (`run`).
create type jobsworth.parent_failure as enum ('fail', 'skip', 'run');

create table jobsworth.job_edges (
  job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  needs_job_id uuid not null references jobsworth.reactive_jobs on delete cascade,
  on_failure jobsworth.parent_failure not null default 'skip',
  primary key (job_id, needs_job_id),
  constraint job_does_not_need_itself check (job_id <> needs_job_id)
);
-- The jobs that need a job that has just ended.
create index job_edges_needs on jobsworth.job_edges (needs_job_id, job_id);

-- An edge must come in the transaction that inserts the job which needs the other. Later the job
-- may have run already.
create function jobsworth.guard_edges() returns trigger language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  late uuid;
begin
  select a.job_id into late
  from added a
  cross join lateral (
    select j.created_at from jobsworth.reactive_jobs j where j.id = a.job_id offset 0) child
  where child.created_at <> now()
  limit 1;
  if found then
    raise exception 'job % was there before this edge: what it needs is said when it is made', late
      using errcode = 'restrict_violation',
      hint = 'Name the jobs it needs in enqueue(after => …), or declare all in start_run(…).';
  end if;
  return null;
end $$;
create trigger guard_edges after insert on jobsworth.job_edges
  referencing new table as added
  for each statement execute function jobsworth.guard_edges();
