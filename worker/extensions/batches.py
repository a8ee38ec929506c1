"""Batches: one call of a handler for several jobs, each of which ends on its own.

In: attempts at jobs of a mode with `@handler(batch=…)`. Out: for each, its own value or exception.
A member is an ordinary attempt, with its lease, its deadline, its history and its slot; all that it
does is to wait for the call that it has joined. The call runs in a task of its own, so that the end
of one member ends no other.

Invariant: no member ends before the call has, so no code works for a job beside its next attempt. A
member that is stopped (canceled, past its deadline) is told so, and its result is discarded. When
all are stopped the call is canceled. A suspect, a job that one more death of its worker fails, has
a batch to itself.
"""

import asyncio
import sys
from asyncio import CancelledError
from contextvars import Context
from functools import partial
from types import TracebackType
from typing import Any, cast

import anyio

from worker import crash_points
from worker.attempt_state import AttemptState
from worker.declared import HandlerError
from worker.handlers import Batch, Handler
from worker.job import Job
from worker.outcomes import Retry
from worker.queue import forked, left_behind, leftovers
from worker.queue.interpret import CANCELED_FROM_WITHIN
from worker.steps.beside import HERE, Beside


class Batches:
    """The batches of a worker that are being filled, one for each mode at most."""

    def __init__(self, jobs_max: int) -> None:
        """No batch has more than `jobs_max` jobs: a worker has no more slots."""
        self._jobs_max = jobs_max
        self._filling: dict[str, _Call] = {}

    async def handle(self, state: AttemptState, handler: Handler, arguments: dict[str, Any]) -> Any:
        """Have the job handled in a batch: returns its value, or raises what it ended with."""
        call = self._filling.get(handler.mode)
        if call is None or state.job.suspect:
            assert handler.batch is not None
            size = 1 if state.job.suspect else min(handler.batch.size, self._jobs_max)
            call = _Call(handler, handler.batch, size)
            if size > 1:
                self._filling[handler.mode] = call
            # The loop knows by this task which job blocks it. A context of its own: it is no part
            # of the attempt that comes first.
            run = left_behind.Unclosed(call.run(partial(self._filled, call)))
            call.task = asyncio.get_running_loop().create_task(run, context=Context())
        member = call.join(state, arguments)
        if call.is_full:
            self._filled(call)
        try:
            await call.ended.wait()
        except BaseException:
            if call.ended.is_set() and not member.is_discarded:
                return member.result()  # finished work beats a late stop
            if call.leave(member):
                self._filled(call)  # nobody may join a call that is canceled
            with anyio.CancelScope(shield=True):
                await call.ended.wait()
            raise
        return member.result()

    def _filled(self, call: "_Call") -> None:
        if self._filling.get(call.handler.mode) is call:
            del self._filling[call.handler.mode]
        call.filled.set()


class _Member:
    """A job of a batch, and what became of it."""

    def __init__(self, state: AttemptState, arguments: dict[str, Any]) -> None:
        self.state = state
        self.arguments = arguments
        self.is_discarded = False
        """Whether it was stopped before the call ended."""
        self.value: Any = None
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None

    def fail(self, error: BaseException) -> None:
        if isinstance(error, CancelledError):
            error = Retry(reason=CANCELED_FROM_WITHIN)  # not a cancellation of the member's task
        self._error, self._traceback = error, error.__traceback__

    def result(self) -> Any:
        if self._error is not None:
            # Members may share it, and each would add its own frames.
            raise self._error.with_traceback(self._traceback)
        return self.value


class _Call:
    """One call of a batch handler."""

    def __init__(self, handler: Handler, batch: Batch, size: int) -> None:
        self.handler = handler
        self.filled = anyio.Event()
        self.ended = anyio.Event()
        self.task: asyncio.Task[None] | None = None  # a task that is not kept may vanish
        self._batch = batch
        self._size = size
        self._members: list[_Member] = []
        self._began = False
        self._scope = anyio.CancelScope()

    @property
    def is_full(self) -> bool:
        return len(self._members) >= self._size

    def join(self, state: AttemptState, arguments: dict[str, Any]) -> _Member:
        member = _Member(state, arguments)
        self._members.append(member)
        return member

    def leave(self, member: _Member) -> bool:
        """The member was stopped: it is not handled, or its result is discarded.

        Returns whether that ends the call, because no other member is left.
        """
        member.state.told_to_stop = True
        if not self._began:
            self._members.remove(member)
        if all(one.state.told_to_stop for one in self._members):
            self._scope.cancel()
            return True
        return False

    async def run(self, filled: Any) -> None:
        """Wait until it is full, or has waited long enough; then call the handler, to its end."""
        try:
            with anyio.move_on_after(self._batch.seconds):
                await self.filled.wait()
            filled()
            self._began = True
            if self._members:
                await self._call()
                crash_points.reach("batch.returned")
        except BaseException as error:
            forked.leave_if_child(error)
            self._failed(error)
        finally:
            for member in self._members:
                state = member.state
                member.is_discarded = state.told_to_stop or state.stopped_by is not None
            self.ended.set()

    async def _call(self) -> None:
        task: Any = asyncio.current_task()
        with self._scope:
            place = left_behind.place_of(task)
            try:
                self._end_each(await self._value())
            except BaseException as error:
                forked.leave_if_child(error)
                self._failed(error)
            if place.cancel_scope is not self._scope or task.cancelling():
                left_behind.clean_up(task, self._scope)

    async def _value(self) -> Any:
        function, beside = self.handler.function, Beside()
        token = beside.enter()
        try:
            if self._batch.in_thread:
                # One thread works, whatever the number of members: the first accounts for it.
                first = self._members[0].state
                return await first.run_in_thread(function, **self._arguments())
            return await function(**self._arguments())
        finally:
            forked.leave_if_child(sys.exc_info()[1])
            if beside.has_leftovers():
                await leftovers.end(beside, self._scope, function, lambda: None)
            HERE.reset(token)

    def _arguments(self) -> dict[str, Any]:
        arguments = dict(self._members[0].arguments)  # resources are the same for all
        batch = self._batch
        if batch.jobs is not None:
            arguments[batch.jobs] = [Job(one.state) for one in self._members]
        if batch.payloads is not None:
            arguments[batch.payloads] = [one.arguments[batch.payloads] for one in self._members]
        return arguments

    def _end_each(self, value: Any) -> None:
        if value is None:
            return
        count = len(self._members)
        if not isinstance(value, list | tuple):
            raise self._wrong(f"a {type(value).__name__}")
        values = cast("list[Any]", value)
        if len(values) != count:
            raise self._wrong(f"{len(values)} outcomes")
        for member, one in zip(self._members, values, strict=True):
            if isinstance(one, BaseException):
                member.fail(one)
            else:
                member.value = one

    def _wrong(self, returned: str) -> HandlerError:
        return HandlerError(
            f"the batch handler of {self.handler.mode!r} returned {returned} for"
            f" {len(self._members)} jobs",
            "return a list with one outcome for each, in their order (an exception is a failure),"
            " or nothing",
        )

    def _failed(self, error: BaseException) -> None:
        for member in self._members:
            member.fail(error)
