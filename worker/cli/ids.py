"""Ids as people type them: whole, or their beginning.

In: at least six hexadecimal digits, with or without hyphens. Out: the one id that begins so.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from db.diagnosis import lookup
from db.diagnosis.lookup import Found
from db.errors import InvalidInput, NotFound
from db.pool import Connection
from worker.cli.output import is_narrow, is_terminal, one_line
from worker.cli.times import ago

PREFIX_DIGITS_MIN = 6
UUID_DIGITS = 32
CANDIDATES_MAX = 10
# 48 bits of milliseconds and 12 of their fraction: what of a UUIDv7 tells two rows apart.
SHORT_ID_CHARACTERS = 18


class AmbiguousId(InvalidInput):
    """Several ids begin so."""


@dataclass(frozen=True, slots=True)
class TypedId:
    """An id or the beginning of one: what was typed, and the ids that begin so."""

    text: str
    thing: str
    lowest: UUID
    highest: UUID


def typed_job(text: str) -> TypedId:
    """The id of a job, or its beginning. Raises `InvalidInput`."""
    return _typed(text, "job")


def typed_approval(text: str) -> TypedId:
    """The id of an approval, or its beginning. Raises `InvalidInput`."""
    return _typed(text, "approval")


def typed_run(text: str) -> TypedId:
    """The id of a run, or its beginning. Raises `InvalidInput`."""
    return _typed(text, "run")


async def find_job(conn: Connection, typed: TypedId) -> UUID:
    """The one job with such an id. Raises `NotFound`, `AmbiguousId`."""
    return _only(typed, await lookup.jobs(conn, typed.lowest, typed.highest, CANDIDATES_MAX + 1))


async def find_approval(conn: Connection, typed: TypedId) -> UUID:
    """The one approval with such an id. Raises `NotFound`, `AmbiguousId`."""
    found = await lookup.approvals(conn, typed.lowest, typed.highest, CANDIDATES_MAX + 1)
    return _only(typed, found)


async def find_run(conn: Connection, typed: TypedId) -> UUID:
    """The one run with such an id. Raises `NotFound`, `AmbiguousId`."""
    return _only(typed, await lookup.runs(conn, typed.lowest, typed.highest, CANDIDATES_MAX + 1))


def whole_id(text: str, thing: str) -> UUID:
    """A whole UUID. Raises `InvalidInput` naming `thing`."""
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInput(
            f"{thing} {text!r} is not a UUID", "like 019a9d3e-5b1c-7a42-9c1d-0123456789ab"
        ) from error


def short_ids(ids: Iterable[UUID], *, beside_much: bool = False) -> Callable[[UUID], str]:
    """How to show these ids: whole, or as much as tells them apart on a narrow terminal (on any, if
    there is much beside them).
    """
    texts = {str(each) for each in ids}
    if not (is_terminal() if beside_much else is_narrow()):
        return str
    length = SHORT_ID_CHARACTERS
    while len({text[:length] for text in texts}) < len(texts):
        length += 1
    return lambda each: str(each)[:length].rstrip("-")


def _typed(text: str, thing: str) -> TypedId:
    digits = text.strip().lower().replace("-", "")
    if not re.fullmatch(r"[0-9a-f]+", digits) or len(digits) > UUID_DIGITS:
        raise InvalidInput(
            f"{text!r} is not the id of a {thing}",
            f"an id has hexadecimal digits and hyphens; list them: jobsworth {thing}s",
        )
    if len(digits) < PREFIX_DIGITS_MIN:
        raise InvalidInput(
            f"{text!r} is too short for an id",
            f"give at least its first {PREFIX_DIGITS_MIN} digits",
        )
    lowest, highest = UUID(digits.ljust(UUID_DIGITS, "0")), UUID(digits.ljust(UUID_DIGITS, "f"))
    return TypedId(text, thing, lowest, highest)


def _only(typed: TypedId, found: list[Found]) -> UUID:
    if not found:
        raise NotFound(
            f"there is no {typed.thing} {typed.text}", f"list them: jobsworth {typed.thing}s"
        )
    if len(found) > 1:
        raise _ambiguous(typed, found)
    return found[0].id


def _ambiguous(typed: TypedId, found: list[Found]) -> AmbiguousId:
    now = datetime.now(UTC)
    lines = [
        f"  {each.id}  {each.status}  {ago(each.created_at, now)}  {one_line(each.what)[:60]}"
        for each in found[:CANDIDATES_MAX]
    ]
    more = ["  …"] if len(found) > CANDIDATES_MAX else []
    count = f"more than {CANDIDATES_MAX}" if more else str(len(found))
    candidates = "\n".join([*lines, *more])
    return AmbiguousId(
        f"{count} {typed.thing}s have an id that begins with {typed.text}:\n{candidates}",
        "give more of it",
    )
