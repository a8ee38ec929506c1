"""PgQueuer: https://pgqueuer.readthedocs.io.

Claims up to 500 jobs at a time and writes their endings in as large batches, deleting the rows.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import uvloop
from pgqueuer import AsyncpgPoolDriver, Job, PgQueuer, Queries
from protocol import batches, main, ran

BATCH = 500


async def setup(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        await Queries(AsyncpgPoolDriver(pool)).install()


class Producer:
    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def bulk(self, jobs: int) -> None:
        for count in batches(jobs):
            await self._queries.enqueue(["noop"] * count, [None] * count, [0] * count)

    async def noop(self) -> None:
        await self._queries.enqueue("noop", None)

    async def pickup(self, t: int) -> None:
        await self._queries.enqueue("pickup", json.dumps({"t": t}).encode())


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        yield Producer(Queries(AsyncpgPoolDriver(pool)))


async def work(url: str, small: bool) -> None:
    async with asyncpg.create_pool(url) as pool:
        worker = PgQueuer.from_asyncpg_pool(pool)

        @worker.entrypoint("noop")
        async def noop(job: Job) -> None:
            ran.job()

        @worker.entrypoint("pickup")
        async def pickup(job: Job) -> None:
            ran.pickup(json.loads(job.payload or b"")["t"])

        worker.shutdown = worker.qm.shutdown = worker.sm.shutdown = ran.stopping
        ran.ready()
        if small:
            # The least it allows is twice the batch.
            await worker.run(batch_size=1, max_concurrent_tasks=2)
        else:
            await worker.run(batch_size=BATCH)


if __name__ == "__main__":
    main(setup, producer, work, uvloop.new_event_loop)
