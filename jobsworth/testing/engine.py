"""A worker inside the test's process: the daemon's own parts, at work until nothing is left to do.

In: the queues to serve. Out: jobs that ran as in a daemon: claimed, fenced, finished, promoted,
their memories embedded. Left out is what belongs to a process of its own: signals, the endpoint,
LISTEN and the collector of garbage.
"""

from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

import anyio
import anyio.to_thread

from db.queue import workers
from worker.daemon import upkeep
from worker.daemon.parts import Parts, make_parts
from worker.handlers import Handler
from worker.memory import embed
from worker.memory.choice import from_settings
from worker.memory.embedders import Embedder
from worker.outcomes import Released
from worker.settings import Settings

LOOK_SECONDS = 0.005
END_SECONDS = 5.0


async def work(
    settings: Settings,
    url: str,
    registry: Mapping[str, Handler],
    is_settled: Callable[[], Awaitable[bool]],
    seconds_max: float,
) -> bool:
    """Work until `is_settled`; False if that took longer than `seconds_max`.

    What still runs then is given back, and no try is counted.
    """
    embedder = from_settings(
        url=settings.embedder_url,
        model=settings.embedder_model,
        key=settings.embedder_key.get_secret_value() if settings.embedder_key else None,
        dimensions=settings.embedder_dimensions,
        batch_max=settings.embed_batch_max,
    )
    parts = make_parts(settings, url, registry, embedder)
    give_up = monotonic() + seconds_max
    settled = False
    try:
        async with parts.database, anyio.create_task_group() as tasks:
            parts.heartbeat.start()
            await parts.handlers_database.open()
            try:
                await tasks.start(parts.running.run)
                tasks.start_soon(parts.finisher.run)
                tasks.start_soon(parts.promoter.run)
                tasks.start_soon(parts.tools.spool.run)
                tasks.start_soon(_embed, parts, embedder, settings)
                settled = await _claim_until(parts, is_settled, give_up)
            finally:
                await _end(parts)
                await parts.handlers_database.close()
            tasks.cancel_scope.cancel()
    finally:
        await embedder.close()
    return settled


async def _claim_until(
    parts: Parts, is_settled: Callable[[], Awaitable[bool]], give_up: float
) -> bool:
    async with anyio.create_task_group() as claiming:
        # What a moved clock made due is due before anything counts as settled.
        for part in parts.upkeep:
            await part.work()
        claiming.start_soon(upkeep.run, parts.upkeep)
        claiming.start_soon(parts.claimer.run)
        try:
            while monotonic() < give_up:
                await parts.promoter.wait_idle()
                if not len(parts.running) and await is_settled():
                    return True
                parts.wakes.work.set()
                await anyio.sleep(LOOK_SECONDS)
        finally:
            claiming.cancel_scope.cancel()
    return False


async def _embed(parts: Parts, embedder: Embedder, settings: Settings) -> None:
    await embed.run(
        parts.database,
        embedder,
        wake=parts.wakes.memories,
        batch_max=settings.embed_batch_max,
        poll_seconds=LOOK_SECONDS * 10,
    )


async def _end(parts: Parts) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(END_SECONDS):
        parts.running.stop_all(Released())
        await parts.running.wait_empty()
        await parts.promoter.wait_idle()
        await parts.tools.recorder.write()
        parts.heartbeat.stop()
        await anyio.to_thread.run_sync(parts.heartbeat.join, END_SECONDS)
        if parts.heartbeat.pulse.worker_id is not None:
            async with parts.database.connection() as connection:
                await workers.leave(connection, parts.heartbeat.pulse.worker_id)
