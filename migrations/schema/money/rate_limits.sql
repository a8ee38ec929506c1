-- Rate limits: requests and tokens per minute that all daemons together may send to a provider, by
-- the generic cell rate algorithm (ITU-T I.371). Of a limit only the theoretical time of the next
-- arrival is kept.
--
-- Tokens are held at their estimate while a call is open, and take their place in the bucket when
-- it is settled, at what it took. To move the bucket back by what an estimate was too high is
-- simpler, but lets too much through: what had refilled meanwhile would be given out twice.
--
-- A provider that refuses calls for its own rate limit is asked more and more seldom: its model gets
-- a pace (`pace_seconds`, the distance between two calls of all daemons). The first refusal makes it
-- a quarter of a second, each further one doubles it, up to a minute; each answer takes a tenth off,
-- and all that is above a second (one key may be refused while another is served); below 10 ms the
-- model is free again. After a refusal there is also a pause: as long as the
-- provider asks for, and from the second one in a row on at least a second, and at least the pace.
-- Calls that were under way at a refusal change nothing: they say nothing of what the provider does
-- since. So a provider that refuses everything gets, after what was under way, 8 calls in the first
-- minute and one a minute later, however many workers and jobs there are; and after an outage they
-- do not all return at once.
--
-- The pace belongs to the model and not to the key, because the books do not know keys, and the keys
-- of one organisation share its limits. So two keys of two accounts slow each other down: where one
-- is refused and the other served, the served one goes at about a call a second, and its jobs come
-- before those that were refused themselves (`refuse_call`). A scope of provider, address and a digest
-- of the key would free it, for a column in each call and a condition in each start; nobody has
-- asked for it.

-- `turn_at`: when the last of the jobs that were sent away may come again. `tokens_mean`: how many
-- tokens a call took lately. `refusals`: how often calls were refused since the last answer.
create table jobsworth.rate_limits (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  provider jobsworth.provider not null,
  model jobsworth.model not null default '*',
  requests_per_minute jobsworth.requests_per_minute,
  tokens_per_minute jobsworth.tokens_per_minute,
  paused_until jobsworth.paused_until,
  requests_at jobsworth.requests_at,
  tokens_at jobsworth.tokens_at,
  tokens_reserved jobsworth.tokens_reserved not null default 0,
  tokens_mean jobsworth.tokens_mean,
  turn_at jobsworth.turn_at,
  refused_at jobsworth.refused_at,
  refusals jobsworth.refusals not null default 0,
  pace_seconds jobsworth.pace_seconds,
  created_at jobsworth.created_at not null default clock_timestamp(),
  constraint limited_key unique nulls not distinct (team_id, provider, model)
) with (fillfactor = 50);

-- Whether a limit has a say in calls that start now.
create function jobsworth.limit_applies(l jobsworth.rate_limits) returns boolean
  language sql stable return l.requests_per_minute is not null or l.tokens_per_minute is not null
    or l.pace_seconds is not null or l.paused_until > clock_timestamp();

-- How many seconds until the tokens of a limit let calls through, as if none was open; below 0: that
-- many seconds' worth is to spare. A single call that is larger than the bucket, a minute's worth,
-- goes when that is full.
create function jobsworth.tokens_wait(
  l jobsworth.rate_limits, requests bigint, tokens bigint, at timestamptz)
  returns float8 language sql stable return (
    greatest(extract(epoch from l.tokens_at - at), 0) + case when requests = 1
      then least(60.0, tokens * 60.0 / l.tokens_per_minute)
      else tokens * 60.0 / l.tokens_per_minute end - 60)::float8;

-- How many seconds until a limit lets this many requests with this many tokens through (0: now).
-- Where only the estimates of open calls are in the way, there may be room at any moment.
create function jobsworth.limit_wait(
  l jobsworth.rate_limits, requests bigint, tokens bigint, at timestamptz)
  returns float8 language sql stable return greatest(
    0,
    extract(epoch from l.paused_until - at),
    case when l.pace_seconds is not null and requests > 1 then l.pace_seconds end,
    greatest(extract(epoch from l.requests_at - at), 0)
      + requests * 60.0 / l.requests_per_minute - 60,
    jobsworth.tokens_wait(l, requests, tokens, at),
    case when l.tokens_reserved > 0 and jobsworth.tokens_wait(l, requests, tokens, at)
      + l.tokens_reserved * 60.0 / l.tokens_per_minute > 0 then 0.2 end)::float8;

-- Set the requests and tokens per minute that all daemons together may send; null: no limit. The
-- model `*` stands for all models of a provider together.
create function jobsworth.set_rate_limit(
  provider text, model text default '*', requests int default null, tokens bigint default null)
  returns void language plpgsql as $$
#variable_conflict use_column
begin
  if set_rate_limit.requests <= 0 or set_rate_limit.tokens <= 0 then
    raise exception 'a limit of % requests and % tokens lets nothing through',
      set_rate_limit.requests, set_rate_limit.tokens using hint = 'give numbers from 1 on';
  end if;
  insert into jobsworth.rate_limits as l (
    provider, model, requests_per_minute, tokens_per_minute)
  values (set_rate_limit.provider, set_rate_limit.model, set_rate_limit.requests,
    set_rate_limit.tokens)
  on conflict (team_id, provider, model) do update
  set requests_per_minute = excluded.requests_per_minute,
    tokens_per_minute = excluded.tokens_per_minute,
    requests_at = case when excluded.requests_per_minute = l.requests_per_minute
      then l.requests_at end,
    tokens_at = case when excluded.tokens_per_minute = l.tokens_per_minute then l.tokens_at end,
    turn_at = null;
  perform jobsworth.wake_limited();
end $$;

-- Let all jobs that wait for a limit try again now: the turns they were given were those of the old
-- limit.
create function jobsworth.wake_limited() returns void language sql as $$
  update jobsworth.reactive_jobs j set run_at = clock_timestamp()
  where j.id = any(array(
    select x.id from jobsworth.reactive_jobs x
    where x.status = 'waiting' and x.waiting_for = 'limit' and x.run_at > clock_timestamp()
    for no key update skip locked))
$$;

-- Stop all calls to a model of a provider for this many seconds, a year at most. A longer pause that
-- is already set stays.
create function jobsworth.pause_rate(provider text, model text, seconds float8)
  returns void language plpgsql as $$
#variable_conflict use_column
begin
  insert into jobsworth.rate_limits as l (provider, model, paused_until)
  values (pause_rate.provider, pause_rate.model,
    clock_timestamp() + make_interval(
      secs => least(greatest(nullif(pause_rate.seconds, 'NaN'), 0), 31536000)))
  on conflict (team_id, provider, model) do update
  set paused_until = greatest(l.paused_until, excluded.paused_until);
end $$;
