"""Wake-ups: the events by which the daemon's parts say "look again", and LISTEN, which sets them.

In: notifications, on a direct connection (a pooler in transaction mode cannot LISTEN). Out: events.
A lost notification costs at most one poll interval: notifications are hints, polling is the truth.
A connection that has heard nothing for some seconds tests itself, because a dead one is silent too.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import random
from typing import Any, LiteralString

import anyio
import psycopg

from db.errors import Unavailable, of_driver
from db.network import bounded_url
from db.pool import bounded
from db.schema import render
from db.sessions import begin_session, connect_parameters
from worker import events
from worker.daemon.vitals import Vitals
from worker.log import get_logger

LISTEN_WAKE: LiteralString = 'listen "jobsworth.wake"'
LISTEN_CANCEL: LiteralString = 'listen "jobsworth.cancel"'
RECONNECT_SECONDS_MAX = 5.0
SILENCE_SECONDS = 4.0
ANSWER_SECONDS = 3.0
DIRECT_REMEDY = (
    "a pooler (PgBouncer) is in between: set JOBSWORTH_LISTEN_URL to the server itself; until then "
    "an idle worker finds new jobs by polling"
)

log = get_logger()


class Wake:
    """Says "look again" to the one part that waits for it. Setting it twice is setting it once."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Have the part look again: at once if it waits, else right after its current look."""
        self._event.set()

    def clear(self) -> None:
        """Forget what was set so far: the look that begins now will find it."""
        if self._event.is_set():
            self._event = anyio.Event()

    async def wait(self, seconds_max: float) -> None:
        """Wait until it is set, at most `seconds_max`; it is cleared on return."""
        with anyio.move_on_after(seconds_max):
            await self._event.wait()
        self.clear()


@dataclass(frozen=True, slots=True)
class Wakes:
    """The daemon's wake-ups, made before the parts that set them and those that wait for them.

    What ended is handed to the `Promoter`, which wakes itself.
    """

    work: Wake = field(default_factory=Wake)
    """There may be a job to claim, or a free slot: for the claimer."""
    timers: Wake = field(default_factory=Wake)
    """A timer was set that may be due within a second: for upkeep."""
    rates: Wake = field(default_factory=Wake)
    """A claim has set jobs aside that may wait for a rate: for the limits' upkeep."""
    cancels: Wake = field(default_factory=Wake)
    """A running job was asked to cancel: for upkeep."""
    lost_claims: Wake = field(default_factory=Wake)
    """A claim may have been committed without its answer: for upkeep."""
    fair_queues: Wake = field(default_factory=Wake)
    """Other queues are fair than before: for upkeep."""
    memories: Wake = field(default_factory=Wake)
    """Texts to remember were committed: for the embedder."""


async def listen(url: str, schema: str, wakes: Wakes, vitals: Vitals) -> None:
    """Wake the parts at each notification until cancelled; reconnects whenever it has to.

    A notification may name the one worker that it is for.
    """
    pause = 0.1
    lost = False
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(
                bounded_url(url), **connect_parameters("jobsworth listen")
            )
            async with _closing(connection):
                async with bounded(ANSWER_SECONDS):
                    # With a pooler in between nothing would ever be heard here.
                    if not await begin_session(connection, ANSWER_SECONDS):
                        log.warning(events.LISTEN_REFUSED, remedy=DIRECT_REMEDY)
                        return
                    await connection.execute(render(LISTEN_WAKE, schema))
                    await connection.execute(render(LISTEN_CANCEL, schema))
                if lost:
                    log.info(events.LISTEN_RECOVERED)
                pause, lost = 0.1, False
                # Something may have come before this connection listened.
                wakes.work.set()
                wakes.cancels.set()
                while True:
                    await _hear(connection, wakes, vitals)
        except (psycopg.Error, Unavailable) as error:
            if not lost:
                log.warning(events.LISTEN_LOST, error=of_driver(error))
            lost = True
        await anyio.sleep(pause * (0.5 + random()))
        pause = min(RECONNECT_SECONDS_MAX, pause * 2)


async def _hear(connection: psycopg.AsyncConnection[Any], wakes: Wakes, vitals: Vitals) -> None:
    async for notification in connection.notifies(timeout=0):
        if notification.payload in ("", "timer", str(vitals.worker_id)):
            _woken_by(notification, wakes).set()
    # `notifies` alone would look ten times a second.
    with anyio.move_on_after(SILENCE_SECONDS) as silence:
        await anyio.wait_readable(connection.fileno())
    if silence.cancelled_caught:
        async with bounded(ANSWER_SECONDS):
            await connection.execute("select 1")


@asynccontextmanager
async def _closing(connection: psycopg.AsyncConnection[Any]) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await connection.close()


def _woken_by(notification: psycopg.Notify, wakes: Wakes) -> Wake:
    if notification.channel.endswith(".cancel"):
        return wakes.cancels
    return wakes.timers if notification.payload == "timer" else wakes.work
