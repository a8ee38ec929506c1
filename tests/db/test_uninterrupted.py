"""Work that must not be interrupted ends, whatever cancels the task that waits for it."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from db.uninterrupted import uninterrupted
from tests.support import until


async def test_work_that_need_not_wait_needs_no_task() -> None:
    async def who() -> asyncio.Task[None] | None:
        return asyncio.current_task()

    assert await uninterrupted(who()) is asyncio.current_task()


async def test_work_that_waits_gives_its_result_or_its_error() -> None:
    async def work(fails: bool) -> str:
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="inside"):
            await broken("inside")
        if fails:
            await broken("out")
        return "done"

    async def broken(said: str) -> None:
        await asyncio.sleep(0)
        raise ValueError(said)

    assert await uninterrupted(work(fails=False)) == "done"
    with pytest.raises(ValueError, match="out"):
        await uninterrupted(work(fails=True))


async def test_work_goes_on_however_often_its_task_is_canceled() -> None:
    steps: list[int] = []

    async def work() -> None:
        for n in range(5):
            await asyncio.sleep(0.001)
            steps.append(n)

    task = asyncio.create_task(uninterrupted(work()))
    await asyncio.sleep(0)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()

    async def all_done() -> bool:
        return steps == [0, 1, 2, 3, 4]

    await until(all_done)


async def test_a_scope_that_is_canceled_waits_for_the_work() -> None:
    steps: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        steps.append(1)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await uninterrupted(work())
        assert steps == [1]
