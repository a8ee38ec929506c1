"""Ends transactions of workers that have been stopped while they hold jobs.

In: the server's processes, every few seconds. Out: those that have waited for their client at one
statement for ten seconds are terminated, so that their jobs can be claimed, or rescued, by others.
"""

from time import monotonic

from db.pool import Database
from db.queue.stalled import Stalled, end_stalled, find_stalled
from worker import events
from worker.daemon.upkeep import Did, Part
from worker.log import get_logger

PERIOD_SECONDS = 5.0
STALLED_SECONDS = 10.0

log = get_logger()


def part(database: Database) -> Part:
    """The part of upkeep that looks for them."""
    return Part("stalled", PERIOD_SECONDS, Stalls(database).end)


class Stalls:
    """Remembers since when which server processes wait for their clients."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._since: dict[Stalled, float] = {}

    async def end(self) -> Did:
        """Look once; terminate those that have waited for too long."""
        async with self._database.connection() as connection:
            found = await find_stalled(connection)
            now = monotonic()
            self._since = {one: self._since.get(one, now) for one in found}
            late = [one for one, since in self._since.items() if now - since >= STALLED_SECONDS]
            ended = await end_stalled(connection, late) if late else 0
        if ended:
            log.warning(events.TRANSACTIONS_ENDED, transactions=ended)
        return Did()
