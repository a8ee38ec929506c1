-- Jobs that wait for a budget. Whoever makes room (a settlement, a raise, a reset, a new window)
-- grants it to the oldest waiting jobs that fit. Only waiting jobs get a grant, and a job that has
-- just parked is looked at after its commit, so each side sees the other.

-- Whether a job that waits for a budget may go on.
create function jobsworth.budget_has_room(job_id uuid) returns boolean language sql
  stable return coalesce((
    select w.granted_at is not null from jobsworth.budget_waits w
    where w.job_id = budget_has_room.job_id), true);

-- Let the oldest waiting jobs that fit try again; null: those of all budgets. A grant counts until
-- its job has started a call, at most half a minute. Returns these jobs; the caller must
-- `reconsider` them.
create function jobsworth.grant_waiting(budget_ids uuid[] default null) returns uuid[]
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  at timestamptz := clock_timestamp();
  granted uuid[] := '{}';
  one record;
  b jobsworth.budgets;
  room numeric;
begin
  for one in
    select w.job_id, w.budget_id, w.run_id, w.amount
    from jobsworth.budget_waits w
    cross join lateral (
      select 1 from jobsworth.reactive_jobs j
      where j.id = w.job_id and j.status::text = 'waiting' and j.waiting_for = 'budget'
      offset 0) j
    where w.granted_at is null
      and w.budget_id = any(coalesce(grant_waiting.budget_ids, array(
        select distinct x.budget_id from jobsworth.budget_waits x where x.granted_at is null)))
    order by w.since, w.job_id
    limit 1000
  loop
    select x.* into b from jobsworth.budgets x where x.id = one.budget_id;
    select b.amount
      - coalesce((
        select w.reserved + w.spent
        from jobsworth.window_of(b.id, b.period, jobsworth.window_start(b, at), one.run_id) w), 0)
      - coalesce((
        select sum(w.amount) from jobsworth.budget_waits w
        where w.budget_id = b.id and w.granted_at > at - interval '30 seconds'
          and w.run_id is not distinct from one.run_id), 0)
    into room;
    if not b.active or one.amount <= room then
      update jobsworth.budget_waits w
      set granted_at = at
      where w.job_id = any(array(
        select x.job_id from jobsworth.budget_waits x
        where x.job_id = one.job_id and x.granted_at is null
        for no key update skip locked));
      if found then
        granted := granted || one.job_id;
      end if;
    end if;
  end loop;
  return granted;
end $$;

-- Let the oldest waiting jobs that fit go on, after room was made in these budgets (null: perhaps
-- in any). Returns how many go on.
create function jobsworth.wake_budgets(budget_ids uuid[] default null) returns int
  language plpgsql as $$
declare
  granted uuid[] := jobsworth.grant_waiting(budget_ids);
begin
  if granted <> '{}' then
    perform jobsworth.reconsider(granted);
  end if;
  return cardinality(granted);
end $$;

-- Let those of the given jobs go on that fit into their budgets by now.
create function jobsworth.grant_budgets(job_ids uuid[]) returns void
  language plpgsql as $$
declare
  short uuid[] := array(
    select distinct w.budget_id from jobsworth.budget_waits w
    where w.job_id = any(job_ids) and w.granted_at is null);
begin
  if short <> '{}' then
    perform jobsworth.wake_budgets(short);
  end if;
end $$;
