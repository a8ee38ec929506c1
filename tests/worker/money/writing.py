"""What tests of the group commit share: books, leases, and writes at the same moment."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import pytest

from db.fence import Lease
from db.money.calls import CallStatus, Usage
from db.money.settlements import Settlement
from db.money.starts import CallStarted, Starting
from db.pool import Connection, Database
from db.steps.steps import PaidAnswer
from tests.db import rows
from tests.support import until
from worker.money.group_commit import START, Booked, GroupCommit, Paid, WriteKind

Write = Callable[[], Awaitable[Any]]

USAGE = Usage(7, 3)

BOOKS: LiteralString = """
select
  (select count(*) from jobsworth.llm_calls) as calls,
  (select count(distinct xmin::text) from jobsworth.llm_calls) as commits,
  (select count(*) from jobsworth.token_ledger where entry = 'reserve') as reserved,
  (select count(*) from jobsworth.token_ledger where entry = 'settle') as settled,
  (select count(*) from jobsworth.steps where finished_at is not null) as steps
"""

WAITING: LiteralString = """
select count(*) = %s from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock'
"""


# A writer for each of many attempts, and for who holds their rows.
@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    async with Database(database_url, pool_min=2, pool_max=8) as database:
        yield database


@pytest.fixture
def books(database: Database) -> GroupCommit:
    return GroupCommit(database)


def starting(lease: Lease, name: str = "draft") -> Starting:
    return Starting(lease, "acme", "large", uuid4().hex, USAGE, step_name=name, attempt=1)


def paid(lease: Lease, call_id: UUID, content: str = "1") -> Paid:
    answer = PaidAnswer(lease.job_id, "draft", content, 1, 0.1)
    return Paid(Settlement(call_id, CallStatus.OK, USAGE), answer)


async def leases(conn: Connection, count: int) -> list[Lease]:
    return [await rows.running_job(conn) for _ in range(count)]


async def started(books: GroupCommit, held: Sequence[Lease]) -> list[UUID]:
    return await at_once(*(partial(books.write, START, starting(lease)) for lease in held))


async def in_the_books(database: Database) -> dict[str, int]:
    found = await database.fetch_one(BOOKS)
    assert found is not None
    return found


async def at_once(*writes: Write) -> list[Any]:
    """What all of these, begun together, returned or raised."""
    results: list[Any] = [None] * len(writes)

    async def run(n: int, write: Write) -> None:
        try:
            results[n] = _brought(await write())
        except Exception as error:
            results[n] = error

    async with anyio.create_task_group() as tasks:
        for n, write in enumerate(writes):
            tasks.start_soon(run, n, write)
    return results


def _brought(result: Any) -> Any:
    """The id of a call that was started, the answer that stands, or what it is."""
    match result:
        case CallStarted(call_id):
            return call_id
        case Booked(stands):
            return stands
        case _:
            return result


class Gate:
    """A kind of write of its own: batches wait until it opens; what each brings is its own double.

    `batches` are those that were begun, `alone` what was written alone.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.alone: list[int] = []
        self.kind = WriteKind(self._together, self._alone)
        self._open = anyio.Event()
        if opened:
            self._open.set()

    def open(self) -> None:
        self._open.set()

    async def begun(self, count: int = 1) -> None:
        async def enough() -> bool:
            return len(self.batches) >= count

        await until(enough)

    async def _together(self, _: Connection, items: Sequence[int]) -> dict[int, int]:
        self.batches.append(list(items))
        await self._open.wait()
        return {n: 2 * item for n, item in enumerate(items)}

    async def _alone(self, _: Database, item: int) -> int:
        self.alone.append(item)
        return 2 * item


async def waits(database: Database) -> None:
    """Until one statement waits for a lock."""
    await until(partial(database.fetch_val, WAITING, [1]))
