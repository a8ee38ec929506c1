-- One operation on many jobs: cancel, retry, run now, move to another queue, reprioritize. A job of the
-- mode `bulk_operation` goes through the jobs in batches (`worker/bulk/operation.py`). A batch does with
-- each job what the function for one job does, because both call the same functions.

create type jobsworth.bulk_operation as enum
  ('cancel', 'retry', 'run_now', 'move', 'reprioritize');

-- Why an operation cannot be done with this job, or null. A job that is as the operation would leave
-- it is left alone too. A plain SQL expression, so that a statement takes it in.
create function jobsworth.bulk_refusal(
  operation jobsworth.bulk_operation, status jobsworth.job_status,
  waiting_for jobsworth.wait_reason, cancel_requested boolean, queue text, priority int,
  to_queue text, to_priority int)
  returns text language sql stable
  return case
    when case operation
      when 'cancel' then status in ('queued', 'waiting') or status = 'running' and not cancel_requested
      when 'retry' then status in ('failed', 'canceled') or waiting_for = 'timer' and status = 'waiting'
      when 'run_now' then waiting_for = 'timer' and status = 'waiting'
      else status in ('queued', 'waiting') and (queue <> to_queue or priority <> to_priority)
    end then null
    when status = 'running' and cancel_requested then 'is told to stop already'
    when operation = 'move' and status in ('queued', 'waiting') then 'is in that queue already'
    when operation = 'reprioritize' and status in ('queued', 'waiting')
      then 'has that priority already'
    when status = 'waiting' then 'waits for ' || waiting_for::text
    else 'is ' || status::text
  end;

-- Do the operation with jobs that this transaction has locked. Returns with how many it was done, and
-- with how many not, by reason.
create function jobsworth.bulk_apply(
  operation jobsworth.bulk_operation, job_ids uuid[], reason text, to_queue text, to_priority int,
  out applied int, out refused jsonb)
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  fit uuid[];
  reasons text[];
  one uuid;
  taken int := 0;
begin
  select coalesce(array_agg(r.id order by r.id) filter (where r.refusal is null), '{}'),
    array_agg(r.refusal) filter (where r.refusal is not null)
  into fit, reasons
  from (
    select j.id, jobsworth.bulk_refusal(operation, j.status, j.waiting_for, j.cancel_requested,
      j.queue, j.priority, to_queue, to_priority) as refusal
    from jobsworth.reactive_jobs j
    where j.id = any(job_ids)) r;
  select coalesce(jsonb_object_agg(c.reason, c.jobs), '{}') into refused
  from (select u.reason, count(*) as jobs from unnest(reasons) u (reason) group by u.reason) c;
  applied := cardinality(fit);
  if fit = '{}' then
    return;
  end if;
  case operation
  when 'cancel' then
    perform jobsworth.cancel_locked(fit, reason);
  when 'move', 'reprioritize' then
    perform jobsworth.move_locked(fit, to_queue, to_priority);
  else
    begin
      perform jobsworth.retry_locked(fit);
    -- Another job has the unique key of one of them, or of a child: then each by itself.
    exception when unique_violation then
      foreach one in array fit loop
        begin
          perform jobsworth.retry_locked(array[one]);
        exception when unique_violation then
          taken := taken + 1;
        end;
      end loop;
    end;
    if taken > 0 then
      applied := applied - taken;
      refused := refused || jsonb_build_object('needs a unique key that another job has', taken);
    end if;
  end case;
end $$;

-- Put jobs that have not begun, and that this transaction has locked, into another queue, or give them
-- another priority. They come after the jobs that are there, in the order in which they came before.
create function jobsworth.move_locked(job_ids uuid[], to_queue text, to_priority int) returns void
  language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  ready uuid[] := array(
    select j.id from jobsworth.reactive_jobs j
    where j.id = any(job_ids) and j.status::text = 'queued');
  gated uuid[];
begin
  update jobsworth.reactive_jobs j
  set queue = coalesce(to_queue, j.queue), priority = coalesce(to_priority, j.priority)
  where j.id = any(job_ids) and j.status::text = 'waiting';
  -- The limit at which a job waits may not be for it any more.
  if to_queue is not null then
    gated := array(
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(job_ids) and j.status::text = 'waiting' and j.waiting_for = 'limit'
        and j.run_at is null and j.waiting_detail like 'limit %');
    if gated <> '{}' then
      perform jobsworth.reconsider(array(
        select u.id from unnest(gated) u (id)
        except
        select g.job_id from jobsworth.gates_of(gated) g
        cross join lateral (
          select r.waiting_detail from jobsworth.reactive_jobs r where r.id = g.job_id offset 0) j
        where j.waiting_detail = g.gate));
    end if;
  end if;
  with placed as materialized (
    select q.id, nextval('jobsworth.job_position'::regclass) as position
    from (
      select j.id from jobsworth.reactive_jobs j
      where j.id = any(ready)
      order by j.priority, j.position) q
  ), moved as (
    -- `any(array[…])` keeps the plan on the primary key, job by job.
    update jobsworth.reactive_jobs j
    set queue = coalesce(to_queue, j.queue), priority = coalesce(to_priority, j.priority),
      position = p.position
    from placed p
    where j.id = any(array[p.id])
    returning j.id)
  select coalesce(array_agg(m.id), '{}') into ready from moved m;
  if ready <> '{}' then
    perform jobsworth.wake(ready);
  end if;
end $$;
