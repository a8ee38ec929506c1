"""A step is recorded once: what a replay reads, and what a failed or stopped step leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import anyio
import pytest

from db.queue.jobs import JobStatus
from jobsworth import Job, handler
from tests.worker.job_api import JobApi

STEPS = "select name, kind, attempt, finished_at from jobsworth.steps order by started_at, name"


class Flaky:
    """Fails the first time it is asked to, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def once(self) -> None:
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError("the first time fails")


async def test_a_step_is_not_run_again_after_a_retry(api: JobApi) -> None:
    ran: list[int] = []
    flaky = Flaky()

    @handler("work")
    async def work(job: Job) -> list[int]:
        async def count(start: int, *, by: int) -> int:
            ran.append(start)
            return start + by

        first = await job.step("first", count, 1, by=10)
        flaky.once()
        return [first, await job.step("second", count, 2, by=20), job.attempt]

    job = await api.run("work")
    assert (job.status, job.failures) == (JobStatus.DONE, 1)
    assert job.result == [11, 22, 2]
    assert ran == [1, 2]


async def test_the_record_is_what_json_keeps_in_the_first_attempt_as_well(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> Any:
        return await job.step("pair", lambda: (1, {"at": UUID(int=7), "nul": "a\0b"}))

    job = await api.run("work")
    assert job.result == [1, {"at": str(UUID(int=7)), "nul": "a␀b"}]


@pytest.mark.parametrize("waits", ["timeout", "wait_for", "cancel"])
async def test_the_thread_of_a_step_ends_before_its_attempt_whatever_cancels_it(
    api: JobApi, waits: str
) -> None:
    """asyncio's own cancellation ignores shields, and a thread cannot be interrupted."""
    running, most = 0, 0

    def slow() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.4)
        running -= 1

    @handler("work", failures_max=2)
    async def work(job: Job) -> None:
        assert running == 0, "the step of the attempt before is still running"
        step = job.step("slow", slow)
        if waits == "timeout":
            async with asyncio.timeout(0.1):
                await step
        elif waits == "wait_for":
            await asyncio.wait_for(step, 0.1)
        else:
            task = asyncio.current_task()
            assert task is not None
            for n in range(5):
                asyncio.get_running_loop().call_later(0.1 + n / 20, task.cancel)
            await step

    job = await api.run("work")
    assert (job.status, job.attempt, most, running) == (JobStatus.FAILED, 2, 1, 0)


async def test_a_plain_function_of_a_step_runs_in_a_thread(api: JobApi) -> None:
    @handler("work")
    async def work(job: Job) -> bool:
        name = await job.step("where", lambda: threading.current_thread().name)
        return name == threading.current_thread().name

    assert (await api.run("work")).result is False


async def test_a_step_that_raises_records_nothing_and_runs_again(api: JobApi) -> None:
    flaky = Flaky()

    @handler("work")
    async def work(job: Job) -> int:
        await job.step("flaky", flaky.once)
        return flaky.calls

    job = await api.run("work")
    assert (job.result, job.failures) == (2, 1)
    [step] = await api.rows(STEPS)
    assert (step["name"], step["attempt"]) == ("flaky", 2)


async def test_a_result_that_is_not_json_is_named_with_its_step(api: JobApi) -> None:
    @handler("work", failures_max=1)
    async def work(job: Job) -> None:
        await job.step("lock", threading.Lock)

    job = await api.run("work")
    assert job.status is JobStatus.FAILED
    assert "the result of step 'lock' cannot be written as JSON" in (job.error or "")


async def test_a_stop_lands_before_the_next_statement(api: JobApi) -> None:
    """Though no statement can be interrupted, and none of these ever has to wait."""
    ran: list[str] = []
    kill: list[Callable[[], None]] = []

    @handler("work")
    async def work(job: Job) -> None:
        async def note(name: str) -> None:
            ran.append(name)
            if name == "second":
                kill[0]()

        for name in ("first", "second", "third"):
            await job.step(name, note, name)

    await api.enqueue("work")
    with anyio.fail_after(20):
        async with api.dying() as worker:
            kill.append(worker.kill)
            await anyio.sleep_forever()
    assert ran == ["first", "second"]
    assert [step["name"] for step in await api.rows(STEPS)] == ["first"]
