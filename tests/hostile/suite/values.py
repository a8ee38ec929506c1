"""Python values that a careless handler writes. Each is made anew when its case runs."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import uuid
from collections.abc import Callable
from typing import Any

import pydantic


class Surly:
    """An object that raises whatever it is asked."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class SurlyDict(dict[str, Any]):
    """A mapping that cannot be read."""

    def items(self) -> Any:
        raise RuntimeError("no items")

    def __iter__(self) -> Any:
        raise RuntimeError("no names")


class Endless(list[Any]):
    """A list that holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.append(self)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: float
    y: Any


class Model(pydantic.BaseModel):
    n: Any


class SurlyModel(pydantic.BaseModel):
    n: int = 1

    @pydantic.field_serializer("n")
    def refuse(self, n: int) -> int:
        raise RuntimeError(f"no {n}")


def _nested(depth: int, kind: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = kind(value)
    return value


def _raise_later() -> Any:
    yield 1
    raise RuntimeError("in the middle")


VALUES: dict[str, Callable[[], Any]] = {
    "10**4299": lambda: 10**4299,
    "10**4300": lambda: 10**4300,
    "10**5000": lambda: 10**5000,
    "-(10**200000)": lambda: -(10**200_000),
    "2**31": lambda: 2**31,
    "2**63": lambda: 2**63,
    "-1": lambda: -1,
    "true": lambda: True,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "-infinity": lambda: float("-inf"),
    "1e308": lambda: 1e308,
    "5e-324": lambda: 5e-324,
    "complex": lambda: 1 + 2j,
    "Decimal NaN": lambda: decimal.Decimal("NaN"),
    "Decimal 1e9999": lambda: decimal.Decimal("1e9999"),
    "Decimal 0.1": lambda: decimal.Decimal("0.1"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "empty text": lambda: "",
    "NUL": lambda: "a\x00b",
    "surrogate": lambda: "a\ud800b",
    "1 MB of text": lambda: "€" * 350_000,
    "emoji": lambda: "\U0001f600",
    "terminal": lambda: "\x1b[2J",
    "bytes": lambda: b"\x00\xff",
    "none": lambda: None,
    "list": lambda: [1, None, "x"],
    "100,000 numbers": lambda: list(range(100_000)),
    "tuple": lambda: (1, (2, 3)),
    "set": lambda: {1, 2},
    "itself": Endless,
    "lists 900 deep": lambda: _nested(900, lambda inner: [inner]),
    "lists 5,000 deep": lambda: _nested(5_000, lambda inner: [inner]),
    "dicts 5,000 deep": lambda: _nested(5_000, lambda inner: {"o": inner}),
    "lists 100,000 deep": lambda: _nested(100_000, lambda inner: [inner]),
    "number as name": lambda: {1: 2},
    "none as name": lambda: {None: 1},
    "tuple as name": lambda: {(1, 2): 3},
    "one name twice": lambda: {1: "a", "1": "b"},
    "NUL as name": lambda: {"a\x00": 1},
    "surrogate as name": lambda: {"\udfff": 1},
    "huge number in a dict": lambda: {"n": 10**5000},
    "NaN in a dict": lambda: {"n": [float("nan")]},
    "surly": Surly,
    "surly dict": lambda: SurlyDict(a=1),
    "surly in a list": lambda: [Surly()],
    "object": object,
    "function": lambda: _nested,
    "type": lambda: Surly,
    "module": lambda: dataclasses,
    "generator": _raise_later,
    "exception": lambda: ValueError("x"),
    "enum": lambda: Colour.RED,
    "dataclass": lambda: Point(1.5, {2}),
    "model": lambda: Model(n=10**5000),
    "surly model": SurlyModel,
    "year 9999": lambda: datetime.datetime.max.replace(tzinfo=datetime.UTC),
    "year 1": lambda: datetime.datetime.fromisoformat("0001-01-01"),
    "date": lambda: datetime.date.max,
    "duration": lambda: datetime.timedelta.max,
    "uuid": uuid.uuid4,
    "range": lambda: range(10**9),
    "memoryview": lambda: memoryview(b"abc"),
}
