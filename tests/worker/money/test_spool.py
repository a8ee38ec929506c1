"""A paid answer is in the database or on disk, and from the disk it comes back once."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, LiteralString, cast
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import pytest
import structlog
from structlog.testing import capture_logs

from db.errors import Refused, Unavailable
from db.fence import Lease
from db.money import calls as call_records
from db.money import settlements
from db.money.calls import Call, CallStatus, Usage
from db.money.settlements import Settlement
from db.pool import Connection, Database, fetch_one
from db.steps import steps
from db.steps.steps import PaidAnswer
from tests.db import rows
from tests.db.money import entries
from tests.support import until
from tests.worker.job_api import JobApi, claimed_job, registered
from worker import Job, handler
from worker.job import Tools
from worker.memory.embedders import HashingEmbedder
from worker.money import spool
from worker.money.group_commit import GroupCommit, Kind, Paid
from worker.money.spool import Spool
from worker.money.spool_folder import SpoolFolder, folder_of
from worker.outcomes import Done, Lost, Outcome, Released
from worker.queue.attempt import Attempt, run_attempt
from worker.web.metrics import Metrics

Logs = Sequence[MutableMapping[str, Any]]

USAGE = Usage(7, 3)
AWAY = Unavailable("the connection is lost")
LOST = Lost("no heartbeat succeeded in time")
SETTLED: LiteralString = """
select count(*) from jobsworth.token_ledger where entry = 'settle'
"""
HOLD_CALL: LiteralString = """
select from jobsworth.llm_calls where id = %(call_id)s for update
"""


class Books:
    """The database's side of a settlement: away for the first `away` tries, or until told."""

    def __init__(self, database: Database, away: int = 0, error: Exception = AWAY) -> None:
        self.tries = 0
        self._away = away
        self._error = error
        self._books = GroupCommit(database)

    async def write(self, kind: Kind[Paid, Any], item: Paid) -> Any:
        self.tries += 1
        if self.tries <= self._away:
            raise self._error
        return await self._books.write(kind, item)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("SPOOL_AFTER_SECONDS", "LOOK_SECONDS", "PAUSE_SECONDS", "CLEAR_PAUSE_SECONDS"):
        monkeypatch.setattr(spool, name, 0.02)
    monkeypatch.setattr(spool, "PAUSE_SECONDS_MAX", 0.05)
    # Loggers keep the set-up they first logged with, which `capture_logs` has to change.
    structlog.configure(cache_logger_on_first_use=False)
    yield
    structlog.reset_defaults()


@pytest.fixture
def folder(tmp_path: Path) -> SpoolFolder:
    return SpoolFolder(tmp_path / "spool", 100_000)


@pytest.fixture
def kept(database: Database, folder: SpoolFolder) -> Spool:
    return Spool(database, folder)


@pytest.fixture
async def lease(conn: Connection) -> Lease:
    return await rows.running_job(conn)


async def answered(conn: Connection, lease: Lease, content: str = '"paid"') -> Paid:
    """A call that is in the books and was answered."""
    call_id = await entries.start(
        conn,
        lease,
        provider="scripted",
        model="m-1",
        request_id=uuid4().hex,
        estimate=Usage(100, 50),
        step_name="draft",
        attempt=1,
    )
    answer = PaidAnswer(lease.job_id, "draft", content, 1, 0.1)
    return Paid(Settlement(call_id, CallStatus.OK, USAGE, Decimal("0.25"), "p1"), answer)


async def call_of(conn: Connection, lease: Lease) -> Call:
    [call] = await call_records.list_calls(conn, lease.job_id)
    return call


async def step_of(conn: Connection, lease: Lease) -> Any:
    [step] = await steps.list_for_job(conn, lease.job_id)
    return step.output


def files(folder: SpoolFolder) -> list[str]:
    return [entry.name for entry in folder.find().entries]


def named(logs: Logs, event: str) -> Logs:
    return [record for record in logs if record["event"] == event]


