-- Every breach of an invariant, one view for each chapter. It is empty, always.
--
-- `at` is when a settled call was settled, because the books are too long to be read every minute;
-- all else counts as now. Clients cannot read infinity. All parts of a view have one type, therefore the
-- casts: only then does a condition on `at` reach the indexes.
--
-- A lateral with `offset 0` is looked up for each row of what stands before it, never the other way
-- round.

-- Whether what a waiting job waited for ended or came within the last 30 seconds, so that somebody
-- may be about to move the job on. Not all is told: the park of a job that steps out of its lane
-- counts from the beginning of that attempt.
create function jobsworth.freed_lately(j jobsworth.reactive_jobs) returns boolean
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  since timestamptz := now() - interval '30 seconds';
begin
  return case j.waiting_for
    when 'lane' then exists (
        select 1 from jobsworth.reactive_jobs o
        where o.lane = j.lane and o.lane is not null and o.finished_at > since)
      or exists (
        select 1 from jobsworth.reactive_jobs o
        where o.lane = j.lane and o.waiting_for in ('approval', 'signal') and o.started_at > since
          and o.lane_position is not null and o.finished_at is null)
    when 'parents' then exists (
      select 1 from jobsworth.job_edges e
      join jobsworth.reactive_jobs p on p.id = e.needs_job_id
      where e.job_id = j.id and p.finished_at > since)
    when 'children' then exists (
      select 1 from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at > since)
    when 'approval' then exists (
      select 1 from jobsworth.approvals a where a.job_id = j.id and a.closed_at > since)
    when 'signal' then exists (
      select 1 from jobsworth.signals s
      where s.job_id = j.id and s.name = j.waiting_detail and s.received_at is null
        and s.sent_at > since)
    when 'handler' then exists (
      select 1 from jobsworth.workers w where j.mode = any(w.modes) and w.started_at > since)
    else false
  end;
end $$;

create view jobsworth.violations_of_queue (invariant, subject_id, detail, at) as
select 'two running in a lane', j.id, 'lane ' || j.lane, now()
from jobsworth.reactive_jobs j
where j.status = 'running' and j.lane is not null and exists (
  select 1 from jobsworth.reactive_jobs o
  where o.lane = j.lane and o.status = 'running' and o.id <> j.id)
union all
select 'running without a living worker', j.id, 'since ' || j.started_at, now()
-- By the server's clock, which a rescue does not trust: after a step of it this is wrong until the
-- next heartbeats.
from jobsworth.jobs_of_dead_workers(
  array(
    select w.id from jobsworth.workers w
    where w.beaten_at < now() - interval '30 seconds' order by w.id),
  array(
    select w.beats from jobsworth.workers w
    where w.beaten_at < now() - interval '30 seconds' order by w.id)) u
cross join lateral (
  select r.id, r.started_at from jobsworth.reactive_jobs r
  where r.id = u.id and r.lease_no = u.lease_no and r.status = 'running'
  offset 0) j
where j.started_at < now() - interval '30 seconds'
union all
select 'running though it is superseded', j.id, 'by message ' || j.superseded_by, now()
from jobsworth.reactive_jobs j
where j.status = 'running' and j.worker_id is not null and j.superseded_by is not null
  and not j.cancel_requested
union all
-- Timers by their time, so that those that are not due cost nothing however many they are.
select 'waiting though its reason is gone', j.id, j.waiting_for::text, now()
from jobsworth.reactive_jobs j
where j.status = 'waiting' and j.waiting_for in ('timer', 'signal')
  and j.run_at < now() - interval '30 seconds' and jobsworth.reason_gone(j)
union all
select 'waiting though its reason is gone', j.id, j.waiting_for::text, now()
from jobsworth.reactive_jobs j
where j.status = 'waiting'
  and j.waiting_for in ('lane', 'parents', 'children', 'approval', 'handler', 'signal')
  and (j.waiting_for <> 'signal' or j.run_at is null)
  and coalesce(j.run_at, j.created_at) < now() - interval '30 seconds' and jobsworth.reason_gone(j)
  and not jobsworth.freed_lately(j)
union all
select 'open though it has expired', j.id, 'since ' || j.expires_at, now()
from jobsworth.reactive_jobs j
where j.expires_at < now() - interval '30 seconds' and j.attempt = 0
  and j.status in ('queued', 'waiting')
