"""The check that the books balance: it compares what different statements have written.

In: `llm_calls` (one row per call), `token_ledger` (append-only), jobs, steps, the windows of
budgets and the sums of closed days. Different statements write them, so they could drift apart.
Out: every disagreement; the books balance if there is none. Everything is read in one snapshot.

A call's row says what it took; its settlement or release and its adjustments add up to that.
Adjustments that follow a new price (`reprices`) come on top. Calls and entries may outlive their
jobs, which retention removes; open calls and steps may not.
"""

from typing import LiteralString

from pydantic import BaseModel, ConfigDict

from db.pool import Connection, begun, fetch_all

# Everything is compared as of one moment; the transaction writes nothing.
SNAPSHOT: LiteralString = """
begin isolation level repeatable read, read only;
set local idle_in_transaction_session_timeout = '10s'
"""


class Imbalance(BaseModel):
    """One disagreement: `subject` (a call, an entry, a model, a day …) breaks `rule`."""

    model_config = ConfigDict(frozen=True)

    rule: str
    subject: str
    expected: str
    found: str


async def check(conn: Connection) -> list[Imbalance]:
    """Every disagreement; empty if the books balance.

    Reads the whole tables, each statement within the connection's `statement_seconds`; the
    connection must not be in a transaction.
    """
    async with begun(conn, SNAPSHOT):
        found = [
            *await _check_calls(conn),
            *await _check_corrections(conn),
            *await _check_sums(conn),
            *await _check_attempts(conn),
            *await _check_steps(conn),
            *await _check_days(conn),
            *await _check_windows(conn),
        ]
    return sorted(found, key=lambda each: (each.rule, each.subject))


CALLS: LiteralString = """
with entries as materialized (
  -- For each call: its reservation, and the sum of its other entries.
  select l.call_id, l.entry = 'reserve' as reserves,
    count(*) filter (where l.entry <> 'adjust') as times,
    min(l.provider || ' ' || l.model) as model,
    sum(l.input_tokens) as input_tokens, sum(l.output_tokens) as output_tokens,
    sum(l.cache_read_tokens) as cache_read_tokens, sum(l.cache_write_tokens) as cache_write_tokens,
    sum(l.cost) as cost
  from jobsworth.token_ledger l
  where l.call_id is not null and not l.reprices
  group by l.call_id, l.entry = 'reserve'
), compared as (
  select c.id, c.settled_at,
    coalesce(r.times, 0) as reserves, coalesce(s.times, 0) as closings,
    format('%%s %%s: %%s in, %%s out, %%s USD', c.provider, c.model, c.estimated_input_tokens,
      c.estimated_output_tokens, coalesce(trim_scale(c.estimated_cost)::text, '?')) as estimated,
    format('%%s: %%s in, %%s out, %%s USD', r.model, r.input_tokens, r.output_tokens,
      coalesce(trim_scale(r.cost)::text, '?')) as reserved,
    format('%%s %%s: %%s in, %%s out, cache %%s read %%s written, %%s USD', c.provider, c.model,
      coalesce(c.input_tokens, 0), coalesce(c.output_tokens, 0), coalesce(c.cache_read_tokens, 0),
      coalesce(c.cache_write_tokens, 0), coalesce(trim_scale(c.cost)::text, '?')) as used,
    format('%%s: %%s in, %%s out, cache %%s read %%s written, %%s USD', s.model, s.input_tokens,
      s.output_tokens, s.cache_read_tokens, s.cache_write_tokens,
      coalesce(trim_scale(s.cost)::text, '?')) as settled
  from jobsworth.llm_calls c
  left join entries r on r.call_id = c.id and r.reserves
  left join entries s on s.call_id = c.id and not s.reserves
)
select 'a call has one reservation' as rule, c.id::text as subject, '1' as expected,
  c.reserves::text as found
from compared c
where c.reserves <> 1
union all
select 'a settled call has one settlement', c.id::text, '1', c.closings::text
from compared c
where c.settled_at is not null and c.closings <> 1
union all
select 'an open call has no settlement', c.id::text, '0', c.closings::text
from compared c
where c.settled_at is null and c.closings <> 0
union all
select 'a reservation says what was estimated', c.id::text, c.estimated, c.reserved
from compared c
where c.reserves = 1 and c.reserved <> c.estimated
union all
select 'a settlement says what was used', c.id::text, c.used, c.settled
from compared c
where c.settled_at is not null and c.closings = 1 and c.settled <> c.used
union all
select 'an entry has its call', l.id::text, coalesce(l.call_id::text, 'a call'), 'none'
from jobsworth.token_ledger l
where (l.call_id is not null or l.entry in ('reserve', 'release'))
  and not exists (select 1 from jobsworth.llm_calls c where c.id = l.call_id)
"""


async def _check_calls(conn: Connection) -> list[Imbalance]:
    """Compare each call with its entries, and each entry with its call."""
    return await fetch_all(conn, CALLS, {}, Imbalance)


