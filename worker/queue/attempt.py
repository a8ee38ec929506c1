"""One attempt: from a claimed job to exactly one `Outcome`.

In: a claimed job and the worker's tools. Out: an outcome, whatever the handler does: return, raise,
park, hang, call `sys.exit()`, swallow its cancellation. No exception of a handler leaves
`run_attempt`. The first cause of a stop wins; a handler that finishes in spite of a stop wins over
it.
"""

import asyncio
import math
import sys
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import anyio

from db.documents import from_document
from db.fence import Lease
from db.queue.claim import Claimed
from worker.attempt_state import AttemptState, Tools
from worker.declared import HandlerError
from worker.effects import check_same
from worker.extensions.middleware import through
from worker.handlers import Handler, arguments_of
from worker.job import Job
from worker.log import job_bound
from worker.outcomes import Canceled, Done, Ended, Failed, Outcome, Parked
from worker.plain_job import trace_id
from worker.queue import forked, isolated, leftovers
from worker.queue.interpret import (
    CANCELED_FROM_WITHIN,
    outcome_of,
    park_signal_of,
    result_of,
    waits,
)
from worker.steps import several
from worker.steps.beside import HERE, Beside
from worker.steps.changed import tell_unmet
from worker.tracebacks import traceback_of

# How long a stopped attempt waits for the answers to its paid calls, which are then spooled.
SPARED_SECONDS_MAX = 300.0
# How long a handler that has been told to wait may take to end, before it is stopped.
UNWIND_SECONDS = 2.0


