"""Fronta: https://github.com/dreo/fronta.

512 tasks at a time over a pool of four; completions are batched.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import fronta
import psycopg
import uvloop
from fronta import runtime, store
from protocol import batches, main, ran
from pydantic import BaseModel

CONCURRENCY = 512


class Nothing(BaseModel):
    pass


class Since(BaseModel):
    t: int


@fronta.task("noop", input=Nothing)
async def noop(context: fronta.Context, job: Nothing) -> None:
    ran.job()


@fronta.task("pickup", input=Since)
async def pickup(context: fronta.Context, job: Since) -> None:
    ran.pickup(job.t)


async def setup(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await store.init_schema(connection)
    # A worker's start makes its tasks known; without that they cannot be enqueued.
    worker = fronta.Worker([noop, pickup], settings=settings(url))
    running = asyncio.create_task(worker.run())
    await worker.started.wait()
    worker.request_shutdown()
    await running


class Producer:
    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def bulk(self, jobs: int) -> None:
        for count in batches(jobs):  # no bulk API: one transaction
            async with self._connection.transaction():
                for _ in range(count):
                    await self.noop()

    async def noop(self) -> None:
        await noop.enqueue(Nothing(), conn=self._connection)

    async def pickup(self, t: int) -> None:
        await pickup.enqueue(Since(t=t), conn=self._connection)


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    fronta.configure(settings(url))
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield Producer(connection)
    await runtime.close_hints()


async def work(url: str, small: bool) -> None:
    worker = fronta.Worker(
        [noop, pickup], settings=settings(url, concurrency=1 if small else CONCURRENCY)
    )
    ran.ready()
    await worker.run()  # until SIGTERM, which it handles itself


def settings(url: str, concurrency: int = CONCURRENCY) -> fronta.Settings:
    return fronta.Settings(dsn=url, concurrency=concurrency, grace_s=1)


if __name__ == "__main__":
    main(setup, producer, work, uvloop.new_event_loop)