CORRECTIONS: LiteralString = """
select 'a correction is of a settled call' as rule, l.id::text as subject, 'settled' as expected,
  'open' as found
from jobsworth.token_ledger l
join jobsworth.llm_calls c on c.id = l.call_id
where l.entry = 'adjust' and c.settled_at is null
union all
select 'a repricing takes no tokens', l.id::text, 'no tokens',
  format('%%s in, %%s out, cache %%s read %%s written', l.input_tokens, l.output_tokens,
    l.cache_read_tokens, l.cache_write_tokens)
from jobsworth.token_ledger l
where l.reprices
  and row(l.input_tokens, l.output_tokens, l.cache_read_tokens, l.cache_write_tokens)
    <> row(0, 0, 0, 0)
union all
select 'a cost is unknown once, or known', l.call_id::text, '0 or 1',
  sum(coalesce(l.unknown_costs, (l.cost is null and l.entry <> 'adjust')::int))::text
from jobsworth.token_ledger l
where l.call_id is not null and l.entry in ('settle', 'adjust')
group by l.call_id
having sum(coalesce(l.unknown_costs, (l.cost is null and l.entry <> 'adjust')::int))
  not in (0, 1)
"""


async def _check_corrections(conn: Connection) -> list[Imbalance]:
    """Check adjustments, whatever their cause."""
    return await fetch_all(conn, CORRECTIONS, {}, Imbalance)


SUMS: LiteralString = """
with by_calls as (
  select c.provider || ' ' || c.model as model, count(*) as calls,
    coalesce(sum(c.input_tokens), 0) as input_tokens,
    coalesce(sum(c.output_tokens), 0) as output_tokens,
    coalesce(sum(c.cost), 0) as cost
  from jobsworth.llm_calls c
  where c.settled_at is not null
  group by 1
), by_ledger as (
  select l.provider || ' ' || l.model as model,
    count(*) filter (where l.entry <> 'adjust') as calls,
    sum(l.input_tokens) as input_tokens, sum(l.output_tokens) as output_tokens,
    coalesce(sum(l.cost), 0) as cost
  from jobsworth.token_ledger l
  where l.entry <> 'reserve' and not l.reprices and l.call_id is not null
  group by 1
)
select 'calls and ledger have the same sums' as rule, coalesce(a.model, b.model) as subject,
  format('%%s calls, %%s in, %%s out, %%s USD', coalesce(a.calls, 0), coalesce(a.input_tokens, 0),
    coalesce(a.output_tokens, 0), trim_scale(coalesce(a.cost, 0))) as expected,
  format('%%s calls, %%s in, %%s out, %%s USD', coalesce(b.calls, 0), coalesce(b.input_tokens, 0),
    coalesce(b.output_tokens, 0), trim_scale(coalesce(b.cost, 0))) as found
from by_calls a
full join by_ledger b on b.model = a.model
where row(a.calls, a.input_tokens, a.output_tokens, trim_scale(a.cost))::text
  <> row(b.calls, b.input_tokens, b.output_tokens, trim_scale(b.cost))::text
"""


async def _check_sums(conn: Connection) -> list[Imbalance]:
    """Compare the sums of calls and ledger, each added up on its own."""
    return await fetch_all(conn, SUMS, {}, Imbalance)


# A call started within the last minute may have lost its attempt just now; upkeep settles it.
ATTEMPTS: LiteralString = """
select 'an open reservation has a live attempt' as rule, c.id::text as subject,
  coalesce('lease ' || c.lease_no || ' of job ' || c.job_id, 'an end within the hour') as expected,
  coalesce('lease ' || j.lease_no || ', ' || j.status, 'nothing') as found
from jobsworth.llm_calls c
left join jobsworth.reactive_jobs j on j.id = c.job_id
where c.status = 'started' and case when c.job_id is null
  then c.started_at < now() - interval '61 minutes'
  else c.started_at < now() - interval '1 minute'
    and not (coalesce(j.lease_no = c.lease_no and j.status = 'running', false))
  end
"""


async def _check_attempts(conn: Connection) -> list[Imbalance]:
    """Check that each open reservation has an attempt that waits for its answer."""
    return await fetch_all(conn, ATTEMPTS, {}, Imbalance)


STEPS: LiteralString = """
select 'a step has its job' as rule, s.name as subject, s.job_id::text as expected, 'none' as found
from jobsworth.steps s
where not exists (select 1 from jobsworth.reactive_jobs j where j.id = s.job_id)
"""


async def _check_steps(conn: Connection) -> list[Imbalance]:
    """Check that no step outlives its job."""
    return await fetch_all(conn, STEPS, {}, Imbalance)


