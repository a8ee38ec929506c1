"""JSON documents for `jsonb` columns.

PostgreSQL cannot store the character NUL, and JSON has no NaN. A document that is already paid for
(a result, an answer, a message) must not be lost because of them, so NUL becomes the visible symbol
U+2400, half of a surrogate pair U+FFFD, and NaN null. A document that a caller passes in (a
payload) is refused instead.
"""

import json
import re
from typing import Any, cast

import orjson
from pydantic_core import PydanticSerializationError, to_json

from db.errors import InvalidInput

# An escaped NUL that is not itself an escaped backslash followed by "u0000".
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_SURROGATE = re.compile("[\ud800-\udfff]")
# An integer with more digits may not fit into 64 bits.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
# A quarter of what jsonb can hold at all.
DOCUMENT_BYTES_MAX = 64 * 2**20


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
    return encoded.decode()


def parse_payload(text: str, thing: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises `InvalidInput` with the line and column of a mistake."""
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(
            f"{thing} is not JSON: {error.msg}, in line {error.lineno}, column {error.colno}",
            'write an object, like {"url": "https://example.org"}',
        ) from error
    if not isinstance(value, dict):
        raise InvalidInput(
            f"{thing} must be a JSON object, not {type(value).__name__}",
            'pass named arguments, like {"url": "…"}',
        )
    return cast(dict[str, Any], value)


def from_document(document: bytes | str) -> Any:
    """The value of a `jsonb` document. (orjson is ten times faster, but rounds very long
    integers.)
    """
    data = document.encode() if isinstance(document, str) else document
    return json.loads(data) if _LONG_NUMBER.search(data) else orjson.loads(data)


def to_text(value: str) -> str:
    """`value` as PostgreSQL `text` can hold it: NUL becomes U+2400, lone surrogates U+FFFD."""
    return _SURROGATE.sub("\ufffd", value.replace("\0", "\u2400"))


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
