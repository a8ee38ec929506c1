"""The options of a new job that say what its unique key means, and their checks.

In: the options as the caller gave them. Out: nothing, or an `InvalidInput` before anything is sent.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from db.errors import InvalidInput, shown

SECONDS_MAX = 3_153_600_000  # 100 years

UniqueUntil = Literal["end", "start"]
"""How long a job holds its key: until it ends, or until it is first claimed."""
OnConflict = Literal["return", "replace", "reject"]
"""What happens when another job holds the key: that job is returned; it takes what the call says,
unless it has started; or the call is an error.
"""


def check_unique(
    *,
    unique_key: str | None,
    unique_until: UniqueUntil | None,
    unique_seconds: float | None,
    on_conflict: OnConflict | None,
    debounce_seconds: float | None,
    debounce_max_seconds: float | None,
    has_time: bool,
    after: Sequence[Any],
) -> None:
    """Raise `InvalidInput` for what cannot be meant. `has_time`: run_at or delay is given."""
    options = {
        "unique_until": unique_until,
        "unique_seconds": unique_seconds,
        "on_conflict": on_conflict,
        "debounce_seconds": debounce_seconds,
        "debounce_max_seconds": debounce_max_seconds,
    }
    given = [name for name, value in options.items() if value is not None]
    if not given:
        return
    if unique_key is None:
        raise InvalidInput(f"{given[0]} is given without unique_key", "give one, or leave it out")
    _check_word("unique_until", unique_until, get_args(UniqueUntil))
    _check_word("on_conflict", on_conflict, get_args(OnConflict))
    _check_seconds("unique_seconds", unique_seconds)
    _check_seconds("debounce_seconds", debounce_seconds)
    _check_seconds("debounce_max_seconds", debounce_max_seconds)
    if debounce_max_seconds is not None and debounce_seconds is None:
        raise InvalidInput("debounce_max_seconds is given without debounce_seconds", "give both")
    if debounce_seconds is not None:
        if debounce_max_seconds is not None and debounce_max_seconds < debounce_seconds:
            raise InvalidInput(
                f"debounce_max_seconds {debounce_max_seconds} is less than debounce_seconds "
                f"{debounce_seconds}",
                "leave it out for no longest wait",
            )
        if has_time:
            raise InvalidInput(
                "debounce_seconds is given together with run_at or delay",
                "leave these out: the job runs when no call has come for debounce_seconds",
            )
        if unique_until == "end" or on_conflict in ("return", "reject"):
            raise InvalidInput(
                "debounce_seconds is given together with on_conflict or unique_until",
                "leave these out: a debounced job is replaced until it starts",
            )
    if after and (debounce_seconds is not None or on_conflict == "replace"):
        raise InvalidInput(
            "after is given together with on_conflict='replace' or debounce_seconds",
            "leave it out: what a job needs cannot be replaced",
        )


def _check_word(thing: str, value: object, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise InvalidInput(
            f"{thing} {shown(value)} is not one of {', '.join(allowed)}",
            "leave it out for the default",
        )


def _check_seconds(thing: str, value: object) -> None:
    if value is None:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= SECONDS_MAX
    ):
        raise InvalidInput(
            f"{thing} {shown(value)} is not a number of seconds above 0 and at most 100 years",
            "leave it out for none",
        )
