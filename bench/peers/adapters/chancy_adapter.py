"""Chancy: https://tkte.ch/chancy/.

Fetches as many jobs as its queue has room for; endings are buffered and sent every 0.1 s.
"""

import dataclasses
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from chancy import Chancy, Queue, Worker, job
from protocol import main, ran

QUEUE = Queue(
    "default",
    concurrency=100,
    executor=Chancy.Executor.Async,
    eager_polling=True,
    polling_interval=1,
)


@job()
async def noop() -> None:
    ran.job()


@job()
async def pickup(t: int) -> None:
    ran.pickup(t)


async def setup(url: str) -> None:
    async with opened(url) as chancy:
        await chancy.migrate()


class Producer:
    def __init__(self, chancy: Chancy) -> None:
        self._chancy = chancy

    async def bulk(self, jobs: int) -> None:
        async for _ in self._chancy.push_many([noop.job] * jobs):
            pass

    async def noop(self) -> None:
        await self._chancy.push(noop)

    async def pickup(self, t: int) -> None:
        await self._chancy.push(pickup.job.with_kwargs(t=t))


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    async with opened(url) as chancy:
        yield Producer(chancy)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Chancy]:
    # Its own log goes to stdout, a line per job.
    async with Chancy(url, log=logging.getLogger("chancy")) as chancy:
        yield chancy


async def work(url: str, small: bool) -> None:
    async with opened(url) as chancy:
        queue = dataclasses.replace(QUEUE, concurrency=1) if small else QUEUE
        await chancy.declare(queue, upsert=True)
        worker = Worker(chancy, register_signal_handlers=False)
        worker.send_outgoing_interval = 0.1
        ran.ready()
        async with worker:
            await ran.stopping.wait()


if __name__ == "__main__":
    main(setup, producer, work, uvloop.new_event_loop)
