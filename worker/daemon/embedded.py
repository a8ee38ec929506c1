"""The embedded database of a worker: started before it, kept up while it runs.

In: the settings. Out: the URL of the database. Invariant: a server that ends while the worker runs
(a crash, somebody's `kill`) runs again within seconds, and recovers what was committed. Whoever
stops it for good stops its workers first.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from db.errors import JobsworthError
from db.migrate import migrate
from db.server.embedded import Embedded, start
from worker import events
from worker.log import get_logger
from worker.repeats import Repeats
from worker.settings import Settings

LOOK_SECONDS = 1.0

log = get_logger()


@asynccontextmanager
async def database_of(settings: Settings) -> AsyncGenerator[tuple[str, Embedded | None]]:
    """The database's URL, and the embedded server that holds it, if it is one."""
    if settings.database_url is not None:
        yield settings.database_url, None
        return
    embedded: Embedded = await anyio.to_thread.run_sync(start, settings.data_dir)
    try:
        await anyio.to_thread.run_sync(migrate, embedded.url, settings.schema_name)
        yield embedded.url, embedded
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(embedded.close)


async def keep_up(embedded: Embedded, stopped: anyio.Event) -> None:
    """Start the server again whenever it has ended, until the worker is told to stop: what ends
    both of them, as the machine's shutdown, is not held up.
    """
    repeats = Repeats()
    while not stopped.is_set():
        with anyio.move_on_after(LOOK_SECONDS):
            await stopped.wait()
            return
        try:
            if await anyio.to_thread.run_sync(embedded.keep_up):
                log.warning(events.DATABASE_STARTED, data_dir=str(embedded.data_dir))
        except JobsworthError as error:
            if repeats.due(str(error)):
                log.error(events.DATABASE_NOT_STARTED, error=error.message, remedy=error.remedy)
