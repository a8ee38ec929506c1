"""One attempt: from a claimed job to exactly one `Outcome`.

In: a claimed job and the worker's tools. Out: an outcome, whatever the handler does: return, raise,
park, hang, call `sys.exit()`, swallow its cancellation. Nothing a handler does escapes
`run_attempt`. The first cause of a stop wins, and work that finished all the same beats a late
stop.
"""

import math
import time
import traceback
from typing import TypeVar

import anyio

from db.documents import to_document, to_text
from db.errors import DatabaseError, InvalidInput
from db.fence import Lease, LeaseLost
from db.queue.claim import Claimed
from worker.attempt_state import AttemptState, Tools
from worker.handlers import BadPayload, Handler, arguments_of
from worker.job import Job
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
from worker.plain_job import trace_id
from worker.queue import isolated

E = TypeVar("E", bound=BaseException)

ERROR_CHARACTERS_MAX = 4000
# A handler that could not reach the database is run again later; no try is burnt.
DATABASE_PAUSE_SECONDS_MAX = 60.0
# An answer that is on its way when the database is lost is waited for this long, and spooled.
SPARED_SECONDS_MAX = 300.0


class Attempt:
    """An attempt at a job: its lease, and the scope by which it is stopped while it runs."""

    __slots__ = ("began", "cause", "handler", "job", "lease", "scope", "spared", "state")

    def __init__(self, job: Claimed, lease: Lease, handler: Handler) -> None:
        self.job = job
        self.lease = lease
        self.handler = handler
        self.began = time.monotonic()
        self.scope: anyio.CancelScope | None = None
        self.cause: Outcome | None = None
        self.state: AttemptState | None = None
        self.spared = False

    def stop(self, cause: Outcome, *, spare_calls: bool = False) -> None:
        """End the attempt with `cause`, unless it already has one or finishes first.

        `spare_calls`: when the paid calls that it has sent have ended, or after a bound; a second
        stop ends that.
        """
        if self.cause is None:
            # A deadline that passed before is the first cause.
            self.cause = _timed_out(self) if self.stopping else cause
        elif not self.spared:
            return
        if self.scope is None:
            return
        self.spared = spare_calls and self._spare_calls(self.scope)
        if not self.spared:
            self.scope.cancel()

    def _spare_calls(self, scope: anyio.CancelScope) -> bool:
        if self.state is None or not self.state.calls_open.then(self._calls_ended):
            return False
        scope.deadline = min(scope.deadline, anyio.current_time() + SPARED_SECONDS_MAX)
        return True

    def _calls_ended(self) -> None:
        # The scope may be another attempt's by now.
        if self.scope is not None:
            self.scope.cancel()

    @property
    def stopping(self) -> bool:
        """Was it told to end, or did its deadline pass?"""
        return self.cause is not None or (self.scope is not None and self.scope.cancel_called)

    @property
    def in_thread(self) -> bool:
        """Does a thread work for it, which nothing can interrupt?"""
        return self.state is not None and self.state.threads_running > 0

    @property
    def timeout_seconds(self) -> float | None:
        """How long this attempt may take, if there is a bound."""
        return self.job.timeout_seconds or self.handler.timeout_seconds


async def run_attempt(
    scope: anyio.CancelScope, attempt: Attempt, tools: Tools, modules: tuple[str, ...]
) -> Outcome:
    """Run the handler to its outcome. Total, but for the cancellation of the daemon itself.

    The scope, which the caller has entered, is good for one attempt after the other: one of its own
    for each costs a third of what a short job does. After an attempt was stopped in it
    (`cancel_called`) it must be left.
    """
    if attempt.cause is not None:
        return attempt.cause  # stopped before it began
    outcome: Outcome | None = None
    attempt.scope = scope
    if attempt.timeout_seconds is not None:
        scope.deadline = anyio.current_time() + attempt.timeout_seconds
    job = attempt.job
    try:
        with job_bound(
            job_id=job.id,
            lease_no=job.lease_no,
            mode=job.mode,
            trace_id=trace_id(job.trace_parent),
        ):
            outcome = await _handle(attempt, tools, modules)
    except BaseException as error:
        if not scope.cancel_called and _daemon_cancelled(error):
            raise
        outcome = None if scope.cancel_called else outcome_of(error, job.attempt)
    finally:
        attempt.scope = None
        if attempt.timeout_seconds is not None or attempt.spared:
            scope.deadline = math.inf
    return outcome or attempt.cause or _timed_out(attempt)


