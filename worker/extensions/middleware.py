"""Middleware: code around each attempt of a worker, in the order in which it is declared.

In: functions `async def middleware(job, call_next)` of the modules of handlers. Out: the handler's
value or exception, as it came through all of them. The first declared is the outermost.

Middleware runs as the handler does: in the attempt's task, within its deadline, and what it raises,
leaves behind or never ends is this attempt's trouble. Invariant: how a handler has ended on purpose
(`Fail`, `Retry`, `Cancel`, `Snooze`), that the job waits and that it was stopped cannot be turned
into a result; the ending counts all the same. The fence and the commit come afterwards.
"""

import inspect
from asyncio import iscoroutinefunction
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from db.errors import InvalidInput
from worker.declared import HandlerError, place_of, same_place
from worker.job import Job
from worker.outcomes import HandlerEnding


class CallNext(Protocol):
    """What a middleware awaits to have the rest of the attempt run: `await call_next(job)`."""

    def __call__(self, job: Job, /) -> Awaitable[Any]: ...


Middleware = Callable[[Job, CallNext], Awaitable[Any]]
M = TypeVar("M", bound=Middleware)

declared: list[Middleware] = []


def middleware(function: M) -> M:
    """Run the decorated `async def middleware(job, call_next)` around each attempt of this worker.

    `await call_next(job)` runs the rest, the handler innermost, and returns what the handler
    returned; what it raises can be seen, and another exception raised in its place. Without that
    call the handler does not run. What the middleware returns is the job's result.

    The first declared is the outermost; modules count in the order of JOBSWORTH_HANDLERS. It has
    the job that the handler has, and its exceptions are the attempt's. A result does not undo how
    the handler has ended on purpose, that the job is to wait, or that it was stopped. Raises
    `HandlerError` for a function that is not such a one.
    """
    if not iscoroutinefunction(function) or _positional(function) != 2:
        raise HandlerError(
            f"{place_of(function)} is not a middleware",
            "write it as: async def middleware(job, call_next)",
        )
    for place, old in enumerate(declared):
        if same_place(old, function):
            declared[place] = function  # its module was loaded again
            return function
    declared.append(function)
    return function


async def through(
    middlewares: Sequence[Middleware], job: Job, handle: Callable[[], Awaitable[Any]]
) -> Any:
    """What comes out of all the middlewares around `handle`, the first one outermost."""
    chain = _Chain(middlewares, job, handle)
    value = await chain.run(0)
    if chain.ending is not None:
        raise chain.ending  # a middleware has swallowed it
    return value


class _Chain:
    """The way of one attempt through the middlewares."""

    def __init__(
        self, middlewares: Sequence[Middleware], job: Job, handle: Callable[[], Awaitable[Any]]
    ) -> None:
        self._middlewares = middlewares
        self._job = job
        self._handle = handle
        self.ending: BaseException | None = None
        """How the handler has ended, if no result may stand in for that."""

    async def run(self, place: int) -> Any:
        if place == len(self._middlewares):
            return await self._handler()
        called = False

        async def call_next(job: Job, /) -> Any:
            nonlocal called
            if job is not self._job:
                raise InvalidInput(
                    f"call_next was given {type(job).__name__}, not the middleware's own job",
                    "await call_next(job)",
                )
            if called:
                raise InvalidInput(
                    f"{place_of(self._middlewares[place])} has called call_next twice",
                    "an attempt runs its handler once: raise Retry to have the job run again",
                )
            called = True
            return await self.run(place + 1)

        return await self._middlewares[place](self._job, call_next)

    async def _handler(self) -> Any:
        try:
            return await self._handle()
        except BaseException as error:
            if _is_final(error):
                self.ending = error
            raise


def _is_final(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_final, error.exceptions))  # pyright: ignore[reportUnknownArgumentType,reportUnknownMemberType]
    return isinstance(error, HandlerEnding) or not isinstance(error, Exception)


def _positional(function: Callable[..., Any]) -> int:
    """How many arguments it takes by position; -1 if it needs others by name."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is one.KEYWORD_ONLY and one.default is one.empty for one in parameters):
        return -1
    return sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters)
