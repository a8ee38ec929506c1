"""The schedules' upkeep: fire what is due, write what handlers declare."""

from collections.abc import Mapping

from db.pool import Database
from worker.daemon.upkeep import DuePart, Part
from worker.handlers import Handler
from worker.queue.wake import Wakes
from worker.schedules.declared import Declared
from worker.schedules.fire import Schedules


def parts(
    database: Database, registry: Mapping[str, Handler], wakes: Wakes
) -> tuple[list[Part], list[DuePart]]:
    """What works by itself, and what the common look wakes."""
    schedules = Schedules(database, wakes)
    found = [schedules.part()]
    if registry:
        found.append(Declared(database, registry).part())
    return found, [schedules.due_part()]