union all
select 'ended with an open child', c.id, 'parent ' || c.parent_id, now()
from jobsworth.reactive_jobs c
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = c.parent_id offset 0) p
where c.is_child and c.finished_at is null and not c.cancel_requested
  and p.finished_at < now() - interval '30 seconds'
union all
-- From key to key, so that a deep backlog costs no more than a short one.
select 'queued in a fair queue under a key that claims do not know', h.id, 'key ' || f.fair_key, now()
from jobsworth.queues q
cross join lateral (
  with recursive key (priority, fair_key) as (
    (select r.priority, r.fair_key
     from jobsworth.reactive_jobs r
     where r.queue = q.name and r.fair_key is not null and r.finished_at is null
       and r.status not in ('waiting', 'running')
     order by r.priority, r.fair_key
     limit 1)
    union all
    select n.priority, n.fair_key
    from key k
    cross join lateral (
      select r.priority, r.fair_key
      from jobsworth.reactive_jobs r
      where r.queue = q.name and (r.priority, r.fair_key) > (k.priority, k.fair_key)
        and r.fair_key is not null and r.finished_at is null
        and r.status not in ('waiting', 'running')
      order by r.priority, r.fair_key
      limit 1) n)
  select k.priority, k.fair_key from key k) f
cross join lateral (
  select r.id, coalesce(r.run_at, r.created_at) as since
  from jobsworth.reactive_jobs r
  where r.queue = q.name and r.priority = f.priority and r.fair_key = f.fair_key
    and r.finished_at is null and r.status not in ('waiting', 'running')
  order by r.position
  limit 1) h
where q.fair and q.changed_at < now() - interval '1 minute'
  and h.since < now() - interval '1 minute'
  and not coalesce((
    select k.ready from jobsworth.fair_keys k
    where k.queue = q.name and k.priority = f.priority and k.fair_key = f.fair_key
    order by k.turn desc
    limit 1), false)
union all
select 'ready key without a queued job', null::uuid, 'key ' || k.fair_key || ' of queue ' || k.queue, now()
from jobsworth.fair_keys k
where k.ready and k.virtual_time is not null and k.since < now() - interval '1 hour'
  and exists (
    select 1 from jobsworth.workers w
    where k.queue = any(w.queues) and w.beaten_at > now() - interval '10 seconds'
      and w.started_at < now() - interval '1 hour')
  and not exists (
    select 1 from jobsworth.reactive_jobs r
    where r.queue = k.queue and r.priority = k.priority and r.fair_key = k.fair_key
      and r.finished_at is null and r.status not in ('waiting', 'running'));

-- A limit that was lowered lets what runs go on, so only a start after the change is a breach.
create view jobsworth.violations_of_limits (invariant, subject_id, detail, at) as
select 'more jobs at once than their limit has slots', h.job_id,
  jobsworth.gate(h.limit_name, h.per, h.key) || ': ' || h.taken || ' of ' || h.slots, now()
from (
  select l.limit_name, l.per, s.key, coalesce(l.burst, l.slots) as slots, count(*) as taken,
    (array_agg(s.job_id order by s.lease_no desc))[1] as job_id, max(j.started_at) as started_at,
    l.changed_at
  from jobsworth.job_limits l
  join jobsworth.job_limit_slots s on s.limit_name = l.limit_name
  cross join lateral (
    select r.status, r.lease_no, r.started_at from jobsworth.reactive_jobs r
    where r.id = s.job_id offset 0) j
  where l.slots is not null and s.lease_no is not null
    and jobsworth.slot_counts(s.lease_no, s.turn_at, j.status, j.lease_no)
  group by l.limit_name, l.per, s.key, l.slots, l.burst, l.changed_at
) h
where h.taken > h.slots and h.started_at > h.changed_at
union all
-- A limit that was set in a long transaction does not count what began meanwhile.
select 'running without the slot that its limit asks for', j.id, g.gate, now()
from (
  select array_agg(r.id) as job_ids
  from jobsworth.workers w
  cross join lateral (
    select x.id from jobsworth.reactive_jobs x
    where x.status = 'running' and x.worker_id is not null and x.worker_id = w.id offset 0) r
  where exists (select 1 from jobsworth.job_limits l where l.slots is not null)
) r
cross join lateral jobsworth.gates_of(r.job_ids) g
join jobsworth.job_limits l on l.limit_name = g.limit_name
cross join lateral (
  select x.id, x.status, x.lease_no, x.started_at from jobsworth.reactive_jobs x
  where x.id = g.job_id offset 0) j
