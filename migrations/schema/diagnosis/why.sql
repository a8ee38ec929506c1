-- Why a job is not running: exactly one reason, and the one thing that would unblock it.

-- A word, quoted for a shell if it needs that.
create function jobsworth.shell_word(word text) returns text language sql immutable strict
  return case when word ~ '^[A-Za-z0-9_][A-Za-z0-9_.:/@%+-]*$' then word
    else '''' || replace(word, '''', '''\''''') || '''' end;

-- Why a job waits for a budget, and what would help. A call that is larger than the whole budget, or
-- than what a run has not spent yet, has no room however long it waits: only a raise helps.
create function jobsworth.why_budget(job_id uuid, out detail text, out remedy text)
  language sql stable begin atomic
  select case when w.granted_at is not null then 'there is room again: next to be promoted'
      else jobsworth.budget_words(b, coalesce(x.reserved + x.spent, 0), w.amount, now())
        || case when c.too_large then '; no waiting makes room for it' else '' end end,
    case when w.granted_at is not null then 'nothing to do: a worker promotes it'
      else 'jobsworth budget raise ' || jobsworth.shell_word(b.name) || ' '
        || trim_scale(ceil((coalesce(x.reserved + x.spent, 0) + w.amount) * 1000000) / 1000000)
        || ' (or more)' || case when c.too_large then '' else ', or wait for room' end end
  from jobsworth.budget_waits w
  join jobsworth.budgets b on b.id = w.budget_id
  left join lateral jobsworth.window_of(
    b.id, b.period, jobsworth.window_start(b, now()), w.run_id) x on true
  cross join lateral (
    select w.amount > b.amount
      - case b.period when 'run' then coalesce(x.spent, 0) else 0 end as too_large) c
  where w.job_id = why_budget.job_id;
end;

