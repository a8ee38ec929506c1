"""A settlement goes to disk because the database keeps it waiting, not because the loop does."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import anyio
import anyio.lowlevel
import pytest

from db.fence import Lease
from db.pool import Connection, Database
from tests.worker.money.spooling import answered, files
from tests.worker.money.spooling import folder as folder
from tests.worker.money.spooling import lease as lease
from tests.worker.money.spooling import quick as quick
from worker.money.group_commit import GroupCommit, Paid, WriteKind
from worker.money.spool import Spool
from worker.money.spool_folder import SpoolFolder

# Many times what a test's spool waits before it writes to disk.
LONG_SECONDS = 0.1


class Held:
    """The database's side of a settlement, which takes each one when it is let."""

    def __init__(self, database: Database) -> None:
        self._books = GroupCommit(database)
        self._let: dict[UUID, anyio.Event] = {}

    def event(self, paid: Paid) -> anyio.Event:
        return self._let.setdefault(paid.settlement.call_id, anyio.Event())

    async def write(self, kind: WriteKind[Paid, Any], item: Paid) -> Any:
        await self.event(item).wait()
        return await self._books.write(kind, item)


@pytest.fixture
def kept(database: Database, folder: SpoolFolder) -> Spool:
    return Spool(database, folder)


async def test_a_loop_that_was_held_up_writes_nothing_to_disk(
    database: Database, conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    """The time that counts is that of the spool's looks, of which a loop held up makes one."""
    paid, held = await answered(conn, lease), Held(database)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.settle, held, lease.job_id, paid)
        await anyio.lowlevel.checkpoint()
        time.sleep(LONG_SECONDS)  # noqa: ASYNC251 - as a careless handler does
        await kept.look()
        assert files(folder) == []
        await kept.look()
        assert len(files(folder)) == 1
        held.event(paid).set()
    assert files(folder) == []


async def test_a_settlement_is_not_late_while_those_before_it_are_committed(
    database: Database, conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    before = [await answered(conn, lease, f'"{n}"') for n in range(10)]
    last, held = await answered(conn, lease, '"last"'), Held(database)
    async with anyio.create_task_group() as tasks:
        settled: list[anyio.Event] = []
        for paid in (*before, last):
            settled.append(anyio.Event())
            tasks.start_soon(settle, kept, held, lease, paid, settled[-1])
        for n, paid in enumerate(before):
            held.event(paid).set()
            await settled[n].wait()
            await kept.look()
        assert files(folder) == []
        held.event(last).set()


async def test_a_settlement_is_late_when_those_after_it_are_committed(
    database: Database, conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    first, held = await answered(conn, lease, '"first"'), Held(database)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.settle, held, lease.job_id, first)
        await anyio.lowlevel.checkpoint()
        for _ in range(2):
            time.sleep(LONG_SECONDS)  # noqa: ASYNC251 - so that the next one begins later
            later = await answered(conn, lease, '"later"')
            held.event(later).set()
            await kept.settle(held, lease.job_id, later)
            await kept.look()
        assert len(files(folder)) == 1
        held.event(first).set()
    assert files(folder) == []


async def settle(spool: Spool, held: Held, lease: Lease, paid: Paid, ended: anyio.Event) -> None:
    await spool.settle(held, lease.job_id, paid)
    ended.set()
