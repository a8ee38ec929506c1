"""Ids as people type them: whole, or a part of at least six digits.

In: hexadecimal digits, with or without hyphens. Out: the one id that begins or ends with them.
Jobs of the same minute have ids (UUIDv7) that begin alike, so lists show the end where there is no
room for the whole id.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from db.diagnosis import lookup
from db.diagnosis.lookup import Found, Table
from db.errors import InvalidInput, NotFound
from db.pool import Connection
from worker.cli.terminal.output import is_narrow, is_terminal, one_line
from worker.cli.terminal.times import ago

DIGITS_MIN = 6
UUID_DIGITS = 32
CANDIDATES_MAX = 10
# The last group of a UUID: 48 random bits, and one word for a double click.
SHORT_ID_CHARACTERS = 12
# With so many digits, an id that begins with them is the one that is meant, and no end is sought.
CERTAIN_DIGITS = 12


class AmbiguousId(InvalidInput):
    """Several ids begin or end with what was typed; `candidates` has some of them."""

    def __init__(self, message: str, remedy: str, candidates: Sequence[UUID]) -> None:
        super().__init__(message, remedy)
        self.candidates = tuple(candidates)


@dataclass(frozen=True, slots=True)
class TypedId:
    """What was typed of an id: `digits` without hyphens, of a `thing` like "job"."""

    text: str
    thing: str
    digits: str

    @property
    def lowest(self) -> UUID:
        """The lowest id that begins with the digits."""
        return UUID(self.digits.ljust(UUID_DIGITS, "0"))

    @property
    def highest(self) -> UUID:
        """The highest id that begins with the digits."""
        return UUID(self.digits.ljust(UUID_DIGITS, "f"))

    @property
    def end(self) -> str:
        """The digits as the end of an id, with hyphens where a UUID has them."""
        whole = str(UUID(self.digits.rjust(UUID_DIGITS, "0")))
        hyphens = sum(len(self.digits) > group for group in (12, 16, 20, 24))
        return whole[-(len(self.digits) + hyphens) :]


def typed_job(text: str) -> TypedId:
    """What was typed of a job's id. Raises `InvalidInput`."""
    return typed(text, "job")


def typed_approval(text: str) -> TypedId:
    """What was typed of an approval's id. Raises `InvalidInput`."""
    return typed(text, "approval")


def typed_run(text: str) -> TypedId:
    """What was typed of a run's id. Raises `InvalidInput`."""
    return typed(text, "run")


def typed(text: str, thing: str) -> TypedId:
    """What was typed of the id of some thing. Raises `InvalidInput`."""
    digits = text.strip().lower().replace("-", "")
    if not re.fullmatch(r"[0-9a-f]+", digits) or len(digits) > UUID_DIGITS:
        raise InvalidInput(
            f"{text!r} is not the id of a {thing}",
            f"an id has hexadecimal digits and hyphens; list them: jobsworth {thing} list",
        )
    if len(digits) < DIGITS_MIN:
        raise InvalidInput(
            f"{text!r} is too short for an id",
            f"give at least {DIGITS_MIN} digits of its beginning or its end",
        )
    return TypedId(text, thing, digits)


async def find_job(conn: Connection, typed: TypedId) -> UUID:
    """The one job with such an id. Raises `NotFound`, `AmbiguousId`."""
    return await _find(conn, lookup.JOBS, typed)


async def find_approval(conn: Connection, typed: TypedId) -> UUID:
    """The one approval with such an id. Raises `NotFound`, `AmbiguousId`."""
    return await _find(conn, lookup.APPROVALS, typed)


async def find_run(conn: Connection, typed: TypedId) -> UUID:
    """The one run with such an id. Raises `NotFound`, `AmbiguousId`."""
    return await _find(conn, lookup.RUNS, typed)


async def candidates(conn: Connection, table: Table, typed: TypedId, limit: int) -> list[Found]:
    """The few first rows whose id begins or ends with what was typed."""
    begin = await table.within(conn, typed.lowest, typed.highest, limit)
    if len(typed.digits) == UUID_DIGITS or (begin and len(typed.digits) >= CERTAIN_DIGITS):
        return begin
    end = await table.ending(conn, typed.end, limit, far=False)
    if not begin and not end:
        end = await table.ending(conn, typed.end, limit, far=True)
    return [*begin, *(each for each in end if each not in begin)]


async def newest(conn: Connection, table: Table, limit: int) -> list[Found]:
    """The newest rows, newest first."""
    return await table.within(conn, UUID(int=0), UUID(int=2**128 - 1), limit)


def find_among(typed: TypedId, known: Iterable[UUID], how_to_list: str) -> UUID:
    """The one of these ids that begins or ends so. Raises `NotFound`, `AmbiguousId`."""
    fits = [each for each in known if each.hex.startswith(typed.digits)]
    fits += [each for each in known if each.hex.endswith(typed.digits) and each not in fits]
    if not fits:
        raise NotFound(f"there is no {typed.thing} {typed.text}", f"list them: {how_to_list}")
    if len(fits) > 1:
        lines = "\n".join(f"  {each}" for each in fits[:CANDIDATES_MAX])
        raise _ambiguous(typed, len(fits), lines, fits)
    return fits[0]


def whole_id(text: str, thing: str) -> UUID:
    """A whole UUID. Raises `InvalidInput` naming `thing`."""
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInput(
            f"{thing} {text!r} is not a UUID", "like 019a9d3e-5b1c-7a42-9c1d-0123456789ab"
        ) from error


def optional_id(name: str, text: str | None) -> UUID | None:
    """The whole UUID of the option `--name`, if it was given. Raises `InvalidInput`."""
    return None if text is None else whole_id(text, f"--{name}")


def short_ids(ids: Iterable[UUID], *, beside_much: bool = False) -> Callable[[UUID], str]:
    """How to show these ids: whole, or on a narrow terminal (on any, if `beside_much`) their end.

    Each shown end belongs to one of these ids only.
    """
    texts = {str(each) for each in ids}
    if not (is_terminal() if beside_much else is_narrow()):
        return str
    length = SHORT_ID_CHARACTERS
    while len({text[-length:] for text in texts}) < len(texts):
        length += 1
    return lambda each: str(each)[-length:].lstrip("-")


async def _find(conn: Connection, table: Table, typed: TypedId) -> UUID:
    found = await candidates(conn, table, typed, CANDIDATES_MAX + 1)
    if not found:
        raise NotFound(
            f"there is no {typed.thing} {typed.text}",
            f"list them: jobsworth {typed.thing} list; of a very old one, give the beginning",
        )
    if len(found) > 1:
        now = datetime.now(UTC)
        lines = "\n".join(
            f"  {each.id}  {each.status}  {ago(each.created_at, now)}  {one_line(each.what)[:60]}"
            for each in found[:CANDIDATES_MAX]
        )
        raise _ambiguous(typed, len(found), lines, [each.id for each in found])
    return found[0].id


def _ambiguous(typed: TypedId, count: int, lines: str, found: Sequence[UUID]) -> AmbiguousId:
    many = f"more than {CANDIDATES_MAX}" if count > CANDIDATES_MAX else str(count)
    more = "\n  …" if count > CANDIDATES_MAX else ""
    return AmbiguousId(
        f"{many} {typed.thing}s have an id that begins or ends with {typed.text}:\n{lines}{more}",
        "give more digits",
        found[:CANDIDATES_MAX],
    )
