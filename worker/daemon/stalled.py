"""Ends transactions of workers that have been stopped while they hold jobs.

In: the server's processes, as each common look finds them. Out: those that have waited for their
client at one statement for eight seconds are terminated, so that their jobs can be claimed, or
rescued, by others: 13 s after the client stopped at the latest, as a look comes every 2.4 s.
"""

from time import monotonic

from db.pool import Database
from db.queue.stalled import Stalled, end_stalled
from db.queue.upkeep import DueWork
from worker import events
from worker.daemon.upkeep import DuePart
from worker.log import get_logger

STALLED_SECONDS = 8.0

log = get_logger()


def due_parts(database: Database) -> list[DuePart]:
    """What the common look finds; told of each look, because those that wait no more count anew."""
    return [DuePart("stalled", lambda _: True, Stalls(database).end)]


class Stalls:
    """Remembers since when which server processes wait for their clients."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._since: dict[Stalled, float] = {}

    async def end(self, found: DueWork) -> bool:
        """Terminate those that have waited for too long; asks the database only then."""
        now = monotonic()
        self._since = {one: self._since.get(one, now) for one in found.stalled}
        late = [one for one, since in self._since.items() if now - since >= STALLED_SECONDS]
        if not late:
            return False
        async with self._database.connection() as connection:
            ended = await end_stalled(connection, late)
        if ended:
            log.warning(events.TRANSACTIONS_ENDED, transactions=ended)
        return False
