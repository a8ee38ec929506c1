"""Run work to its end, whatever cancels the task that waits for it.

In: a coroutine that must not be interrupted, as the return of a connection to its pool. Out: its
result; or the cancellation, while the work goes on by itself. anyio's shields do not keep out
`Task.cancel`, and so neither `asyncio.timeout` nor `asyncio.wait_for`, which handlers use.
"""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

# The loop itself keeps no task alive.
_going_on: set["asyncio.Task[Any]"] = set()


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns. It gets a task of its own only if it has to wait, which is rare:
    a task for each return of a connection would cost more than the rest of it.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as ended:
        return ended.value
    # Of no context: the task is not one of a job, which would end with its attempt.
    task = asyncio.create_task(_rest(work, waits_for), context=Context())
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    with anyio.CancelScope(shield=True):
        await asyncio.shield(task)
    return task.result()


async def _rest(work: Coroutine[Any, Any, T], waits_for: Any) -> T:
    return await _Rest(work, waits_for)


class _Rest:
    """What is left of a coroutine that has been run up to its first wait."""

    def __init__(self, work: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    value = yield waits_for
                except BaseException as error:
                    waits_for = self._work.throw(error)
                else:
                    waits_for = self._work.send(value)
        except StopIteration as ended:
            return ended.value
