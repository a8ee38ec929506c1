-- Everything that belongs to one request: a user's message, the jobs that worked for it and their runs,
-- the calls that these sent, what they asked people, the files that they made, and the messages that
-- came of it. Oldest first.

create function jobsworth.of_request(request_id text)
  returns table (kind text, id uuid, at timestamptz, job_id uuid, what text)
  language sql stable
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
  with worked as materialized (
    select j.id, j.created_at, j.parent_id, j.run_id, j.mode, j.status, j.waiting_for,
      left(j.error, 200) as error
    from jobsworth.reactive_jobs j
    where j.request_id = of_request.request_id
  )
  select r.kind, r.id, r.at, r.job_id, r.what
  from (
    select 'message' as kind, m.id, m.created_at as at, m.job_id,
      m.role || ': ' || left(m.text, 200) as what
    from jobsworth.chat_messages m
    where m.request_id = of_request.request_id
    union all
    select 'job', j.id, j.created_at, j.parent_id,
      j.mode || ': ' || j.status || coalesce(': ' || j.waiting_for, '')
        || coalesce(': ' || j.error, '')
    from worked j
    union all
    select 'run', u.id, u.created_at, null, u.status || coalesce(': ' || left(u.error, 200), '')
    from (select distinct j.run_id from worked j where j.run_id is not null) w
    cross join lateral (
      select x.id, x.created_at, x.status, x.error from jobsworth.runs x
      where x.id = w.run_id offset 0
    ) u
    union all
    select 'approval', a.id, a.created_at, a.job_id, a.status || ': ' || left(a.proposal_text, 200)
    from worked j
    cross join lateral (
      select x.id, x.created_at, x.job_id, x.status, x.proposal_text from jobsworth.approvals x
      where x.job_id = j.id and x.superseded_by is null offset 0
    ) a
    union all
    select 'file', a.id, a.created_at, a.job_id, a.name || ': ' || a.media_type
    from worked j
    cross join lateral (
      select x.id, x.created_at, x.job_id, x.name, x.media_type from jobsworth.artifacts x
      where x.job_id = j.id offset 0
    ) a
    union all
    -- A call has an id of its own for its provider, and belongs to the request of its job.
    select 'call', c.id, c.started_at, c.job_id,
      c.provider || ':' || c.model || ': ' || c.status || coalesce(': ' || left(c.error, 200), '')
    from worked j
    cross join lateral (
      select l.id, l.started_at, l.job_id, l.provider, l.model, l.status, l.error
      from jobsworth.llm_calls l
      where l.job_id = j.id
      offset 0
    ) c
  ) r
  -- Ids are of their time; `created_at` of a job is that of the beginning of its transaction.
  order by r.id
$$;
