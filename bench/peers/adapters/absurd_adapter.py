"""Absurd: https://github.com/earendil-works/absurd.

Claims 500 tasks at a time; each is completed by a statement of its own, over one connection.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import absurdctl
import psycopg
import uvloop
from absurd_sdk import AsyncAbsurd
from protocol import batches, main, ran

QUEUE = "bench"
BATCH = 500


async def setup(url: str) -> None:
    folder = str(Path(absurdctl.__file__).parent)
    schema, _ = absurdctl.load_absurd_sql(folder, absurdctl.ABSURD_SCHEMA_TARGET_VERSION, False)
    async with opened(url) as (connection, absurd):
        await connection.execute(schema)
        await absurd.create_queue()


class Producer:
    def __init__(self, connection: psycopg.AsyncConnection[Any], absurd: AsyncAbsurd) -> None:
        self._connection = connection
        self._absurd = absurd

    async def bulk(self, jobs: int) -> None:
        for count in batches(jobs):
            async with self._connection.transaction():
                for _ in range(count):
                    await self.noop()

    async def noop(self) -> None:
        await self._absurd.spawn("noop", {}, queue=QUEUE)

    async def pickup(self, t: int) -> None:
        await self._absurd.spawn("pickup", {"t": t}, queue=QUEUE)


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    async with opened(url) as (connection, absurd):
        yield Producer(connection, absurd)


@asynccontextmanager
async def opened(
    url: str,
) -> AsyncIterator[tuple[psycopg.AsyncConnection[Any], AsyncAbsurd]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection, AsyncAbsurd(connection, queue_name=QUEUE)


async def work(url: str, small: bool) -> None:
    async with opened(url) as (_, absurd):

        @absurd.register_task("noop")
        async def noop(params: Any, context: Any) -> None:
            ran.job()

        @absurd.register_task("pickup")
        async def pickup(params: Any, context: Any) -> None:
            ran.pickup(params["t"])

        ran.ready()
        size = 1 if small else BATCH
        worker = asyncio.create_task(
            absurd.start_worker(concurrency=size, batch_size=size, poll_interval=0.05)
        )
        await ran.stopping.wait()
        absurd.stop_worker()
        await worker


if __name__ == "__main__":
    main(setup, producer, work, uvloop.new_event_loop)
