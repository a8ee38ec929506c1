-- Sums of the days that are closed.
--
-- A day is added up into `ledger_days` when it is closed. Closed means that no transaction can
-- still add to it: an entry gets its time while its transaction holds the lock of the ledger, so
-- the closer of a day looks an hour after its end which transactions hold that lock, and waits
-- until none of those does (`db/money/days.py`). A trigger meets an entry whose time is more than an
-- hour back, and opens the day again if it is closed. The row of `ledger_closing` is what the
-- trigger and the closer lock.
--
-- Sums take closed days from `ledger_days` and the rest by index, in one snapshot. For each call,
-- settle + release + adjust equals its row; adjustments marked `reprices` follow a new price and
-- come on top. At 10 million entries, statistics of 30 days read 920 blocks instead of 25,739
-- (bench/ledger_at_scale.py).

-- One row: all days up to `closed_through` are closed.
create table jobsworth.ledger_closing (
  single boolean not null default true primary key check (single),
  team_id uuid,
  closed_through jobsworth.day,
  closed_at jobsworth.closed_at
);
insert into jobsworth.ledger_closing (closed_through) values (null);

create table jobsworth.ledger_days (
  day jobsworth.day not null,
  team_id uuid,
  provider text not null,
  model text not null,
  mode text,
  agent_id uuid,
  scope jobsworth.ledger_scope not null,
  entries bigint not null,
  input_tokens bigint not null,
  output_tokens bigint not null,
  cache_read_tokens bigint not null,
  cache_write_tokens bigint not null,
  cost numeric,
  unknown_cost_entries bigint not null
);
create unique index ledger_days_once on jobsworth.ledger_days
  (day, team_id, provider, model, mode, agent_id, scope) nulls not distinct;

-- Opens the day of a late or erased entry again, and all days after it.
create function jobsworth.open_ledger_day() returns trigger language plpgsql as $$
declare
  entered date := (coalesce(new.occurred_at, old.occurred_at) at time zone 'utc')::date;
  closed date;
begin
  -- This lock waits for a transaction that is closing a day right now. One that wants to close a
  -- day waits for our commit.
  select c.closed_through into closed from jobsworth.ledger_closing c for no key update;
  if entered <= closed then
    update jobsworth.ledger_closing set closed_through = entered - 1;
    delete from jobsworth.ledger_days d where d.day >= entered;
  end if;
  return null;
end $$;
-- An hour: an entry with a younger time cannot belong to a day that may be closed.
create trigger late_entry_opens_its_day after insert on jobsworth.token_ledger
  for each row when (new.occurred_at < clock_timestamp() - interval '1 hour')
  execute function jobsworth.open_ledger_day();
create trigger erased_entry_opens_its_day after delete on jobsworth.token_ledger
  for each row execute function jobsworth.open_ledger_day();

-- What was spent, by day and dimension: closed days from their sums, all else from the entries, in
-- one snapshot.
create function jobsworth.spent(since timestamptz, until timestamptz, of_team uuid default null)
returns table (
  day date, team_id uuid, provider text, model text, mode text, agent_id uuid,
  scope jobsworth.ledger_scope, entries bigint, input_tokens bigint, output_tokens bigint,
  cache_read_tokens bigint, cache_write_tokens bigint, cost numeric, unknown_cost_entries bigint)
language sql stable as $$
  with span as materialized (
    select coalesce(since, '-infinity') as starts, coalesce(until, 'infinity') as ends,
      (coalesce(since, '-infinity') at time zone 'utc' + interval '23:59:59.999999')::date
        as first_day,
      least(
        (coalesce(until, 'infinity') at time zone 'utc')::date - 1,
        coalesce(c.closed_through, '-infinity')) as last_day
    from (select 1) one
    left join jobsworth.ledger_closing c on true
  ), parts as materialized (
    -- The closed days that lie wholly within the span. Before and after them the entries are read.
    select s.first_day, s.last_day, s.starts, s.ends,
      case when s.first_day <= s.last_day then s.first_day::timestamp at time zone 'utc'
        else s.starts end as days_start,
      case when s.first_day <= s.last_day then (s.last_day + 1)::timestamp at time zone 'utc'
        else s.starts end as days_end
    from span s
  ), entered as (
    select l.occurred_at, l.team_id, l.provider, l.model, l.mode, l.agent_id, l.scope,
      l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost,
      coalesce(l.unknown_costs, (l.cost is null and l.entry <> 'adjust')::int) as unknown_costs
    from jobsworth.token_ledger l
    where l.occurred_at >= (select p.starts from parts p)
      and l.occurred_at < (select p.days_start from parts p)
      and l.entry in ('settle', 'adjust')
    union all
    select l.occurred_at, l.team_id, l.provider, l.model, l.mode, l.agent_id, l.scope,
      l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens, l.cost,
      coalesce(l.unknown_costs, (l.cost is null and l.entry <> 'adjust')::int) as unknown_costs
    from jobsworth.token_ledger l
    where l.occurred_at >= (select p.days_end from parts p)
      and l.occurred_at < (select p.ends from parts p)
      and l.entry in ('settle', 'adjust')
  )
  select d.day, d.team_id, d.provider, d.model, d.mode, d.agent_id, d.scope, d.entries,
    d.input_tokens, d.output_tokens, d.cache_read_tokens, d.cache_write_tokens, d.cost,
    d.unknown_cost_entries
  from jobsworth.ledger_days d
  where d.day >= (select p.first_day from parts p) and d.day <= (select p.last_day from parts p)
    and (of_team is null or d.team_id = of_team)
  union all
  select (e.occurred_at at time zone 'utc')::date, e.team_id, e.provider, e.model, e.mode,
    e.agent_id, e.scope, count(*), sum(e.input_tokens)::bigint, sum(e.output_tokens)::bigint,
    sum(e.cache_read_tokens)::bigint, sum(e.cache_write_tokens)::bigint, sum(e.cost),
    sum(e.unknown_costs)
  from entered e
  where of_team is null or e.team_id = of_team
  group by 1, 2, 3, 4, 5, 6, 7
$$;
