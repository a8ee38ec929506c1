"""Attempts run side by side, and none sees what another left behind."""

from contextvars import ContextVar
from typing import LiteralString

import anyio
import pytest

from db.pool import execute
from db.queue.jobs import JobStatus
from jobsworth import handler
from tests.support import until
from tests.worker.job_api import JobApi, registered
from worker.daemon.heartbeat import Heartbeat

CRASH: LiteralString = "update jobsworth.reactive_jobs set crashes = 2 where id = %(id)s"
REQUEST: ContextVar[str | None] = ContextVar("REQUEST", default=None)


async def test_handlers_that_wait_run_side_by_side(api: JobApi) -> None:
    meeting, present = anyio.Event(), 0

    @handler("meet")
    async def meet() -> None:
        nonlocal present
        present += 1
        if present == 10:
            meeting.set()
        await meeting.wait()

    jobs = [await api.enqueue("meet") for _ in range(10)]
    await api.work()
    assert {(await api.job(job)).status for job in jobs} == {JobStatus.DONE}


async def test_an_attempt_that_no_heartbeat_proves_does_not_begin(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler blocked the loop so long that others may have taken this worker for dead."""
    ran: list[str] = []
    with registered():
        async with JobApi.open(database_url) as api:

            @handler("blocks")
            async def blocks() -> None:
                ran.append("blocks")
                monkeypatch.setattr(Heartbeat, "proven_id", _nobody)

            @handler("next")
            async def next_one() -> None:
                ran.append("next")

            first = await api.enqueue("blocks", priority=1)
            second = await api.enqueue("next")
            async with api.working():

                async def claimed() -> bool:
                    return (await api.job(second)).status is JobStatus.RUNNING

                await until(claimed)
                await until(lambda: _true(ran == ["blocks"]))
                monkeypatch.undo()
                await until(lambda: _true(len(ran) == 2))
            done = [await api.job(one) for one in (first, second)]
    assert [job.status for job in done] == [JobStatus.DONE] * 2
    # What could not be proved was given back, and ran once.
    assert (ran, done[1].attempt, done[1].crashes) == (["blocks", "next"], 2, 0)


async def test_beside_a_suspect_that_runs_alone_the_worker_begins_nothing(api: JobApi) -> None:
    order: list[str] = []

    @handler("note")
    async def note(name: str) -> None:
        order.append(f"{name} begins")
        await anyio.lowlevel.checkpoint()
        order.append(f"{name} ends")

    jobs = [await api.enqueue("note", {"name": name}, crashes_max=2) for name in "abc"]
    async with api.database.connection() as connection:
        await execute(connection, CRASH, {"id": jobs[1]})
    await api.work()
    assert {(await api.job(job)).status for job in jobs} == {JobStatus.DONE}
    assert order[:2] == ["b begins", "b ends"]
    assert len(order) == 6


def _nobody(_: Heartbeat) -> None:
    return None


async def _true(value: bool) -> bool:
    return value


async def test_a_context_variable_that_a_handler_leaves_behind_is_not_seen_by_the_next(
    api: JobApi,
) -> None:
    @handler("leaves")
    async def leaves() -> str | None:
        found = REQUEST.get()
        REQUEST.set("somebody else's")
        return found

    jobs = [await api.enqueue("leaves") for _ in range(20)]
    await api.work()
    assert [(await api.job(job)).result for job in jobs] == [None] * 20
