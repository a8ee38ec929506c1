"""Own prices, corrections in the ledger, and sums of the days that are closed.

Prices of one's own go before those that come with the program. A correction of a cost is an entry
of its own (`adjust`): `reprices` tells that it follows a new price and leaves the call's row as it
was, `unknown_costs` how many unknown costs an entry adds to a sum, where that is not simply whether
its own cost is unknown: one that makes an unknown cost known takes one away.

A day is rolled into `ledger_days` when it is closed. Closed means that no transaction can still
add to it: an entry is timed while its transaction holds the ledger's lock, so whoever closes a day
looks who holds that lock an hour after its end, and waits until none of those does
(`db/rollups.py`). What is entered with a time more than an hour back meets a trigger, which opens
the day again if it is closed; the row of `ledger_closing` is what the two of them lock.

`spent` answers from both: closed days from their sums, all else from the entries, in one snapshot.
"""

from migrations.sql import earlier, run

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

PRICES = """
create table jobsworth.prices (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  provider text not null,
  -- Exact, or the beginning of a name and *.
  model text not null,
  -- US dollars for a million tokens; unset, what is cached costs what any input costs.
  input numeric not null,
  output numeric not null,
  cache_read numeric,
  cache_write numeric,
  -- Unset: always.
  valid_from timestamptz,
  note text,
  created_at timestamptz not null default now(),
  constraint prices_are_amounts check (
    input >= 0 and input < 1e9 and output >= 0 and output < 1e9
    and cache_read >= 0 and cache_read < 1e9 and cache_write >= 0 and cache_write < 1e9),
  constraint a_star_ends_the_model check (position('*' in model) in (0, length(model))),
  constraint a_price_names_its_model check (provider <> '' and model <> '')
);
create unique index prices_of_model on jobsworth.prices (team_id, provider, model, valid_from)
  nulls not distinct;
"""
DOWN_PRICES = """
drop table jobsworth.prices;
"""

LEDGER = """
alter table jobsworth.token_ledger
  add column reprices boolean not null default false,
  add constraint only_an_adjustment_reprices
    check (not reprices or (entry = 'adjust' and call_id is not null));

create trigger ledger_is_not_emptied before truncate on jobsworth.token_ledger
  for each statement execute function jobsworth.refuse_change();

-- Once the truth about a call is known after all, what a new price had made of its estimate is
-- taken back: the call's row says again what its entries add up to.
create function jobsworth.take_repricing_back() returns trigger language plpgsql as $$
begin
  insert into jobsworth.token_ledger (
    team_id, call_id, job_id, thread_id, agent_id, run_id, entry, scope, mode, provider, model,
    cost, reprices, unknown_costs)
  select new.team_id, new.id, new.job_id, new.thread_id, new.agent_id, new.run_id, 'adjust',
    new.scope, new.mode, new.provider, new.model, -sum(l.cost), true, -sum(l.unknown_costs)
  from jobsworth.token_ledger l
  where l.call_id = new.id and l.entry = 'adjust' and l.reprices
  having sum(l.cost) <> 0 or sum(l.unknown_costs) <> 0;
  return null;
end $$;
create trigger truth_takes_repricing_back after update on jobsworth.llm_calls
  for each row when (old.status = 'unknown' and new.status <> 'unknown')
  execute function jobsworth.take_repricing_back();
"""
DOWN_LEDGER = """
drop trigger truth_takes_repricing_back on jobsworth.llm_calls;
drop function jobsworth.take_repricing_back();
drop trigger ledger_is_not_emptied on jobsworth.token_ledger;
alter table jobsworth.token_ledger
  drop constraint only_an_adjustment_reprices, drop column reprices;
"""

