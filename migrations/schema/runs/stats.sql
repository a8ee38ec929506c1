-- The sums of a run: of its jobs, and of all calls in its books, those that were saved to it included. Everything
-- that shows them reads this.
create function jobsworth.run_stats(
  run_id uuid, out jobs jsonb, out calls bigint, out open_calls bigint, out input_tokens bigint,
  out output_tokens bigint, out cost numeric, out cost_unknown_calls bigint,
  out duration_seconds float8)
  language plpgsql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  select coalesce(jsonb_object_agg(b.status, b.jobs), '{}') into jobs
  from (
    select j.status::text as status, count(*) as jobs
    from jobsworth.reactive_jobs j where j.run_id = run_stats.run_id group by j.status
  ) b;
  select count(*), count(*) filter (where l.settled_at is null),
    coalesce(sum(l.input_tokens), 0), coalesce(sum(l.output_tokens), 0),
    coalesce(sum(l.cost), 0), count(*) filter (where l.settled_at is not null and l.cost is null)
  into calls, open_calls, input_tokens, output_tokens, cost, cost_unknown_calls
  from jobsworth.llm_calls l
  where l.run_id = run_stats.run_id;
  select extract(epoch from coalesce(r.finished_at, now()) - r.started_at) into duration_seconds
  from jobsworth.runs r where r.id = run_stats.run_id;
end $$;

-- The sums of every run: give the id of one.
create view jobsworth.run_statistics as
select r.id as run_id, r.team_id, r.actor, r.status, s.*
from jobsworth.runs r
cross join lateral jobsworth.run_stats(r.id) s;
