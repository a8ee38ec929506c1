"""What `job.remember` takes beside a text: anything else is refused by name, with a remedy."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.errors import InvalidInput
from db.memory.remembered import MemoryEffect
from worker.memory.memory_ways import checked

MAY = datetime(2026, 5, 1, tzinfo=UTC)
ANYTHING = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.datetimes()),
    *(st.uuids(), st.lists(st.one_of(st.uuids(), st.text(max_size=3)), max_size=3)),
)
NAMES = st.sampled_from(
    [
        *("type", "importance", "confidence", "valid_from", "valid_to", "messages"),
        *("step", "file", "supersedes", "supercedes"),
    ]
)


@pytest.mark.parametrize(
    ("way", "value", "reason"),
    [
        ("type", "opinion", "there is no type of memory 'opinion'"),
        ("importance", 1.5, "importance 1.5 is not a number from 0 to 1"),
        ("confidence", float("nan"), "confidence nan is not"),
        ("importance", True, "importance True is not"),
        ("valid_from", MAY.replace(tzinfo=None), "is not a time with a zone"),
        ("valid_to", MAY.replace(year=3000), "is too far away"),
        ("valid_to", "tomorrow", "is not a time with a zone"),
        ("messages", "abc", "are not ids of messages"),
        ("messages", [UUID(int=n) for n in range(101)], "cannot rest on 101 messages"),
        ("supersedes", "x", "supersedes: 'x' is no UUID"),
        ("supercedes", None, "supercedes"),
    ],
)
def test_a_wrong_way_is_named(way: str, value: Any, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as refused:
        checked({way: value})
    assert refused.value.remedy


def test_ways_become_fields() -> None:
    one = UUID(int=1)
    east = MAY.astimezone(timezone(timedelta(hours=9)))
    fields = checked(
        {"type": "decision", "messages": [one, str(one)], "valid_to": east, "supersedes": str(one)}
    )
    effect = MemoryEffect("k", "text", "note", **fields)
    assert (effect.type, effect.message_ids, effect.supersedes) == ("decision", (one,), one)
    assert effect.valid_to == MAY
    with pytest.raises(InvalidInput, match="valid_to is not after valid_from"):
        checked({"valid_from": MAY, "valid_to": east})


@given(st.dictionaries(NAMES, ANYTHING, max_size=4))
def test_anything_else_is_refused_not_raised(ways: dict[str, Any]) -> None:
    with suppress(InvalidInput):
        MemoryEffect("k", "text", "note", **checked(ways))
