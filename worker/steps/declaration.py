"""What a step declares: its name, and whether it may be run twice."""

from typing import Literal, cast, get_args

from db.documents import to_text
from db.errors import InvalidInput

NAME_CHARACTERS_MAX = 500

StepEffect = Literal["pure", "idempotent", "unsafe"]
STEP_EFFECTS = get_args(StepEffect)


def check_name(kind: str, name: str) -> None:
    """Raise `InvalidInput` for a name that is empty, too long, or not text PostgreSQL can store.

    `kind` says in the message what has the name: a step, a message, an approval.
    """
    if not isinstance(cast(object, name), str) or not name.strip():
        raise InvalidInput(
            f"{name!r:.100} cannot be the name of a {kind}",
            f"give the {kind} a text that says what it is",
        )
    if len(name) > NAME_CHARACTERS_MAX or to_text(name) != name:
        raise InvalidInput(
            f"the name {name!r:.100} of a {kind} is too long, or has a character that PostgreSQL"
            " cannot store",
            f"use at most {NAME_CHARACTERS_MAX} characters, and neither NUL nor half a surrogate"
            " pair",
        )


def check_effect(name: str, effect: str) -> None:
    """Raise `InvalidInput` unless the effect of step `name` is one of `STEP_EFFECTS`."""
    if effect not in STEP_EFFECTS:
        raise InvalidInput(
            f"effect={effect!r} of step {name!r} is not known",
            f"use one of {', '.join(STEP_EFFECTS)}",
        )
