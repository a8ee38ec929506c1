"""Closing days of the ledger: a closed day is read from its sums (`ledger_days`).

In: the ledger. Out: for each day that is closed, a row for each provider, model, mode, agent, team
and scope. Invariant: the sums of a closed day are those of its entries, at every moment.

That nothing can still be added to a day is known so. An entry is timed by the clock while its
transaction holds the ledger's `RowExclusiveLock`, which it takes before and keeps until after its
commit is visible. So whoever looks, an hour and a bit after the day's end, at all who hold that
lock (`look`, `writers`), and then waits until none of these transactions is left, has seen the end
of every transaction that can have timed an entry into that day. `pg_stat_activity` would tell since
when a transaction runs, but not of other roles' sessions, and not of prepared ones; locks are shown
of all. What is entered with an earlier time of its own choice meets the trigger
`late_entry_opens_its_day`, which locks the row that `close_day` locks, and opens the day again if
it is closed.
"""

from datetime import date
from typing import LiteralString, NamedTuple

from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val


class Closing(NamedTuple):
    """Up to which day the ledger is closed, up to which it may be once `writers` have ended."""

    closed_through: date | None
    closable: date
    writers: list[str]

    def is_done(self) -> bool:
        """Whether there is nothing left to close."""
        return self.closed_through is not None and self.closed_through >= self.closable


# An hour is what the trigger lets pass, five minutes are for clocks that are set.
LOOK: LiteralString = """
select c.closed_through,
  ((clock_timestamp() - interval '65 minutes') at time zone 'utc')::date - 1 as closable,
  array(
    select k.virtualtransaction
    from pg_catalog.pg_locks k
    join pg_catalog.pg_database d on d.oid = k.database and d.datname = current_database()
    where k.locktype = 'relation' and k.mode = 'RowExclusiveLock'
      and k.relation = 'jobsworth.token_ledger'::regclass) as writers
from jobsworth.ledger_closing c
"""


async def look(conn: Connection) -> Closing:
    """How far the ledger is closed, and who is writing into it right now."""
    found = await fetch_one(conn, LOOK)
    assert found is not None
    return Closing(**found)


LOCK: LiteralString = """
select c.closed_through from jobsworth.ledger_closing c for update skip locked
"""
NEXT_DAY: LiteralString = """
select (min(l.occurred_at) at time zone 'utc')::date
from jobsworth.token_ledger l
where l.occurred_at >= coalesce(
    (%(closed_through)s::date + 1)::timestamp at time zone 'utc', '-infinity')
  and l.occurred_at < (%(through)s::date + 1)::timestamp at time zone 'utc'
"""
ROLL: LiteralString = """
insert into jobsworth.ledger_days (
  day, team_id, provider, model, mode, agent_id, scope, entries, input_tokens, output_tokens,
  cache_read_tokens, cache_write_tokens, cost, unknown_cost_entries)
select %(day)s::date, l.team_id, l.provider, l.model, l.mode, l.agent_id, l.scope, count(*),
  sum(l.input_tokens), sum(l.output_tokens), sum(l.cache_read_tokens), sum(l.cache_write_tokens),
  sum(l.cost), sum(coalesce(l.unknown_costs, (l.cost is null and l.entry <> 'adjust')::int))
from jobsworth.token_ledger l
where l.occurred_at >= %(day)s::date::timestamp at time zone 'utc'
  and l.occurred_at < (%(day)s::date + 1)::timestamp at time zone 'utc'
  and l.entry in ('settle', 'adjust')
group by l.team_id, l.provider, l.model, l.mode, l.agent_id, l.scope
-- As the index has them: who reads many days finds the next row in the same block.
order by l.team_id, l.provider, l.model, l.mode, l.agent_id, l.scope
"""
CLOSE: LiteralString = """
update jobsworth.ledger_closing set closed_through = %(day)s, closed_at = now()
"""


async def close_day(conn: Connection, through: date) -> date | None:
    """Close the next day that has entries, `through` at the latest, in the caller's transaction.

    Returns the day up to which all are closed then; None if somebody else is at it, or entered
    something late that is not committed yet. Nobody who writes as of now waits for this.
    """
    # Lock, and look in the next statement: it sees what was entered late before the lock was free.
    locked = await fetch_all(conn, LOCK)
    if not locked:
        return None
    closed_through: date | None = locked[0]["closed_through"]
    if closed_through is not None and closed_through >= through:
        return closed_through
    values = {"closed_through": closed_through, "through": through}
    day: date | None = await fetch_val(conn, NEXT_DAY, values)
    if day is not None:
        await execute(conn, ROLL, {"day": day})
    await execute(conn, CLOSE, {"day": day or through})
    return day or through