-- Which step waits for a person, and what that person can answer.
create function jobsworth.why_person(job_id uuid, out detail text, out remedy text)
  language sql stable begin atomic
  select 'step ' || s.name || ' was begun at '
      || to_char(s.started_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC by attempt '
      || s.attempt || coalesce(' on ' || s.begun_by, '') || ' and not recorded'
      || coalesce(' (' || s.error || ')', '') || '; it is unsafe to repeat',
    'if it happened: jobsworth step done ' || why_person.job_id || ' '
      || jobsworth.shell_word(s.name) || ' [--output JSON]; if it did not: jobsworth step again '
      || why_person.job_id || ' ' || jobsworth.shell_word(s.name)
  from jobsworth.steps s
  where s.job_id = why_person.job_id and s.effect = 'unsafe' and s.kind <> 'phase'
    and s.finished_at is null
  order by s.started_at
  limit 1;
end;

-- Which deployment holds the environment that a job waits for.
create function jobsworth.why_environment(
  job_id uuid, out detail text, out remedy text) language sql stable begin atomic
  select j.waiting_detail || coalesce(
      ' is held by deployment ' || d.id || ' of ' || left(d.sha, 12) || ' (' || d.status || ')',
      ' is free: next to be promoted'),
    case when d.id is null then 'nothing to do: a worker promotes it'
      else coalesce('jobsworth why ' || d.job_id, 'end it: it has no job') end
  from jobsworth.reactive_jobs j
  left join jobsworth.deployments d on d.environment = substr(j.waiting_detail, 13)
    and d.finished_at is null
  where j.id = why_environment.job_id and j.waiting_for = 'limit' and j.run_at is null
    and j.waiting_detail like 'environment %';
end;

-- What a limit of jobs is, who holds it, and what would help a job that waits for it.
create function jobsworth.why_job_limit(
  job_id uuid, out detail text, out remedy text) language plpgsql stable as $$
declare
  j jobsworth.reactive_jobs;
  l jobsworth.job_limits;
  passed record;
  holders uuid[];
  taken bigint;
  due timestamptz;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = why_job_limit.job_id;
  if j.waiting_detail not like 'limit %' or j.run_at is not null then
    return;
  end if;
  select g.limit_name, g.key, g.needs into passed
  from jobsworth.gates_of(array[j.id]) g where g.gate = j.waiting_detail;
  if not found then
    detail := j.waiting_detail || ' was removed or changed: next to be promoted';
    remedy := 'nothing to do: a worker promotes it';
    return;
  end if;
  select x.* into l from jobsworth.job_limits x where x.limit_name = passed.limit_name;
  if l.rate is not null then
    select k.due_at into due from jobsworth.job_limit_rates k
    where k.limit_name = passed.limit_name and k.key = passed.key;
    detail := j.waiting_detail || ': ' || l.rate || ' in ' || l.per_seconds
      || ' s; the first of those that wait has its turn at '
      || to_char(coalesce(due, now()) at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC';
    remedy := 'wait, or raise it: jobsworth job-limit set ' || l.limit_name || ' --rate '
      || l.rate * 2;
    return;
  end if;
  taken := jobsworth.slots_taken(passed.limit_name, passed.key);
  holders := array(
    select s.job_id from jobsworth.job_limit_slots s
    cross join lateral (
      select r.status, r.lease_no from jobsworth.reactive_jobs r where r.id = s.job_id offset 0) r
    where s.limit_name = passed.limit_name and s.key = passed.key
      and jobsworth.slot_counts(s.lease_no, s.turn_at, r.status, r.lease_no)
    order by s.lease_no
    limit 3);
  detail := j.waiting_detail || ': ' || taken || ' of ' || l.slots || ' slots are taken'
    || coalesce(', up to ' || l.burst || ' while all keys have fewer', '')
    || coalesce(', by job ' || nullif(array_to_string(holders, ', '), '')
      || case when taken > 3 then ' and others' else '' end, '');
  remedy := case when holders = '{}' then 'nothing to do: a worker promotes it'
    else 'wait for a slot, or raise the limit: jobsworth job-limit set ' || l.limit_name
      || ' --slots ' || greatest(l.slots, taken) + 1 end;
end $$;

-- Which call changed what a job is to do, if one did.
create function jobsworth.why_replaced(job_id uuid) returns text language sql stable begin atomic
  select 'replaced by call ' || r.id || ' at '
      || to_char(r.replaced_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
  from jobsworth.replacements r
  where r.job_id = why_replaced.job_id
  order by r.replaced_at desc
  limit 1;
end;

-- Why this job is not running.
create function jobsworth.why(job_id uuid)
  returns table (status jobsworth.job_status, reason text, detail text, remedy text)
  language plpgsql stable as $$
#variable_conflict use_column
declare
  j jobsworth.reactive_jobs;
  other record;
  attempt record;
  held record;
begin
  select x.* into j from jobsworth.reactive_jobs x where x.id = why.job_id;
  if not found then
    return;
  end if;
  status := j.status;
  if j.status = 'waiting' then
    reason := j.waiting_for::text;
    case j.waiting_for
    when 'timer' then
      detail := 'until ' || to_char(j.run_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
        || case when j.failures > 0 then ', after failure ' || j.failures || ': '
             || coalesce(j.error, 'no message') else '' end
        || coalesce(': ' || j.waiting_detail, '');
      -- A retry would not help: the handler would only go on sleeping.
      remedy := case when j.waiting_detail = 'its handler sleeps'
        then 'wait, or cancel it: jobsworth job cancel '
        else 'wait, or run it now: jobsworth job run-now ' end || j.id;
    when 'lane' then
      select x.id, x.status, x.worker_id into other from jobsworth.reactive_jobs x
      where x.lane = j.lane and x.status = 'running' limit 1;
      if not found then
        select x.id, x.status, x.worker_id into other from jobsworth.reactive_jobs x
        where x.id = jobsworth.lane_head(j.lane) and x.id <> j.id;
      end if;
      -- Of a head that does not end by itself, the cause and the remedy are those of the lane.
      select a.detail, a.remedy into attempt
      from jobsworth.why_attempt(other.id, other.worker_id) a where other.status = 'running';
      detail := 'lane ' || j.lane || coalesce(', behind job ' || other.id || ' (' || other.status
        || coalesce(', ' || attempt.detail, '') || ')', ', next to be promoted');
      remedy := coalesce(attempt.remedy, 'jobsworth why ' || other.id,
        'nothing to do: a worker promotes it');
    when 'parents' then
      select p.id, p.status into other from jobsworth.job_edges e
      join jobsworth.reactive_jobs p on p.id = e.needs_job_id
      where e.job_id = j.id and p.finished_at is null limit 1;
      detail := coalesce('needs job ' || other.id || ' (' || other.status || ')',
        'next to be promoted');
      remedy := coalesce('jobsworth why ' || other.id, 'nothing to do: a worker promotes it');
    when 'children' then
      select count(*) as open, min(c.id::text) as id into other from jobsworth.reactive_jobs c
      where c.parent_id = j.id and c.is_child and c.finished_at is null;
      detail := other.open || ' of its children have not ended';
      remedy := coalesce('jobsworth why ' || other.id, 'nothing to do: a worker promotes it');
    when 'approval' then
      select a.id, a.proposal_text, a.deadline into other from jobsworth.approvals a
      where a.job_id = j.id and a.status = 'pending' limit 1;
      detail := coalesce('approval ' || other.id || ': ' || left(other.proposal_text, 120)
          || coalesce((
            select string_agg('; webhook ' || w.id || ' is off: its receiver ' || w.off_because,
              '' order by w.id)
            from jobsworth.webhooks w
            where not w.active and (w.team_id is null or w.team_id = j.team_id)), ''),
        'decided, next to be promoted');
      remedy := coalesce('jobsworth approve ' || other.id || ', or jobsworth reject ' || other.id,
        'nothing to do: a worker promotes it');
    when 'signal' then
      detail := 'signal ' || coalesce(j.waiting_detail, '?')
        || coalesce(', at most until ' || to_char(j.run_at at time zone 'utc',
             'YYYY-MM-DD HH24:MI:SS') || ' UTC', '');
      remedy := 'jobsworth signal send ' || j.id || ' '
        || coalesce(jobsworth.shell_word(j.waiting_detail), 'NAME');
    when 'handler' then
      detail := 'no living worker knows the mode ' || j.mode;
      remedy := 'start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job: '
        || 'jobsworth job cancel ' || j.id;
    when 'limit' then
      select coalesce(g.detail, e.detail, coalesce(j.waiting_detail, 'a limit')
          || coalesce(', until ' || to_char(j.run_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS')
               || ' UTC', '')),
        coalesce(g.remedy, e.remedy, 'nothing to do: it is tried again then')
      into detail, remedy from (select 1) one
      left join jobsworth.why_environment(j.id) e on true
      left join jobsworth.why_job_limit(j.id) g on true;
    when 'budget' then
      select coalesce(b.detail, j.waiting_detail, 'a budget'),
        coalesce(b.remedy, 'jobsworth job show ' || j.id)
      into detail, remedy from (select 1) one left join jobsworth.why_budget(j.id) b on true;
    when 'person' then
      select coalesce(p.detail, j.waiting_detail, 'a person'),
        coalesce(p.remedy, 'jobsworth job show ' || j.id)
      into detail, remedy from (select 1) one left join jobsworth.why_person(j.id) p on true;
    else
      detail := coalesce(j.waiting_detail, j.waiting_for::text);
      remedy := 'jobsworth job show ' || j.id;
    end case;
    if j.waiting_for in ('approval', 'children', 'budget', 'person') and j.run_at is not null then
      detail := detail || '; another branch of its handler goes on at '
        || to_char(j.run_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC';
    end if;
  elsif j.status = 'queued' then
    if exists (select 1 from jobsworth.queues q where q.name = j.queue and q.paused) then
      reason := 'paused';
      detail := 'queue ' || j.queue || ' is paused';
      remedy := 'jobsworth queue resume ' || jobsworth.shell_word(j.queue);
    elsif not exists (select 1 from jobsworth.workers w
        where w.beaten_at > now() - interval '10 seconds' and not w.draining) then
      reason := 'no worker';
      detail := 'no worker is alive';
      remedy := 'start one: jobsworth worker';
    elsif not exists (select 1 from jobsworth.workers w
        where j.mode = any(w.modes) and w.beaten_at > now() - interval '10 seconds'
          and not w.draining) then
      reason := 'no handler';
      detail := 'no living worker knows the mode ' || j.mode;
      remedy := 'start a worker whose JOBSWORTH_HANDLERS define it, or cancel the job: '
        || 'jobsworth job cancel ' || j.id;
    elsif not exists (select 1 from jobsworth.workers w
        where j.mode = any(w.modes) and j.queue = any(w.queues)
          and w.beaten_at > now() - interval '10 seconds' and not w.draining) then
      reason := 'no worker';
      detail := 'no worker that knows ' || j.mode || ' serves the queue ' || j.queue;
      remedy := 'add ' || j.queue || ' to a worker''s JOBSWORTH_QUEUES';
    else
      reason := 'no slot';
      detail := 'ready: the next free slot takes it in its turn'
        || coalesce(jobsworth.why_fair(j), '');
      remedy := 'nothing to do, or add workers or slots (JOBSWORTH_SLOTS)';
    end if;
  elsif j.status = 'running' then
    reason := 'running';
    select w.host, w.pid into other from jobsworth.workers w where w.id = j.worker_id;
    select a.detail, a.remedy into attempt from jobsworth.why_attempt(j.id, j.worker_id) a;
    detail := 'attempt ' || j.attempt || coalesce(' on ' || other.host || ', process ' || other.pid,
      ' of a worker that is gone: it will be rescued')
      || case when j.cancel_requested then ', cancel requested' else '' end
      || coalesce(', ' || attempt.detail, '') || coalesce(jobsworth.why_again(j.id), '');
    remedy := coalesce(attempt.remedy, 'wait, or cancel it: jobsworth job cancel ' || j.id);
  else
    reason := j.status::text;
    detail := coalesce(j.error, 'ended at ' || to_char(j.finished_at at time zone 'utc',
      'YYYY-MM-DD HH24:MI:SS') || ' UTC');
    remedy := case when j.status = 'done' then 'nothing to do'
      -- It would not fit the second time either.
      when starts_with(j.error, 'the payload does not fit ')
        then 'enqueue it anew with a payload that fits (jobsworth enqueue '
          || jobsworth.shell_word(j.mode) || ' JSON), or mend the handler and run it again: '
          || 'jobsworth job retry ' || j.id
      else 'run it again: jobsworth job retry ' || j.id end;
  end if;
  if j.status = 'queued' and reason in ('no slot', 'no worker', 'no handler') then
    detail := detail || coalesce(jobsworth.why_again(j.id), '');
  end if;
  if j.superseded_by is not null and j.status in ('running', 'done', 'failed') then
    detail := detail || '; superseded by message ' || j.superseded_by;
  end if;
  if j.unique_key is not null then
    detail := detail || coalesce('; ' || jobsworth.why_replaced(j.id), '');
  end if;
  if j.finished_at is null then
    select h.detail, h.remedy into held from jobsworth.why_held(j.id) h;
    if held.detail is not null then
      reason := case when j.status = 'queued' then 'held' else reason end;
      detail := case when j.status = 'queued' then held.detail
        else detail || '; ' || held.detail end;
      remedy := held.remedy;
    end if;
  end if;
  return next;
end $$;
