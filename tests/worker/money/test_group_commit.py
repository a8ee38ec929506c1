"""Group commit: one transaction for what many write at once, and nobody pays for a neighbour."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, LiteralString, TypeVar
from uuid import UUID, uuid4

import anyio
import anyio.to_thread
import pytest

from db.errors import Refused, Unavailable
from db.fence import PINNED, Lease, LeaseLost, hold
from db.money import budgets, calls, starts
from db.money.calls import CallStatus, Usage
from db.money.settlements import Settlement
from db.money.starts import CallStarted, Starting
from db.pool import Connection, Database
from db.steps.steps import PaidAnswer, Record
from tests.db import rows
from tests.db.money import entries
from tests.support import until
from worker.money import group_commit
from worker.money.group_commit import RECORD, SETTLE, START, Booked, GroupCommit, Kind, Paid

T = TypeVar("T")
Write = Callable[[], Awaitable[Any]]

NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"
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
        self.kind = Kind(self._together, self._alone)
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
        partial(books.write, RECORD, Record(bad, "\ud800", "1", 1)),
        partial(books.write, RECORD, Record(last, "fetch", "1", 1)),
    )
    assert isinstance(results[0], UUID)
    assert isinstance(results[1], Refused)
    assert isinstance(results[2], Exception)
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
        await _waits(database)
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
        await _waits(database)
        await until(partial(_settled, database, 1))
        let_go()
    found = await in_the_books(database)
    assert (found["settled"], found["steps"]) == (2, 2)


async def _settled(database: Database, count: int) -> bool:
    return (await in_the_books(database))["settled"] == count


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
    writes: list[tuple[Kind[Any, Any], Any]] = []
    if what != "settles":
        writes.append((START, starting(second)))
    if what != "starts":
        writes.append((SETTLE, paid(first, call_id)))
    stopped = _Stopping(database_url, writes)
    async with database.transaction(PINNED) as other:
        await starts.start_call(other, starting(blocker))
        stopped.begin()
        await _waits(database)
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

    def __init__(self, database_url: str, writes: list[tuple[Kind[Any, Any], Any]]) -> None:
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
        partial(books.write, Kind(kill, survive), 7),
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


async def _waits(database: Database) -> None:
    """Until one statement waits for a lock."""
    await until(partial(database.fetch_val, WAITING, [1]))


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