where not g.is_rate and j.status = 'running' and j.started_at > l.changed_at + interval '1 minute'
  and not exists (
    select 1 from jobsworth.job_limit_slots s
    where s.limit_name = g.limit_name and s.key = g.key and s.job_id = g.job_id
      and s.lease_no = j.lease_no)
union all
select 'slot of a job that has ended', s.job_id, 'limit ' || s.limit_name, now()
from jobsworth.job_limit_slots s
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = s.job_id offset 0) j
where j.finished_at < now() - interval '5 minutes'
union all
-- The first of each gate, of the first thousand gates. Within 30 seconds after the last slot was given
-- or given back, somebody may be about to promote it; a rate has been at rest for so long, and the turn
-- of the first is as long ago, or nobody has noted it.
(with recursive head as (
  select 1 as n, f.hash, f.id
  from (
    select hashtextextended(j.waiting_detail, 0) as hash, j.id
    from jobsworth.reactive_jobs j
    where j.status = 'waiting' and j.waiting_for = 'limit' and j.run_at is null
    order by hashtextextended(j.waiting_detail, 0), j.priority, j.created_at, j.id
    limit 1) f
  union all
  select h.n + 1, f.hash, f.id
  from head h
  cross join lateral (
    select hashtextextended(j.waiting_detail, 0) as hash, j.id
    from jobsworth.reactive_jobs j
    where j.status = 'waiting' and j.waiting_for = 'limit' and j.run_at is null
      and hashtextextended(j.waiting_detail, 0) > h.hash
    order by hashtextextended(j.waiting_detail, 0), j.priority, j.created_at, j.id
    limit 1) f
  where h.n < 1000
)
select 'waiting for a limit that has room', j.id, j.waiting_detail, now()
from head h
cross join lateral (
  select r.id, r.waiting_detail, r.created_at from jobsworth.reactive_jobs r
  where r.id = h.id offset 0) j
cross join lateral (
  select g.limit_name, g.key, g.needs, g.is_rate from jobsworth.gates_of(array[j.id]) g
  where g.gate = j.waiting_detail) g
left join jobsworth.job_limit_rates k on k.limit_name = g.limit_name and k.key = g.key
where j.created_at < now() - interval '30 seconds'
  and case when g.is_rate
    then coalesce(k.arrival_at < now() - interval '30 seconds', true)
      and coalesce(k.due_at < now() - interval '30 seconds', true)
    else jobsworth.room_at(g.limit_name, g.key) >= g.needs
      and not exists (
        select 1 from jobsworth.job_limit_slots s
        cross join lateral (
          select r.status, r.lease_no, r.finished_at from jobsworth.reactive_jobs r
          where r.id = s.job_id offset 0) o
        where s.limit_name = g.limit_name and (s.turn_at > now() - interval '30 seconds'
          or coalesce(o.finished_at > now() - interval '30 seconds', o.status <> 'running')))
    end);

create view jobsworth.violations_of_runs (invariant, subject_id, detail, at) as
select 'open run whose jobs have all ended', r.id, r.status::text, now()
from jobsworth.runs r
where r.finished_at is null
  and not exists (
    select 1 from jobsworth.reactive_jobs j where j.run_id = r.id and j.finished_at is null)
  and (select max(j.finished_at) from jobsworth.reactive_jobs j where j.run_id = r.id)
    < now() - interval '30 seconds'
union all
select 'ended run with an open job', j.run_id, 'job ' || j.id || ' is ' || j.status, now()
from jobsworth.reactive_jobs j
cross join lateral (
  select o.finished_at from jobsworth.runs o where o.id = j.run_id offset 0) r
where j.run_id is not null and j.finished_at is null
  and r.finished_at < now() - interval '30 seconds'
union all
select 'job of a run that is not there', j.id, 'run ' || j.run_id, now()
from jobsworth.reactive_jobs j
where j.run_id is not null and j.finished_at is null and not exists (
  select 1 from jobsworth.runs r where r.id = j.run_id);

create view jobsworth.violations_of_books (invariant, subject_id, detail, at) as
select 'settled call without its ledger entry', c.id, c.provider || ' ' || c.model,
  c.settled_at::timestamptz
from jobsworth.llm_calls c
where c.settled_at is not null and not exists (
  select 1 from jobsworth.token_ledger l
  where l.call_id = c.id and l.entry in ('settle', 'release'))
