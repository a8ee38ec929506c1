"""A wrong argument of a handler's call is named where it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from db.errors import InvalidInput
from worker.arguments import checks_arguments
from worker.outcomes import Retry, Snooze
from worker.steps.input_hash import input_hash


@checks_arguments
class Calls:
    """One method with each kind of parameter; it returns what it was given."""

    def call(
        self,
        name: str,
        /,
        *rest: Any,
        seconds: float | None = None,
        count: int = 0,
        flag: bool = False,
        team_id: UUID | None = None,
        options: tuple[str, ...] = (),
        estimate: tuple[int, int] = (0, 0),
        payload: Mapping[str, Any] | None = None,
        function: Callable[..., Any] = print,
    ) -> dict[str, Any]:
        return {key: value for key, value in locals().items() if key != "self"}


@pytest.mark.parametrize(
    ("given", "name", "reason"),
    [
        ({"seconds": float("nan")}, "seconds", "a finite number or None, not nan"),
        ({"seconds": float("inf")}, "seconds", "a finite number or None, not inf"),
        ({"seconds": "1"}, "seconds", "a finite number or None, not '1'"),
        ({"seconds": True}, "seconds", "a finite number or None, not True"),
        ({"seconds": 2**2000}, "seconds", "not a value of type int"),
        ({"count": 2**63}, "count", "an integer of at most 64 bits, not 9223372036854775808"),
        ({"count": 1.5}, "count", "not 1.5"),
        ({"count": None}, "count", "not None"),
        ({"flag": 1}, "flag", "True or False, not 1"),
        ({"team_id": "x"}, "team_id", "a UUID or None, not 'x'"),
        ({"options": "approve"}, "options", "a tuple (text, …), not 'approve'"),
        ({"options": range(10**12)}, "options", "not a value of type range"),
        ({"options": (1,)}, "options", "not a value of type tuple"),
        ({"estimate": (1,)}, "estimate", "not a value of type tuple"),
        ({"estimate": (1, -(2**63) - 1)}, "estimate", "not a value of type tuple"),
        ({"payload": [1]}, "payload", "a mapping of texts to values or None"),
        ({"payload": {1: 2}}, "payload", "a mapping of texts to values or None"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(given: dict[str, Any], name: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Calls().call("n", **given)
    assert refused.value.message.startswith(f"job.call: {name} must be ")
    assert reason in refused.value.message
    assert refused.value.remedy


def test_a_value_without_a_text_is_named_by_its_type() -> None:
    class Surly:
        def __repr__(self) -> str:
            raise RuntimeError("no text")

    with pytest.raises(InvalidInput, match="name must be text, not a value of type Surly"):
        Calls().call(Surly())  # pyright: ignore[reportArgumentType]


def test_numbers_of_other_kinds_are_converted() -> None:
    class Scalar:
        def __index__(self) -> int:
            return 7

    given = Calls().call("n", seconds=Decimal("0.5"), count=Scalar())  # pyright: ignore[reportArgumentType]
    assert (given["seconds"], type(given["seconds"])) == (0.5, float)
    assert (given["count"], type(given["count"])) == (7, int)


def test_right_arguments_arrive_as_they_are() -> None:
    payload = {"a": [1]}
    team_id = uuid4()
    given = Calls().call(
        "n", 1, object, seconds=2, flag=True, team_id=team_id, options=("a",), payload=payload
    )
    assert given["name"] == "n"
    assert given["rest"] == (1, object)
    assert given["payload"] == payload
    assert given["payload"]["a"] is payload["a"]
    assert given["team_id"] is team_id
    assert given["options"] == ("a",)


def test_a_missing_argument_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="name"):
        Calls().call()  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("seconds", [float("nan"), "1", None, 2**2000])
def test_an_ending_needs_a_finite_number(seconds: Any) -> None:
    with pytest.raises(InvalidInput, match="the seconds of Snooze must be a finite number"):
        Snooze(seconds)
    if seconds is not None:
        with pytest.raises(InvalidInput, match="after_seconds of Retry must be a finite number"):
            Retry(seconds)


def test_a_range_is_hashed_without_being_spelled_out() -> None:
    assert input_hash([range(10**15)], {}) == input_hash([range(10**15)], {})
    assert input_hash([range(10**15)], {}) != input_hash([range(10**14)], {})
