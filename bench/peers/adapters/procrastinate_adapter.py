"""Procrastinate: https://procrastinate.readthedocs.io/en/stable/howto/production/.

Per job one claim and one finish; neither is batched. 20 jobs at a time over as many connections.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import procrastinate
import uvloop
from protocol import batches, main, ran

CONCURRENCY = 20

app = procrastinate.App(connector=procrastinate.PsycopgConnector())


@app.task(name="noop")
async def noop() -> None:
    ran.job()


@app.task(name="pickup")
async def pickup(t: int) -> None:
    ran.pickup(t)


async def setup(url: str) -> None:
    async with opened(url):
        await app.schema_manager.apply_schema_async()


class Producer:
    async def bulk(self, jobs: int) -> None:
        for count in batches(jobs):
            await noop.batch_defer_async(*({} for _ in range(count)))

    async def noop(self) -> None:
        await noop.defer_async()

    async def pickup(self, t: int) -> None:
        await pickup.defer_async(t=t)


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    async with opened(url):
        yield Producer()


@asynccontextmanager
async def opened(url: str, connections: int = 1) -> AsyncIterator[None]:
    connector = procrastinate.PsycopgConnector(
        conninfo=url, min_size=connections, max_size=connections
    )
    with app.replace_connector(connector):
        async with app.open_async():
            yield


async def work(url: str, small: bool) -> None:
    async with opened(url, CONCURRENCY):
        ran.ready()
        worker = asyncio.create_task(
            app.run_worker_async(
                concurrency=1 if small else CONCURRENCY,
                listen_notify=True,
                install_signal_handlers=False,
            )
        )
        await ran.stopping.wait()
        worker.cancel()  # as its documentation says to stop it
        await asyncio.wait([worker])


if __name__ == "__main__":
    main(setup, producer, work, uvloop.new_event_loop)
