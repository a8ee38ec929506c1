"""The schedules that handlers declare, kept in the database as the code has them.

In: the registry of handlers. Out: rows of `schedules`. Every worker does this once when it starts;
the same declaration changes nothing. A schedule that a person has paused stays paused, one whose
handler declares it no more is paused, and one that a person made by hand is left alone.
"""

from collections.abc import Mapping

from db.errors import JobsworthError
from db.pool import Database
from db.schedules import schedules
from worker import events
from worker.daemon.upkeep import Did, Part
from worker.handlers import Handler
from worker.log import get_logger

ONCE_SECONDS = 3_600.0
AGAIN_SECONDS = 5.0

log = get_logger()


class Declared:
    """The upkeep's part that writes the declarations once."""

    def __init__(self, database: Database, registry: Mapping[str, Handler]) -> None:
        self._database = database
        self._registry = registry
        self._done = False

    def part(self) -> Part:
        """Works until it has succeeded once."""
        return Part("declared schedules", ONCE_SECONDS, self.work)

    async def work(self) -> Did:
        """Write what differs; tries again soon after a lost connection."""
        if self._done:
            return Did()
        try:
            await self._write()
        except JobsworthError as error:
            if error.retriable:
                log.warning(events.UPKEEP_FAILED, part="declared schedules", error=error)
                return Did(pause_seconds=AGAIN_SECONDS)
            raise
        self._done = True
        return Did()

    async def _write(self) -> None:
        declared = [one.schedule for one in self._registry.values() if one.schedule is not None]
        async with self._database.connection() as connection:
            undeclared = await schedules.pause_undeclared(
                connection, list(self._registry), [one.name for one in declared]
            )
            if undeclared:
                log.warning(events.SCHEDULE_UNDECLARED, schedules=undeclared)
            for one in declared:
                try:
                    await schedules.add(connection, one, replace=True, declared=True)
                except JobsworthError as error:
                    if error.retriable:
                        raise
                    log.error(
                        events.SCHEDULE_REFUSED,
                        schedule=one.name,
                        error=error.message,
                        remedy=error.remedy,
                    )