@asynccontextmanager
async def at_work(kept: Spool) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.run)
        yield
        tasks.cancel_scope.cancel()


async def until_files(folder: SpoolFolder, count: int) -> None:
    async def there() -> bool:
        return len(files(folder)) == count

    await until(there, what=f"{count} files")


# Settling.


async def test_an_answer_that_is_settled_at_once_is_never_on_disk(
    database: Database, conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    paid = await answered(conn, lease)
    assert (await kept.settle(Books(database), lease.job_id, paid)).stands == "paid"
    assert not folder.path.exists()
    assert (await call_of(conn, lease)).status is CallStatus.OK


async def test_an_answer_is_on_disk_while_the_database_is_away_and_gone_when_it_is_settled(
    database: Database, conn: Connection, lease: Lease, folder: SpoolFolder
) -> None:
    metrics = Metrics()
    kept = Spool(database, folder, metrics.spooled)
    paid = await answered(conn, lease)
    seen: list[int] = []

    class Looking(Books):
        async def write(self, kind: Kind[Paid, Any], item: Paid) -> Any:
            seen.append(len(files(folder)))
            return await super().write(kind, item)

    with capture_logs() as logs:
        assert (await kept.settle(Looking(database, away=2), lease.job_id, paid)).stands == "paid"
    assert seen == [0, 1, 1]
    assert metrics.spooled_answers == 1
    assert files(folder) == []
    [written] = named(logs, "spool.written")
    assert written["call_id"] == str(paid.settlement.call_id)
    assert "paid" not in {str(value) for value in written.values()}


async def test_an_answer_that_the_database_keeps_waiting_is_written_to_disk_meanwhile(
    database: Database, conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    paid = await answered(conn, lease)
    async with at_work(kept), anyio.create_task_group() as tasks:
        async with database.transaction() as other:
            await fetch_one(other, HOLD_CALL, {"call_id": paid.settlement.call_id})
            tasks.start_soon(kept.settle, GroupCommit(database), lease.job_id, paid)
            await until_files(folder, 1)
        await until_files(folder, 0)
    assert (await call_of(conn, lease)).status is CallStatus.OK


async def test_after_its_bound_the_error_is_told_and_the_answer_stays_on_disk(
    database: Database,
    conn: Connection,
    kept: Spool,
    lease: Lease,
    folder: SpoolFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "KEPT_SECONDS_MAX", 0.1)
    paid = await answered(conn, lease)
    with pytest.raises(Unavailable):
        await kept.settle(Books(database, away=1000), lease.job_id, paid)
    assert len(files(folder)) == 1
    assert (await call_of(conn, lease)).status is CallStatus.STARTED
    assert await kept.drain() == 1
    assert (await call_of(conn, lease)).cost == Decimal("0.25")
    assert await step_of(conn, lease) == "paid"


async def test_a_stop_lands_once_the_answer_is_on_disk(
    database: Database, conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    paid = await answered(conn, lease)
    with anyio.fail_after(10), anyio.CancelScope() as scope:
        scope.cancel()
        await kept.settle(Books(database, away=1000), lease.job_id, paid)
    assert scope.cancelled_caught
    assert len(files(folder)) == 1


async def test_an_answer_that_has_nowhere_else_to_go_is_brought_to_the_database_in_spite_of_a_stop(
    database: Database, conn: Connection, lease: Lease, tmp_path: Path
) -> None:
    full = SpoolFolder(tmp_path / "full", 0)
    paid = await answered(conn, lease)
    with capture_logs() as logs, anyio.CancelScope() as scope:
        scope.cancel()
        booked = await Spool(database, full).settle(Books(database, away=2), lease.job_id, paid)
        assert booked.stands == "paid"
    assert (await call_of(conn, lease)).status is CallStatus.OK
    assert files(full) == []
    failed = named(logs, "spool.failed")
    assert len(failed) == 2
    assert "more than 0 bytes" in failed[0]["reason"]


async def test_an_error_that_another_try_would_not_mend_is_told_at_once(
    database: Database, conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    paid = await answered(conn, lease)
    books = Books(database, away=1, error=Refused("no such column"))
    with pytest.raises(Refused):
        await kept.settle(books, lease.job_id, paid)
    assert (books.tries, files(folder)) == (1, [])


# Draining.


async def test_what_is_drained_twice_or_was_settled_before_is_settled_once(
    database: Database, conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    paid = await answered(conn, lease)
    name = folder.write(lease.job_id, paid)
    shutil.copy(folder.path / name, folder.path / "copy")
    assert await kept.drain() == 1
    # A death between the commit and the removal leaves the file there.
    (folder.path / "copy").rename(folder.path / name)
    assert await Spool(database, folder).drain() == 1
    assert files(folder) == []
    assert await database.fetch_val(SETTLED) == 1
    assert await step_of(conn, lease) == "paid"


async def test_the_first_answer_stays_and_both_calls_are_paid(
    database: Database, conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    late = await answered(conn, lease, '"late"')
    folder.write(lease.job_id, late)
    await GroupCommit(database).write(spool.SETTLE, await answered(conn, lease, '"first"'))
    assert await kept.drain() == 1
    assert await step_of(conn, lease) == "first"
    calls = await call_records.list_calls(conn, lease.job_id)
    assert [call.status for call in calls] == [CallStatus.OK, CallStatus.OK]


async def test_an_answer_is_kept_though_its_call_was_closed_as_unknown_before(
    conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    folder.write(lease.job_id, await answered(conn, lease))
    await rows.end(conn, lease.job_id)
    assert (await settlements.settle_abandoned(conn, 10)).calls == 1
    assert await kept.drain() == 1
    assert await step_of(conn, lease) == "paid"
    assert (await call_of(conn, lease)).status is CallStatus.OK


async def test_many_daemons_drain_one_folder_without_an_error(
    database: Database, conn: Connection, folder: SpoolFolder
) -> None:
    leases = [await rows.running_job(conn) for _ in range(12)]
    for lease in leases:
        folder.write(lease.job_id, await answered(conn, lease))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(Spool(database, folder).drain)
    assert files(folder) == []
    assert await database.fetch_val(SETTLED) == 12


async def test_what_cannot_be_used_is_told_once_and_left_alone(
    database: Database, conn: Connection, kept: Spool, lease: Lease, folder: SpoolFolder
) -> None:
    whole = await answered(conn, lease)
    unknown_call = Paid(whole.settlement._replace(call_id=uuid4()), whole.answer)
    torn = folder.path / folder.write(lease.job_id, await answered(conn, lease))
    torn.write_bytes(torn.read_bytes()[:100])
    elsewhere = folder.write(lease.job_id, unknown_call)
    (folder.path / "notes.txt").touch()
    folder.write(lease.job_id, whole)
    with capture_logs() as logs:
        assert await kept.drain() == 1
        assert await kept.drain() == 0
    refused = {Path(record["file"]).name for record in named(logs, "spool.refused")}
    assert len(named(logs, "spool.refused")) == 3
    assert refused == {torn.name, elsewhere, "notes.txt"}
    assert {path.name for path in folder.path.iterdir()} == refused
    assert await kept.clear(lease.job_id)


async def test_a_database_that_is_away_ends_the_draining_and_the_files_stay(
    conn: Connection, lease: Lease, folder: SpoolFolder
) -> None:
    folder.write(lease.job_id, await answered(conn, lease))
    nobody = Database("postgresql://nobody@127.0.0.1:1/x", pool_min=0, acquire_seconds=0.05)
    async with nobody:
        with pytest.raises(Unavailable):
            await Spool(nobody, folder).drain()
        assert not await Spool(nobody, folder).clear(lease.job_id)
        assert await Spool(nobody, folder).clear(UUID(int=1))
    assert len(files(folder)) == 1


async def test_a_folder_that_cannot_be_written_is_told_at_the_start(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with capture_logs() as logs:
        Spool(database, SpoolFolder(tmp_path / "file" / "spool", 1)).warn_if_unusable()
        Spool(database, SpoolFolder(tmp_path / "spool", 1)).warn_if_unusable()
    assert [record["folder"] for record in logs] == [str(tmp_path / "file" / "spool")]


async def test_a_disk_that_fails_is_told_once_and_stops_nothing(
    database: Database,
    conn: Connection,
    kept: Spool,
    lease: Lease,
    folder: SpoolFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    paid = await answered(conn, lease)
    folder.write(lease.job_id, paid)
    monkeypatch.setattr(os, "unlink", refuse)
    with capture_logs() as logs:
        assert await kept.drain() == 1
        assert await kept.drain() == 0
        assert (await kept.settle(Books(database, away=1), lease.job_id, paid)).stands == "paid"
        assert await kept.clear(lease.job_id)
    assert {record["reason"] for record in named(logs, "spool.refused")} == {
        "it is settled and cannot be removed: Permission denied"
    }
    monkeypatch.setattr(os, "scandir", refuse)
    with capture_logs() as logs:
        assert await kept.drain() == 0
        assert await kept.clear(lease.job_id)
    [failed] = named(logs, "spool.failed")
    assert "cannot be read" in failed["reason"]


# Jobs.


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncGenerator[JobApi]:
    with registered():
        async with JobApi.open(database_url, spool_dir=tmp_path) as api:
            yield api
            assert await api.violations() == []


def folder_at(api: JobApi, tmp_path: Path) -> SpoolFolder:
    return SpoolFolder(folder_of(tmp_path, api.url, tmp_path, "jobsworth"), 100_000)


def lost_in(api: JobApi, tmp_path: Path, sent: list[int]) -> Callable[[Job], Awaitable[Any]]:
    """A handler whose first attempt ends with its answer on the disk and nowhere else."""

    async def work(job: Job) -> Any:
        sent.append(job.attempt)
        async with api.database.connection() as connection:
            paid = await answered(connection, job.lease)
        folder_at(api, tmp_path).write(job.id, paid)
        raise ConnectionError("gone")

    return work


async def test_a_job_that_goes_on_reads_the_answer_that_was_on_disk(
    api: JobApi, tmp_path: Path
) -> None:
    sent: list[int] = []
    lose = lost_in(api, tmp_path, sent)

    @handler("work")
    async def work(job: Job) -> Any:
        if job.attempt == 1:
            await lose(job)
        return await job.step("draft", lambda: "not read")

    job = await api.run("work")
    assert (job.result, job.attempt, sent) == ("paid", 2, [1])
    assert files(folder_at(api, tmp_path)) == []


async def test_a_job_waits_while_its_answer_is_on_disk_and_cannot_be_settled(
    api: JobApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "CLEAR_SECONDS", 0.1)
    monkeypatch.setattr("worker.steps.steps.KEPT_PAUSE_SECONDS", 0.05)
    lose = lost_in(api, tmp_path, [])
    begun: list[int] = []
    parked: list[Any] = []

    @handler("work")
    async def work(job: Job) -> Any:
        begun.append(job.attempt)
        if job.attempt == 1:
            await lose(job)
        return await job.step("draft", lambda: "not read")

    async def free() -> bool:
        parked[:] = await api.rows(PARKED)
        return any(row["waiting_detail"] for row in parked)

    folder = folder_at(api, tmp_path)
    async with api.working():
        job_id = await api.enqueue("work")
        await until_files(folder, 1)
        # Another daemon has it in hand.
        with folder.taken(files(folder)[0]) as paid:
            assert paid is not None
            await until(free)
        await api.idle()
    assert parked[0]["waiting_for"] == "timer"
    assert "a paid answer is on the disk" in parked[0]["waiting_detail"]
    job = await api.job(job_id)
    assert (job.result, job.failures) == ("paid", 1)
    assert begun[:2] == [1, 2]
    assert len(begun) > 2


PARKED: LiteralString = """
select waiting_for::text, waiting_detail from jobsworth.reactive_jobs where status = 'waiting'
"""


async def test_a_worker_drains_the_spool_before_it_claims(api: JobApi, tmp_path: Path) -> None:
    found: list[int] = []

    @handler("work")
    async def work() -> None:
        found.append(len(files(folder_at(api, tmp_path))))

    async with api.database.connection() as connection:
        for _ in range(5):
            lease = await rows.running_job(connection)
            folder_at(api, tmp_path).write(lease.job_id, await answered(connection, lease))
            await rows.end(connection, lease.job_id)
    await api.run("work")
    assert found == [0]
    assert await api.value(SETTLED) == 5


# Calls that are on their way when the worker has to stop its attempts.


class Stopped:
    """An attempt with one open call, told to stop without harm to its calls."""

    def __init__(self) -> None:
        self.began = anyio.Event()
        self.arrived = anyio.Event()
        self.leaves_it_open = False
        self.went_on = False
        self.scope = anyio.CancelScope()
        self.outcome: Outcome | None = None
        with registered() as registry:
            handler("work")(self._work)
            claimed = claimed_job()
            lease = Lease(claimed.id, 1, uuid4())
            self.attempt = Attempt(claimed, lease, registry["work"])

    async def run(self, tools: Tools) -> None:
        with self.scope:
            self.outcome = await run_attempt(self.scope, self.attempt, tools, ())

    def stop(self, cause: Outcome = LOST, *, spare_calls: bool = True) -> None:
        self.attempt.stop(cause, spare_calls=spare_calls)

    async def _work(self, job: Job) -> str:
        job.calls_open.began()
        self.began.set()
        await self.arrived.wait()
        if not self.leaves_it_open:
            job.calls_open.ended()
        await anyio.lowlevel.checkpoint()
        self.went_on = True
        return "done"


@asynccontextmanager
async def stopped(database: Database, folder: SpoolFolder) -> AsyncGenerator[Stopped]:
    tools = Tools(
        database=database,
        embedder=HashingEmbedder(8),
        threads=anyio.CapacityLimiter(1),
        payload_bytes_max=1000,
        deployer=cast(Any, None),
        spool=Spool(database, folder),
    )
    one = Stopped()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run, tools)
            await one.began.wait()
            yield one


async def test_an_attempt_stops_when_its_last_open_call_has_ended(
    database: Database, folder: SpoolFolder
) -> None:
    async with stopped(database, folder) as one:
        one.stop()
        await anyio.wait_all_tasks_blocked()
        assert one.outcome is None
        one.arrived.set()
    assert (one.outcome, one.went_on) == (LOST, False)


async def test_an_attempt_waits_for_its_calls_no_longer_than_the_bound(
    database: Database, folder: SpoolFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.queue.attempt.SPARED_SECONDS_MAX", 0.05)
    async with stopped(database, folder) as one:
        one.stop()
    assert (one.outcome, one.went_on) == (LOST, False)


async def test_a_stop_of_another_kind_ends_the_waiting_and_not_its_cause(
    database: Database, folder: SpoolFolder
) -> None:
    async with stopped(database, folder) as one:
        one.stop()
        one.stop(Released(), spare_calls=False)
    assert (one.outcome, one.went_on) == (LOST, False)


async def test_a_call_that_ends_after_its_attempt_stops_nobody_else(
    database: Database, folder: SpoolFolder
) -> None:
    """The scope is the next attempt's by then."""
    async with stopped(database, folder) as one:
        one.leaves_it_open = True
        one.stop()
        one.arrived.set()
    assert one.outcome == Done('"done"')
    assert one.attempt.context is not None
    one.attempt.context.calls_open.ended()
    assert not one.scope.cancel_called
    assert one.scope.deadline == math.inf
