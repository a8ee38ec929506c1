"""Awa: https://github.com/hardbyte/awa; its runtime is in Rust, the handlers in Python.

Claims up to 512 jobs at a time; 1,024 at once, and endings are batched by the runtime.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

# Set before the runtime is loaded: one writer of results is faster here than its default, four.
os.environ["AWA_COMPLETION_SHARDS"] = "1"

import uvloop
from awa import AsyncClient, Job
from protocol import batches, main, ran

QUEUE = "bench"
DEADLINE_MS = 300_000


@dataclass
class Noop:
    pass


@dataclass
class Pickup:
    t: int


async def setup(url: str) -> None:
    async with client(url) as awa:
        await awa.migrate()
        # A fresh database is moved to queue storage, the default, when its first worker starts.
        await start(awa, small=True)
        await awa.shutdown()


class Producer:
    def __init__(self, awa: AsyncClient) -> None:
        self._awa = awa

    async def bulk(self, jobs: int) -> None:
        for count in batches(jobs):
            await self._awa.enqueue_many_copy([Noop()] * count, queue=QUEUE)

    async def noop(self) -> None:
        await self._awa.insert(Noop(), queue=QUEUE)

    async def pickup(self, t: int) -> None:
        await self._awa.insert(Pickup(t), queue=QUEUE)


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    async with client(url) as awa:
        yield Producer(awa)


async def work(url: str, small: bool) -> None:
    async with client(url) as awa:
        await start(awa, small)
        ran.ready()
        await ran.stopping.wait()
        await asyncio.wait_for(awa.shutdown(), 3)


async def start(awa: AsyncClient, small: bool) -> None:
    @awa.task(Noop, queue=QUEUE)
    async def noop(job: Job) -> None:
        ran.job()

    @awa.task(Pickup, queue=QUEUE)
    async def pickup(job: Job) -> None:
        ran.pickup(job.args.t)

    batched = {"max_workers": 1024, "claim_batch_size": 512}
    single = {"max_workers": 1, "claim_batch_size": 1}
    size = single if small else batched
    await awa.start([{"name": QUEUE, "deadline_duration_ms": DEADLINE_MS, **size}])


def client(url: str) -> AsyncClient:
    # Its driver wants a host even where there is a socket.
    return AsyncClient(url.replace("@/", "@localhost/", 1))


if __name__ == "__main__":
    main(setup, producer, work, uvloop.new_event_loop)
