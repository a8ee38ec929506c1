"""Group commit under stops and server trouble: no attempt takes another's write along."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, LiteralString
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

from db.errors import Unavailable
from db.fence import PINNED, Lease
from db.money import budgets, calls, starts
from db.pool import Connection, Database
from db.steps.steps import Record
from tests.db.money import entries
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
from worker.money.group_commit import RECORD, SETTLE, START, GroupCommit, WriteKind

NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"


# Stops.


@pytest.mark.parametrize("stopped", [0, 1], ids=["the leader", "a follower"])
async def test_a_stop_of_one_lands_after_the_commit_and_takes_nobody_along(
    books: GroupCommit, stopped: int
) -> None:
    gate = Gate()
    results: list[int] = []
    went_on: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def write(item: int) -> None:
        with scopes[item]:
            results.append(await books.write(gate.kind, item))
            await anyio.lowlevel.checkpoint()
            went_on.append(item)

    async with anyio.create_task_group() as tasks:
        for item in range(3):
            tasks.start_soon(write, item)
        await gate.begun()
        scopes[stopped].cancel()
        await anyio.wait_all_tasks_blocked()
        assert results == []
        gate.open()
    assert sorted(results) == [0, 2, 4]
    assert sorted(went_on) == sorted({0, 1, 2} - {stopped})
    assert (gate.batches, gate.alone) == ([[0, 1, 2]], [])


async def test_a_stopped_attempt_waits_for_no_batch_of_a_network_that_was_cut(
    books: GroupCommit, database: Database
) -> None:
    """Its batch would begin after the cut, and wait for the network in its shield.

    It gets an error and no cancellation: a paid answer must reach the disk before it stops.
    """
    first, second = Gate(), Gate()
    scopes = {gate: anyio.CancelScope() for gate in (first, second)}

    async def write(gate: Gate) -> None:
        with scopes[gate], pytest.raises(Unavailable, match="the connections were cut"):
            await books.write(gate.kind, 1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, first)
        await first.begun()
        tasks.start_soon(write, second)
        await anyio.wait_all_tasks_blocked()
        scopes[second].cancel()
        database.cut()
        first.open()
    assert (second.batches, second.alone) == ([], [])


@pytest.mark.parametrize("when", ["writing", "waiting for its turn"])
async def test_a_leader_that_is_torn_out_leaves_nobody_waiting(
    books: GroupCommit, when: str
) -> None:
    """As `asyncio.timeout` does, which knows no shields."""
    gate, first = Gate(), Gate()
    async with anyio.create_task_group() as tasks:
        if when != "writing":
            tasks.start_soon(books.write, first.kind, 9)
            await first.begun()
        leader, follower = (asyncio.ensure_future(books.write(gate.kind, n)) for n in (0, 1))
        if when == "writing":
            await gate.begun()
        else:
            await anyio.wait_all_tasks_blocked()
        leader.cancel()
        with anyio.fail_after(5):
            assert await follower == 2
        with pytest.raises(asyncio.CancelledError):
            await leader
        assert gate.alone == [1]
        first.open()
        gate.open()
    with anyio.fail_after(5):
        assert await books.write(gate.kind, 5) == 10
    assert gate.batches[-1] == [5]


@pytest.mark.parametrize("what", ["starts", "settles", "both"])
async def test_a_daemon_that_stands_still_holds_up_no_call_of_another(
    database_url: str, database: Database, conn: Connection, what: str
) -> None:
    """Its loop reads nothing any more, from before the server has the money's lock for it."""
    await budgets.set_budget(conn, "daily", 10**6, unit="tokens", period="day")
    first, second, others, blocker = await leases(conn, 4)
    call_id = await entries.start(conn, **starting(first)._asdict())
    writes: list[tuple[WriteKind[Any, Any], Any]] = []
    if what != "settles":
        writes.append((START, starting(second)))
    if what != "starts":
        writes.append((SETTLE, paid(first, call_id)))
    stopped = _Stopping(database_url, writes)
    async with database.transaction(PINNED) as other:
        await starts.start_call(other, starting(blocker))
        stopped.begin()
        await waits(database)
        stopped.stop()
    try:
        with anyio.fail_after(5):
            await entries.start(conn, **starting(others)._asdict())
        found = await in_the_books(database)
        assert (found["calls"], found["settled"]) == {
            "starts": (4, 0),
            "settles": (3, 1),
            "both": (4, 1),
        }[what]
    finally:
        brought = await anyio.to_thread.run_sync(stopped.go_on)
    assert len(brought) == len(writes)
    assert not any(isinstance(one, Exception) for one in brought)


