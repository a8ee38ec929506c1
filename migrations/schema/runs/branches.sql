-- Branches: runs that were forked off another run. A job of a branch reads the steps that the same
-- node of the other run had recorded before the cut. Nothing is copied, so nothing is paid again.

-- A run that was forked off `parent_run_id`. It reads what was recorded before `cut_at`; null: it
-- reads nothing of the node.
create table jobsworth.branches (
  run_id uuid not null primary key references jobsworth.runs on delete cascade,
  parent_run_id uuid not null references jobsworth.runs on delete restrict,
  team_id uuid,
  node jobsworth.node not null,
  step_name jobsworth.step_name,
  cut_at jobsworth.cut_at,
  changes jsonb not null default '{}',
  created_by jobsworth.created_by,
  created_at jobsworth.created_at not null default now()
);
create index branches_of_run on jobsworth.branches (parent_run_id);

-- From which job a job of a branch reads the steps that were recorded before the cut.
create table jobsworth.branch_reads (
  job_id uuid not null primary key references jobsworth.reactive_jobs on delete cascade,
  team_id uuid,
  from_job_id uuid not null references jobsworth.reactive_jobs on delete restrict,
  cut_at jobsworth.cut_at not null
);
create index branch_reads_of_job on jobsworth.branch_reads (from_job_id);

-- Whether a branch reads steps of this kind. It does not read the phases of a deployment (a branch
-- deploys anew) and not what stands for a person's consent (a branch asks again). A step of the
-- kind `pruned` is a checkpoint without its state.
create function jobsworth.is_inherited(kind text) returns boolean language sql immutable
  return kind in ('step', 'call', 'tool', 'wait', 'sleep', 'transaction', 'gather', 'checkpoint',
    'pruned');

-- The jobs whose steps this job reads, nearest first, each with its cut.
create function jobsworth.sources_of(job_id uuid)
  returns table (from_job_id uuid, cut_at timestamptz, depth int) language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  with recursive chain as (
    select b.from_job_id, b.cut_at, 1 as depth
    from jobsworth.branch_reads b
    where b.job_id = sources_of.job_id
    union all
    select b.from_job_id, least(b.cut_at, c.cut_at), c.depth + 1
    from chain c join jobsworth.branch_reads b on b.job_id = c.from_job_id
  )
  select c.from_job_id, c.cut_at, c.depth from chain c
$$;

-- The steps of other jobs that this job reads as its own.
create function jobsworth.inherited_steps(job_id uuid) returns setof jobsworth.steps
  language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  select distinct on (s.name) s.*
  from jobsworth.sources_of(inherited_steps.job_id) c
  join jobsworth.steps s on s.job_id = c.from_job_id
  where s.finished_at < c.cut_at and jobsworth.is_inherited(s.kind) and not exists (
    select 1 from jobsworth.steps own
    where own.job_id = inherited_steps.job_id and own.name = s.name)
  order by s.name, c.depth
$$;

-- The children of other jobs, done before the cut, that this job gathers as its own.
create function jobsworth.inherited_children(job_id uuid)
  returns table (id uuid, effect_key text, status text, result jsonb, error text)
  language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  select distinct on (c.effect_key) c.id, c.effect_key, c.status::text, c.result, c.error
  from jobsworth.sources_of(inherited_children.job_id) s
  join jobsworth.reactive_jobs c on c.parent_id = s.from_job_id
  where c.is_child and c.status = 'done' and c.finished_at < s.cut_at and not exists (
    select 1 from jobsworth.reactive_jobs own
    where own.parent_id = inherited_children.job_id and own.effect_key = c.effect_key)
  order by c.effect_key, s.depth
$$;

-- Whether another job has this child, done before the cut: then this job gathers it and does not
-- spawn it again.
create function jobsworth.inherits_child(job_id uuid, effect_key text) returns boolean
  language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  select exists (
    select 1 from jobsworth.sources_of(inherits_child.job_id) s
    join jobsworth.reactive_jobs c
      on c.parent_id = s.from_job_id and c.effect_key = inherits_child.effect_key
    where c.is_child and c.status = 'done' and c.finished_at < s.cut_at)
$$;

-- The jobs of a run by node, with those that it reads from the runs it was forked off. A node is
-- read from the nearest of these runs. A node whose maker runs anew in a nearer run is left out,
-- because the maker makes it again.
create function jobsworth.jobs_of_run(run_id uuid)
  returns table (node text, job_id uuid) language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  with recursive lineage as (
    select jobs_of_run.run_id as id, 0 as depth
    union all
    select b.parent_run_id, l.depth + 1
    from lineage l join jobsworth.branches b on b.run_id = l.id
  ), nearest as materialized (
    select distinct on (j.node) j.node, j.id, j.parent_id
    from lineage l join jobsworth.reactive_jobs j on j.run_id = l.id
    where j.node is not null
    order by j.node, l.depth
  ), members as (
    select n.node, n.id from nearest n
    where n.parent_id is null or not exists (
      select 1 from jobsworth.reactive_jobs p join lineage l on l.id = p.run_id
      where p.id = n.parent_id)
    union all
    select n.node, n.id from members m join nearest n on n.parent_id = m.id
  )
  select m.node, m.id from members m
$$;
