"""Jobs and the spool: an answer on disk is read, drained, and waited for at a stop."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString, cast
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

from db.fence import Lease
from db.money.calls import Answer
from db.pool import Database
from jobsworth import Job, Sending, handler
from tests.db import rows
from tests.support import until
from tests.worker.job_api import JobApi, claimed_job, registered
from tests.worker.money.spooling import SETTLED, answered, files, until_files
from tests.worker.money.spooling import folder as folder
from tests.worker.money.spooling import lease as lease
from tests.worker.money.spooling import quick as quick
from worker.attempt_state import Tools
from worker.memory.embedders import HashingEmbedder
from worker.money import spool
from worker.money.spool import Spool
from worker.money.spool_folder import SpoolFolder, folder_of
from worker.outcomes import Done, Lost, Outcome, Released
from worker.plain_job import state_of
from worker.queue.attempt import Attempt, run_attempt

LOST = Lost("no heartbeat succeeded in time")
CALL: dict[str, Any] = {"provider": "scripted", "model": "m-1", "estimate": (100, 50)}


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
            paid = await answered(connection, state_of(job).lease)
        folder_at(api, tmp_path).write(job.id, paid)
        raise ConnectionError("gone")

    return work


async def never_sent(_: Sending) -> Answer:
    """What an answer on the disk is read instead of."""
    raise AssertionError("the call was sent again")


async def test_a_job_that_goes_on_reads_the_answer_that_was_on_disk(
    api: JobApi, tmp_path: Path
) -> None:
    sent: list[int] = []
    lose = lost_in(api, tmp_path, sent)

    @handler("work")
    async def work(job: Job) -> Any:
        if job.attempt == 1:
            await lose(job)
        return await job.call("draft", never_sent, **CALL)

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
        return await job.call("draft", never_sent, **CALL)

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
        state_of(job).calls_open.began()
        self.began.set()
        await self.arrived.wait()
        if not self.leaves_it_open:
            state_of(job).calls_open.ended()
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
    assert one.attempt.state is not None
    one.attempt.state.calls_open.ended()
    assert not one.scope.cancel_called
    assert one.scope.deadline == math.inf
