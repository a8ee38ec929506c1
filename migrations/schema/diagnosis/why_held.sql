-- Why a job does not move on although nothing of ours keeps it: a transaction of somebody else holds
-- its row. Of its statement only the beginning is shown, without the values in it.

create function jobsworth.why_held(job_id uuid, out detail text, out remedy text)
  language plpgsql stable as $$
declare
  locker xid;
  lockers xid[];
  found_one record;
begin
  select j.xmax into locker from jobsworth.reactive_jobs j where j.id = why_held.job_id;
  if locker is null or locker = '0' then
    return;
  end if;
  lockers := array[locker];
  -- Several transactions may hold a row: then `xmax` is the number of their group.
  begin
    lockers := lockers || array(
      select m.xid from pg_get_multixact_members(locker) m);
  exception when others then
    null;
  end;
  select a.pid, a.state, a.application_name, a.usename, a.xact_start, a.query into found_one
  from pg_locks l
  join pg_stat_activity a on a.pid = l.pid
  where l.locktype = 'transactionid' and l.granted and l.transactionid = any(lockers)
    and l.pid <> pg_backend_pid()
    -- Our own transactions take milliseconds.
    and coalesce(a.xact_start < clock_timestamp() - interval '2 seconds', true)
  order by l.transactionid = locker desc, a.xact_start
  limit 1;
  if not found then
    return;
  end if;
  detail := 'its row is held by the transaction of server process ' || found_one.pid
    || coalesce(' (' || nullif(concat_ws(', ', nullif(found_one.application_name, ''),
         found_one.usename, found_one.state), '') || ')', '')
    || coalesce(' since ' || to_char(found_one.xact_start at time zone 'utc',
         'YYYY-MM-DD HH24:MI:SS') || ' UTC', '')
    || coalesce(': ' || nullif(left(regexp_replace(regexp_replace(found_one.query,
         '''([^'']|'''')*(''|$)', '''…''', 'g'), '\s+', ' ', 'g'), 100), ''), '');
  remedy := 'commit or roll back that transaction, or end it: jobsworth psql -c '
    || '"select pg_terminate_backend(' || found_one.pid || ')"';
end $$;

-- What a worker that runs a job is, if it cannot be relied on: it has not beaten for a while, or its
-- attempt does not end although it was told to. Null if all is well.
create function jobsworth.why_attempt(
  job_id uuid, worker_id uuid, out detail text, out remedy text)
  language sql stable begin atomic
  select
    case when w.beaten_at < now() - interval '12 seconds' then
      'its worker has not been heard of for '
        || round(extract(epoch from now() - w.beaten_at)) || ' s: a living worker takes the job over'
    when w.deaf ? why_attempt.job_id::text then
      'was told to end at ' || to_char((w.beaten_at
          - (w.deaf -> why_attempt.job_id::text ->> 'seconds')::float8 * interval '1 second')
          at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC and cannot be stopped: '
        || case when (w.deaf -> why_attempt.job_id::text ->> 'thread')::boolean
          then 'its thread has not returned' else 'its handler takes no notice' end
    end,
    case when w.beaten_at < now() - interval '12 seconds' then
      case when exists (
          select 1 from jobsworth.workers o
          where o.id <> w.id and o.beaten_at >= now() - interval '12 seconds')
        then 'nothing to do: it is rescued within some seconds'
        else 'no worker is alive to take it over: start one: jobsworth worker' end
    when w.deaf ? why_attempt.job_id::text then
      'wait until it returns, or end process ' || w.pid || ' on ' || w.host
        || ', whose jobs are then rescued; with isolate="process" a handler can be stopped'
    end
  from jobsworth.workers w
  where w.id = why_attempt.worker_id;
end;

-- The last attempt before this one that did not end well; null without one.
create function jobsworth.why_again(job_id uuid) returns text
  language sql stable begin atomic
  select '; attempt ' || h.attempt || coalesce(' on ' || h.host, '') || ' before it: ' || h.outcome
    || coalesce(': ' || left(split_part(h.error, E'\n', 1), 300), '')
  from jobsworth.attempt_history h
  where h.job_id = why_again.job_id
  order by h.attempt desc
  limit 1;
end;
