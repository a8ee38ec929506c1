"""Upkeep asks once what there is to do, and reads neither whole tables nor what is long dead.

`unattended` looks where no living worker's entries lie: a look at all running jobs walked one dead
index entry for each job that any worker had run while somebody held a snapshot (40 ms after
200,000 jobs). `close_orphans` starts from what is open, in slices; its join read the whole table
of jobs once many approvals were pending (0.4 s at a million). `chores` is one message for what
were six. `violations` starts from what is open too, and says since when, so that a metric can
leave out the books of the past.
"""

from migrations.sql import run

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FUNCTIONS = """
-- Running jobs that no living worker has: those of workers whose heart has not beaten for so long,
-- and those of ids without a row, which lie in the index between the ids that have one.
create function jobsworth.unattended(after_seconds float8)
  returns table (id uuid, lease_no bigint, worker_id uuid) language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  -- `offset 0` keeps the order: from a worker, or a gap, into the index of running jobs.
  return query
  with worker as materialized (
    select w.id, w.beaten_at <= now() - unattended.after_seconds * interval '1 second' as is_dead
    from jobsworth.workers w
  ), gap as materialized (
    select e.id as above, lead(e.id) over (order by e.id) as below
    from (
      select w.id from worker w
      union values ('00000000-0000-0000-0000-000000000000'::uuid),
        ('ffffffff-ffff-ffff-ffff-ffffffffffff')
    ) e
  )
  select j.id, j.lease_no, j.worker_id
  from worker w
  cross join lateral (
    select r.id, r.lease_no, r.worker_id
    from jobsworth.reactive_jobs r
    where r.status = 'running' and r.worker_id is not null and r.worker_id = w.id
    offset 0
  ) j
  where w.is_dead
  union all
  select j.id, j.lease_no, j.worker_id
  from gap g
  cross join lateral (
    select r.id, r.lease_no, r.worker_id
    from jobsworth.reactive_jobs r
    where r.status = 'running' and r.worker_id is not null
      and r.worker_id > g.above and r.worker_id < g.below
    offset 0
  ) j;
end $$;

-- Close what still hangs on ended jobs, if it is among the newest of what is open, or in a slice
-- after the given job: of approvals and of children at most so many each. Returns how many such
-- jobs there were, and where the next slice begins (null: the end was reached).
create function jobsworth.close_orphans(after uuid, most int, out closed int, out next uuid)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  newest uuid[];
  asked uuid[];
  parents uuid[];
  ended uuid[];
begin
  newest := array(
    (select a.job_id from jobsworth.approvals a
     where a.status = 'pending' and a.job_id is not null
     order by a.job_id desc limit most)
    union
    (select c.parent_id from jobsworth.reactive_jobs c
     where c.is_child and c.finished_at is null and c.parent_id is not null
     order by c.parent_id desc limit most));
  asked := array(
    select a.job_id from jobsworth.approvals a
    where a.status = 'pending' and a.job_id > close_orphans.after
    order by a.job_id limit most);
  parents := array(
    select c.parent_id from jobsworth.reactive_jobs c
    where c.is_child and c.finished_at is null and c.parent_id > close_orphans.after
    order by c.parent_id limit most);
  -- A child that was asked to stop is on its way.
  ended := array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(newest || asked || parents) and j.finished_at is not null and (
      exists (select 1 from jobsworth.approvals a where a.job_id = j.id and a.status = 'pending')
      or exists (
        select 1 from jobsworth.reactive_jobs c
        where c.parent_id = j.id and c.is_child and c.finished_at is null
          and not c.cancel_requested)));
  if ended <> '{}' then
    perform jobsworth.unblock(ended);
  end if;
  closed := cardinality(ended);
  -- As far as both have been seen: one that is shorter than asked for was seen to its end.
  next := least(asked[most], parents[most]);
end $$;

-- What upkeep has to do right now; `rescue` includes rows of dead workers that are to be buried.
-- `sweep` names the reasons that somebody waits for, and `orphan` if something open might hang on
-- an ended job; `looked_seconds` is what it took to find out.
create function jobsworth.chores(
  rescue_seconds float8,
  out rescue boolean, out expire boolean, out deployments boolean, out sweep text[],
  out looked_seconds float8)
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  rescue := exists (
      select 1 from jobsworth.workers w
      where w.beaten_at <= now() - chores.rescue_seconds * interval '1 second')
    or exists (select 1 from jobsworth.unattended(chores.rescue_seconds));
  expire := exists (
    select 1 from jobsworth.approvals a
    where a.status = 'pending' and a.deadline <= clock_timestamp());
  deployments := exists (
    select 1
    from jobsworth.deployments d
    cross join lateral (
      select 1 from jobsworth.reactive_jobs j
      where j.id = d.job_id and j.finished_at is not null
    ) ended
    where d.finished_at is null);
  sweep := array(
    select r.reason::text
    from unnest(array['lane', 'children', 'approval', 'signal', 'parents', 'handler']
      ::jobsworth.wait_reason[]) as r (reason)
    where exists (
      select 1 from jobsworth.reactive_jobs j
      where j.status = 'waiting' and j.waiting_for = r.reason));
  if exists (select 1 from jobsworth.approvals a where a.status = 'pending')
    or exists (
      select 1 from jobsworth.reactive_jobs c where c.is_child and c.finished_at is null)
  then
    sweep := sweep || 'orphan'::text;
  end if;
  looked_seconds := extract(epoch from clock_timestamp() - statement_timestamp());
end $$;
"""

