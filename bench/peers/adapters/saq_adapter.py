"""SAQ on its PostgreSQL queue: https://saq-py.readthedocs.io (which calls that one beta).

100 jobs at a time, each claimed and finished by itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from protocol import main, ran
from saq import Queue, Worker

CONCURRENCY = 100
ENQUEUED_AT_ONCE = 20
"""As many as its pool has connections: it has no bulk API."""


async def setup(url: str) -> None:
    async with opened(url):
        pass  # connecting installs its tables


class Producer:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def bulk(self, jobs: int) -> None:
        for done in range(0, jobs, ENQUEUED_AT_ONCE):
            count = min(ENQUEUED_AT_ONCE, jobs - done)
            await asyncio.gather(*(self.noop() for _ in range(count)))

    async def noop(self) -> None:
        await self._queue.enqueue("noop")

    async def pickup(self, t: int) -> None:
        await self._queue.enqueue("pickup", t=t)


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    async with opened(url) as queue:
        yield Producer(queue)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Queue]:
    queue = Queue.from_url(url)
    await queue.connect()
    yield queue
    await queue.disconnect()


async def work(url: str, small: bool) -> None:
    async def noop(context: Any) -> None:
        ran.job()

    async def pickup(context: Any, *, t: int) -> None:
        ran.pickup(t)

    async with opened(url) as queue:
        worker = Worker(
            queue,
            functions=[("noop", noop), ("pickup", pickup)],
            concurrency=1 if small else CONCURRENCY,
        )
        worker.SIGNALS = []
        ran.ready()
        running = asyncio.create_task(worker.start())
        await ran.stopping.wait()
        worker.event.set()
        await running


if __name__ == "__main__":
    main(setup, producer, work, uvloop.new_event_loop)
