"""What callers pass in: refused with its name, the reason and the remedy.

In: options, limits, and the values of a statement that was refused. Out: `InvalidInput`. Invariant:
a statement that succeeds pays for none of this; `wrong_argument` looks only after an error.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import psycopg

from db.documents import SURROGATE
from db.errors import InvalidInput, shown

# Columns of text whose names end like those of ids.
TEXT_IDS = frozenset({"chat_id", "platform_message_id", "request_id", "source_id", "trace_id"})
KNOWN_TYPES = (
    *(type(None), str, bytes, bool, int, float, Decimal, UUID, date, timedelta),
    *(list, tuple),
)
INT_MAX = 2**31 - 1
# A value that PostgreSQL cannot read as the type of its column, or cannot compare with it.
_OF_ANOTHER_TYPE = ("22P02", "42804", "42846", "42883")
_NO_LIMIT = "2201W"
_OUT_OF_RANGE = "22003"


def check_options(function: str, options: Mapping[str, Any], declared: Iterable[str]) -> None:
    """Raise `InvalidInput` for an option that is not one of those that are `declared`."""
    known = sorted(declared)
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}? The" if close else "the"
            raise InvalidInput(
                f"{function} has no option {name!r}", f"{meant} options are {', '.join(known)}"
            )


def check_connection(conn: object) -> None:
    """Raise `InvalidInput` for anything but an async connection of psycopg."""
    if isinstance(conn, psycopg.AsyncConnection):
        return
    if isinstance(conn, psycopg.Connection):
        reason, remedy = "a blocking connection", "call the function that ends in _sync, or connect"
        raise InvalidInput(f"conn is {reason}", f"{remedy} with psycopg.AsyncConnection")
    raise InvalidInput(f"conn is {shown(conn)}, not a connection", "pass a psycopg.AsyncConnection")


def check_text(thing: str, value: object) -> str:
    """The value; raises `InvalidInput` unless it is a text."""
    if not isinstance(value, str):
        raise InvalidInput(f"{thing} must be text, not {shown(value)}", "pass a str")
    return value


def check_limit(limit: object, most: int, remedy: str = "page on with before_id") -> None:
    """Raise `InvalidInput` unless `limit` is a whole number from 1 to `most`."""
    if type(limit) is not int or not 1 <= limit <= most:
        raise InvalidInput(f"limit {shown(limit)} is not 1 to {most:,}", remedy)


def check_uri(thing: str, uri: str | None) -> None:
    """Raise `InvalidInput` for an address that is empty, or no text."""
    if uri is not None and not (isinstance(cast(object, uri), str) and uri.strip()):
        raise InvalidInput(
            f"{thing} has the empty uri {shown(uri)}", "give an address, or leave it out"
        )


@contextmanager
def named(values: Mapping[str, Any]) -> Iterator[None]:
    """A statement with these values; names the one that it is refused for."""
    try:
        yield
    except (psycopg.Error, UnicodeEncodeError) as error:
        wrong = wrong_argument(error, values)
        if wrong is None:
            raise
        raise wrong from error


def wrong_argument(
    error: Exception, values: Mapping[str, Any] | Sequence[Any] | None
) -> InvalidInput | None:
    """What is wrong with one of the values of a statement that failed; None if nothing is."""
    if not isinstance(values, Mapping):
        return None
    code = error.sqlstate if isinstance(error, psycopg.Error) else None
    if code is None:
        if isinstance(error, psycopg.OperationalError):  # the connection is gone: nobody's argument
            return None
        return _not_text(values) or _of_unknown_type(values)
    if code in _OF_ANOTHER_TYPE:
        return _not_a_uuid(values) or _of_no_enum(error, values)
    if code == _NO_LIMIT:
        return InvalidInput(f"limit {values.get('limit')} is negative", "give a number from 1")
    return _too_large(values) if code == _OUT_OF_RANGE else None


def _not_text(values: Mapping[str, Any]) -> InvalidInput | None:
    for name, value in values.items():
        for text in _texts(value):
            if "\0" in text:
                return InvalidInput(
                    f"{name} contains a NUL character, which PostgreSQL cannot store",
                    "remove it, or encode the bytes (base64)",
                )
            if SURROGATE.search(text):
                return InvalidInput(
                    f"{name} is not Unicode text: it has half of a surrogate pair",
                    "decode it with its encoding",
                )
    return None


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [one for one in cast("list[object]", value) if isinstance(one, str)]
    return []


def _of_unknown_type(values: Mapping[str, Any]) -> InvalidInput | None:
    for name, value in values.items():
        if not isinstance(value, KNOWN_TYPES):
            return InvalidInput(
                f"{name} is a {type(value).__name__}", "pass text, a number, a time or a UUID"
            )
    return None


def _not_a_uuid(values: Mapping[str, Any]) -> InvalidInput | None:
    for name, value in values.items():
        is_id = name == "id" or name.endswith("_id")
        if is_id and name not in TEXT_IDS and value is not None and not _is_uuid(value):
            return InvalidInput(
                f"{name} must be a UUID, not {value!r:.60}", "wrap it: uuid.UUID(…)"
            )
    return None


def _is_uuid(value: object) -> bool:
    try:
        return isinstance(value, UUID) or UUID(cast(str, value)).int >= 0
    except (AttributeError, TypeError, ValueError):
        return False


def _of_no_enum(error: Exception, values: Mapping[str, Any]) -> InvalidInput | None:
    said = str(error)
    for name, value in values.items():
        if isinstance(value, str) and "enum" in said and f'"{value}"' in said:
            return InvalidInput(f"{name} cannot be {value!r:.60}", "pass a member of its enum")
    return None


def _too_large(values: Mapping[str, Any]) -> InvalidInput | None:
    for name, value in values.items():
        if isinstance(value, int) and abs(value) > INT_MAX:
            return InvalidInput(f"{name} {value:,} is out of range", f"give at most {INT_MAX:,}")
    return None
