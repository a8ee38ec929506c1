"""The approvals' upkeep: those past their deadline take their default."""

from functools import partial

from db.approvals import approvals
from db.pool import Database
from db.queue.upkeep import DueWork
from worker import events
from worker.daemon.upkeep import DuePart
from worker.log import get_logger
from worker.queue.wake import Wakes

EXPIRE_BATCH = 100

log = get_logger()


def due_parts(database: Database, wakes: Wakes) -> list[DuePart]:
    """What the common look finds."""
    return [
        DuePart("expire", lambda found: found.expire, partial(_expire, database), wakes=wakes.work)
    ]


async def _expire(database: Database, _: DueWork) -> bool:
    async with database.connection() as connection:
        expired = await approvals.expire(connection, EXPIRE_BATCH)
    if expired:
        log.info(events.APPROVALS_EXPIRED, approvals=expired)
    return bool(expired)
