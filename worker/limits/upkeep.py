"""The limits' upkeep: turns at rates when they are due, and a sweep of the gates.

In: jobs that wait at gates. Out: those that have room, queued. A worker that set jobs aside at a
rate looks at once; after that every worker knows when the next one is due, and asks nobody until
then.
"""

from time import monotonic

from db.limits import gates
from db.pool import Database
from db.queue.upkeep import DueWork
from worker.daemon.heartbeat import Heartbeat
from worker.daemon.upkeep import Did, DuePart, Part
from worker.queue.wake import Wakes

KEYS_BATCH = 200
# One worker of all looks at so many gates in a sweep, the others at a few.
GATES_BATCH_FIRST = 1000
GATES_BATCH = 50
SLEEP_SECONDS = 60.0
SLACK_SECONDS = 0.002


class Gates:
    """Gives turns to jobs that wait at gates."""

    def __init__(self, database: Database, heartbeat: Heartbeat, wakes: Wakes) -> None:
        self._database = database
        self._heartbeat = heartbeat
        self._wakes = wakes
        self._due_at: float | None = None
        self._swept_to = gates.FIRST_GATE

    def part(self) -> Part:
        """Works when a rate is due, and when this worker has set jobs aside."""
        return Part(
            "rates", SLEEP_SECONDS, self.work, wakes=self._wakes.work, woken_by=self._wakes.rates
        )

    def due_parts(self) -> list[DuePart]:
        """Hear from the common look when a rate is due, and whether anything waits."""
        return [
            DuePart("rates", lambda found: found.rate_in is not None, self._hear),
            DuePart("gates", lambda found: found.gates, self.sweep),
        ]

    async def _hear(self, found: DueWork) -> bool:
        due_at = monotonic() + max(found.rate_in or 0.0, 0.0)
        if self._due_at is None or due_at < self._due_at:
            self._wakes.rates.set()
        return False

    async def work(self) -> Did:
        """Give turns where they are due; sleeps until the next one."""
        async with self._database.connection() as connection:
            next_in = await gates.promote_due(connection, KEYS_BATCH)
        if next_in is None:
            moved, self._due_at = self._due_at is not None, None
            return Did(moved, SLEEP_SECONDS)
        pause = min(max(next_in + SLACK_SECONDS, 0.0), SLEEP_SECONDS)
        self._due_at = monotonic() + pause
        return Did(moved=True, pause_seconds=pause)

    async def sweep(self, found: DueWork) -> bool:
        """Look at a slice of the gates."""
        del found
        most = GATES_BATCH_FIRST if self._heartbeat.is_first() else GATES_BATCH
        async with self._database.connection() as connection:
            self._swept_to = await gates.sweep(connection, self._swept_to, most)
        return False  # what moves on wakes the workers that can take it


def parts(
    database: Database, heartbeat: Heartbeat, wakes: Wakes
) -> tuple[list[Part], list[DuePart]]:
    """What works by itself, and what the common look wakes."""
    found = Gates(database, heartbeat, wakes)
    return [found.part()], found.due_parts()