union all
select 'open call without its attempt', c.id, c.provider || ' ' || c.model, now()
from jobsworth.llm_calls c
where c.status = 'started' and c.started_at < now() - interval '60 seconds'
  and c.job_id is not null and not exists (
  select 1 from jobsworth.reactive_jobs j
  where j.id = c.job_id and j.lease_no = c.lease_no and j.status = 'running')
union all
-- One that was given up for unknown, and answered after all, says more than its settlement.
select 'ledger entry that contradicts its call', c.id,
  row(l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost)
  || ' is not ' || row(c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens,
    c.cost),
  c.settled_at::timestamptz
from jobsworth.llm_calls c
cross join lateral (
  select e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_write_tokens, e.cost
  from jobsworth.token_ledger e
  where e.call_id = c.id and e.entry in ('settle', 'release')
  offset 0) l
where (l.cost is distinct from c.cost
    or l.input_tokens <> coalesce(c.input_tokens, 0)
    or l.output_tokens <> coalesce(c.output_tokens, 0)
    or l.cache_read_tokens <> coalesce(c.cache_read_tokens, 0)
    or l.cache_write_tokens <> coalesce(c.cache_write_tokens, 0))
  and not exists (
    select 1 from jobsworth.token_ledger a where a.call_id = c.id and a.entry = 'adjust')
union all
select 'budget window that is not the sum of its calls', w.id,
  row(w.reserved, w.spent) || ' is not ' || row(coalesce(p.reserved, 0), coalesce(p.spent, 0)),
  now()
from jobsworth.budget_windows w
left join lateral (
  select sum(x.reserved) as reserved, sum(x.spent) as spent from jobsworth.call_windows x
  where x.window_id = w.id
  offset 0) p on true
where w.starts_at > now() - interval '2 hours'
  and (w.reserved <> coalesce(p.reserved, 0) or w.spent <> coalesce(p.spent, 0));

create view jobsworth.violations_of_ledger (invariant, subject_id, detail, at) as
select 'call whose entries do not add up to it', c.id,
  row(e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_write_tokens, e.cost)
  || ' is not ' || row(c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens,
    c.cost),
  a.occurred_at::timestamptz
from jobsworth.token_ledger a
cross join lateral (
  select k.id, k.settled_at, k.cost, coalesce(k.input_tokens, 0) as input_tokens,
    coalesce(k.output_tokens, 0) as output_tokens,
    coalesce(k.cache_read_tokens, 0) as cache_read_tokens,
    coalesce(k.cache_write_tokens, 0) as cache_write_tokens
  from jobsworth.llm_calls k
  where k.id = a.call_id
  offset 0) c
cross join lateral (
  select sum(l.input_tokens) as input_tokens, sum(l.output_tokens) as output_tokens,
    sum(l.cache_read_tokens) as cache_read_tokens, sum(l.cache_write_tokens) as cache_write_tokens,
    sum(l.cost) as cost
  from (
    select s.input_tokens, s.output_tokens, s.cache_read_tokens, s.cache_write_tokens, s.cost
    from jobsworth.token_ledger s
    where s.call_id = a.call_id and s.entry in ('settle', 'release')
    union all
    select s.input_tokens, s.output_tokens, s.cache_read_tokens, s.cache_write_tokens, s.cost
    from jobsworth.token_ledger s
    where s.call_id = a.call_id and s.entry = 'adjust' and not s.reprices) l
  offset 0) e
-- As a text, so that it is found by its time: the index of adjustments holds all there ever were.
where a.entry::text = 'adjust' and a.call_id is not null
  and (c.settled_at is null or e.cost is distinct from c.cost
    or e.input_tokens is distinct from c.input_tokens
    or e.output_tokens is distinct from c.output_tokens
    or e.cache_read_tokens is distinct from c.cache_read_tokens
    or e.cache_write_tokens is distinct from c.cache_write_tokens)
union all
select 'ledger entry without its call', l.call_id, l.provider || ' ' || l.model,
  l.occurred_at::timestamptz
from jobsworth.token_ledger l
where l.call_id is not null and not exists (
  select 1 from jobsworth.llm_calls c where c.id = l.call_id);

create view jobsworth.violations_of_consent (invariant, subject_id, detail, at) as
select 'ended with an open approval', a.job_id, 'approval ' || a.id, now()
from jobsworth.approvals a
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = a.job_id offset 0) j
where a.status = 'pending' and j.finished_at < now() - interval '30 seconds'
union all
select 'consumed by a step that does not exist', a.id, a.consumed_by, a.consumed_at::timestamptz
from jobsworth.approvals a
cross join lateral (
  select r.id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0) j
