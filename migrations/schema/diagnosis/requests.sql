-- Everything that belongs to one request: a user's message, the jobs that worked for it, the calls
-- that these sent, and the messages that came of it. Oldest first.

create function jobsworth.of_request(request_id text)
  returns table (kind text, id uuid, at timestamptz, job_id uuid, what text)
  language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  select r.kind, r.id, r.at, r.job_id, r.what
  from (
    select 'message' as kind, m.id, m.created_at as at, m.job_id,
      m.role || ': ' || left(m.text, 200) as what
    from jobsworth.chat_messages m
    where m.request_id = of_request.request_id
    union all
    select 'job', j.id, j.created_at, j.parent_id,
      j.mode || ': ' || j.status || coalesce(': ' || j.waiting_for, '')
        || coalesce(': ' || left(j.error, 200), '')
    from jobsworth.reactive_jobs j
    where j.request_id = of_request.request_id
    union all
    -- A call has an id of its own for its provider, and belongs to the request of its job.
    select 'call', c.id, c.started_at, c.job_id,
      c.provider || ':' || c.model || ': ' || c.status || coalesce(': ' || left(c.error, 200), '')
    from jobsworth.reactive_jobs j
    cross join lateral (
      select l.id, l.started_at, l.job_id, l.provider, l.model, l.status, l.error
      from jobsworth.llm_calls l
      where l.job_id = j.id
      offset 0
    ) c
    where j.request_id = of_request.request_id
  ) r
  -- Ids are of their time; `created_at` of a job is that of the beginning of its transaction.
  order by r.id
$$;
