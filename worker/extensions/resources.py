"""The resources of a worker: opened at its start, closed after its last attempt.

In: async generators of the modules of handlers that yield one value each. Out: that value, for each
handler with a parameter of its type. Each generator runs in a task of its own, because cancel
scopes and task groups that it enters must be left where they were entered; so one that breaks ends
neither the worker nor an attempt. It is then opened again, and attempts that need it wait.

Bounds: a resource that is not open within `OPEN_SECONDS`, or fails to open, refuses the start; one
that is not closed within `CLOSE_SECONDS` is given up.
"""

import asyncio
import collections.abc
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context
from typing import Any, NamedTuple, TypeVar, cast

import anyio

from worker import events
from worker.declared import HandlerError, place_of, same_place, unwrapped
from worker.log import get_logger
from worker.log_exceptions import bounded, text_of
from worker.outcomes import Snooze
from worker.queue import left_behind

OPEN_SECONDS = 300.0
CLOSE_SECONDS = 10.0
# A resource that broke is opened again after this time, then ever more rarely.
REOPEN_SECONDS, REOPEN_SECONDS_MAX = 1.0, 60.0
# What values of a payload are: a parameter of such a type must stay a field of the payload.
PLAIN_MODULES = {"builtins", "datetime", "decimal", "uuid", "enum", "pathlib", "typing"}

L = TypeVar("L", bound=Callable[[], Any])

log = get_logger()


class Lifespan(NamedTuple):
    """A function that opens, yields and closes one resource, and the type of what it yields."""

    function: Callable[[], Any]
    type: type[Any]


declared: dict[type[Any], Lifespan] = {}
"""By the type of the resource."""


def worker_lifespan(function: L) -> L:
    """Have the decorated async generator open a resource at the start of the worker.

        @worker_lifespan
        async def client() -> AsyncIterator[httpx.AsyncClient]:
            async with httpx.AsyncClient() as opened:
                yield opened

    A handler with a parameter of exactly that type receives what is yielded; the parameter is no
    field of the payload. All handlers of the worker share it, those in threads too. The worker
    claims no job before all resources are open, and does not start if one fails to. They are closed
    after the last attempt, in the opposite order. Raises `HandlerError` for a function without the
    type of what it yields, and if the type has a resource already.
    """
    what = f"the worker_lifespan {place_of(function)}"
    generates = inspect.isasyncgenfunction(unwrapped(function))
    if not generates or inspect.signature(function).parameters:
        raise HandlerError(
            f"{what} is not an async generator without parameters",
            "write it as: async def client() -> AsyncIterator[Client], with one yield",
        )
    yields = _yielded(function)
    if yields is None or yields.__module__ in {*PLAIN_MODULES, "worker.job"}:
        raise HandlerError(
            f"{what} does not say which class it yields",
            "annotate a class that no payload has values of: -> AsyncIterator[Client]",
        )
    old = declared.get(yields)
    if old is not None and not same_place(old.function, function):
        raise HandlerError(
            f"{what} yields a {yields.__qualname__}, and so does {place_of(old.function)}",
            "let one of them yield a class of its own",
        )
    declared[yields] = Lifespan(function, yields)
    return function


class Resources:
    """What the lifespans have yielded, while they are open."""

    def __init__(self, lifespans: Sequence[Lifespan] = ()) -> None:
        self._kept = {one.type: _Kept(one) for one in lifespans}

    def given(self, wanted: Mapping[str, type[Any]]) -> dict[str, Any]:
        """The resources by the names of a handler's parameters.

        Raises `Snooze` while one is broken: it is being opened again.
        """
        return {name: self._kept[kind].value() for name, kind in wanted.items()}

    async def open(self, stop: anyio.Event) -> bool:
        """Open all, one after the other; False if `stop` was set meanwhile.

        Raises `HandlerError` for the first that fails, after those that are open are closed.
        """
        try:
            for kept in self._kept.values():
                if not await kept.open(stop):
                    await self.close()
                    return False
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.close()
            raise
        return True

    async def close(self) -> None:
        """Close all, the last opened first; each has `CLOSE_SECONDS`."""
        for kept in reversed(self._kept.values()):
            await kept.close()


