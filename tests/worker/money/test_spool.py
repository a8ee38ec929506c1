"""A paid answer is in the database or on disk, and from the disk it comes back once."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import pytest
from structlog.testing import capture_logs

from db.errors import Refused, Unavailable
from db.fence import Lease
from db.money import calls as call_records
from db.money import settlements
from db.money.calls import Call, CallStatus
from db.pool import Connection, Database, fetch_one
from db.steps import steps
from tests.db import rows
from tests.worker.money.spooling import SETTLED, answered, files, until_files
from tests.worker.money.spooling import folder as folder
from tests.worker.money.spooling import lease as lease
from tests.worker.money.spooling import quick as quick
from worker.money import spool
from worker.money.group_commit import GroupCommit, Paid, WriteKind
from worker.money.spool import Spool
from worker.money.spool_folder import SpoolFolder
from worker.web.metrics import Metrics

Logs = Sequence[MutableMapping[str, Any]]

AWAY = Unavailable("the connection is lost")

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

    async def write(self, kind: WriteKind[Paid, Any], item: Paid) -> Any:
        self.tries += 1
        if self.tries <= self._away:
            raise self._error
        return await self._books.write(kind, item)


@pytest.fixture
def kept(database: Database, folder: SpoolFolder) -> Spool:
    return Spool(database, folder)


async def call_of(conn: Connection, lease: Lease) -> Call:
    [call] = await call_records.list_calls(conn, lease.job_id)
    return call


async def step_of(conn: Connection, lease: Lease) -> Any:
    [step] = await steps.list_for_job(conn, lease.job_id)
    return step.output


def named(logs: Logs, event: str) -> Logs:
    return [record for record in logs if record["event"] == event]


@asynccontextmanager
async def at_work(kept: Spool) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.run)
        yield
        tasks.cancel_scope.cancel()


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
        async def write(self, kind: WriteKind[Paid, Any], item: Paid) -> Any:
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
    for each in leases:
        folder.write(each.job_id, await answered(conn, each))
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