# A lateral with `offset 0` is looked up for each row of what stands before it, never the other way
# round. What is cheap to read whole is `infinity`: always recent.
VIOLATIONS = """
drop view jobsworth.violations;

-- Every breach of an invariant. It is empty, always. `at` is when a settled call was settled, the
-- books being too long to be read every minute; all else is as if it were now (infinity).
create view jobsworth.violations as
select 'two running in a lane' as invariant, j.id as subject_id, 'lane ' || j.lane as detail,
  'infinity'::timestamptz as at
from jobsworth.reactive_jobs j
where j.status = 'running' and j.lane is not null and exists (
  select 1 from jobsworth.reactive_jobs o
  where o.lane = j.lane and o.status = 'running' and o.id <> j.id)
union all
select 'running without a living worker', j.id, 'since ' || j.started_at, 'infinity'
from jobsworth.unattended(30) u
cross join lateral (
  select r.id, r.started_at from jobsworth.reactive_jobs r
  where r.id = u.id and r.lease_no = u.lease_no and r.status = 'running'
  offset 0) j
where j.started_at < now() - interval '30 seconds'
union all
-- Timers by their time, so that those that are not due cost nothing however many they are.
select 'waiting though its reason is gone', j.id, j.waiting_for::text, 'infinity'
from jobsworth.reactive_jobs j
where j.status = 'waiting' and j.waiting_for in ('timer', 'signal')
  and j.run_at < now() - interval '30 seconds' and jobsworth.reason_gone(j)
union all
select 'waiting though its reason is gone', j.id, j.waiting_for::text, 'infinity'
from jobsworth.reactive_jobs j
where j.status = 'waiting'
  and j.waiting_for in ('lane', 'parents', 'children', 'approval', 'handler', 'signal')
  and (j.waiting_for <> 'signal' or j.run_at is null)
  and coalesce(j.run_at, j.created_at) < now() - interval '30 seconds' and jobsworth.reason_gone(j)
union all
select 'ended with an open approval', a.job_id, 'approval ' || a.id, 'infinity'
from jobsworth.approvals a
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = a.job_id offset 0) j
where a.status = 'pending' and j.finished_at < now() - interval '30 seconds'
union all
select 'ended with an open child', c.id, 'parent ' || c.parent_id, 'infinity'
from jobsworth.reactive_jobs c
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = c.parent_id offset 0) p
where c.is_child and c.finished_at is null and not c.cancel_requested
  and p.finished_at < now() - interval '30 seconds'
union all
select 'settled call without its ledger entry', c.id, c.provider || ' ' || c.model, c.settled_at
from jobsworth.llm_calls c
where c.settled_at is not null and not exists (
  select 1 from jobsworth.token_ledger l where l.call_id = c.id and l.entry = 'settle')
union all
select 'open call without its attempt', c.id, c.provider || ' ' || c.model, 'infinity'
from jobsworth.llm_calls c
where c.status = 'started' and c.started_at < now() - interval '60 seconds'
  and c.job_id is not null and not exists (
  select 1 from jobsworth.reactive_jobs j
  where j.id = c.job_id and j.lease_no = c.lease_no and j.status = 'running')
union all
select 'ledger entry that contradicts its call', c.id,
  row(l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost)
  || ' is not ' || row(c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens,
    c.cost),
  c.settled_at
from jobsworth.llm_calls c
cross join lateral (
  select e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_write_tokens, e.cost
  from jobsworth.token_ledger e
  where e.call_id = c.id and e.entry = 'settle'
  offset 0) l
where l.cost is distinct from c.cost
  or l.input_tokens <> coalesce(c.input_tokens, 0)
  or l.output_tokens <> coalesce(c.output_tokens, 0)
  or l.cache_read_tokens <> coalesce(c.cache_read_tokens, 0)
  or l.cache_write_tokens <> coalesce(c.cache_write_tokens, 0)
union all
select 'healthy without a passing probe', d.id, d.environment, 'infinity'
from jobsworth.deployments d
where d.status = 'healthy' and not coalesce((d.probe ->> 'passed')::boolean, false)
union all
select 'unfinished deployment of a finished job', d.id, d.environment, 'infinity'
from jobsworth.deployments d
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = d.job_id offset 0) j
where d.finished_at is null and j.finished_at < now() - interval '30 seconds';
"""

