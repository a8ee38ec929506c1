"""Closing the days of the ledger, a part of upkeep.

In: what `db.money.days` finds. Out: closed days, one after the other, each in its own transaction.
Invariant: a day is closed only when every transaction that was writing into the ledger at its end
has ended, so nothing can be added to it any more.

Every daemon does this. Two never close the same day, and a daemon killed half-way has closed none.
"""

from datetime import date

from db.money import days
from db.pool import Database
from worker import events
from worker.log import get_logger

# Nothing waits for it: reads take the entries of a day that is not closed yet.
PERIOD_SECONDS = 600.0
# How soon to look again while a transaction runs that could add to the day.
WRITERS_PAUSE_SECONDS = 5.0
# Between two days, so that the work of a year does not come all at once.
DAY_PAUSE_SECONDS = 0.1

log = get_logger()


class Closer:
    """Remembers which transactions were writing when a day had ended."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._closable: date | None = None
        self._writers: frozenset[str] = frozenset()

    async def work(self) -> float | None:
        """Close at most one day; returns how soon to work again, None if nothing is left."""
        async with self._database.connection() as connection:
            found = await days.look(connection)
        if found.is_done():
            return None
        if found.closable != self._closable:
            self._closable, self._writers = found.closable, frozenset(found.writers)
        # Those that wrote at the first look and still do.
        self._writers &= frozenset(found.writers)
        if self._writers:
            return WRITERS_PAUSE_SECONDS
        async with self._database.transaction() as connection:
            closed_through = await days.close_day(connection, found.closable)
        if closed_through is None:
            return None
        log.info(events.LEDGER_CLOSED, day=str(closed_through))
        return None if closed_through >= found.closable else DAY_PAUSE_SECONDS