class Attempt:
    """An attempt at a job: its lease, and the scope by which it is stopped while it runs."""

    __slots__ = (
        "began",
        "canceled_from_within",
        "cause",
        "handler",
        "job",
        "lease",
        "scope",
        "spared",
        "state",
        "told_at",
    )

    def __init__(self, job: Claimed, lease: Lease, handler: Handler) -> None:
        self.job = job
        self.lease = lease
        self.handler = handler
        self.began = time.monotonic()
        self.scope: anyio.CancelScope | None = None
        self.cause: Outcome | None = None
        self.state: AttemptState | None = None
        self.spared = False
        self.told_at: float | None = None
        self.canceled_from_within = False

    def stop(self, cause: Outcome, *, spare_calls: bool = False) -> None:
        """End the attempt with `cause`, unless it already has one or finishes first.

        With `spare_calls` it ends once the paid calls that it has sent have ended, after
        `SPARED_SECONDS_MAX` at the latest; a second stop ends it at once.
        """
        if self.cause is None:
            # A deadline that passed before is the first cause.
            self.cause = _timed_out(self) if self.stopping else cause
        elif not self.spared:
            return
        if self.state is not None:
            self.state.stopped_by = self.cause
        if self.scope is None:
            return
        self.spared = spare_calls and self._spare_calls(self.scope)
        if not self.spared:
            self.scope.cancel()

    def parks(self) -> None:
        """The job is to wait: the handler has been told so, and has some seconds to end."""
        asyncio.get_running_loop().call_later(UNWIND_SECONDS, self._has_parked)

    def _has_parked(self) -> None:
        if self.state is not None and self.scope is not None:
            self.stop(self.state.parked())

    def _spare_calls(self, scope: anyio.CancelScope) -> bool:
        if self.state is None or not self.state.calls_open.then(self._calls_ended):
            return False
        scope.deadline = min(scope.deadline, anyio.current_time() + SPARED_SECONDS_MAX)
        return True

    def _calls_ended(self) -> None:
        # The scope may be another attempt's by now.
        if self.scope is not None:
            self.scope.cancel()

    def leftovers_told(self) -> None:
        """What the handler has left running was told to end."""
        self.told_at = self.told_at or time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether it was told to end, or its deadline has passed."""
        return self.cause is not None or (self.scope is not None and self.scope.cancel_called)

    @property
    def in_thread(self) -> bool:
        """Whether a thread works for it, which cannot be interrupted."""
        return self.state is not None and self.state.threads_running > 0

    @property
    def timeout_seconds(self) -> float | None:
        """How long this attempt may take; None without a bound."""
        return self.job.timeout_seconds or self.handler.timeout_seconds


async def run_attempt(
    scope: anyio.CancelScope, attempt: Attempt, tools: Tools, modules: tuple[str, ...]
) -> Outcome:
    """Run the handler to its outcome; never raises.

    The caller has entered `scope`, and may reuse it for one attempt after the other: a scope for
    each would add a third to the cost of a short job. It must leave the scope after an attempt was
    stopped in it (`cancel_called`).
    """
    if attempt.cause is not None:
        return attempt.cause  # stopped before it began
    outcome: Outcome | None = None
    attempt.scope = scope
    timeout_seconds = attempt.timeout_seconds
    if timeout_seconds is not None:
        scope.deadline = anyio.current_time() + timeout_seconds
    job = attempt.job
    try:
        with job_bound(
            job_id=job.id,
            lease_no=job.lease_no,
            mode=job.mode,
            trace_id=trace_id(job.trace_parent),
            request_id=job.request_id,
        ):
            outcome = await _handle(attempt, tools, modules)
        forked.leave_if_child()
    except BaseException as error:
        forked.leave_if_child(error)
        if not scope.cancel_called:
            outcome = outcome_of(error, job.attempt, attempt.handler.function)
            attempt.canceled_from_within = isinstance(error, CancelledError)
        else:
            outcome = _stopped(attempt, error)
    finally:
        attempt.scope = None
        if timeout_seconds is not None or attempt.spared:
            scope.deadline = math.inf
    return outcome or attempt.cause or _timed_out(attempt)


async def _handle(attempt: Attempt, tools: Tools, modules: tuple[str, ...]) -> Outcome:
    handler = attempt.handler
    if tools.middlewares:
        state = _state(attempt, tools)
        innermost = partial(_innermost, attempt, state, modules)
        around = partial(through, tools.middlewares, Job(state), innermost)
        return await _ending(attempt, state, partial(_run, attempt, state.beside, around))
    arguments = _arguments(attempt, tools)
    if handler.kind == "process":
        return await isolated.run(attempt.job, attempt.lease, handler, tools, modules)
    if handler.kind == "async" and handler.job_parameter is None:
        call = partial(handler.function, **arguments)
        return Done(result_of(await _run(attempt, Beside(), call), handler))
    state = _state(attempt, tools)
    if handler.kind == "batch":
        join = partial(_join_batch, state, handler, arguments)
        return await _ending(attempt, state, partial(_run, attempt, state.beside, join))
    if handler.job_parameter is not None:
        arguments[handler.job_parameter] = Job(state)
    call = partial(handler.function, **arguments)
    if state.plain:
        return await _ending(attempt, state, partial(state.run_in_thread, call))
    return await _ending(attempt, state, partial(_run, attempt, state.beside, call))


def _arguments(attempt: Attempt, tools: Tools) -> dict[str, Any]:
    """What the handler is called with, without the job."""
    handler = attempt.handler
    arguments = arguments_of(handler, attempt.job.payload)
    return arguments | tools.resources.given(handler.resources) if handler.resources else arguments


def _state(attempt: Attempt, tools: Tools) -> AttemptState:
    beside = Beside()
    kind = attempt.handler.kind
    state = AttemptState(
        attempt.job,
        attempt.lease,
        tools,
        plain=kind != "async",
        in_batch=kind == "batch",
        beside=beside,
    )
    attempt.state = state
    beside.on_parked = attempt.parks
    return state


async def _innermost(attempt: Attempt, state: AttemptState, modules: tuple[str, ...]) -> Any:
    """Run the handler inside of middleware: its value, or what it raises."""
    handler, tools = attempt.handler, state.tools
    arguments = _arguments(attempt, tools)
    if handler.kind == "process":
        outcome = await isolated.run(state.job, attempt.lease, handler, tools, modules)
        if not isinstance(outcome, Done):
            raise Ended(outcome)
        state.effects += outcome.effects
        return from_document(outcome.result)
    if handler.kind == "batch":
        return await _join_batch(state, handler, arguments)
    if handler.job_parameter is not None:
        arguments[handler.job_parameter] = Job(state)
    if state.plain:
        return await state.run_in_thread(handler.function, **arguments)
    return await handler.function(**arguments)


async def _join_batch(state: AttemptState, handler: Handler, arguments: dict[str, Any]) -> Any:
    if state.tools.batches is None:
        raise HandlerError(f"nothing here runs batches, as {handler.mode!r} needs", "run a worker")
    return await state.tools.batches.handle(state, handler, arguments)


async def _ending(
    attempt: Attempt, state: AttemptState, handle: Callable[[], Awaitable[Any]]
) -> Outcome:
    try:
        outcome = await _value_or_wait(attempt, state, handle)
    finally:
        state.beside.leave()
    parks = isinstance(outcome, Parked)
    await check_same(state, waits=parks)
    if parks:
        await several.mark(state)
    return outcome


async def _value_or_wait(
    attempt: Attempt, state: AttemptState, handle: Callable[[], Awaitable[Any]]
) -> Outcome:
    beside = state.beside
    try:
        value = await handle()
    except BaseException as error:
        if not waits(error, parked=beside.parked):
            raise
        return state.parked(park_signal_of(error))
    if beside.parked:
        # It has caught what ends a branch that waits (`gather(…, return_exceptions=True)` does).
        return state.parked()
    if state.recorded:
        tell_unmet(state)
    return Done(result_of(value, attempt.handler), tuple(state.effects))


async def _run(attempt: Attempt, beside: Beside, call: Callable[[], Awaitable[Any]]) -> Any:
    """Run an async handler, and end what it leaves running."""
    function, scope = attempt.handler.function, attempt.scope
    token = beside.enter()
    try:
        try:
            return await call()
        finally:
            forked.leave_if_child(sys.exc_info()[1])
            if scope is not None and beside.has_leftovers():
                await leftovers.end(beside, scope, function, attempt.leftovers_told)
    finally:
        HERE.reset(token)
        beside.leave()


def _stopped(attempt: Attempt, error: BaseException) -> Outcome:
    """The outcome of an attempt that was stopped; the error says where it was at that moment."""
    outcome = attempt.cause or _timed_out(attempt)
    if isinstance(outcome, Failed | Canceled):
        return replace(outcome, traceback=traceback_of(error, attempt.handler.function))
    return outcome


def _timed_out(attempt: Attempt) -> Outcome:
    if attempt.timeout_seconds is None:
        return Failed(CANCELED_FROM_WITHIN)
    return Failed(f"its deadline passed: it may take {attempt.timeout_seconds:g} s")
