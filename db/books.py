"""Do the books balance? The calls and the ledger, held against each other.

In: `llm_calls` (one row per call, changed once) and `token_ledger` (append-only), which are written
by different statements' parts and could drift apart. Out: every place where they do not agree; none
means that the books balance. One statement, so one snapshot of both.
"""

from typing import LiteralString

from pydantic import BaseModel, ConfigDict

from db.pool import Connection, fetch_all


class Imbalance(BaseModel):
    """One disagreement: `rule` is broken for `subject` (a call, an entry, or a model)."""

    model_config = ConfigDict(frozen=True)

    rule: str
    subject: str
    expected: str
    found: str


CHECK: LiteralString = """
with entries as materialized (
  -- Of each call: how many entries of each kind, and what they say.
  select l.call_id, l.entry, count(*) as times, min(l.provider || ' ' || l.model) as model,
    sum(l.input_tokens) as input_tokens, sum(l.output_tokens) as output_tokens,
    sum(l.cache_read_tokens) as cache_read_tokens, sum(l.cache_write_tokens) as cache_write_tokens,
    sum(l.cost) as cost
  from jobsworth.token_ledger l
  where l.call_id is not null and l.entry in ('reserve', 'settle')
  group by l.call_id, l.entry
), compared as (
  select c.id, c.settled_at,
    coalesce(r.times, 0) as reserves, coalesce(s.times, 0) as settles,
    row(c.provider || ' ' || c.model, c.estimated_input_tokens, c.estimated_output_tokens,
      trim_scale(c.estimated_cost))::text as estimated,
    row(r.model, r.input_tokens, r.output_tokens, trim_scale(r.cost))::text as reserved,
    row(c.provider || ' ' || c.model, coalesce(c.input_tokens, 0), coalesce(c.output_tokens, 0),
      coalesce(c.cache_read_tokens, 0), coalesce(c.cache_write_tokens, 0),
      trim_scale(c.cost))::text as used,
    row(s.model, s.input_tokens, s.output_tokens, s.cache_read_tokens, s.cache_write_tokens,
      trim_scale(s.cost))::text as settled
  from jobsworth.llm_calls c
  left join entries r on r.call_id = c.id and r.entry = 'reserve'
  left join entries s on s.call_id = c.id and s.entry = 'settle'
), by_calls as (
  select c.provider || ' ' || c.model as model, count(*) as calls,
    coalesce(sum(c.input_tokens), 0) as input_tokens,
    coalesce(sum(c.output_tokens), 0) as output_tokens,
    coalesce(sum(c.cost), 0) as cost
  from jobsworth.llm_calls c
  where c.settled_at is not null
  group by 1
), by_ledger as (
  select l.provider || ' ' || l.model as model, count(*) as calls,
    sum(l.input_tokens) as input_tokens, sum(l.output_tokens) as output_tokens,
    coalesce(sum(l.cost), 0) as cost
  from jobsworth.token_ledger l
  where l.entry = 'settle' and l.call_id is not null
  group by 1
)
select 'a call has one reservation' as rule, c.id::text as subject, '1' as expected,
  c.reserves::text as found
from compared c
where c.reserves <> 1
union all
select 'a settled call has one settlement', c.id::text, '1', c.settles::text
from compared c
where c.settled_at is not null and c.settles <> 1
union all
select 'an open call has no settlement', c.id::text, '0', c.settles::text
from compared c
where c.settled_at is null and c.settles <> 0
union all
select 'a reservation says what was estimated', c.id::text, c.estimated, c.reserved
from compared c
where c.reserves = 1 and c.reserved <> c.estimated
union all
select 'a settlement says what was used', c.id::text, c.used, c.settled
from compared c
where c.settled_at is not null and c.settles = 1 and c.settled <> c.used
union all
select 'calls and ledger have the same sums', coalesce(a.model, b.model),
  row(a.calls, a.input_tokens, a.output_tokens, trim_scale(a.cost))::text,
  row(b.calls, b.input_tokens, b.output_tokens, trim_scale(b.cost))::text
from by_calls a
full join by_ledger b on b.model = a.model
where row(a.calls, a.input_tokens, a.output_tokens, trim_scale(a.cost))::text
  <> row(b.calls, b.input_tokens, b.output_tokens, trim_scale(b.cost))::text
union all
select 'an entry has its call', l.id::text, coalesce(l.call_id::text, 'a call'), 'none'
from jobsworth.token_ledger l
where (l.call_id is not null or l.entry in ('reserve', 'release'))
  and not exists (select 1 from jobsworth.llm_calls c where c.id = l.call_id)
order by rule, subject
"""


async def check(conn: Connection) -> list[Imbalance]:
    """Every disagreement between calls and ledger; empty if the books balance.

    Reads both tables as a whole.
    """
    return await fetch_all(conn, CHECK, {}, Imbalance)