DAYS: LiteralString = """
with entered as (
  select (l.occurred_at at time zone 'utc')::date as day, l.team_id, l.provider, l.model, l.mode,
    l.agent_id, l.scope, count(*) as entries, sum(l.input_tokens) as input_tokens,
    sum(l.output_tokens) as output_tokens, sum(l.cache_read_tokens) as cache_read_tokens,
    sum(l.cache_write_tokens) as cache_write_tokens, sum(l.cost) as cost,
    sum(coalesce(l.unknown_costs, (l.cost is null and l.entry <> 'adjust')::int)) as unknown
  from jobsworth.token_ledger l
  cross join jobsworth.ledger_closing c
  where l.entry in ('settle', 'adjust')
    and l.occurred_at < (c.closed_through + 1)::timestamp at time zone 'utc'
  group by 1, 2, 3, 4, 5, 6, 7
), expected as (
  select concat_ws(', ', e.day, e.provider || ' ' || e.model, 'mode ' || e.mode, e.scope,
      'agent ' || e.agent_id, 'team ' || e.team_id) as subject,
    format('%%s entries, %%s in, %%s out, cache %%s read %%s written, %%s USD, %%s of unknown cost',
      e.entries, e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_write_tokens,
      trim_scale(e.cost), e.unknown) as sums
  from entered e
), found as (
  select concat_ws(', ', d.day, d.provider || ' ' || d.model, 'mode ' || d.mode, d.scope,
      'agent ' || d.agent_id, 'team ' || d.team_id) as subject,
    format('%%s entries, %%s in, %%s out, cache %%s read %%s written, %%s USD, %%s of unknown cost',
      d.entries, d.input_tokens, d.output_tokens, d.cache_read_tokens, d.cache_write_tokens,
      trim_scale(d.cost), d.unknown_cost_entries) as sums
  from jobsworth.ledger_days d
)
select 'a closed day is the sum of its entries' as rule, coalesce(e.subject, f.subject) as subject,
  coalesce(e.sums, 'nothing') as expected, coalesce(f.sums, 'nothing') as found
from expected e
full join found f on f.subject = e.subject
where e.sums is distinct from f.sums
"""


async def _check_days(conn: Connection) -> list[Imbalance]:
    """Compare the sums of closed days with their entries; open days have none."""
    return await fetch_all(conn, DAYS, {}, Imbalance)


WINDOWS: LiteralString = """
with counted as (
  select w.window_id, sum(w.reserved) as reserved, sum(w.spent) as spent
  from jobsworth.call_windows w
  group by w.window_id
), settled as (
  select l.call_id, sum(l.total_tokens) as tokens, sum(l.cost) as cost
  from jobsworth.token_ledger l
  where l.entry <> 'reserve' and not l.reprices
  group by l.call_id
), of_calls as (
  -- An open call counts with its estimate, a settled one with the sum of its entries.
  select w.call_id, b.name as budget, w.reserved, w.spent,
    case when c.settled_at is not null then 0
      when b.unit = 'tokens' then c.estimated_input_tokens::bigint + c.estimated_output_tokens
      else coalesce(c.estimated_cost, 0) end as should_be_reserved,
    -- A call of unknown cost stays at its estimate.
    case when c.settled_at is null then 0
      when b.unit = 'tokens' then t.tokens
      else coalesce(t.cost, w.spent) end as should_be_spent
  from jobsworth.call_windows w
  join jobsworth.budget_windows o on o.id = w.window_id
  join jobsworth.budgets b on b.id = o.budget_id
  join jobsworth.llm_calls c on c.id = w.call_id
  left join settled t on t.call_id = w.call_id
  -- Windows from before a reset may have counted in another unit.
  where o.starts_at >= coalesce(b.reset_at, '-infinity')
)
select 'a window is the sum of its calls' as rule, w.id::text as subject,
  format('%%s reserved, %%s spent', trim_scale(coalesce(c.reserved, 0)),
    trim_scale(coalesce(c.spent, 0))) as expected,
  format('%%s reserved, %%s spent', trim_scale(w.reserved), trim_scale(w.spent)) as found
from jobsworth.budget_windows w
left join counted c on c.window_id = w.id
where w.reserved <> coalesce(c.reserved, 0) or w.spent <> coalesce(c.spent, 0)
union all
select 'a call counts in its windows what it reserves or spent', c.call_id::text,
  format('%%s: %%s reserved, %%s spent', c.budget, trim_scale(c.should_be_reserved),
    trim_scale(c.should_be_spent)),
  format('%%s: %%s reserved, %%s spent', c.budget, trim_scale(c.reserved), trim_scale(c.spent))
from of_calls c
where c.reserved <> c.should_be_reserved or c.spent is distinct from c.should_be_spent
union all
select 'a window counts calls that exist', w.call_id::text, 'a call', 'none'
from jobsworth.call_windows w
where not exists (select 1 from jobsworth.llm_calls c where c.id = w.call_id)
"""


async def _check_windows(conn: Connection) -> list[Imbalance]:
    """Compare the windows of budgets with their calls, and these with the ledger."""
    return await fetch_all(conn, WINDOWS, {}, Imbalance)
