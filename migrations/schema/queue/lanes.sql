-- A lane runs its jobs one at a time, in the order of `lane_position`. A job that waits for an
-- approval or a signal steps aside, unless it holds its lane.
--
-- Here as in all hot functions the planner settings keep the plan on the indexes. A session plans a
-- function once, perhaps while the tables are empty, and a scan of a whole table is only cheap
-- then.
--
-- The order within a lane is (lane_position, id). A job holds its lane through retries and through
-- waits for its children. A scheduled job joins its lane when it is due (`lane_position` is null
-- until then), so a reminder for next week does not block a conversation; a job that needs other
-- jobs joins when they have ended. A follow-up takes its parent's position.
--
-- A claim takes the job of a lane only if it is the lane's lowest open job, the only one of its
-- lane in the batch, and `pg_try_advisory_xact_lock` succeeds. A partial unique index is the
-- backstop. The claim may put off a job just when the running one finishes, so the claimer looks
-- again after its own commit.

-- Whether another job of this lane comes first: one that is running, or an open one with a lower
-- position that has not stepped aside.
create function jobsworth.lane_blocked(in_lane text, at_position bigint, job_id uuid)
  returns boolean language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  return exists (
      select 1 from jobsworth.reactive_jobs o
      where o.lane = in_lane and o.status = 'running' and o.id <> job_id)
    or exists (
      select 1 from jobsworth.reactive_jobs o
      where o.lane = in_lane and o.lane_position is not null and o.finished_at is null
        and (o.waiting_for is null or o.waiting_for not in ('approval', 'signal') or o.holds_lane)
        and (o.lane_position, o.id) < (at_position, job_id));
end $$;

-- The lowest open job of a lane, or null.
create function jobsworth.lane_head(in_lane text) returns uuid language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  select o.id
  from jobsworth.reactive_jobs o
  where o.lane = in_lane and o.lane_position is not null and o.finished_at is null
    and (o.waiting_for is null or o.waiting_for not in ('approval', 'signal') or o.holds_lane)
  order by o.lane_position, o.id
  limit 1
$$;