DAYS = """
-- One row: the days up to this one are closed, all of them.
create table jobsworth.ledger_closing (
  single boolean not null default true primary key check (single),
  team_id uuid,
  closed_through date,
  closed_at timestamptz
);
insert into jobsworth.ledger_closing (closed_through) values (null);

create table jobsworth.ledger_days (
  day date not null,
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

create function jobsworth.open_ledger_day() returns trigger language plpgsql as $$
declare
  entered date := (coalesce(new.occurred_at, old.occurred_at) at time zone 'utc')::date;
  closed date;
begin
  -- The lock waits for who closes a day right now, and who wants to close one waits for our commit.
  select c.closed_through into closed from jobsworth.ledger_closing c for no key update;
  if entered <= closed then
    update jobsworth.ledger_closing set closed_through = entered - 1;
    delete from jobsworth.ledger_days d where d.day >= entered;
  end if;
  return null;
end $$;
-- An hour: what is entered with a younger time cannot belong to a day that somebody may close.
create trigger late_entry_opens_its_day after insert on jobsworth.token_ledger
  for each row when (new.occurred_at < clock_timestamp() - interval '1 hour')
  execute function jobsworth.open_ledger_day();
create trigger erased_entry_opens_its_day after delete on jobsworth.token_ledger
  for each row execute function jobsworth.open_ledger_day();

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
    -- The days that are closed and wholly within; before and after them, the entries.
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
"""
DOWN_DAYS = """
drop function jobsworth.spent(timestamptz, timestamptz, uuid);
drop trigger late_entry_opens_its_day on jobsworth.token_ledger;
drop trigger erased_entry_opens_its_day on jobsworth.token_ledger;
drop function jobsworth.open_ledger_day();
drop table jobsworth.ledger_days, jobsworth.ledger_closing;
"""

# A chapter of its own.
VIOLATIONS = """
create view jobsworth.violations_of_ledger (invariant, subject_id, detail, at) as
select 'call whose entries do not add up to it', c.id,
  row(e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_write_tokens, e.cost)
  || ' is not ' || row(c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens,
    c.cost),
  a.occurred_at
from jobsworth.token_ledger a
cross join lateral (
  select k.id, k.settled_at, k.cost, coalesce(k.input_tokens, 0) as input_tokens,
    coalesce(k.output_tokens, 0) as output_tokens,
    coalesce(k.cache_read_tokens, 0) as cache_read_tokens,
    coalesce(k.cache_write_tokens, 0) as cache_write_tokens
  from jobsworth.llm_calls k
  where k.id = a.call_id
  offset 0) c
cross join lateral (
  select sum(l.input_tokens) as input_tokens, sum(l.output_tokens) as output_tokens,
    sum(l.cache_read_tokens) as cache_read_tokens, sum(l.cache_write_tokens) as cache_write_tokens,
    sum(l.cost) as cost
  from (
    select s.input_tokens, s.output_tokens, s.cache_read_tokens, s.cache_write_tokens, s.cost
    from jobsworth.token_ledger s
    where s.call_id = a.call_id and s.entry in ('settle', 'release')
    union all
    select s.input_tokens, s.output_tokens, s.cache_read_tokens, s.cache_write_tokens, s.cost
    from jobsworth.token_ledger s
    where s.call_id = a.call_id and s.entry = 'adjust' and not s.reprices) l
  offset 0) e
-- As a text, so that it is found by its time: the index of adjustments holds all there ever were.
where a.entry::text = 'adjust' and a.call_id is not null
  and (c.settled_at is null or e.cost is distinct from c.cost
    or e.input_tokens is distinct from c.input_tokens
    or e.output_tokens is distinct from c.output_tokens
    or e.cache_read_tokens is distinct from c.cache_read_tokens
    or e.cache_write_tokens is distinct from c.cache_write_tokens);

drop view jobsworth.violations;
create view jobsworth.violations as
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_queue v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_runs v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_books v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_ledger v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_consent v
union all
select v.invariant, v.subject_id, v.detail, v.at from jobsworth.violations_of_shipping v;
"""
DOWN_VIOLATIONS = """
drop view jobsworth.violations, jobsworth.violations_of_ledger;
"""


def upgrade() -> None:
    for part in (PRICES, LEDGER, DAYS, VIOLATIONS):
        run(part)


def downgrade() -> None:
    run(DOWN_VIOLATIONS)
    run(earlier("0006_runs", "view jobsworth.violations"))
    for part in (DOWN_DAYS, DOWN_LEDGER, DOWN_PRICES):
        run(part)
