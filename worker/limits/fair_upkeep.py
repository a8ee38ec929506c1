"""Upkeep of fair queues: keys for jobs that were there before, and keys that nobody announced.

In: the fair queues. Out: jobs with keys, which claims find. The work comes in slices, and there is
none without a fair queue.
"""

from db.limits import fairness
from db.pool import Connection, Database
from db.queue.claim import FIRST
from db.queue.upkeep import DueWork
from worker import crash_points
from worker.daemon.upkeep import Did, DuePart, Part
from worker.limits.fair_queues import FairQueues
from worker.queue.wake import Wakes

FAIRNESS_PERIOD_SECONDS = 2.0
# Until all jobs of a queue that became fair have their keys.
BACKLOG_PAUSE_SECONDS = 0.02
KEY_JOBS_BATCH = 1000
ANNOUNCE_BATCH = 500
NO_KEY = (0, "")


def parts(database: Database, fair: FairQueues, wakes: Wakes) -> list[Part]:
    """What has to look for itself."""
    return [
        Part(
            "fairness",
            FAIRNESS_PERIOD_SECONDS,
            Fairness(database, fair).work,
            wakes=wakes.work,
            woken_by=wakes.fair_queues,
        )
    ]


def due_parts(fair: FairQueues, wakes: Wakes) -> list[DuePart]:
    """What the common look finds: the names of the fair queues."""

    async def tell(found: DueWork) -> bool:
        news = fair.found(found.fair_queues)
        if news:
            wakes.fair_queues.set()
        return news

    return [
        DuePart(
            "fair queues",
            lambda found: bool(found.fair_queues or fair.rescans),
            tell,
            wakes=wakes.work,
        )
    ]


class Fairness:
    """Brings the jobs of fair queues into the order of keys, slice by slice."""

    def __init__(self, database: Database, fair: FairQueues) -> None:
        self._database = database
        self._fair = fair
        self._keyed_to: dict[str, int] = {}
        self._announced_to: dict[str, tuple[int, str]] = {}
        self._settled: set[str] = set()

    async def work(self) -> Did:
        """One slice of each queue; the next one at once until the end was reached once."""
        moved = False
        queues = list(self._fair.rescans)
        self._settled &= set(queues)
        for queue in queues:
            async with self._database.connection() as connection:
                moved = await self._slice(connection, queue) or moved
        return Did(moved, BACKLOG_PAUSE_SECONDS if set(queues) > self._settled else None)

    async def _slice(self, connection: Connection, queue: str) -> bool:
        position = self._keyed_to.get(queue, FIRST)
        keyed, stopped = await fairness.key_jobs(connection, queue, position, KEY_JOBS_BATCH)
        if keyed:
            crash_points.reach("fair.keyed")
        self._keyed_to[queue] = FIRST if stopped is None else stopped
        if stopped is None:
            self._settled.add(queue)
        key = self._announced_to.get(queue, NO_KEY)
        last = await fairness.announce_keys(connection, queue, key, ANNOUNCE_BATCH)
        self._announced_to[queue] = last or NO_KEY
        return keyed > 0
