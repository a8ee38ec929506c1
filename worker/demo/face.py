"""The demo's dashboard: served while it plays, and for as long as somebody looks at it afterwards.

In: the stage and its database. Out: an address. Invariant: nothing is made that outlives the demo:
in a database of the user's own, where roles would stay behind, there is no dashboard.
"""

import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import anyio

from db.people import roles
from db.pool import Database
from worker.demo.stage import Stage


@asynccontextmanager
async def dashboard_of(stage: Stage, database: Database) -> AsyncGenerator[str | None]:
    """Serve the dashboard until the block ends; its address, None where there is none."""
    if not stage.embedded:
        yield None
        return
    # Only here: FastAPI and uvicorn take memory.
    from worker.web.face import app_for
    from worker.web.server import listen, serve

    async with database.connection() as conn:
        await roles.create(conn)
    listener = await listen("127.0.0.1", 0)
    async with anyio.create_task_group() as tasks:
        url = await tasks.start(partial(serve, logged=False), listener, app_for(database))
        yield f"{url}/ui"
        tasks.cancel_scope.cancel()


def is_watched() -> bool:
    """Whether somebody is there who can end it."""
    return sys.stdin.isatty() and sys.stdout.isatty()


async def until_interrupted() -> None:
    """Return at Ctrl-C or SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return
