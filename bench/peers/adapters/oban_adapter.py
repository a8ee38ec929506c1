"""Oban for Python: https://oban.pro/docs/py.

Fetches as many jobs as its queue has room for; the open-source edition acknowledges one by one.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from oban import Oban, worker
from oban.job import Job
from oban.schema import install
from protocol import batches, main, ran

LIMIT = 1000


@worker()
class Noop:
    async def process(self, job: Job) -> None:
        ran.job()


@worker()
class Pickup:
    async def process(self, job: Job) -> None:
        ran.pickup(job.args["t"])


async def setup(url: str) -> None:
    pool = await Oban.create_pool(url)
    await install(pool)
    await pool.close()


class Producer:
    def __init__(self, oban: Oban) -> None:
        self._oban = oban

    async def bulk(self, jobs: int) -> None:
        for count in batches(jobs):
            await self._oban.enqueue_many([Noop.new() for _ in range(count)])

    async def noop(self) -> None:
        await self._oban.enqueue(Noop.new())

    async def pickup(self, t: int) -> None:
        await self._oban.enqueue(Pickup.new({"t": t}))


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    pool = await Oban.create_pool(url, min_size=1, max_size=1)
    yield Producer(Oban(pool=pool))
    await pool.close()


async def work(url: str, small: bool) -> None:
    pool = await Oban.create_pool(url)
    ran.ready()
    async with Oban(pool=pool, queues={"default": 1 if small else LIMIT}):
        await ran.stopping.wait()
    await pool.close()


if __name__ == "__main__":
    main(setup, producer, work, uvloop.new_event_loop)