def outcome_of(error: BaseException, attempt_no: int) -> Outcome:
    """What an exception out of a handler means; total, whatever its own methods do."""
    try:
        return _meaning(_alone(error), attempt_no)
    except BaseException:
        return Failed(f"{type(error).__name__}, which cannot be described")


def describe(error: BaseException) -> str:
    """Type, message and the last place, bounded."""
    if isinstance(error, BaseExceptionGroup):
        inner = "; ".join(describe(one) for one in error.exceptions)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType,reportUnknownMemberType]
        return _bounded(f"{error.message}: {inner}")
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    said = f"{type(error).__name__}: {error}"[: ERROR_CHARACTERS_MAX - len(where)]
    return _bounded(said + where)


def _alone(error: BaseException) -> BaseException:
    """A task group wraps even a single exception; what it means does not change by that."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:  # pyright: ignore[reportUnknownMemberType,reportUnknownArgumentType]
        error = error.exceptions[0]  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return error  # pyright: ignore[reportUnknownVariableType]


def _meaning(error: BaseException, attempt_no: int) -> Outcome:
    parked = _find(error, ParkSignal)
    if parked is not None:
        return parked.parked
    match error:
        case Retry():
            return Failed(_bounded(error.reason), after_seconds=error.after_seconds)
        case Fail():
            return Failed(_bounded(error.reason), final=True)
        case Cancel():
            return Canceled(_bounded(error.reason))
        case Snooze():
            return Parked("timer", "snoozed", error.seconds)
        case BadPayload():
            return Failed(_bounded(error), final=True)
        case LeaseLost():
            return Lost(str(error))
        case DatabaseError() if error.retriable:
            pause = min(DATABASE_PAUSE_SECONDS_MAX, 2.0 ** min(attempt_no, 10))
            return Parked("timer", _bounded(error), pause)
        case SystemExit():
            return Failed(_bounded(f"the handler called sys.exit({error.code!r})"))
        case _:
            lost = _find(error, LeaseLost)
            return Lost(str(lost)) if lost else Failed(describe(error))


def _bounded(text: object) -> str:
    """As a row can hold it: PostgreSQL takes neither NUL nor half of a surrogate pair."""
    return to_text(str(text)[:ERROR_CHARACTERS_MAX])


async def _handle(attempt: Attempt, tools: Tools, modules: tuple[str, ...]) -> Outcome:
    handler = attempt.handler
    arguments = arguments_of(handler, attempt.job.payload)
    if handler.kind == "process":
        return await isolated.run(attempt.job, attempt.lease, handler, tools, modules)
    if handler.kind == "async" and handler.job_parameter is None:
        return Done(result_of(await handler.function(**arguments), handler))
    plain = handler.kind == "thread"
    state = attempt.state = AttemptState(attempt.job, attempt.lease, tools, plain=plain)
    if handler.job_parameter is not None:
        arguments[handler.job_parameter] = Job(state)
    if handler.kind == "async":
        value = await handler.function(**arguments)
    else:
        value = await state.run_in_thread(handler.function, **arguments)
    return Done(result_of(value, handler), tuple(state.effects))


def result_of(value: object, handler: Handler) -> str:
    """JSON text of what a handler returned. Raises `Fail` when it cannot be JSON."""
    if value is None:
        return "null"
    try:
        return to_document(value, f"the result of {handler.mode!r}")
    except InvalidInput as error:
        raise Fail(str(error)) from error


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
