"""What tests of the finisher share: a finisher at work, and attempts that are about to end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import LiteralString
from uuid import UUID

import anyio
import pytest

from db.pool import Connection, Database, fetch_val
from db.queue.effects import Effect
from tests.db.protocol import (
    add,
    claim,
    lease_of,
    register,
)
from tests.support import until
from tests.worker.queue.standins import CountedWake, RecordedPromoter
from worker.queue.ended import EndedAttempt, EndedAttempts
from worker.queue.finish import Finisher
from worker.queue.transition import Transition
from worker.queue.wake import Wakes

THREAD: LiteralString = """
insert into jobsworth.chat_threads (platform, chat_id)
values ('test', gen_random_uuid()) returning id
"""

TEXTS: LiteralString = "select array_agg(text order by text) from jobsworth.chat_messages"


class Desk:
    """A finisher at work, and what it told about every ending."""

    def __init__(self, database: Database, conn: Connection) -> None:
        self.conn = conn
        self.told: list[tuple[UUID, str | None]] = []
        self.retries = 0
        self.ended = EndedAttempts()
        self.promoter = RecordedPromoter(database)
        self.memories = CountedWake()
        self.finisher = Finisher(
            database,
            self.ended,
            self,
            self.promoter,
            Wakes(memories=self.memories),
            retried=self._retried,
        )

    async def told_of(self, count: int) -> dict[UUID, str | None]:
        """What was told, once that many endings were."""

        async def enough() -> bool:
            return len(self.told) >= count

        await until(enough)
        assert len(self.told) == count
        return dict(self.told)

    async def retried(self, times: int = 1) -> None:
        async def enough() -> bool:
            return self.retries >= times

        await until(enough)

    def finished(self, ended: EndedAttempt, status: str | None) -> None:
        self.told.append((ended.job.id, status))

    def _retried(self) -> None:
        self.retries += 1


@asynccontextmanager
async def at_work(desk: Desk) -> AsyncGenerator[Desk]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.finisher.run)
        yield desk
        tasks.cancel_scope.cancel()


@pytest.fixture
async def desk(database: Database, conn: Connection) -> AsyncGenerator[Desk]:
    async with at_work(Desk(database, conn)) as desk:
        yield desk


async def endings(conn: Connection, count: int, *effects: Effect) -> list[EndedAttempt]:
    """Running jobs of one worker that are about to be done, each with these effects."""
    thread_id = await fetch_val(conn, THREAD)
    for _ in range(count):
        await add(conn, thread_id=thread_id, lane="")
    worker_id = await register(conn)
    jobs = (await claim(conn, worker_id, count)).jobs
    assert len(jobs) == count
    transition = Transition.done("null", effects)
    return [EndedAttempt(job, lease_of(job, worker_id), transition) for job in jobs]


def put(desk: Desk, *batch: EndedAttempt) -> None:
    for ending in batch:
        desk.ended.put(ending)
