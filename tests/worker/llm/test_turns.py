"""Tasks that become ready together go on in portions, in the order of their coming."""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from worker.llm import turns
from worker.llm.turns import Turns

TASKS = 40


class Rounds:
    """Counts the rounds of the event loop, as a timer or a socket would see them."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await anyio.lowlevel.checkpoint()


async def rounds_of_tasks(work_seconds: float, tasks: int = TASKS) -> tuple[Sequence[int], int]:
    """Wake so many tasks at once, each of which then works; the order, and the rounds it took."""
    rounds, order, start, taken = Rounds(), list[int](), anyio.Event(), Turns()
    before = 0

    async def task(n: int) -> None:
        await start.wait()
        await taken.take()
        order.append(n)
        time.sleep(work_seconds)  # noqa: ASYNC251 - it stands for work

    async with anyio.create_task_group() as group:
        group.start_soon(rounds.run)
        async with anyio.create_task_group() as working:
            for n in range(tasks):
                working.start_soon(task, n)
            await anyio.lowlevel.checkpoint()
            start.set()
            before = rounds.count
        group.cancel_scope.cancel()
    return order, rounds.count - before


async def test_tasks_that_work_long_go_on_one_in_each_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "ROUND_SECONDS", 0.0)
    order, rounds = await rounds_of_tasks(0.0001)
    assert order == list(range(TASKS))
    assert rounds >= TASKS


async def test_tasks_that_work_briefly_go_on_in_growing_portions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "ROUND_SECONDS", 3600.0)
    monkeypatch.setattr(turns, "ROUNDS_TO_GROW", 1)
    order, rounds = await rounds_of_tasks(0.0)
    assert order == list(range(TASKS))
    assert rounds < TASKS / 2


async def test_a_task_that_is_stopped_while_it_waits_holds_nobody_up() -> None:
    taken, ended = Turns(), list[int]()

    async def task(n: int) -> None:
        await taken.take()
        ended.append(n)

    async with anyio.create_task_group() as group:
        scopes = [anyio.CancelScope() for _ in range(5)]

        async def scoped(n: int) -> None:
            with scopes[n]:
                await task(n)

        for n in range(5):
            group.start_soon(scoped, n)
        await anyio.lowlevel.checkpoint()
        scopes[2].cancel()
    assert ended == [0, 1, 3, 4]
    await taken.take()
