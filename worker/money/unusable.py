"""Answers that were paid for and cannot be used: not JSON, or with a cost that is no amount.

In: whatever a handler gives as the answer of a call. Out: an answer that can be settled, what is
wrong with the given one, and its text. Invariant: nothing that is given raises here, because an
error before the settlement would have the next attempt pay again.
"""

import json
from typing import cast
from uuid import UUID

from pydantic_core import PydanticSerializationError, to_json

from db.documents import to_document
from db.errors import InvalidInput, shown
from db.money.amount import checked_amount
from db.money.calls import Answer, Usage
from worker.outcomes import Fail

TEXT_CHARACTERS_MAX = 50_000


class AnswerUnusable(Fail):
    """An answer that was paid for cannot be used; the job fails for good.

    The call is settled. An answer that is JSON is recorded, so that a retry reads it; the text of
    another one is kept with the call. `jobsworth job show` prints it.
    """

    def __init__(self, name: str, wrong: list[str], job_id: UUID) -> None:
        super().__init__(
            f"the answer of call {name!r} cannot be used: {'; '.join(wrong)}."
            f" It is paid for and kept: jobsworth job show {job_id}"
        )


def sound(given: object) -> tuple[Answer, list[str]]:
    """What of `given` can be settled, and what is wrong with the rest.

    Without a usable usage the estimate counts, and without a usable cost the price of the usage.
    """
    if not isinstance(given, Answer):
        kind = type(given).__name__
        return Answer(given, None), [f"it is a {kind} and not an Answer (return Answer(…))"]
    wrong: list[str] = []
    usage, version, price, model = cast(
        tuple[object, ...], (given.usage, given.price_version, given.price, given.model)
    )
    if not isinstance(usage, Usage | None):
        refused = isinstance(usage, InvalidInput)
        wrong.append(str(usage) if refused else f"its usage {shown(usage)} is not a Usage")
        usage = None
    if not isinstance(version, str | None):
        wrong.append(f"its price version {shown(version)} is not a text")
        version = None
    try:
        cost = checked_amount(given.cost)
    except InvalidInput as error:
        wrong.append(str(error))
        cost = None
    try:
        price = None if price is None else json.loads(to_document(price, "its price"))
    except InvalidInput as error:
        wrong.append(str(error))
        price = None
    if not isinstance(model, str | None):
        wrong.append(f"its model {shown(model)} is not a text")
        model = None
    return Answer(given.content, usage, cost, version, price, model), wrong


def described(wrong: list[str], said: str | None) -> str:
    """What a call's row says of its answer; `said` is the text of content that is not JSON."""
    return "; ".join(wrong) + ("" if said is None else f"; the answer was: {said}")


def text_of(content: object) -> str:
    """The content as text: as far as possible as JSON, of bounded length."""
    try:
        said = to_json(content, inf_nan_mode="constants", fallback=_spelled).decode()
    except (PydanticSerializationError, ValueError, RecursionError):
        said = _spelled(content)
    return said[:TEXT_CHARACTERS_MAX]


def _spelled(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<a {type(value).__name__} whose repr raises {type(error).__name__}>"
