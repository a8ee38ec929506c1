"""DBOS: https://docs.dbos.dev/python/tutorials/queue-tutorial.

A job is a workflow without steps; its queue is polled for up to 500 at a time, and each start and
each ending is a transaction of its own.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy
from dbos import DBOS, DBOSClient
from protocol import batches, main, ran

QUEUE = "bench"
CONCURRENCY = 500


@DBOS.workflow(name="noop")
async def noop() -> None:
    ran.job()


@DBOS.workflow(name="pickup")
async def pickup(t: int) -> None:
    ran.pickup(t)


async def setup(url: str) -> None:
    DBOS.migrate(url)


class Producer:
    def __init__(self, client: DBOSClient, engine: sqlalchemy.Engine) -> None:
        self._client = client
        self._engine = engine

    async def bulk(self, jobs: int) -> None:
        for count in batches(jobs):  # no bulk API: one transaction
            with self._engine.begin() as connection:
                for _ in range(count):
                    self._client.enqueue_in_transaction(connection, options("noop"))

    async def noop(self) -> None:
        self._client.enqueue(options("noop"))

    async def pickup(self, t: int) -> None:
        self._client.enqueue(options("pickup"), t)


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
    client = DBOSClient(system_database_url=url)
    yield Producer(client, engine)
    client.destroy()
    engine.dispose()


def options(workflow: str) -> dict[str, str]:
    return {"workflow_name": workflow, "queue_name": QUEUE}


async def work(url: str, small: bool) -> None:
    DBOS(config={"name": "bench", "system_database_url": url, "run_migrations": False})
    DBOS.launch()
    await DBOS.register_queue_async(
        QUEUE,
        worker_concurrency=1 if small else CONCURRENCY,
        polling_interval_sec=0.05,
        on_conflict="always_update",
    )
    ran.ready()
    await ran.stopping.wait()
    DBOS.destroy()


if __name__ == "__main__":
    main(setup, producer, work)
