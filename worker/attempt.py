"""One attempt: from a claimed job to exactly one `Outcome`.

In: a claimed job and the worker's tools. Out: an outcome, whatever the handler does: return, raise,
park, hang, call `sys.exit()`, swallow its cancellation. Nothing a handler does escapes
`run_attempt`. The first cause of a stop wins, and work that finished all the same beats a late
stop.
"""

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from db.documents import to_document
from db.errors import DatabaseError, InvalidInput
from db.queue import Claimed, Lease, LeaseLost
from worker import isolated
from worker.context import Job, Tools
from worker.handlers import BadPayload, Handler, arguments_of
from worker.log import job_bound
from worker.outcomes import (
    Cancel,
    Canceled,
    Done,
    Fail,
    Failed,
    Lost,
    Outcome,
    Parked,
    ParkSignal,
    Retry,
    Snooze,
)

E = TypeVar("E", bound=BaseException)

ERROR_CHARACTERS_MAX = 4000
# A handler that could not reach the database is run again later; no try is burnt.
DATABASE_PAUSE_SECONDS_MAX = 60.0


class Attempt:
    """A running attempt: its lease, and the scope by which it is stopped."""

    __slots__ = ("began", "cause", "handler", "in_thread", "job", "lease", "overran_at", "scope")

    def __init__(self, job: Claimed, lease: Lease, handler: Handler) -> None:
        self.job = job
        self.lease = lease
        self.handler = handler
        self.began = time.monotonic()
        self.scope = anyio.CancelScope()
        self.cause: Outcome | None = None
        self.in_thread = False
        self.overran_at: float | None = None

    def stop(self, cause: Outcome) -> None:
        """End the attempt with `cause`, unless it already has one or finishes first."""
        if self.cause is None:
            self.cause = cause
            self.overran_at = time.monotonic()
            self.scope.cancel()

    @property
    def timeout_seconds(self) -> float | None:
        """How long this attempt may take, if there is a bound."""
        return self.job.timeout_seconds or self.handler.timeout_seconds


async def run_attempt(attempt: Attempt, tools: Tools, modules: tuple[str, ...]) -> Outcome:
    """Run the handler to its outcome. Total, but for the cancellation of the daemon itself."""
    outcome: Outcome | None = None
    if attempt.timeout_seconds is not None:
        attempt.scope.deadline = anyio.current_time() + attempt.timeout_seconds
    try:
        with (
            job_bound(
                job_id=str(attempt.job.id),
                lease_no=attempt.lease.lease_no,
                mode=attempt.job.mode,
                trace_id=trace_id(attempt.job.trace_parent),
            ),
            attempt.scope,
        ):
            outcome = await _handle(attempt, tools, modules)
    except BaseException as error:
        if not attempt.scope.cancel_called and _daemon_cancelled(error):
            raise
        outcome = None if attempt.scope.cancel_called else outcome_of(error, attempt.job.attempt)
    return outcome or attempt.cause or _timed_out(attempt)


def outcome_of(error: BaseException, attempt_no: int) -> Outcome:
    """What an exception out of a handler means."""
    parked = _find(error, ParkSignal)
    if parked is not None:
        return parked.parked
    match error:
        case Retry():
            return Failed(error.reason, after_seconds=error.after_seconds)
        case Fail():
            return Failed(error.reason, final=True)
        case Cancel():
            return Canceled(error.reason)
        case Snooze():
            return Parked("timer", "snoozed", error.seconds)
        case BadPayload():
            return Failed(str(error), final=True)
        case LeaseLost():
            return Lost(str(error))
        case DatabaseError() if error.retriable:
            pause = min(DATABASE_PAUSE_SECONDS_MAX, 2.0 ** min(attempt_no, 10))
            return Parked("timer", str(error), pause)
        case SystemExit():
            return Failed(f"the handler called sys.exit({error.code!r})")
        case _:
            lost = _find(error, LeaseLost)
            return Lost(str(lost)) if lost else Failed(describe(error))


def describe(error: BaseException) -> str:
    """Type, message and the last place, bounded."""
    if isinstance(error, BaseExceptionGroup):
        inner = "; ".join(describe(one) for one in error.exceptions)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType,reportUnknownMemberType]
        return f"{error.message}: {inner}"[:ERROR_CHARACTERS_MAX]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}"[: ERROR_CHARACTERS_MAX - len(where)] + where


def trace_id(trace_parent: str | None) -> str | None:
    """The trace id of a W3C `traceparent` header: version-traceid-parentid-flags."""
    parts = (trace_parent or "").split("-")
    return parts[1] if len(parts) == 4 else None


async def _handle(attempt: Attempt, tools: Tools, modules: tuple[str, ...]) -> Outcome:
    handler = attempt.handler
    arguments = arguments_of(handler, attempt.job.payload)
    if handler.kind == "process":
        return await isolated.run(attempt.job, attempt.lease, handler, tools, modules)
    job = Job(attempt.job, attempt.lease, tools, plain=handler.kind == "thread")
    if handler.job_parameter is not None:
        arguments[handler.job_parameter] = job
    if handler.kind == "async":
        value = await handler.function(**arguments)
    else:
        value = await _in_thread(attempt, handler.function, arguments, tools)
    return Done(result_of(value, handler), tuple(job.effects))


def result_of(value: object, handler: Handler) -> str:
    """JSON text of what a handler returned. Raises `Fail` when it cannot be JSON."""
    try:
        return to_document(value, f"the result of {handler.mode!r}")
    except InvalidInput as error:
        raise Fail(str(error)) from error


async def _in_thread(
    attempt: Attempt, function: Callable[..., Any], arguments: Mapping[str, Any], tools: Tools
) -> Any:
    # A thread cannot be interrupted: until it returns, slot and job stay taken.
    def call() -> Any:
        attempt.in_thread = True
        try:
            return function(**arguments)
        finally:
            attempt.in_thread = False

    return await anyio.to_thread.run_sync(call, limiter=tools.threads)


def _timed_out(attempt: Attempt) -> Outcome:
    if attempt.timeout_seconds is None:
        return Failed("the handler was canceled from within")
    return Failed(f"its deadline passed: it may take {attempt.timeout_seconds:g} s")


def _daemon_cancelled(error: BaseException) -> bool:
    return isinstance(
        error, anyio.get_cancelled_exc_class()
    ) and anyio.current_effective_deadline() == -float("inf")


def _find(error: BaseException, kind: type[E]) -> E | None:
    if isinstance(error, kind):
        return error
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
            found = _find(one, kind)  # pyright: ignore[reportUnknownArgumentType]
            if found is not None:
                return found
    return None
