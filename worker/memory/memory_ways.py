"""What `job.remember` says of a memory beside its text, checked before it is an effect.

In: options as a handler gave them. Out: fields of a `MemoryEffect` that the database takes.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict, cast
from uuid import UUID

from db.arguments import check_options
from db.errors import InvalidInput, shown
from db.memory.status import MemoryType
from worker.steps.declaration import check_name

MESSAGES_MAX = 100


class MemoryWays(TypedDict, total=False):
    """What a memory is: its type, its weight, when it holds, and what it rests on.

    type: fact (the default), preference, decision, procedure, episode or summary. importance and
    confidence: 0 to 1 (0.5 and 1). valid_from, valid_to: aware times; without, it holds since it is
    made, and for good. messages: ids of messages that it was derived from; step, file: the name of
    a step and of a file of this job. supersedes: the id of the memory whose place it takes, in the
    same commit; if that one has another successor by then, the attempt fails and is told of it.
    """

    type: str
    importance: float
    confidence: float
    valid_from: datetime | None
    valid_to: datetime | None
    messages: Iterable[UUID]
    step: str | None
    file: str | None
    supersedes: UUID | None


def checked(ways: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a `MemoryEffect`. Raises `InvalidInput` for what no memory can have."""
    check_options("remember", ways, MemoryWays.__annotations__)
    given = dict(ways)
    fields: dict[str, Any] = {}
    if "type" in given:
        fields["type"] = memory_type(given["type"])
    for name in ("importance", "confidence"):
        if name in given:
            fields[name] = _share(name, given[name])
    for name in ("valid_from", "valid_to"):
        fields[name] = _time(name, given.get(name))
    if fields["valid_from"] and fields["valid_to"] and fields["valid_to"] <= fields["valid_from"]:
        raise InvalidInput(
            "valid_to is not after valid_from", "give the time from which the memory holds no more"
        )
    fields["message_ids"] = _messages(given.get("messages", ()))
    for name, field in (("step", "step_name"), ("file", "file_name")):
        if given.get(name) is not None:
            check_name(name, given[name])
            fields[field] = given[name]
    if given.get("supersedes") is not None:
        fields["supersedes"] = _uuid("supersedes", given["supersedes"])
    return fields


def memory_type(word: object) -> MemoryType:
    """The type of this name. Raises `InvalidInput`."""
    try:
        return MemoryType(cast(str, word))
    except ValueError:
        raise InvalidInput(
            f"there is no type of memory {shown(word)}", f"use one of {', '.join(MemoryType)}"
        ) from None


def aware_time(name: str, value: object) -> datetime:
    """The value, which must be a time with a zone. Raises `InvalidInput`."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidInput(
            f"{name} {shown(value)} is not a time with a zone",
            "like datetime(2026, 5, 1, tzinfo=UTC)",
        )
    return value


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidInput(f"{name} {shown(value)} is not a number from 0 to 1", "like 0.8")
    return float(value)


def _time(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    time = aware_time(name, value)
    if not 1900 < time.year < 2199:
        raise InvalidInput(f"{name} {time.isoformat()} is too far away", "use 1901 to 2198")
    return time


def _messages(value: object) -> tuple[UUID, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidInput(
            f"messages {shown(value)} are not ids of messages", "pass a list of UUIDs"
        )
    ids = tuple(dict.fromkeys(_uuid("messages", one) for one in cast(Iterable[object], value)))
    if len(ids) > MESSAGES_MAX:
        raise InvalidInput(
            f"a memory cannot rest on {len(ids)} messages", f"name at most {MESSAGES_MAX}"
        )
    return ids


def _uuid(name: str, value: object) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(cast(str, value))
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput(f"{name}: {shown(value)} is no UUID", "pass the id itself") from None