where a.consumed_at is not null and not exists (
  select 1 from jobsworth.steps s where s.job_id = j.id and s.name = a.consumed_by)
union all
-- A yes to what was shown, that is: the hash says if somebody changed it past the trigger.
select 'consumed without a yes', a.id, a.status || coalesce(', ' || a.chosen_option, ''),
  a.consumed_at::timestamptz
from jobsworth.approvals a
where a.consumed_at is not null and (a.status not in ('approved', 'expired')
  or a.chosen_option = 'reject' or a.superseded_by is not null
  or a.shown_hash <> jobsworth.shown_hash(a.proposal_text, a.options, a.shown))
union all
select 'superseded without its successor', a.id, coalesce(a.superseded_by::text, 'by nothing'),
  a.closed_at::timestamptz
from jobsworth.approvals a
where a.superseded_by is null and a.status = 'superseded' and a.job_id is null
  or a.superseded_by is not null and not exists (
    select 1 from jobsworth.approvals s where s.id = a.superseded_by and s.supersedes = a.id)
union all
select 'two approvals for one question', a.id, a.effect_key::text, a.created_at::timestamptz
from jobsworth.approvals a
where a.superseded_by is null and a.effect_key is not null and exists (
  select 1 from jobsworth.approvals b
  where b.job_id = a.job_id and b.effect_key = a.effect_key and b.superseded_by is null
    and b.id > a.id);

create view jobsworth.violations_of_shipping (invariant, subject_id, detail, at) as
select 'healthy without a passing probe', d.id, d.environment::text, now()
from jobsworth.deployments d
where d.status = 'healthy' and not coalesce((d.probe ->> 'passed')::boolean, false)
union all
select 'unfinished deployment of a finished job', d.id, d.environment::text, now()
from jobsworth.deployments d
cross join lateral (
  select r.finished_at from jobsworth.reactive_jobs r where r.id = d.job_id offset 0) j
where d.finished_at is null and j.finished_at < now() - interval '30 seconds'
union all
select 'two deployments at once in an environment', d.id, d.environment::text, now()
from jobsworth.deployments d
where d.finished_at is null and exists (
  select 1 from jobsworth.deployments o
  where o.finished_at is null and o.environment = d.environment and o.id <> d.id)
union all
select 'environment held by nobody', d.id, d.environment::text, now()
from jobsworth.deployments d
left join lateral (
  select r.status, r.lease_no, r.finished_at from jobsworth.reactive_jobs r
  where r.id = d.job_id offset 0) j on true
where d.finished_at is null and d.job_id is not null
  and (j.status is null and d.updated_at < now() - interval '30 minutes'
    or j.finished_at is null and j.status <> 'running' and d.idle_lease_no = j.lease_no
      and d.idle_since < now() - interval '30 minutes')
union all
select 'rolled back to what was never healthy there', d.id, d.environment::text, now()
from jobsworth.deployments d
left join jobsworth.deployments t on t.id = d.rollback_to
where d.rollback_to is not null
  and (t.id is null or t.status <> 'healthy' or t.environment <> d.environment or t.sha <> d.sha);

create view jobsworth.violations_of_memory (invariant, subject_id, detail, at) as
with recursive successors as (
  select m.id, m.superseded_by from jobsworth.memories m where m.superseded_by is not null
  union
  select s.id, m.superseded_by
  from successors s
  join jobsworth.memories m on m.id = s.superseded_by
  where m.superseded_by is not null
)
select 'memory superseded by none', m.id, m.superseded_by::text, m.updated_at::timestamptz
from jobsworth.memories m
where m.superseded_by is not null and not exists (
  select 1 from jobsworth.memories s where s.id = m.superseded_by)
union all
select 'memories that supersede each other', s.id, s.superseded_by::text, now()
from successors s
where s.id = s.superseded_by
union all
select 'vectors of a memory that is not active', m.id, m.status::text, m.updated_at::timestamptz
from jobsworth.memories m
where m.status <> 'active' and (
  exists (select 1 from jobsworth.embeddings e where e.memory_id = m.id)
  or exists (
    select 1 from jobsworth.embedding_outbox o
    where o.memory_id = m.id and (o.superseded_at is null or m.superseded_at is null))
  or m.superseded_at is null and exists (
    select 1 from jobsworth.past_embeddings p where p.memory_id = m.id));

-- All chapters.
create view jobsworth.violations as
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_queue v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_limits v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_runs v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_books v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_ledger v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_consent v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_shipping v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_memory v;