class _Stopping:
    """A daemon's loop that writes, and can be made to stand still."""

    def __init__(self, database_url: str, writes: list[tuple[WriteKind[Any, Any], Any]]) -> None:
        self._url = database_url
        self._writes = writes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stands, self._may_go = threading.Event(), threading.Event()
        self._brought: list[Any] = []
        self._thread = threading.Thread(target=lambda: anyio.run(self._run))

    def begin(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stand)
        assert self._stands.wait(10)

    def go_on(self) -> list[Any]:
        self._may_go.set()
        self._thread.join(30)
        return self._brought

    def _stand(self) -> None:
        self._stands.set()
        self._may_go.wait(30)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with Database(self._url, pool_min=1, pool_max=2) as database:
            books = GroupCommit(database)
            self._brought = await at_once(
                *(partial(books.write, kind, item) for kind, item in self._writes)
            )


# The server's trouble.


async def test_a_backend_that_is_killed_costs_nobody_its_write(
    database: Database, conn: Connection, books: GroupCommit
) -> None:
    async def kill(connection: Connection, items: Sequence[int]) -> dict[int, int]:
        await conn.execute("select pg_terminate_backend(%s)", [connection.info.backend_pid])
        return dict.fromkeys(range(len(items)), 0)

    async def survive(_: Database, item: int) -> int:
        return item

    held = await leases(conn, 5)
    results = await at_once(
        *(partial(books.write, START, starting(lease)) for lease in held),
        partial(books.write, WriteKind(kill, survive), 7),
    )
    assert results[-1] == 7
    found = await in_the_books(database)
    assert (found["calls"], found["reserved"]) == (5, 5)
    for lease, call_id in zip(held, results, strict=False):
        assert [call.id for call in await calls.list_calls(conn, lease.job_id)] == [call_id]


async def test_a_commit_that_was_not_answered_doubles_nothing(
    database: Database, conn: Connection, books: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = await leases(conn, 3)
    [call_id] = await started(books, [first])
    transaction = database.transaction
    lost: list[str] = []

    @asynccontextmanager
    async def unanswered(begin: LiteralString) -> AsyncGenerator[Connection]:
        async with transaction(begin) as connection:
            yield connection
        lost.append("the answer to the commit")
        monkeypatch.setattr(database, "transaction", transaction)
        raise Unavailable("the connection is gone")

    monkeypatch.setattr(database, "transaction", unanswered)
    call = starting(second)
    results = await at_once(
        partial(books.write, START, call),
        partial(books.write, SETTLE, paid(first, call_id, '"paid"')),
        partial(books.write, RECORD, Record(third, "fetch", '"page"', 1)),
    )
    [booked] = await calls.list_calls(conn, second.job_id)
    assert (results, len(lost)) == ([booked.id, "paid", "page"], 1)
    found = await in_the_books(database)
    assert found == {"calls": 2, "commits": 1, "reserved": 2, "settled": 1, "steps": 2}


async def test_a_server_that_is_away_is_told_to_each() -> None:
    async with Database(NOBODY, pool_min=0, acquire_seconds=0.05) as database:
        books = GroupCommit(database)
        lease = Lease(uuid4(), 1, uuid4())
        results = await at_once(
            partial(books.write, START, starting(lease)),
            partial(books.write, RECORD, Record(lease, "fetch", "1", 1)),
            partial(books.write, SETTLE, paid(lease, uuid4())),
        )
    assert [isinstance(one, Unavailable) for one in results] == [True, True, True]
