"""The deployments' upkeep: those that nobody goes on with are ended, and free their environment."""

from functools import partial

from db.pool import Database
from db.queue.upkeep import DueWork
from worker.daemon.upkeep import Did, DuePart, Part
from worker.deployments.record import close_abandoned, close_idle
from worker.queue.wake import Wakes

ENVIRONMENTS_PERIOD_SECONDS = 30.0


def parts(database: Database, wakes: Wakes) -> list[Part]:
    """What has to look for itself."""
    work = partial(_free_environments, database)
    return [Part("environments", ENVIRONMENTS_PERIOD_SECONDS, work, wakes=wakes.work)]


def due_parts(database: Database, wakes: Wakes) -> list[DuePart]:
    """What the common look finds."""
    work = partial(_close_abandoned, database)
    return [DuePart("deployments", lambda found: found.deployments, work, wakes=wakes.work)]


async def _free_environments(database: Database) -> Did:
    return Did(moved=bool(await close_idle(database)))


async def _close_abandoned(database: Database, _: DueWork) -> bool:
    return bool(await close_abandoned(database))
