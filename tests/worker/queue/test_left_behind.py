"""What a handler leaves behind in its task harms no other attempt, and does not end the worker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from uuid import UUID

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from db.queue.claim import Claimed
from jobsworth import Job, handler
from tests.support import until
from tests.worker.job_api import claimed_job, registered
from tests.worker.queue.attempts import tools
from worker.outcomes import Released
from worker.queue import attempt
from worker.queue.attempt_log import AttemptLog
from worker.queue.ended import EndedAttempt, EndedAttempts
from worker.queue.running import Running
from worker.queue.wake import Wake
from worker.web.metrics import Metrics

WORKER = claimed_job().id


class Attempts:
    """Attempts side by side in this loop, without a database: their transitions are collected."""

    def __init__(self, running: Running, ended: EndedAttempts) -> None:
        self._running = running
        self._ended = ended
        self._jobs: list[Claimed] = []
        self._came: list[EndedAttempt] = []

    def start(self, *modes: str) -> None:
        for mode in modes:
            job = claimed_job(mode, lease_no=len(self._jobs) + 1)
            self._jobs.append(job)
            self._running.start(job, WORKER)

    def stop(self) -> None:
        self._running.stop_all(Released())

    async def statuses(self) -> list[str]:
        """How each ended, in the order in which they were started."""

        async def all_ended() -> bool:
            self._came += self._ended.take()
            return len(self._came) == len(self._jobs)

        await until(all_ended, 20)
        found = {one.lease.lease_no: one.transition.status for one in self._came}
        return [found[job.lease_no] for job in self._jobs]

    def error(self) -> str | None:
        """The error of the first that ended with one."""
        return next((one.transition.error for one in self._came if one.transition.error), None)


class Proven:
    """A worker that lives."""

    def proven_id(self) -> UUID:
        return WORKER


def _unheard(*_: object) -> None:
    """Takes an error and does nothing."""


@contextlib.asynccontextmanager
async def attempts() -> AsyncGenerator[Attempts]:
    """Attempts of the handlers that are registered within."""
    # A generator that is closed by another task says so; anyio's test runner would fail for it.
    asyncio.get_running_loop().set_exception_handler(_unheard)
    with registered() as registry:
        ended = EndedAttempts()
        running = Running(
            registry,
            tools(),
            AttemptLog(Metrics(), 0),
            ended,
            Wake(),
            Proven(),
            slots=10,
            modules=(),
            failures_max=1,
            retry_base_seconds=0.01,
            retry_max_seconds=0.01,
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(running.run)
            yield Attempts(running, ended)
            tasks.cancel_scope.cancel()


async def test_an_attempt_that_is_stopped_within_a_shield_ends_when_its_handler_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def looks(*_: object, **__: object) -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()

    monkeypatch.setattr(attempt, "check_same", looks)
    async with attempts() as side:

        @handler("work")
        async def work(job: Job) -> None:
            # As a statement is shielded.
            with anyio.CancelScope(shield=True):
                side.stop()
                await anyio.lowlevel.checkpoint()

        side.start("work")
        assert await side.statuses() == ["queued"]


def register_neighbour() -> None:
    @handler("neighbour")
    async def neighbour() -> None:
        with anyio.fail_after(10):
            await anyio.sleep(0.05)
        async with asyncio.timeout(10):
            await asyncio.sleep(0.05)


async def scope_never_left() -> None:
    anyio.CancelScope().__enter__()


async def canceled_scope_never_left() -> None:
    scope = anyio.CancelScope()
    scope.__enter__()
    scope.cancel()


async def deadline_never_left() -> None:
    anyio.move_on_after(0.01).__enter__()


async def abandoned_generator() -> None:
    async def generator() -> AsyncGenerator[int]:
        with anyio.move_on_after(0.01):
            yield 1

    async for _ in generator():
        break


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize(
    "deed",
    [
        scope_never_left,
        canceled_scope_never_left,
        deadline_never_left,
        abandoned_generator,
        cancels_itself,
    ],
    ids=lambda deed: deed.__name__,
)
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
async def test_the_neighbours_of_a_handler_that_leaves_something_behind_are_left_alone(
    deed: Callable[[], Awaitable[None]], waits: bool
) -> None:
    async with attempts() as running:
        register_neighbour()

        @handler("leaves")
        async def leaves() -> None:
            if waits:
                await anyio.sleep(0.01)
            await deed()

        running.start("neighbour", "leaves", "neighbour", "leaves", "neighbour")
        assert await running.statuses() == ["done"] * 5
        running.start("neighbour")
        assert await running.statuses() == ["done"] * 6


async def test_what_runs_in_a_task_group_left_open_is_stopped() -> None:
    stopped = anyio.Event()
    kept: list[Any] = []

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async def generator() -> AsyncGenerator[int]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            yield 1

    async with attempts() as running:

        @handler("leaves")
        async def leaves() -> None:
            kept.append(generator())
            await anext(kept[0])
            await anyio.sleep(0.01)

        running.start("leaves")
        assert await running.statuses() == ["done"]
        with anyio.fail_after(10):
            await stopped.wait()


def own_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def timer_that_cancels() -> None:
    asyncio.get_running_loop().call_later(0.02, own_task().cancel)


async def timeout_never_left() -> None:
    await asyncio.timeout(0.02).__aenter__()


async def timer_that_raises() -> None:
    asyncio.get_running_loop().call_later(0.02, [].pop)


@pytest.mark.parametrize(
    "deed",
    [timer_that_cancels, timeout_never_left, timer_that_raises],
    ids=lambda deed: deed.__name__,
)
async def test_a_timer_that_a_handler_leaves_does_nothing_to_the_next_attempt_in_its_task(
    deed: Callable[[], Awaitable[None]],
) -> None:
    """The handler does not wait, so its task runs the next attempt as well."""
    async with attempts() as running:
        register_neighbour()

        @handler("leaves")
        async def leaves() -> None:
            await deed()

        running.start("leaves", "neighbour")
        assert await running.statuses() == ["done", "done"]


async def test_a_thread_that_cancels_a_task_later_costs_the_next_attempt_no_failure() -> None:
    """Nothing tells whose thread it is."""
    async with attempts() as running:
        register_neighbour()

        @handler("leaves")
        async def leaves() -> None:
            loop, task = asyncio.get_running_loop(), own_task()
            threading.Timer(0.02, lambda: loop.call_soon_threadsafe(task.cancel)).start()

        running.start("leaves", "neighbour")
        assert await running.statuses() == ["done", "waiting"]


async def _child_ends() -> None:
    await asyncio.gather(asyncio.sleep(0.01), _raise(GeneratorExit()))


async def _raise(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def _thread_ends() -> None:
    def end() -> None:
        raise GeneratorExit

    await anyio.to_thread.run_sync(end)


async def _future_ends() -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, GeneratorExit())
    await future


async def _ends_in_a_finally() -> None:
    try:
        await _future_ends()
    finally:
        await anyio.sleep(0.01)


@pytest.mark.parametrize("deed", [_child_ends, _thread_ends, _future_ends, _ends_in_a_finally])
async def test_an_attempt_into_which_a_generator_exit_is_thrown_ends(
    deed: Callable[[], Awaitable[None]],
) -> None:
    async with attempts() as running:
        register_neighbour()

        @handler("leaves")
        async def leaves() -> None:
            await deed()

        running.start("leaves", "neighbour")
        assert await running.statuses() == ["failed", "done"]
        assert "raised GeneratorExit" in str(running.error())


async def test_a_worker_that_ends_stops_its_attempts_and_writes_nothing() -> None:
    stopped = anyio.Event()
    async with attempts() as running:

        @handler("never")
        async def never() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                stopped.set()

        running.start("never")
        await anyio.sleep(0.05)
    assert stopped.is_set()
    assert not running._ended  # pyright: ignore[reportPrivateUsage]
