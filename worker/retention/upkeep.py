"""The upkeep of what leaves by itself: jobs not started in time, and jobs that ended long ago.

In: rows. Out: canceled jobs; fewer rows. Removing is off the hot path: one worker does it, in
batches of about `BATCH_SECONDS`, for a twentieth of the time.
"""

from functools import partial
from time import monotonic
from uuid import UUID

from db.pool import Database
from db.queue.upkeep import DueWork
from db.retention import expiry, removal
from worker import crash_points, events
from worker.daemon.heartbeat import Heartbeat
from worker.daemon.upkeep import Did, DuePart, Part
from worker.log import get_logger

EXPIRE_BATCH = 500
# Claims walk past expired jobs until these are canceled, so one look cancels many.
EXPIRE_BATCHES_MAX = 20

# How many jobs a batch of the removal looks at, and how long it may take.
PAGE_FIRST, PAGE_MIN, PAGE_MAX = 200, 20, 5_000
BATCH_SECONDS = 0.05
# The removal works for a twentieth of the time, and begins anew after a pause at the least.
PAUSE_FACTOR = 19
PERIOD_SECONDS = 60.0
# How often a worker asks itself whether it is the one that removes; that takes no statement.
TURN_SECONDS = 2.0
FIRST_ID = UUID(int=0)

log = get_logger()


def parts(database: Database, heartbeat: Heartbeat) -> list[Part]:
    """What works by itself."""
    return [Part("retention", PERIOD_SECONDS, Removal(database, heartbeat).work)]


def due_parts(database: Database) -> list[DuePart]:
    """What the common look finds."""
    return [
        DuePart("expire jobs", lambda found: found.expired_jobs, partial(_expire, database)),
    ]


async def _expire(database: Database, _found: DueWork) -> bool:
    canceled = 0
    async with database.connection() as connection:
        for _batch in range(EXPIRE_BATCHES_MAX):
            canceled += (expired := await expiry.expire_jobs(connection, EXPIRE_BATCH))
            if expired < EXPIRE_BATCH:
                break
    if canceled:
        log.info(events.JOBS_EXPIRED, jobs=canceled)
    return canceled > 0


class Removal:
    """Goes through the jobs, the oldest first, and removes those kept long enough."""

    def __init__(self, database: Database, heartbeat: Heartbeat) -> None:
        self._database = database
        self._heartbeat = heartbeat
        self._after = FIRST_ID
        self._most = PAGE_FIRST
        self._jobs = self._runs = 0
        self._took_seconds = 0.0

    async def work(self) -> Did:
        """One batch; the pause after it is in proportion to it."""
        if not self._heartbeat.is_first():
            self._after = FIRST_ID
            return Did(pause_seconds=TURN_SECONDS)
        async with self._database.connection() as connection:
            began = monotonic()
            removed = await removal.remove_ended(connection, self._after, self._most)
            took = monotonic() - began
        if removed.busy:
            return Did()
        if removed.jobs or removed.runs:
            crash_points.reach("retention.removed")
        self._most = round(
            max(PAGE_MIN, min(PAGE_MAX, self._most * min(2.0, BATCH_SECONDS / max(took, 0.001))))
        )
        self._jobs += removed.jobs
        self._runs += removed.runs
        self._took_seconds += took
        self._after = removed.next or FIRST_ID
        if removed.next is not None:
            return Did(pause_seconds=took * PAUSE_FACTOR)
        return self._round_is_over()

    def _round_is_over(self) -> Did:
        if self._jobs or self._runs:
            log.info(events.JOBS_REMOVED, jobs=self._jobs, runs=self._runs)
        pause = max(PERIOD_SECONDS, self._took_seconds * PAUSE_FACTOR)
        self._jobs = self._runs = 0
        self._took_seconds = 0.0
        return Did(pause_seconds=pause)
