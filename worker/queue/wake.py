"""LISTEN: hints that there may be work, a timer, or a cancel.

In: notifications, on a direct connection (a pooler in transaction mode cannot LISTEN). Out: calls.
A missed notification costs at most one poll interval: polling is the truth.
"""

from collections.abc import Callable
from random import random
from typing import LiteralString

import anyio
import psycopg

from db.schema import render
from worker import events
from worker.log import get_logger

LISTEN_WAKE: LiteralString = 'listen "jobsworth.wake"'
LISTEN_CANCEL: LiteralString = 'listen "jobsworth.cancel"'
RECONNECT_SECONDS_MAX = 5.0

log = get_logger()


async def listen(
    url: str,
    schema: str,
    *,
    work: Callable[[], None],
    timer: Callable[[], None],
    cancel: Callable[[], None],
) -> None:
    """Call back for each notification until cancelled, reconnecting as often as it takes."""
    pause = 0.1
    lost = False
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(
                url, autocommit=True, connect_timeout=3, application_name="jobsworth listen"
            )
            async with connection:
                await connection.execute(render(LISTEN_WAKE, schema))
                await connection.execute(render(LISTEN_CANCEL, schema))
                if lost:
                    log.info(events.LISTEN_RECOVERED)
                pause, lost = 0.1, False
                work()  # something may have come while nobody listened
                cancel()
                while True:
                    async for notification in connection.notifies(timeout=0):
                        _dispatch(notification, work, timer, cancel)
                    # Without this, `notifies` looks ten times a second.
                    await anyio.wait_readable(connection.fileno())
        except psycopg.Error as error:
            if not lost:
                log.warning(events.LISTEN_LOST, error=str(error).splitlines()[0])
            lost = True
        await anyio.sleep(pause * (0.5 + random()))
        pause = min(RECONNECT_SECONDS_MAX, pause * 2)


def _dispatch(
    notification: psycopg.Notify,
    work: Callable[[], None],
    timer: Callable[[], None],
    cancel: Callable[[], None],
) -> None:
    if notification.channel.endswith(".cancel"):
        cancel()
    elif notification.payload == "timer":
        timer()
    else:
        work()
