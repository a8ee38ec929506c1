"""JSON documents for `jsonb` columns.

PostgreSQL cannot store the character NUL, and JSON has no NaN. A document that is already paid for
(a result, an answer, a message) must not be lost because of them, so NUL becomes the visible symbol
U+2400, half of a surrogate pair U+FFFD, and NaN null. A document that a caller passes in (a
payload) is refused instead.

`jsonb` holds numbers of more digits, and deeper nesting, than Python reads. What cannot be read
back is refused at the write. Such a document of another client is read as `Unreadable`, so that
only the job or the field that it belongs to fails, and no list.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, cast

import orjson
from pydantic_core import PydanticSerializationError, from_json, to_json

from db.errors import InvalidInput

# An escaped NUL that is not itself an escaped backslash followed by "u0000".
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
SURROGATE = re.compile("[\ud800-\udfff]")
# An integer with more digits may not fit into 64 bits.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
# A number with a fraction and this many digits may be too large for a float.
_LONG_FRACTION = re.compile(rb"[0-9]{309}\.")
_LONGEST_NUMBER = re.compile(rb"[0-9]{4300}")
# A quarter of what jsonb can hold at all.
DOCUMENT_BYTES_MAX = 64 * 2**20
# Both are limits of pydantic's parser. `to_json` writes 255 levels, so a document that was read can
# be shown within others.
NESTING_MAX = 200
DIGITS_MAX = 4_300


class Unreadable(dict[str, str]):
    """A document that Python cannot read, or a part of a row of which that is true.

    It is shown as `{"unreadable": reason}`. Whoever needs the document calls `readable`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(unreadable=reason)
        self.reason = reason


def readable(value: Any, thing: str) -> Any:
    """`value`, a document from the database. Raises `InvalidInput` naming `thing` if it is
    `Unreadable`.
    """
    if isinstance(value, Unreadable):
        raise InvalidInput(f"{thing} cannot be read: {value.reason}", "correct that row by SQL")
    return value


def to_document(value: object, thing: str = "the value") -> str:
    """JSON text of any value that pydantic can serialise (models, dataclasses, dates, UUIDs, …).

    Raises `InvalidInput` naming `thing` if it cannot be written as JSON or is too large.
    """
    try:
        encoded = _encode(value, thing)
    except InvalidInput as refused:
        if "surrogate" not in refused.message:
            raise
        encoded = _encode(_without_surrogates(value), thing)
    if len(encoded) > DOCUMENT_BYTES_MAX:
        raise InvalidInput(
            f"{thing} has {len(encoded):,} bytes; at most {DOCUMENT_BYTES_MAX:,} are allowed",
            "store it as a file (job.save) or elsewhere, and return its name or address",
        )
    _refuse_unreadable(encoded, thing)
    return _NUL.sub(rb"\1\\u2400", encoded).decode()


def to_payload(value: object, thing: str, bytes_max: int = 1_048_576) -> str:
    """JSON text of an object from a caller. Raises `InvalidInput` naming `thing` if it is not an
    object, contains NUL, or has more than `bytes_max` bytes.
    """
    if not isinstance(value, dict):
        raise InvalidInput(
            f"{thing} must be a JSON object, not {type(value).__name__}",
            'pass named arguments, like {"url": "…"}',
        )
    encoded = _encode(cast(object, value), thing)
    if _NUL.search(encoded):
        raise InvalidInput(
            f"{thing} contains a NUL character, which PostgreSQL cannot store",
            "remove it, or encode the bytes (base64)",
        )
    if len(encoded) > bytes_max:
        raise InvalidInput(
            f"{thing} has {len(encoded):,} bytes; at most {bytes_max:,} are allowed",
            "store the document as an artifact or a file and pass its address",
        )
    _refuse_unreadable(encoded, thing)
    return encoded.decode()


def to_metadata(value: object, thing: str) -> str | None:
    """JSON text of the caller's own facts about a row; None where there are none.

    Raises `InvalidInput` as `to_payload`.
    """
    if not value:
        return None
    facts = dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
    return to_payload(facts, f"the metadata of {thing}")


def parse_payload(text: str, thing: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises `InvalidInput` with the line and column of a mistake."""
    value = parse_document(text, thing, 'write an object, like {"url": "https://example.org"}')
    if not isinstance(value, dict):
        raise InvalidInput(
            f"{thing} must be a JSON object, not {type(value).__name__}",
            'pass named arguments, like {"url": "…"}',
        )
    return cast(dict[str, Any], value)


def parse_document(text: str, thing: str, remedy: str) -> Any:
    """What a JSON text says. Raises `InvalidInput` with the line and column of a mistake."""
    try:
        return _decode(text.encode())
    except orjson.JSONDecodeError as error:
        raise InvalidInput(
            f"{thing} is not JSON: {error.msg}, in line {error.lineno}, column {error.colno}",
            remedy,
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{thing} cannot be read: {_reason(error)}", remedy) from error


def from_document(document: bytes | str) -> Any:
    """The value of a `jsonb` document; `Unreadable` if Python cannot read it."""
    data = document.encode() if isinstance(document, str) else document
    try:
        return _decode(data)
    except (ValueError, RecursionError) as error:
        return Unreadable(_reason(error))


def to_text(value: str) -> str:
    """`value` as PostgreSQL `text` can hold it: NUL becomes U+2400, lone surrogates U+FFFD."""
    return SURROGATE.sub("\ufffd", value.replace("\0", "\u2400"))


def _without_surrogates(value: object) -> object:
    """Plain data with U+FFFD for each half of a surrogate pair, as a cut emoji leaves one."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            pairs = cast(dict[object, object], value).items()
            return {_without_surrogates(k): _without_surrogates(v) for k, v in pairs}
        case list() | tuple():
            return [_without_surrogates(one) for one in cast(list[object], value)]
        case _:
            return value


def _encode(value: object, thing: str) -> bytes:
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, UnicodeEncodeError, ValueError, RecursionError) as error:
        plain = "return plain data: dicts, lists, strings, numbers, dataclasses or pydantic models"
        forgotten = "'coroutine'" in str(error)
        raise InvalidInput(
            f"{thing} cannot be written as JSON: {error}",
            "write `await` before the call that made it" if forgotten else plain,
        ) from error


def _refuse_unreadable(encoded: bytes, thing: str) -> None:
    if not (_may_nest_deeply(encoded) or _LONGEST_NUMBER.search(encoded)):
        return
    try:
        _decode(encoded)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{thing} could not be read back: {_reason(error)}",
            "write long numbers, and what nests deeply, as text",
        ) from error


# Almost all documents have neither long numbers nor deep nesting. orjson is up to three times
# faster, but rounds very long integers and reads deeper nesting than can be written again.
def _decode(data: bytes) -> Any:
    if not (_may_nest_deeply(data) or _LONG_NUMBER.search(data)):
        return orjson.loads(data)
    value: Any = from_json(data, cache_strings="keys")
    if _LONG_FRACTION.search(data):
        return json.loads(data, parse_float=_finite)
    return value


def _may_nest_deeply(data: bytes) -> bool:
    return len(data) > 2 * NESTING_MAX and data.count(b"{") + data.count(b"[") > NESTING_MAX


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("number out of range")
    return number


def _reason(error: Exception) -> str:
    """What the parsers say, in the words of a reader who has never seen a parser."""
    said = str(error)
    if "recursion" in said:
        return f"it nests deeper than {NESTING_MAX} levels"
    if "out of range" in said:
        return f"a number in it is too large for a float, or has more than {DIGITS_MAX:,} digits"
    return f"it is not JSON: {said}"
