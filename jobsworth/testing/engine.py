"""A worker inside the test's process: the daemon's own core, at work until nothing is left to do.

In: the queues to serve. Out: jobs that ran as in a daemon: claimed, fenced, finished, promoted,
their memories embedded. Left out is what belongs to a process of its own: signals, the endpoint,
LISTEN and the collector of garbage.
"""

from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

import anyio

from worker.daemon import core
from worker.daemon.parts import Parts, make_parts
from worker.handlers import Handler
from worker.memory.choice import embedder_of
from worker.settings import Settings

LOOK_SECONDS = 0.005


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
    give_up = monotonic() + seconds_max
    embedder = embedder_of(settings)
    settled = False
    try:
        parts = make_parts(settings, url, registry, embedder)
        async with parts.database, anyio.create_task_group() as tasks:
            # What a moved clock made due is due before anything counts as settled.
            for part in parts.upkeep:
                await part.work()
            async with core.at_work(parts, settings, tasks):
                tasks.start_soon(parts.claimer.run)
                settled = await _wait(parts, is_settled, give_up)
                await core.give_back(parts)
            tasks.cancel_scope.cancel()
    finally:
        await embedder.close()
    return settled


async def _wait(parts: Parts, is_settled: Callable[[], Awaitable[bool]], give_up: float) -> bool:
    while monotonic() < give_up:
        await parts.promoter.wait_idle()
        if not len(parts.running) and await is_settled():
            return True
        parts.wakes.work.set()
        parts.wakes.memories.set()
        await anyio.sleep(LOOK_SECONDS)
    return False
