"""What a handler leaves running when it ends: waited for, or stopped, before the attempt ends.

In: an attempt whose handler has returned or raised. Out: nothing of it runs any more. Invariant: no
code of an attempt runs beside the next attempt at its job. Steps and calls that have begun are
waited for, unless the attempt was stopped; other tasks are canceled; threads are waited for.

A task group ends with its tasks, but `asyncio.gather` goes on without those that have not ended
when one of them raises. A task whose code is an installed package's, and neither ours nor of the
package that the handler is part of, is left alone: clients that jobs share keep such tasks.
"""

import asyncio
import inspect
import site
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import anyio

from worker.steps.beside import HERE, Beside

# A task that takes no notice of being canceled is canceled again after this time.
DEAF_SECONDS = 5.0
OURS = tuple(f"{Path(__file__).resolve().parents[2] / name}/" for name in ("worker", "jobsworth"))
INSTALLED = tuple(
    f"{Path(folder).resolve()}/"
    for folder in (
        sysconfig.get_path("stdlib"),
        *site.getsitepackages(),
        site.getusersitepackages(),
    )
)


def watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Have each attempt know which tasks and threads it starts in this loop."""
    if not isinstance(loop.get_task_factory(), _Factory):
        loop.set_task_factory(_Factory())
        loop.set_default_executor(_Executor())


async def end(
    beside: Beside,
    scope: anyio.CancelScope,
    function: Callable[..., Any],
    told: Callable[[], None],
) -> None:
    """Wait for the work that `function` has left, and stop the rest; `scope` is the attempt's.

    `told` is called when a task is told to end: one that takes no notice keeps the attempt.
    """
    beside.over = True
    if not scope.cancel_called:
        try:
            await beside.ended()
        except anyio.get_cancelled_exc_class():
            # A handler that has ended before it was stopped has ended as it did.
            if not scope.cancel_called:
                raise
    with anyio.CancelScope(shield=True):
        while tasks := [one for one in beside.tasks() if _is_handlers(_code_of(one), function)]:
            beside.cut_short = True
            told()
            for task in tasks:
                task.cancel("its handler has ended")
            await asyncio.wait(tasks, timeout=DEAF_SECONDS)
        # A thread cannot be interrupted.
        while threads := [one for one, code in beside.threads() if _is_handlers(code, function)]:
            await asyncio.wait([asyncio.wrap_future(one) for one in threads])


class _Factory:
    """Makes the tasks of a loop."""

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(coroutine, loop=loop, **options)
        context: Context | None = options.get("context")
        place = HERE.get(None) if context is None else context.get(HERE)
        if place is not None:
            place.beside.started(task)
        return task


class _Executor(ThreadPoolExecutor):
    """The threads of `run_in_executor` and `asyncio.to_thread`."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future = super().submit(fn, *args, **kwargs)
        place = HERE.get(None)
        if place is not None:
            place.beside.started_thread(future, _code_of_function(fn))
        return future


def _code_of(task: "asyncio.Task[Any]") -> CodeType | None:
    return getattr(task.get_coro(), "cr_code", None)


def _code_of_function(fn: Any) -> CodeType | None:
    while isinstance(fn, partial):
        # `asyncio.to_thread` runs the function in a copy of the context.
        in_context = isinstance(getattr(fn.func, "__self__", None), Context) and fn.args
        fn = fn.args[0] if in_context else fn.func
    return getattr(inspect.unwrap(fn), "__code__", None)


def _is_handlers(code: CodeType | None, function: Callable[..., Any]) -> bool:
    """Whether this is code of the handler or ours, and not of a package that it uses."""
    if code is None:
        return True
    path = code.co_filename
    return path.startswith(_own(function)) or not path.startswith(INSTALLED)


def _own(function: Callable[..., Any]) -> tuple[str, ...]:
    """What the paths of our code begin with, and of the package that the handler is part of."""
    package = sys.modules.get(function.__module__.partition(".")[0])
    path = getattr(package, "__file__", None)
    if path is None:
        return OURS
    return (*OURS, path.removesuffix("__init__.py"))
