"""Run work that a cancellation must not interrupt, or not twice, whatever cancels its task.

In: a coroutine, as the return of a connection to its pool, or the wait for one. Out: its result;
or the cancellation, while the work goes on by itself. anyio's shields do not keep out
`Task.cancel`, and so neither `asyncio.timeout` nor `asyncio.wait_for`, which handlers use; and its
scopes repeat a cancellation until their tasks have ended.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
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
    task = _goes_on(_rest(work, waits_for))
    with anyio.CancelScope(shield=True):
        await asyncio.shield(task)
    return task.result()


async def canceled_once(
    work: Coroutine[Any, Any, T], undo: Callable[[T], Coroutine[Any, Any, None]]
) -> T:
    """Return what `work` returns. A first cancellation reaches it, no later one; what it returns
    all the same goes to `undo`.

    For what waits with `asyncio.wait_for` on Python 3.11: canceled twice, that ends before what it
    waits for has ended. A condition is then left locked for good.
    """
    if sys.version_info >= (3, 12):
        return await work
    try:
        waits_for = work.send(None)
    except StopIteration as ended:
        return ended.value
    task = _goes_on(_rest(work, waits_for))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        _goes_on(_undo(task, undo))
        raise


async def _undo(task: "asyncio.Task[T]", undo: Callable[[T], Coroutine[Any, Any, None]]) -> None:
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        await undo(task.result())


def _goes_on(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    # Of no context: the task is not one of a job, which would end with its attempt.
    task = asyncio.create_task(work, context=Context())
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    return task


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
