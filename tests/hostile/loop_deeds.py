"""What a bad handler may do to the worker's event loop: names and async functions."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio

from tests.hostile.deeds import BLOCK_SECONDS, CHILD_SECONDS, see_end
from tests.hostile.exceptions import EXCEPTIONS, OwnError, raiser


async def cancel_itself() -> None:
    _me().cancel()


async def cancel_itself_and_wait() -> None:
    _me().cancel()
    await anyio.sleep(5)


async def cancel_itself_and_go_on() -> str:
    _me().cancel()
    with suppress(asyncio.CancelledError):
        await anyio.sleep(5)
    await anyio.sleep(0.01)
    return "went on"


async def cancel_itself_often_later() -> None:
    for n in range(10):
        asyncio.get_running_loop().call_later(n / 200, _me().cancel)


async def cancel_its_parent() -> None:
    parent = _me()

    async def child() -> None:
        parent.cancel()

    await asyncio.gather(child(), anyio.sleep(5))


async def cancel_everything() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


async def cancel_everything_else() -> None:
    for task in asyncio.all_tasks() - {_me()}:
        task.cancel()


async def swallow_cancellation_for_a_while() -> str:
    until = time.monotonic() + BLOCK_SECONDS
    _me().cancel()
    while time.monotonic() < until:
        with suppress(asyncio.CancelledError):
            await anyio.sleep(0.01)
    return "finished all the same"


async def _in_scope(manager: Callable[[], Any]) -> AsyncGenerator[int]:
    if hasattr(manager(), "__aenter__"):
        async with manager():
            yield 1
    else:
        with manager():
            yield 1


def abandoned(
    manager: Callable[[], Any], after_seconds: float | None
) -> Callable[[], Awaitable[None]]:
    """Leave the loop over an async generator that holds a scope open, as MCP clients do."""

    async def do() -> None:
        async for _ in _in_scope(manager):
            break
        if after_seconds is not None:
            await anyio.sleep(after_seconds)

    return do


KEPT: list[Any] = []


def kept_open(manager: Callable[[], Any]) -> Callable[[], Awaitable[None]]:
    """The same, kept alive for ever."""

    async def do() -> None:
        generator = _in_scope(manager)
        KEPT.append(generator)
        await anext(generator)

    return do


async def task_group_left_with_children() -> None:
    async def group() -> AsyncGenerator[int]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, CHILD_SECONDS)
            yield 1

    generator = group()
    KEPT.append(generator)
    await anext(generator)


async def scope_entered_and_never_left() -> None:
    anyio.CancelScope().__enter__()


async def canceled_scope_never_left() -> None:
    scope = anyio.CancelScope()
    scope.__enter__()
    scope.cancel()


async def deadline_scope_never_left() -> None:
    anyio.CancelScope(deadline=anyio.current_time() + 0.05).__enter__()


async def scope_left_by_another_task() -> None:
    scope = anyio.CancelScope()
    scope.__enter__()

    async def leave() -> None:
        scope.__exit__(None, None, None)

    await asyncio.gather(leave(), return_exceptions=True)


async def context_left_behind() -> None:
    import contextvars

    contextvars.ContextVar[int]("left behind").set(1)


def later(call: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """A callback of the loop raises, during the handler and after it."""

    async def do() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(call)
        loop.call_later(0.05, call)
        done = loop.create_future()
        done.add_done_callback(lambda _: call())
        done.set_result(None)
        await anyio.sleep(0.01)

    return do


async def background_task_exits_later() -> None:
    async def wait_and_exit() -> None:
        await asyncio.sleep(0.05)
        sys.exit(3)

    KEPT.append(asyncio.create_task(wait_and_exit()))


async def background_task_that_is_deaf_for_long() -> None:
    """Its attempt goes on as long as it does: `test_deaf` shows one that does not end."""
    until = time.monotonic() + CHILD_SECONDS

    async def deaf() -> None:
        while time.monotonic() < until:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(CHILD_SECONDS)

    KEPT.append(asyncio.create_task(deaf()))


async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await anyio.sleep(0.01)


async def close_the_loop() -> None:
    asyncio.get_running_loop().close()


async def run_the_loop() -> None:
    asyncio.get_running_loop().run_until_complete(anyio.lowlevel.checkpoint())


async def shut_down_the_executor() -> None:
    await asyncio.get_running_loop().shutdown_default_executor()


def _exit_at_once(*_: object) -> None:
    sys.exit(1)


async def odd_loop_settings() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_exit_at_once)
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    loop.call_soon(raiser(lambda: ValueError("for the exception handler")))
    await anyio.sleep(0.01)
    loop.set_debug(False)


async def fork_and_await() -> None:
    pid = os.fork()
    if pid == 0:
        await anyio.sleep(CHILD_SECONDS)
        return
    see_end(pid)


async def fork_and_yield() -> None:
    """The child comes back to the event loop, which is the parent's."""
    pid = os.fork()
    if pid == 0:
        for _ in range(100):
            await asyncio.sleep(0)
        return
    see_end(pid)


async def future_whose_error_nobody_reads() -> None:
    asyncio.get_running_loop().create_future().set_exception(OwnError("unread"))


async def signal_receiver_of_its_own() -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT):
        await anyio.sleep(0.01)


async def loop_signal_handler_removed() -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: None)
    loop.remove_signal_handler(signal.SIGTERM)


async def eager_task_factory() -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is not None:
        asyncio.get_running_loop().set_task_factory(factory)


SCOPES: dict[str, Callable[[], Any]] = {
    "cancel scope": anyio.CancelScope,
    "move on after": lambda: anyio.move_on_after(0.05),
    "fail after": lambda: anyio.fail_after(0.05),
    "anyio task group": anyio.create_task_group,
    "task group": asyncio.TaskGroup,
    "asyncio timeout": lambda: asyncio.timeout(0.05),
}

IN_THE_LOOP: dict[str, Callable[[], Awaitable[object]]] = {
    **{f"abandon {name}": abandoned(make, None) for name, make in SCOPES.items()},
    **{f"abandon {name} and wait": abandoned(make, 0.2) for name, make in SCOPES.items()},
    **{f"keep {name} open": kept_open(make) for name, make in SCOPES.items()},
    **{f"callback raises {name}": later(raiser(make)) for name, make in EXCEPTIONS.items()},
    **{
        do.__name__.replace("_", " "): do
        for do in (
            cancel_itself,
            cancel_itself_and_wait,
            cancel_itself_and_go_on,
            cancel_itself_often_later,
            cancel_its_parent,
            cancel_everything,
            cancel_everything_else,
            swallow_cancellation_for_a_while,
            task_group_left_with_children,
            scope_entered_and_never_left,
            canceled_scope_never_left,
            deadline_scope_never_left,
            scope_left_by_another_task,
            context_left_behind,
            background_task_exits_later,
            background_task_that_is_deaf_for_long,
            stop_the_loop,
            close_the_loop,
            run_the_loop,
            shut_down_the_executor,
            odd_loop_settings,
            fork_and_await,
            fork_and_yield,
            future_whose_error_nobody_reads,
            signal_receiver_of_its_own,
            loop_signal_handler_removed,
            eager_task_factory,
        )
    },
}


def _me() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
