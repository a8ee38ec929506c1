"""Exceptions as log lines carry them: types, frames, and the first line of each message.

In: an exception, as a handler or a library made it. Out: a document of bounded size. Invariants: it
never raises, whatever the exception's own methods do; and it takes microseconds, whatever the
exception holds, because it runs in the event loop: 10 MB of text, groups in groups without end, a
cause of itself.

In further lines drivers and validators quote the row or the value (`DETAIL: Failing row contains
(…)`). The job's own row keeps the whole text.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from traceback import walk_tb
from typing import Any, cast

from worker.masking import mask

EXCEPTIONS_MAX = 30
FRAMES_MAX = 30
CHARACTERS_MAX = 2_000


def structured(error: BaseException) -> list[dict[str, Any]]:
    """The exception and its causes, outermost first; `EXCEPTIONS_MAX` with those inside groups.

    The frames of each are the innermost `FRAMES_MAX`.
    """
    return _chain(error, iter(range(EXCEPTIONS_MAX)))


def text_of(value: object) -> str:
    """What `str` makes of a value, or that it raised."""
    try:
        return str(value)
    except BaseException as error:
        return (
            f"(a {type(value).__name__} without a text: its __str__ raised {type(error).__name__})"
        )


def bounded(text: str) -> str:
    """A masked text of bounded length. Half a secret cannot be recognised, so it is cut twice."""
    masked = mask(text[: 2 * CHARACTERS_MAX])
    if len(text) <= 2 * CHARACTERS_MAX and len(masked) <= CHARACTERS_MAX:
        return masked
    return f"{masked[:CHARACTERS_MAX]}… ({len(text)} characters)"


def _chain(error: BaseException, budget: Iterator[int]) -> list[dict[str, Any]]:
    return [_link(each, is_cause, budget) for each, is_cause in _causes(error, budget)]


def _causes(error: BaseException, budget: Iterator[int]) -> Iterator[tuple[BaseException, bool]]:
    """The exception and what it came of; whether it is the cause that a `raise … from` named."""
    each: BaseException | None = error
    is_cause, seen = False, set[int]()
    while each is not None and id(each) not in seen and next(budget, None) is not None:
        yield each, is_cause
        seen.add(id(each))
        is_cause = each.__cause__ is not None
        context = None if each.__suppress_context__ else each.__context__
        each = each.__cause__ or context


def _link(error: BaseException, is_cause: bool, budget: Iterator[int]) -> dict[str, Any]:
    frames = deque(walk_tb(error.__traceback__), maxlen=FRAMES_MAX)
    link: dict[str, Any] = {
        "exc_type": type(error).__name__,
        "exc_value": bounded(text_of(error).partition("\n")[0]),
        "is_cause": is_cause,
        "frames": [
            {"filename": code.co_filename, "lineno": line, "name": code.co_name}
            for code, line in ((frame.f_code, line) for frame, line in frames)
        ],
    }
    if isinstance(error, BaseExceptionGroup):
        members = cast("tuple[BaseException, ...]", error.exceptions)
        chains = (_chain(member, budget) for member in islice(members, EXCEPTIONS_MAX))
        link["exceptions"] = [chain for chain in chains if chain]
    return link
