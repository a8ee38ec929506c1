"""System: workers, queues and limits, schedules, the database, and the settings in force.

In: the state of the installation. Out: one page of it; a queue paused or resumed. Settings are
shown with their secrets masked.
"""

from datetime import datetime
from itertools import islice
from typing import Any, cast

from fastapi import Response

from db.diagnosis import checkup, upkeep_of_tables
from db.errors import InvalidInput, NotFound
from db.limits import job_limits
from db.pool import Connection
from db.queue import queues, workers
from db.reach import shown_url
from db.schedules import schedules
from db.schedules.schedules import Schedule
from worker.dashboard.frame import Frame, answer
from worker.settings import Settings, settings_reference

NEXT_TIMES = 3


async def page(conn: Connection, frame: Frame) -> Response:
    planned = await schedules.list_all(conn)
    return answer(
        frame,
        "system.html",
        page="system",
        asking=0,
        workers=await workers.list_workers(conn),
        queues=await checkup.queues(conn),
        limits=await job_limits.list_all(conn),
        schedules=[(each, _later(each)) for each in planned],
        firings=await schedules.latest_firings(conn),
        server=await checkup.server(conn),
        oldest=await checkup.oldest_transaction(conn),
        tables=await upkeep_of_tables.largest_tables(conn),
        standbys=await upkeep_of_tables.standbys(conn),
        settings=_settings(frame.settings),
    )


async def act(conn: Connection, queue: str, action: str) -> str:
    """Pause or resume a queue; returns what to say."""
    match action:
        case "pause":
            await queues.pause(conn, queue)
            return f"Queue {queue} is paused: running jobs go on, no other begins."
        case "resume":
            await queues.resume(conn, queue)
            return f"Queue {queue} goes on."
        case _:
            raise NotFound(f"there is no action {action!r}", "choose one of the page's buttons")


def _later(schedule: Schedule) -> list[datetime]:
    """The times after its next one."""
    if schedule.next_at is None:
        return []
    try:
        return list(islice(schedule.timetable().times_after(schedule.next_at), NEXT_TIMES))
    except InvalidInput:  # said as its problem
        return []


def _settings(settings: Settings) -> list[tuple[str, str, str]]:
    """Each setting that somebody has set, as the environment names it, and what it does."""
    return [
        (each.env_name, _value(name, getattr(settings, name)), each.description)
        for name, each in zip(Settings.model_fields, settings_reference(), strict=True)
        if name in settings.model_fields_set
    ]


def _value(name: str, value: Any) -> str:
    """As one writes it; a secret shows stars, a database's address no password."""
    if isinstance(value, tuple):
        return ",".join(map(str, cast("tuple[object, ...]", value)))
    return shown_url(str(value)) if name == "database_url" and value else str(value)
