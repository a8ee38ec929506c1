"""What was spent: sums over the ledger, by time and by what a call belongs to.

In: a span of time and a dimension. Out: sums of what was settled, corrections included. Closed days
are read from their sums (`db.money.days`), everything else from the entries, in one snapshot.
Invariant: the numbers equal the sum of all entries; an unknown cost is left out of a sum and
counted, never taken for zero.

A correction counts on the day it is made, as in any books: closed days stay as they were. One that
makes an unknown cost known subtracts one from `unknown_cost_entries`, which is therefore negative
in a span that holds only the correction; sums over longer spans come out right.
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Literal, LiteralString
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from db.errors import InvalidInput
from db.money.amount import checked_amount
from db.money.calls import LedgerScope, Usage
from db.pool import Connection, fetch_all, fetch_one

DAYS_BACK_MAX = 36_500


class Spent(BaseModel):
    """A sum of ledger entries. `cost` is the sum of the known costs (None if none is known);
    `unknown_cost_entries` says how many entries it leaves out.
    """

    model_config = ConfigDict(frozen=True)

    entries: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    total_tokens: int
    cost: Decimal | None
    unknown_cost_entries: int


class DailyUsage(Spent):
    day: date


class ModelUsage(Spent):
    provider: str
    model: str
    scope: LedgerScope


class UsageBy(Spent):
    """`key` is None for entries without that property (a call outside any job has no mode)."""

    key: str | None


DAILY_USAGE: LiteralString = """
select d.day, coalesce(sum(s.entries), 0)::bigint as entries,
  coalesce(sum(s.input_tokens), 0)::bigint as input_tokens,
  coalesce(sum(s.output_tokens), 0)::bigint as output_tokens,
  coalesce(sum(s.cache_read_tokens), 0)::bigint as cache_read_tokens,
  coalesce(sum(s.cache_write_tokens), 0)::bigint as cache_write_tokens,
  coalesce(sum(s.input_tokens + s.output_tokens), 0)::bigint as total_tokens,
  case when count(s.day) = 0 then 0 else sum(s.cost) end as cost,
  coalesce(sum(s.unknown_cost_entries), 0)::bigint as unknown_cost_entries
from (select coalesce(%(day)s::date, (now() at time zone 'utc')::date) as day) d
left join lateral jobsworth.spent(
  d.day::timestamp at time zone 'utc', (d.day + 1)::timestamp at time zone 'utc', %(team_id)s::uuid
) s on true
group by d.day
"""


async def get_daily_usage(
    conn: Connection, day: date | None = None, *, team_id: UUID | None = None
) -> DailyUsage:
    """What was spent on one day (UTC; today by default), by all teams unless one is named."""
    row = await fetch_one(conn, DAILY_USAGE, {"day": day, "team_id": team_id}, DailyUsage)
    assert row is not None
    return row


SPENT_COLUMNS: LiteralString = """
  sum(s.entries)::bigint as entries,
  sum(s.input_tokens)::bigint as input_tokens,
  sum(s.output_tokens)::bigint as output_tokens,
  sum(s.cache_read_tokens)::bigint as cache_read_tokens,
  sum(s.cache_write_tokens)::bigint as cache_write_tokens,
  sum(s.input_tokens + s.output_tokens)::bigint as total_tokens,
  sum(s.cost) as cost,
  sum(s.unknown_cost_entries)::bigint as unknown_cost_entries
"""

STATS: LiteralString = (
    "select s.provider, s.model, s.scope,"
    + SPENT_COLUMNS
    + """from jobsworth.spent(
  now() - make_interval(days => %(days_back)s), null, %(team_id)s::uuid) s
group by s.provider, s.model, s.scope
order by sum(s.input_tokens + s.output_tokens) desc, s.provider, s.model, s.scope
"""
)


async def get_stats(
    conn: Connection, days_back: int = 30, *, team_id: UUID | None = None
) -> list[ModelUsage]:
    """What was spent in the last `days_back` times 24 hours, by provider, model and scope."""
    if not 1 <= days_back <= DAYS_BACK_MAX:
        raise InvalidInput(
            f"days_back is {days_back}", f"give a whole number from 1 to {DAYS_BACK_MAX:,}"
        )
    return await fetch_all(conn, STATS, {"days_back": days_back, "team_id": team_id}, ModelUsage)


Dimension = Literal[
    "day", "model", "answered", "mode", "provider", "scope", "agent", "team", "run", "thread", "job"
]
# The sums of days do not keep these: most have as many values as there are jobs.
UNSUMMED = ("run", "thread", "job", "answered")


async def usage_by(
    conn: Connection,
    by: Dimension,
    since: datetime | None = None,
    *,
    until: datetime | None = None,
    team_id: UUID | None = None,
) -> list[UsageBy]:
    """What was spent from `since` (default: the beginning) and before `until` (default: now), one
    row for each value of `by`.

    Models read `provider:model`, days `YYYY-MM-DD` (UTC). `model` is the one that was asked,
    `answered` the one that answered. By that, by run, thread or job, every entry of the span is
    read.
    """
    for instant in (since, until):
        if instant is not None and instant.tzinfo is None:
            raise InvalidInput(
                f"the instant {instant.isoformat()} has no time zone",
                f"write it like {instant.replace(tzinfo=UTC).isoformat()}",
            )
    read = _by_entries if by in UNSUMMED else _by_days
    return await read(conn, by, since, until, team_id)


USAGE_BY: LiteralString = (
    """
