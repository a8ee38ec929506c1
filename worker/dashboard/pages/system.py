"""System: workers, queues, schedules, the database, and the settings in force.

In: the state of the installation. Out: one page of it; a queue paused or resumed. Settings are
shown with their secrets masked.
"""

from fastapi import Response

from db.diagnosis import checkup
from db.errors import NotFound
from db.pool import Connection
from db.queue import queues, workers
from db.reach import shown_url
from db.schedules import schedules
from worker.dashboard.frame import Frame, answer
from worker.settings import Settings, settings_reference


async def page(conn: Connection, frame: Frame) -> Response:
    return answer(
        frame,
        "system.html",
        page="system",
        asking=0,
        workers=await workers.list_workers(conn),
        queues=await checkup.queues(conn),
        schedules=await schedules.list_all(conn),
        server=await checkup.server(conn),
        oldest=await checkup.oldest_transaction(conn),
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


def _settings(settings: Settings) -> list[tuple[str, str, str]]:
    """Each setting that somebody has set, as the environment names it, and what it does."""
    return [
        (each.env_name, _value(name, getattr(settings, name)), each.description)
        for name, each in zip(Settings.model_fields, settings_reference(), strict=True)
        if name in settings.model_fields_set
    ]


def _value(name: str, value: object) -> str:
    """A secret shows stars; a database's address shows no password."""
    return shown_url(str(value)) if name == "database_url" and value else str(value)