DOWN = """
drop view jobsworth.violations;

-- Every breach of an invariant. It is empty, always.
create view jobsworth.violations as
select 'two running in a lane' as invariant, j.id as subject_id, 'lane ' || j.lane as detail
from jobsworth.reactive_jobs j
where j.status = 'running' and j.lane is not null and exists (
  select 1 from jobsworth.reactive_jobs o
  where o.lane = j.lane and o.status = 'running' and o.id <> j.id)
union all
select 'running without a living worker', j.id, 'since ' || j.started_at
from jobsworth.reactive_jobs j
where j.status = 'running' and j.worker_id is not null
  and j.started_at < now() - interval '30 seconds' and not exists (
  select 1 from jobsworth.workers w
  where w.id = j.worker_id and w.beaten_at > now() - interval '30 seconds')
union all
select 'waiting though its reason is gone', j.id, j.waiting_for::text
from jobsworth.reactive_jobs j
where j.status = 'waiting' and jobsworth.reason_gone(j)
  and coalesce(j.run_at, j.created_at) < now() - interval '30 seconds'
union all
select 'ended with an open approval', a.job_id, 'approval ' || a.id
from jobsworth.approvals a join jobsworth.reactive_jobs j on j.id = a.job_id
where a.status = 'pending' and j.finished_at < now() - interval '30 seconds'
union all
select 'ended with an open child', c.id, 'parent ' || p.id
from jobsworth.reactive_jobs c join jobsworth.reactive_jobs p on p.id = c.parent_id
where c.is_child and c.finished_at is null and not c.cancel_requested
  and p.finished_at < now() - interval '30 seconds'
union all
select 'settled call without its ledger entry', c.id, c.provider || ' ' || c.model
from jobsworth.llm_calls c
where c.settled_at is not null and not exists (
  select 1 from jobsworth.token_ledger l where l.call_id = c.id and l.entry = 'settle')
union all
select 'open call without its attempt', c.id, c.provider || ' ' || c.model
from jobsworth.llm_calls c
where c.status = 'started' and c.started_at < now() - interval '60 seconds'
  and c.job_id is not null and not exists (
  select 1 from jobsworth.reactive_jobs j
  where j.id = c.job_id and j.lease_no = c.lease_no and j.status = 'running')
union all
select 'ledger entry that contradicts its call', c.id,
  row(l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost)
  || ' is not ' || row(c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens,
    c.cost)
from jobsworth.token_ledger l join jobsworth.llm_calls c on c.id = l.call_id
where l.entry = 'settle' and (l.cost is distinct from c.cost
  or l.input_tokens <> coalesce(c.input_tokens, 0)
  or l.output_tokens <> coalesce(c.output_tokens, 0)
  or l.cache_read_tokens <> coalesce(c.cache_read_tokens, 0)
  or l.cache_write_tokens <> coalesce(c.cache_write_tokens, 0))
union all
select 'healthy without a passing probe', d.id, d.environment
from jobsworth.deployments d
where d.status = 'healthy' and not coalesce((d.probe ->> 'passed')::boolean, false)
union all
select 'unfinished deployment of a finished job', d.id, d.environment
from jobsworth.deployments d join jobsworth.reactive_jobs j on j.id = d.job_id
where d.finished_at is null and j.finished_at < now() - interval '30 seconds';

drop function jobsworth.chores(float8);
drop function jobsworth.close_orphans(uuid, int);
drop function jobsworth.unattended(float8);
"""


def upgrade() -> None:
    run(FUNCTIONS)
    run(VIOLATIONS)


def downgrade() -> None:
    run(DOWN)