select case %(by)s
    when 'mode' then s.mode
    when 'model' then s.provider || ':' || s.model
    when 'provider' then s.provider
    when 'scope' then s.scope::text
    when 'day' then to_char(s.day, 'YYYY-MM-DD')
    when 'agent' then s.agent_id::text
    when 'team' then s.team_id::text
  end as key,"""
    + SPENT_COLUMNS
    + """from jobsworth.spent(%(since)s::timestamptz, %(until)s::timestamptz, %(team_id)s::uuid) s
group by 1
order by 1 nulls last
"""
)


async def _by_days(
    conn: Connection,
    by: Dimension,
    since: datetime | None,
    until: datetime | None,
    team_id: UUID | None,
) -> list[UsageBy]:
    values = {"by": by, "since": since, "until": until, "team_id": team_id}
    return await fetch_all(conn, USAGE_BY, values, UsageBy)


USAGE_BY_ENTRIES: LiteralString = """
select case %(by)s
    when 'run' then l.run_id::text
    when 'thread' then l.thread_id::text
    when 'job' then l.job_id::text
    when 'answered' then l.provider || ':' || coalesce(
      (select c.answered_model from jobsworth.llm_calls c where c.id = l.call_id), l.model)
  end as key,
  count(*) as entries,
  sum(l.input_tokens)::bigint as input_tokens,
  sum(l.output_tokens)::bigint as output_tokens,
  sum(l.cache_read_tokens)::bigint as cache_read_tokens,
  sum(l.cache_write_tokens)::bigint as cache_write_tokens,
  sum(l.total_tokens)::bigint as total_tokens,
  sum(l.cost) as cost,
  sum(coalesce(l.unknown_costs, (l.cost is null and l.entry <> 'adjust')::int))::bigint
    as unknown_cost_entries
from jobsworth.token_ledger l
where l.occurred_at >= coalesce(%(since)s::timestamptz, '-infinity')
  and l.occurred_at < coalesce(%(until)s::timestamptz, 'infinity')
  and l.entry in ('settle', 'adjust')
  and (%(team_id)s::uuid is null or l.team_id = %(team_id)s)
group by 1
order by 1 nulls last
"""


async def _by_entries(
    conn: Connection,
    by: Dimension,
    since: datetime | None,
    until: datetime | None,
    team_id: UUID | None,
) -> list[UsageBy]:
    values = {"by": by, "since": since, "until": until, "team_id": team_id}
    return await fetch_all(conn, USAGE_BY_ENTRIES, values, UsageBy)


LOG: LiteralString = """
insert into jobsworth.token_ledger (
  team_id, job_id, thread_id, agent_id, run_id, entry, scope, mode, provider, model, input_tokens,
  output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost, price_version)
values (
  %(team_id)s, %(job_id)s, %(thread_id)s, %(agent_id)s, %(run_id)s, 'settle', %(scope)s, %(mode)s,
  %(provider)s, %(model)s, %(input_tokens)s, %(output_tokens)s, %(cache_read_tokens)s,
  %(cache_write_tokens)s, %(reasoning_tokens)s, %(cost)s, %(price_version)s)
returning id
"""


async def log(
    conn: Connection,
    *,
    provider: str,
    model: str,
    usage: Usage,
    cost: Decimal | None = None,
    price_version: str | None = None,
    scope: LedgerScope = LedgerScope.PROACTIVE,
    mode: str | None = None,
    job_id: UUID | None = None,
    thread_id: UUID | None = None,
    agent_id: UUID | None = None,
    run_id: UUID | None = None,
    team_id: UUID | None = None,
) -> UUID:
    """Enter spend of a call that Jobsworth did not make; returns the id of the entry."""
    row = await fetch_one(
        conn,
        LOG,
        {
            "team_id": team_id,
            "job_id": job_id,
            "thread_id": thread_id,
            "agent_id": agent_id,
            "run_id": run_id,
            "scope": scope,
            "mode": mode,
            "provider": provider,
            "model": model,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "cost": checked_amount(cost),
            "price_version": price_version,
        },
    )
    assert row is not None
    return row["id"]
