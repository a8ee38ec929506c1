"""Closing days of the ledger: a closed day is read from its sums (`ledger_days`).

In: the ledger. Out: for each closed day, one row per provider, model, mode, agent, team and scope.
Invariant: the sums of a closed day equal those of its entries, at every moment.

Why nothing can be added to a closed day unnoticed: an entry is timed by the clock while its
transaction holds the ledger's `RowExclusiveLock`, which it keeps until its commit is visible.
`look` lists all holders of that lock (`writers`), a little over an hour after the day's end. Once
these transactions have ended, so has every transaction that can have timed an entry into that day.
(`pg_stat_activity` would show how long a transaction has run, but neither other roles' sessions nor
prepared transactions; locks are visible for all.) An entry with an earlier time of its own meets
the trigger `late_entry_opens_its_day`, which locks the row that `close_day` locks, and reopens the
day if it is closed.
"""

from datetime import date
from typing import LiteralString, NamedTuple

from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val


class Closing(NamedTuple):
    """The last closed day, and the last day that may be closed once `writers` have ended."""

    closed_through: date | None
    closable: date
    writers: list[str]

    def is_done(self) -> bool:
        """Whether there is nothing left to close."""
        return self.closed_through is not None and self.closed_through >= self.closable


# The trigger ignores entries up to an hour old; five minutes more allow for clocks that are set.
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
    """How far the ledger is closed, and which transactions are writing to it right now."""
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
-- In the order of the index: a reader of many days finds the next row in the same block.
order by l.team_id, l.provider, l.model, l.mode, l.agent_id, l.scope
"""
CLOSE: LiteralString = """
update jobsworth.ledger_closing set closed_through = %(day)s, closed_at = now()
"""


async def close_day(conn: Connection, through: date) -> date | None:
    """Close the next day that has entries, `through` at the latest, in the caller's transaction.

    Returns the last closed day; None if another transaction is closing days, or has entered
    something late and not committed yet. Entries of the present never wait for this.
    """
    # Lock first, look in the next statement: it sees late entries committed before the lock was
    # free.
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
