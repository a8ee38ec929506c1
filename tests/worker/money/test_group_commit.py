"""Group commit: one transaction for what many write at once, and nobody pays for a neighbour."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import LiteralString, TypeVar
from uuid import UUID

import anyio
import pytest

from db.errors import Refused
from db.fence import Lease, LeaseLost, hold
from db.money import calls
from db.pool import Connection, Database
from db.steps.steps import Record
from tests.db import rows
from tests.support import until
from tests.worker.money.writing import (
    Gate,
    at_once,
    in_the_books,
    leases,
    paid,
    started,
    starting,
    waits,
)
from tests.worker.money.writing import books as books
from tests.worker.money.writing import database as database
from worker.money import group_commit
from worker.money.group_commit import RECORD, SETTLE, START, GroupCommit

T = TypeVar("T")


# Many at once.


async def test_calls_that_start_at_once_are_few_commits_and_each_is_one_row(
    database: Database, conn: Connection, books: GroupCommit
) -> None:
    held = await leases(conn, 40)
    ids = await started(books, held)
    for lease, call_id in zip(held, ids, strict=True):
        [call] = await calls.list_calls(conn, lease.job_id)
        assert call.id == call_id
    found = await in_the_books(database)
    assert (found["calls"], found["reserved"]) == (40, 40)
    assert found["commits"] < 5


async def test_what_different_attempts_write_goes_along_in_one_commit(
    database: Database, conn: Connection, books: GroupCommit
) -> None:
    first, second, third = await leases(conn, 3)
    [call_id] = await started(books, [first])
    [_, answer, output] = await at_once(
        partial(books.write, START, starting(second)),
        partial(books.write, SETTLE, paid(first, call_id, '{"text": "hi"}')),
        partial(books.write, RECORD, Record(third, "fetch", '"page"', 1)),
    )
    assert (answer, output) == ({"text": "hi"}, "page")
    found = await in_the_books(database)
    assert found == {"calls": 2, "commits": 1, "reserved": 2, "settled": 1, "steps": 2}


async def test_who_comes_while_a_batch_is_written_is_in_the_next(books: GroupCommit) -> None:
    gate = Gate()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(books.write, gate.kind, 0)
        await gate.begun()
        for item in (1, 2, 3):
            tasks.start_soon(books.write, gate.kind, item)
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert gate.batches == [[0], [1, 2, 3]]


async def test_what_those_whose_batch_ended_write_next_goes_along_with_who_waits(
    books: GroupCommit,
) -> None:
    gate = Gate()

    async def write_twice(item: int) -> None:
        await books.write(gate.kind, item)
        await books.write(gate.kind, 10 + item)

    async with anyio.create_task_group() as tasks:
        for item in (1, 2, 3):
            tasks.start_soon(write_twice, item)
        await gate.begun()
        tasks.start_soon(books.write, gate.kind, 4)
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert [sorted(batch) for batch in gate.batches] == [[1, 2, 3], [4, 11, 12, 13]]


async def test_a_batch_is_bounded(books: GroupCommit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "BATCH_MAX", 10)
    gate = Gate(opened=True)
    results = await at_once(*(partial(books.write, gate.kind, item) for item in range(25)))
    assert results == [2 * item for item in range(25)]
    assert [len(batch) for batch in gate.batches] == [10, 10, 5]


# One neighbour's trouble.


async def test_a_write_that_is_refused_fails_alone(
    database: Database, conn: Connection, books: GroupCommit
) -> None:
    good, bad, last = await leases(conn, 3)
    results = await at_once(
        partial(books.write, START, starting(good)),
        partial(books.write, START, starting(bad, "a\0b")),
        partial(books.write, RECORD, Record(bad, "c\0d", "1", 1)),
        partial(books.write, RECORD, Record(last, "fetch", "1", 1)),
    )
    assert isinstance(results[0], UUID)
    assert isinstance(results[1], Refused)
    assert isinstance(results[2], Refused)
    assert results[3] == 1
    found = await in_the_books(database)
    assert (found["calls"], found["reserved"], found["steps"]) == (1, 1, 1)


async def test_a_lost_lease_is_told_to_its_own_attempt_only(
    database: Database, conn: Connection, books: GroupCommit
) -> None:
    held = await leases(conn, 4)
    await rows.take(conn, held[1].job_id)
    await rows.take(conn, held[2].job_id)
    results = await at_once(
        partial(books.write, START, starting(held[0])),
        partial(books.write, START, starting(held[1])),
        partial(books.write, RECORD, Record(held[2], "fetch", "1", 1)),
        partial(books.write, RECORD, Record(held[3], "fetch", "1", 1)),
    )
    assert [isinstance(one, LeaseLost) for one in results] == [False, True, True, False]
    found = await in_the_books(database)
    assert (found["calls"], found["reserved"], found["steps"]) == (1, 1, 1)


async def test_an_answer_is_kept_though_its_lease_is_lost(
    database: Database, conn: Connection, books: GroupCommit
) -> None:
    [lease] = await leases(conn, 1)
    [call_id] = await started(books, [lease])
    await rows.take(conn, lease.job_id)
    assert (await books.write(SETTLE, paid(lease, call_id, '"late"'))).stands == "late"
    found = await in_the_books(database)
    assert (found["settled"], found["steps"]) == (1, 1)


async def test_the_first_answer_wins(conn: Connection, books: GroupCommit) -> None:
    [lease] = await leases(conn, 1)
    ids = await started(books, [lease, lease])
    results = await at_once(
        partial(books.write, SETTLE, paid(lease, ids[0], '"first"')),
        partial(books.write, SETTLE, paid(lease, ids[1], '"second"')),
    )
    assert results in (["first", "first"], ["second", "second"])


async def test_one_step_recorded_twice_at_once_has_one_output(
    conn: Connection, books: GroupCommit
) -> None:
    [lease] = await leases(conn, 1)
    ran = (Record(lease, "fetch", "1", 1), Record(lease, "fetch", "2", 1))
    results = await at_once(*(partial(books.write, RECORD, one) for one in ran))
    assert results in ([1, 1], [2, 2])


async def test_a_job_that_somebody_holds_delays_its_own_call_only(
    database: Database, conn: Connection, books: GroupCommit
) -> None:
    free, held = await leases(conn, 2)
    async with anyio.create_task_group() as tasks, _holding(database, held) as let_go:
        tasks.start_soon(books.write, START, starting(held))
        tasks.start_soon(books.write, START, starting(free))
        await waits(database)
        assert (await in_the_books(database))["calls"] == 1
        await books.write(RECORD, Record(free, "fetch", "1", 1))
        let_go()
    assert (await in_the_books(database))["calls"] == 2


async def test_a_job_that_nobody_can_refer_to_delays_its_own_answer_only(
    database: Database, conn: Connection, books: GroupCommit
) -> None:
    """Somebody deletes it, say: a step cannot be written before that is decided."""
    free, held = await leases(conn, 2)
    ids = await started(books, [free, held])
    async with anyio.create_task_group() as tasks, _deleting(database, held) as let_go:
        tasks.start_soon(books.write, SETTLE, paid(held, ids[1]))
        tasks.start_soon(books.write, SETTLE, paid(free, ids[0]))
        await waits(database)
        await until(partial(_settled, database, 1))
        let_go()
    found = await in_the_books(database)
    assert (found["settled"], found["steps"]) == (2, 2)


async def _settled(database: Database, count: int) -> bool:
    return (await in_the_books(database))["settled"] == count


@asynccontextmanager
async def _holding(database: Database, lease: Lease) -> AsyncGenerator[Callable[[], None]]:
    """Somebody delivers to this job, in a transaction that stays open until told."""
    async with _transaction(database, lambda other: hold(other, lease)) as let_go:
        yield let_go


@asynccontextmanager
async def _deleting(database: Database, lease: Lease) -> AsyncGenerator[Callable[[], None]]:
    """Somebody locks the job as a delete would, in a transaction that stays open until told."""
    lock: LiteralString = "select 1 from jobsworth.reactive_jobs where id = %s for update"

    async def work(other: Connection) -> None:
        await other.execute(lock, [lease.job_id])

    async with _transaction(database, work) as let_go:
        yield let_go


@asynccontextmanager
async def _transaction(
    database: Database, work: Callable[[Connection], Awaitable[object]]
) -> AsyncGenerator[Callable[[], None]]:
    done, begun = anyio.Event(), anyio.Event()

    async def run() -> None:
        async with database.transaction() as other:
            await work(other)
            begun.set()
            await done.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await begun.wait()
        yield done.set
        done.set()
