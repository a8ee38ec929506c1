"""Where a bad deed is done: a handler for each place does the deed that its payload names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread

from jobsworth import Job, handler
from tests.hostile.deeds import ANYWHERE
from tests.hostile.loop_deeds import IN_THE_LOOP

NEIGHBOUR_STEPS = 3
# A deed that makes its job wait for a moment would do so for ever; this often is enough to see.
ATTEMPTS_MAX = 3


@handler("hostile.neighbour")
async def neighbour(job: Job, n: int) -> list[int]:
    """A well-behaved agent: steps, waits in the loop, an effect."""
    done: list[int] = []
    for step in range(NEIGHBOUR_STEPS):
        done.append(await job.step(f"step {step}", int, n + step))
        await asyncio.sleep(0.02)
        async with asyncio.timeout(60):
            await anyio.sleep(0.02)
    job.metric("done", len(done))
    return done


@handler("hostile.neighbour_thread")
def neighbour_thread(job: Job, n: int) -> int:
    job.metric("done", n)
    return n


async def do(deed: str) -> Any:
    """Do a deed in the event loop."""
    if deed in IN_THE_LOOP:
        return await IN_THE_LOOP[deed]()
    return ANYWHERE[deed]()


Place = Callable[[Job, str], Awaitable[Any]]


async def in_handler(job: Job, deed: str) -> Any:
    return await do(deed)


async def after_a_wait(job: Job, deed: str) -> Any:
    await anyio.sleep(0.01)
    return await do(deed)


async def in_gather(job: Job, deed: str) -> Any:
    return (await asyncio.gather(anyio.sleep(0.05), _soon(deed)))[1]


async def in_task_group(job: Job, deed: str) -> Any:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(anyio.sleep(0.05))
        child = tasks.create_task(_soon(deed))
    return child.result()


async def in_anyio_group(job: Job, deed: str) -> Any:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0.05)
        tasks.start_soon(_soon, deed)


async def in_wait_for(job: Job, deed: str) -> Any:
    return await asyncio.wait_for(_soon(deed), 60)


async def in_step(job: Job, deed: str) -> Any:
    if deed in IN_THE_LOOP:
        return await job.step("deed", IN_THE_LOOP[deed])
    return await job.step("deed", ANYWHERE[deed])


async def in_unsafe_step(job: Job, deed: str) -> Any:
    async def run() -> Any:
        return await do(deed)

    return await job.step("deed", run, effect="unsafe")


async def in_transaction(job: Job, deed: str) -> Any:
    return await job.transaction("deed", lambda _: do(deed))


async def in_generator(job: Job, deed: str) -> Any:
    async def generator() -> AsyncGenerator[Any]:
        yield 0
        yield await do(deed)

    return [made async for made in generator()]


async def in_finally(job: Job, deed: str) -> Any:
    try:
        raise ValueError("first")
    finally:
        await do(deed)


async def in_own_thread(job: Job, deed: str) -> Any:
    if deed in IN_THE_LOOP:
        return await do(deed)
    return await anyio.to_thread.run_sync(ANYWHERE[deed])


async def in_callback_of_a_task(job: Job, deed: str) -> None:
    if deed in IN_THE_LOOP:
        await do(deed)
        return
    task = asyncio.create_task(asyncio.sleep(0))
    task.add_done_callback(lambda _: ANYWHERE[deed]())
    await anyio.sleep(0.05)


async def _soon(deed: str) -> Any:
    await asyncio.sleep(0)
    return await do(deed)


ASYNC_PLACES: dict[str, Place] = {
    "handler": in_handler,
    "after a wait": after_a_wait,
    "gather": in_gather,
    "task group": in_task_group,
    "anyio group": in_anyio_group,
    "wait_for": in_wait_for,
    "step": in_step,
    "unsafe step": in_unsafe_step,
    "transaction": in_transaction,
    "generator": in_generator,
    "finally": in_finally,
    "own thread": in_own_thread,
    "callback": in_callback_of_a_task,
}
PLAIN_PLACES = ("plain", "process")


@handler("hostile.async")
async def run_async(job: Job, place: str, deed: str) -> Any:
    if job.attempt > ATTEMPTS_MAX:
        return "enough"
    return await ASYNC_PLACES[place](job, deed)


@handler("hostile.plain")
def run_plain(job: Job, place: str, deed: str) -> Any:
    return "enough" if job.attempt > ATTEMPTS_MAX else ANYWHERE[deed]()


@handler("hostile.process", isolate="process")
def run_process(job: Job, place: str, deed: str) -> Any:
    return "enough" if job.attempt > ATTEMPTS_MAX else ANYWHERE[deed]()


def mode_of(place: str) -> str:
    """The mode whose handler does a deed at this place."""
    return "hostile.async" if place in ASYNC_PLACES else f"hostile.{place}"
