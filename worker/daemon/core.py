"""The core of a worker: what takes jobs from a claim to their end, in a daemon and in a test.

In: parts, and a task group. Out: the parts at work within a block, and at its end jobs that are
given back and a worker that has left. Whoever uses it claims, and says when that ends.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from db.errors import JobsworthError
from db.pool import bounded
from db.queue import workers
from worker import events
from worker.daemon import upkeep
from worker.daemon.parts import Parts
from worker.log import get_logger
from worker.memory import embed
from worker.memory.account import Accounts
from worker.outcomes import Released
from worker.settings import Settings

FLUSH_SECONDS = 5.0

log = get_logger()


@asynccontextmanager
async def at_work(parts: Parts, settings: Settings, tasks: TaskGroup) -> AsyncGenerator[bool]:
    """Have the parts work within the block; False if told to stop before resources were open.

    Raises `HandlerError` for a resource that cannot be opened.
    """
    if not await parts.tools.resources.open(parts.stop.asked):
        yield False
        return
    parts.heartbeat.start()
    await parts.handlers_database.open()
    try:
        await tasks.start(parts.running.run)
        tasks.start_soon(parts.finisher.run)
        tasks.start_soon(parts.promoter.run)
        tasks.start_soon(parts.tools.spool.run)
        tasks.start_soon(upkeep.run, parts.upkeep)
        tasks.start_soon(_embed, parts, settings)
        yield True
    finally:
        parts.heartbeat.stop()
        await parts.handlers_database.close()
        with anyio.CancelScope(shield=True):
            await parts.tools.resources.close()


async def give_back(parts: Parts) -> int:
    """Give back what still runs, and remove the worker's row; how many jobs were given back."""
    released = parts.running.stop_all(Released())
    with anyio.move_on_after(FLUSH_SECONDS):
        await parts.running.wait_empty()
        await parts.promoter.wait_idle()
        await parts.tools.recorder.write()
    parts.heartbeat.stop()
    await anyio.to_thread.run_sync(parts.heartbeat.join, FLUSH_SECONDS)
    await _leave(parts)
    return released


async def _embed(parts: Parts, settings: Settings) -> None:
    await embed.run(
        parts.database,
        parts.embedder,
        wake=parts.wakes.memories,
        accounts=Accounts.of_worker(parts.tools),
        batch_max=settings.embed_batch_max,
        embedded=parts.metrics.embedded,
        busy=parts.running.is_busy,
    )


async def _leave(parts: Parts) -> None:
    worker_id = parts.heartbeat.pulse.worker_id
    if worker_id is None:
        return
    try:
        async with bounded(FLUSH_SECONDS), parts.database.connection() as connection:
            await workers.leave(connection, worker_id)
    except JobsworthError as error:
        log.warning(events.UPKEEP_FAILED, part="leave", error=error)