class _Kept:
    """One resource, and the task that holds it open."""

    def __init__(self, lifespan: Lifespan) -> None:
        self._lifespan = lifespan
        self._values: list[Any] = []  # one while it is open
        self._task: asyncio.Task[None] | None = None
        self._was_open = False
        self._tried = anyio.Event()  # it is open, or will not be
        self._closing = anyio.Event()

    @property
    def _name(self) -> str:
        return place_of(self._lifespan.function)

    def value(self) -> Any:
        if not self._values:
            raise Snooze(REOPEN_SECONDS)
        return self._values[0]

    async def open(self, stop: anyio.Event) -> bool:
        # Made without the loop's task factory, in a context of its own: it belongs to no attempt,
        # and code that cancels all tasks does not find it.
        keep = left_behind.Unclosed(self._keep())
        task = self._task = asyncio.Task(keep, context=Context())
        left_behind.hide(task)
        task.add_done_callback(lambda _: self._tried.set())
        with anyio.move_on_after(OPEN_SECONDS) as patience:
            async with anyio.create_task_group() as waiting:
                for event in (stop, self._tried):
                    waiting.start_soon(_cancel_after, event, waiting.cancel_scope)
        if self._values:
            return True
        if task.done():
            why = "" if task.cancelled() else _told(task.exception())
            raise HandlerError(
                f"the worker's resource {self._name} did not open: {why or 'it was canceled'}",
                "correct it, or remove its @worker_lifespan",
            )
        if patience.cancelled_caught:
            raise HandlerError(
                f"the worker's resource {self._name} was not open after {OPEN_SECONDS:g} s",
                "open what takes longer in the background",
            )
        return False

    async def close(self) -> None:
        self._closing.set()
        task = self._task
        if task is None:
            return
        if not self._values:
            task.cancel("the worker ends")  # it opens at this moment
        done, _ = await asyncio.wait([task], timeout=CLOSE_SECONDS)
        if not done:
            task.cancel("the worker ends")
            done, _ = await asyncio.wait([task], timeout=1.0)
        error = None if not done or task.cancelled() else task.exception()
        if not done or (error is not None and self._was_open):
            why = f"not closed within {CLOSE_SECONDS:g} s" if error is None else _told(error)
            log.warning(events.RESOURCE_BROKEN, resource=self._name, error=why)

    async def _keep(self) -> None:
        """Hold it open until told to close; open it again if it breaks before."""
        pause = REOPEN_SECONDS
        while not self._closing.is_set():
            try:
                async with _opening(self._lifespan.function) as value:
                    self._values.append(value)
                    self._was_open = True
                    self._tried.set()
                    pause = REOPEN_SECONDS
                    await self._closing.wait()
                    self._values.clear()
                return
            except BaseException as error:
                self._values.clear()
                if not self._was_open or self._closing.is_set():
                    raise
                log.warning(events.RESOURCE_BROKEN, resource=self._name, error=_told(error))
            with anyio.move_on_after(pause):
                await self._closing.wait()
            pause = min(2 * pause, REOPEN_SECONDS_MAX)


def _opening(function: Callable[[], Any]) -> AbstractAsyncContextManager[Any]:
    # It may be decorated with `asynccontextmanager` already.
    if inspect.isasyncgenfunction(function):
        return asynccontextmanager(cast(Callable[[], AsyncIterator[Any]], function))()
    return function()


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _told(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {bounded(text_of(error))}"


def _yielded(function: Callable[..., Any]) -> type[Any] | None:
    hint = typing.get_type_hints(unwrapped(function)).get("return")
    generators = (
        collections.abc.AsyncIterator,
        collections.abc.AsyncGenerator,
        collections.abc.AsyncIterable,
    )
    if typing.get_origin(hint) not in generators:
        return None
    first = typing.get_args(hint)[0]
    return first if isinstance(first, type) else None
