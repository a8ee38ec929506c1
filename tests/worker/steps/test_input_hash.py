"""The hash of a step's input: alike for alike arguments, whatever they are."""

from __future__ import annotations

import threading
from array import array
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from db.queue.jobs import JobStatus
from worker.steps.input_hash import input_hash

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class Page(BaseModel):
    url: str
    words: int = 1


@dataclass
class Order:
    item: str
    price: Decimal


class Point(NamedTuple):
    x: int
    y: int


@given(st.lists(JSON), st.dictionaries(st.text(), JSON))
def test_it_is_total_and_does_not_depend_on_the_order_of_keys(
    args: list[Any], kwargs: dict[str, Any]
) -> None:
    turned = dict(reversed(kwargs.items()))
    assert len(input_hash(args, kwargs)) == 64
    assert input_hash(tuple(args), kwargs) == input_hash(args, turned)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        ("a", "b"),
        ([1, 2], [2, 1]),
        (b"a", b"b"),
        ({1, 2}, {1, 3}),
        (Page(url="a"), Page(url="b")),
        (Order("a", Decimal("1.0")), Order("a", Decimal("1.1"))),
        (Point(1, 2), Point(1, 3)),
        (Path("a"), Path("b")),
        (UUID(int=1), UUID(int=2)),
        (2**70, 2**71),
        ("\ud83d", "\ud83e"),
        ({"at": {"n": 1}}, {"at": {"n": 2}}),
        ({(1, 2): 3}, {(1, 2): 4}),
        ({(1, 2): 3}, {(1, 3): 3}),
        ([{b"a": 1}, threading.Lock(), 1], [{b"a": 1}, threading.Lock(), 2]),
        (Order("a", cast(Any, {(1,): 1})), Order("a", cast(Any, {(1,): 2}))),
        (range(3), range(4)),
        (deque([1]), deque([2])),
        (1j, 2j),
        (memoryview(b"a"), memoryview(b"b")),
        (array("d", [1]), array("d", [2])),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        (timedelta(1), timedelta(2)),
        (ip_address("::1"), ip_address("::2")),
        (JobStatus.DONE, JobStatus.FAILED),
    ],
    ids=lambda value: type(value).__name__,  # the same in every process of a test run
)
def test_another_value_is_another_input(one: object, other: object) -> None:
    assert input_hash([one], {}) != input_hash([other], {})
    assert input_hash([], {"value": one}) != input_hash([], {"value": other})
    assert input_hash([one], {}) == input_hash([one], {})


def test_a_value_in_another_place_is_another_input() -> None:
    hashes = [
        input_hash([1], {}),
        input_hash([], {"n": 1}),
        input_hash([[1]], {}),
        input_hash([], {}),
    ]
    assert len(set(hashes)) == 4


@pytest.mark.parametrize("make", [threading.Lock, lambda: print, lambda: object])
def test_what_is_no_json_is_alike_in_every_attempt(make: Any) -> None:
    assert input_hash([make(), 1], {}) == input_hash([make(), 1], {})
    assert input_hash([make(), 1], {}) != input_hash([make(), 2], {})


def test_what_is_no_json_counts_by_its_type_alone() -> None:
    assert input_hash([threading.Lock()], {}) == input_hash([threading.Lock()], {})
    assert input_hash([threading.Lock()], {}) != input_hash([threading.Event()], {})


def test_what_is_read_once_is_not_used_up() -> None:
    numbers = (n for n in range(3))
    input_hash([numbers], {})
    assert list(numbers) == [0, 1, 2]


def test_a_value_that_holds_itself_has_a_hash_too() -> None:
    ring: list[Any] = []
    ring.append(ring)
    assert input_hash([ring], {}) == input_hash([ring], {})
