"""What a handler's return value or exception means: the `Outcome` of its attempt.

In: what the handler returned or raised, in this process or in one of its own. Out: an outcome whose
texts PostgreSQL can store. Invariant: `outcome_of` never raises, whatever the exception's own
methods do.
"""

from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from db import errors
from db.documents import to_document, to_text
from db.errors import DatabaseError, InvalidInput
from db.fence import LeaseLost
from db.queue.attempts import BadEnding
from worker.handlers import BadPayload, Handler
from worker.log_exceptions import text_of
from worker.masking import mask
from worker.outcomes import (
    Cancel,
    Canceled,
    Ended,
    Fail,
    Failed,
    HandlerEnding,
    Lost,
    Outcome,
    Parked,
    ParkSignal,
    Retry,
    Snooze,
)
from worker.tracebacks import own_place, traceback_of

E = TypeVar("E", bound=BaseException)

ERROR_CHARACTERS_MAX = 4000
CANCELED_FROM_WITHIN = "the handler was canceled from within"
# A job whose handler could not reach the database waits this long at most; no failure is counted.
DATABASE_PAUSE_SECONDS_MAX = 60.0


def result_of(value: object, handler: Handler) -> str:
    """The JSON text of a handler's return value. Raises `Fail` if it has none."""
    if value is None:
        return "null"
    try:
        return to_document(value, f"the result of {handler.mode!r}")
    except InvalidInput as error:
        raise Fail(str(error)) from error


def outcome_of(
    error: BaseException, attempt_no: int, function: Callable[..., Any] | None = None
) -> Outcome:
    """The outcome that an exception of the handler `function` means; never raises."""
    if isinstance(error, Ended):
        return error.outcome
    try:
        outcome = _meaning(_alone(error), attempt_no, function)
        if isinstance(outcome, Failed | Canceled) and not isinstance(error, BadPayload):
            return replace(outcome, traceback=traceback_of(_alone(error), function))
        return outcome
    except BaseException:
        return Failed(f"{type(error).__name__}, which cannot be described")


def waits(error: BaseException, *, parked: bool) -> bool:
    """Whether a handler that raised this is to wait; `parked`: a branch of it was told so.

    Then an error is what it made of that, unless it ends on purpose.
    """
    if park_signal_of(error) is not None:
        return True
    ends = isinstance(error, HandlerEnding) or _find(error, LeaseLost) is not None
    return parked and isinstance(error, Exception) and not ends


def park_signal_of(error: BaseException) -> ParkSignal | None:
    """The signal to wait, alone or in a group."""
    return _find(error, ParkSignal)


def describe(error: BaseException, function: Callable[..., Any] | None = None) -> str:
    """The exception's type, its message and the handler's own line, of bounded length."""
    if isinstance(error, BaseExceptionGroup):
        inner = "; ".join(describe(one, function) for one in error.exceptions)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType,reportUnknownMemberType]
        return _bounded(f"{error.message}: {inner}")
    place = own_place(error, function)
    where = "" if place is None else f" ({place.file}:{place.line})"
    said = f"{type(error).__name__}: {text_of(error)}"[: 2 * ERROR_CHARACTERS_MAX]
    said = mask(said)[: ERROR_CHARACTERS_MAX - len(where)]
    return _bounded(said + where)


def _alone(error: BaseException) -> BaseException:
    """The one exception inside groups: a task group wraps even a single one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:  # pyright: ignore[reportUnknownMemberType,reportUnknownArgumentType]
        error = error.exceptions[0]  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return error  # pyright: ignore[reportUnknownVariableType]


def _meaning(error: BaseException, attempt_no: int, function: Callable[..., Any] | None) -> Outcome:
    parked = _find(error, ParkSignal)
    if parked is not None:
        return parked.parked
    match error:
        case Retry():
            return Failed(_reason(error.reason), after_seconds=error.after_seconds)
        case Fail():
            return Failed(_reason(error.reason), final=True)
        case Cancel():
            return Canceled(_reason(error.reason))
        case Snooze():
            return Parked("timer", "snoozed", error.seconds)
        case BadPayload():
            return Failed(_bounded(error), final=True)
        case LeaseLost():
            return Lost(str(error))
        case DatabaseError(sqlstate=errors.QUERY_CANCELED):
            # By a timeout that the statement exceeds each time, or by a person.
            return Failed(_bounded(f"{error.message}: a statement of the handler was canceled"))
        case DatabaseError() if error.retriable:
            pause = min(DATABASE_PAUSE_SECONDS_MAX, 2.0 ** min(attempt_no, 10))
            said = _bounded(error)
            interrupted = BadEnding("interrupted", said, traceback_of(error, function))
            return Parked("timer", said, pause, interrupted=interrupted)
        case SystemExit():
            return Failed(_bounded(f"the handler called sys.exit({error.code!r})"))
        case CancelledError():
            return Failed(_bounded(f"{CANCELED_FROM_WITHIN}: {describe(error, function)}"))
        case _:
            lost = _find(error, LeaseLost)
            return Lost(str(lost)) if lost else Failed(describe(error, function))


def _reason(reason: object) -> str:
    """The reason that a handler gave; a job never ends without any."""
    return _bounded(reason) if text_of(reason).strip() else "no reason was given"


def _bounded(text: object) -> str:
    """Text that a row can hold (PostgreSQL takes neither NUL nor half of a surrogate pair) and that
    holds no secret. Half of a secret could not be recognised, so it is masked before it is cut.
    """
    return to_text(mask(text_of(text)[: 2 * ERROR_CHARACTERS_MAX])[:ERROR_CHARACTERS_MAX])


def _find(error: BaseException, kind: type[E]) -> E | None:
    if isinstance(error, kind):
        return error
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
            found = _find(one, kind)  # pyright: ignore[reportUnknownArgumentType]
            if found is not None:
                return found
    return None
