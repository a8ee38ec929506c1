"""What may be asked of a job: each mistake is named before anything is sent."""

from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest

from db.errors import InvalidInput
from db.ids import uuidv7
from db.queue.new_job import NewJob

TRACE_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"mode": ""}, "mode is empty"),
    ({"mode": " "}, "mode is empty"),
    ({"mode": None}, "mode must be text, not NoneType"),
    ({"mode": "a\0b"}, "mode 'a.x00b' contains a NUL"),
    ({"mode": "\ud800"}, "mode .* is not Unicode text"),
    ({"mode": "m" * 1001}, "mode has 1,001 bytes; at most 1,000"),
    ({"queue": ""}, "queue is empty"),
    ({"queue": "q\0"}, "queue .* contains a NUL"),
    ({"priority": 0}, "priority 0 is not 1 to 4"),
    ({"priority": 5}, "priority 5 is not 1 to 4"),
    ({"priority": 7}, "priority 7 is not 1 to 4"),
    ({"priority": True}, "priority True is not 1 to 4"),
    ({"priority": "1"}, "priority '1' is not 1 to 4"),
    ({"run_at": datetime(2030, 1, 1)}, "it has no time zone"),  # noqa: DTZ001
    ({"run_at": "tomorrow"}, "run_at 'tomorrow' is not an instant"),
    ({"run_at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))}, "from 1900 to 2199"),
    ({"run_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))}, "from 1900 to 2199"),
    ({"run_at": datetime(2200, 1, 1, tzinfo=UTC)}, "from 1900 to 2199"),
    ({"run_at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 1}, "run_at and delay are both given"),
    ({"delay": -1}, "delay -1 is not between 0"),
    ({"delay": timedelta(seconds=-1)}, "is not between 0"),
    ({"delay": float("nan")}, "delay nan is not between 0"),
    ({"delay": float("inf")}, "delay inf is not between 0"),
    ({"delay": True}, "delay must be seconds or a timedelta, not bool"),
    ({"delay": "1 hour"}, "delay must be seconds or a timedelta, not str"),
    ({"expires_at": "soon"}, "expires_at 'soon' is not an instant"),
    ({"expires_in": float("nan")}, "expires_in nan is not between 0"),
    ({"expires_in": 0}, "expires before it may start"),
    ({"expires_in": 60, "delay": 60}, "expires before it may start"),
    ({"expires_in": 1, "expires_at": datetime(2030, 1, 1, tzinfo=UTC)}, "are both given"),
    ({"thread_id": "x"}, "thread_id must be a UUID, not str"),
    ({"trigger_message_id": 1}, "trigger_message_id must be a UUID, not int"),
    ({"team_id": "x"}, "team_id must be a UUID, not str"),
    ({"id": "x"}, "id must be a UUID, not str"),
    ({"lane": "a\0"}, "lane .* contains a NUL"),
    ({"lane": 5}, "lane must be text, not int"),
    ({"unique_key": ""}, "unique_key is empty"),
    ({"unique_key": "k" * 3000}, "unique_key has 3,000 bytes"),
    ({"failures_max": 0}, "failures_max 0 is not a whole number from 1"),
    ({"failures_max": 2**31}, "failures_max 2147483648 is not"),
    ({"crashes_max": -1}, "crashes_max -1 is not a whole number from 1"),
    ({"timeout_seconds": 0}, "timeout_seconds 0 is not a number of seconds above 0"),
    ({"timeout_seconds": float("nan")}, "timeout_seconds nan is not"),
    ({"timeout_seconds": 1e40}, "timeout_seconds 1e.40 is not"),
    ({"trace_parent": "00-00000000000000000000000000000000-b7ad6b7169203331-01"}, "trace_parent"),
    ({"trace_parent": TRACE_PARENT.upper()}, "is not a W3C traceparent"),
    ({"trace_parent": TRACE_PARENT + "\n"}, "is not a W3C traceparent"),
    ({"after": ["x"]}, "after must be a UUID, not str"),
    ({"after": "abc"}, "after must be a UUID, not str"),
    ({"holds_lane": 1}, "holds_lane 1 is neither True nor False"),
    ({"payload": [1]}, "the payload of a answer job must be a JSON object, not list"),
    ({"payload": "{}"}, "must be a JSON object, not str"),
    ({"payload": {"a": "\0"}}, "contains a NUL character"),
    ({"payload": {"a": object()}}, "cannot be written as JSON"),
    ({"payload": {"a": "x" * 10_000_000}}, "10,000,008 bytes; at most 1,048,576"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[m for _, m in MISTAKES])
def test_a_mistake_is_named_with_its_remedy(mistake: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"mode": "answer"} | mistake
    with pytest.raises(InvalidInput, match=message) as caught:
        NewJob(**arguments).payload_json()
    assert caught.value.remedy


def test_a_job_that_comes_after_itself_is_refused() -> None:
    own = uuidv7()
    with pytest.raises(InvalidInput, match="comes after itself"):
        NewJob("answer", id=own, after=[own])


def test_the_bounds_themselves_are_accepted() -> None:
    for options in (
        {"priority": 1},
        {"priority": 4},
        {"delay": 0},
        {"delay": 0.5},
        {"delay": timedelta(days=36_500)},
        {"failures_max": 1},
        {"crashes_max": 2**31 - 1},
        {"timeout_seconds": 0.001},
        {"mode": "m" * 1000},
        {"lane": ""},
        {"run_at": datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=5)))},
        {"trace_parent": TRACE_PARENT},
    ):
        arguments: dict[str, Any] = {"mode": "answer"} | options
        assert NewJob(**arguments)


def test_a_delay_in_seconds_is_an_interval() -> None:
    assert NewJob("answer", delay=1.5).delay_interval() == timedelta(seconds=1.5)
    assert NewJob("answer").delay_interval() is None


def test_no_payload_is_an_empty_object() -> None:
    assert NewJob("answer").payload_json() == "{}"


def test_any_mapping_is_a_payload() -> None:
    assert NewJob("answer", MappingProxyType({"a": 1})).payload_json() == '{"a":1}'


def test_ids_are_version_7_and_sort_in_the_order_of_their_making() -> None:
    ids = [uuidv7() for _ in range(1000)]
    assert {i.version for i in ids} == {7}
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
