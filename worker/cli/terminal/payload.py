"""The payload of a job, and other JSON, as it is given on the command line.

In: JSON text; for a payload also `-` for stdin, or `@file`. Out: a JSON object, or whatever the
text says. Raises `InvalidInput` that says where the text came from, where in it the mistake is, and
what to do.
"""

import sys
from pathlib import Path
from typing import Any, BinaryIO

from db.documents import parse_document, parse_payload
from db.errors import InvalidInput

# No setting allows a larger payload; what is longer is not even read.
BYTES_READ_MAX = 100_000_000


def read_payload(argument: str | None) -> dict[str, Any]:
    """The object that the argument gives; an empty one without an argument."""
    if argument is None:
        return {}
    if argument == "-":
        return _parse(_read(sys.stdin.buffer, "stdin"), "the payload on stdin")
    if argument.startswith("@"):
        path = Path(argument[1:])
        return _parse(_read_file(path), f"the payload in {path}")
    return _parse(argument.encode(errors="surrogateescape"), "the payload")


def read_document(text: str | None, thing: str) -> Any:
    """What any JSON text says; None without one."""
    if text is None:
        return None
    return parse_document(text, thing, "a text needs its quotes: '\"paid\"'")


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _read(file, str(path))
    except OSError as error:
        raise InvalidInput(
            f"the payload's file {path} cannot be read: {error.strerror}",
            "name a readable file after the @, or give the JSON itself",
        ) from error


def _read(stream: BinaryIO, name: str) -> bytes:
    text = stream.read(BYTES_READ_MAX + 1)
    if len(text) > BYTES_READ_MAX:
        raise InvalidInput(
            f"{name} has more than {BYTES_READ_MAX:,} bytes, too many for any payload",
            "store the document as an artifact or a file and pass its address",
        )
    return text


def _parse(data: bytes, thing: str) -> dict[str, Any]:
    if not data.strip():
        raise InvalidInput(
            f"{thing} is empty", 'write an object, like {"url": "…"}, or leave it out'
        )
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise InvalidInput(
            f"{thing} contains a NUL byte in line {line}, so it is not JSON text",
            "remove it, or encode the bytes (base64)",
        )
    try:
        return parse_payload(data.decode(), thing)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"{thing} is not UTF-8 text: byte {error.start + 1}, in line {line}", "save it as UTF-8"
        ) from error
