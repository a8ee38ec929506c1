"""The upkeep of what leaves by itself: jobs that have not started in time."""

from functools import partial

from db.pool import Database
from db.queue.upkeep import DueWork
from db.retention import expiry
from worker import events
from worker.daemon.upkeep import DuePart
from worker.log import get_logger

EXPIRE_BATCH = 500
# Claims walk past expired jobs until these are canceled, so one look cancels many.
EXPIRE_BATCHES_MAX = 20

log = get_logger()


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
