"""Documents: whatever was paid for can be stored; whatever is handed in is checked."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from db.documents import (
    DIGITS_MAX,
    NESTING_MAX,
    Unreadable,
    from_document,
    parse_payload,
    readable,
    to_document,
    to_payload,
    to_text,
)
from db.errors import InvalidInput
from db.pool import Connection, fetch_val

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\0\\u0"))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


def visible(value: Any) -> Any:
    """The same document with each NUL made visible."""
    match value:
        case str():
            return value.replace("\0", "␀")
        case list():
            return [visible(item) for item in cast(list[Any], value)]
        case dict():
            items = cast(dict[str, Any], value).items()
            return {visible(key): visible(item) for key, item in items}
        case _:
            return value


@given(DOCUMENTS)
def test_a_document_is_kept_but_for_its_nuls(value: Any) -> None:
    assert orjson.loads(to_document(value)) == visible(value)


@pytest.mark.both
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(DOCUMENTS)
async def test_the_database_takes_any_document_and_gives_it_back(
    conn: Connection, value: Any
) -> None:
    stored = await fetch_val(conn, "select %s::jsonb", [to_document(value)])
    assert stored == visible(value)


@given(st.text())
def test_any_text_becomes_one_the_database_takes(value: str) -> None:
    text = to_text(value)
    assert "\0" not in text
    assert text.encode().decode() == text
    assert len(text) == len(value)


def test_text_keeps_its_place_where_it_cannot_keep_its_character() -> None:
    assert to_text("a\0b\ud800c\\u0000é") == "a␀b\ufffdc\\u0000é"


class Model(BaseModel):
    at: datetime


@dataclass
class Data:
    id: UUID


def test_models_dataclasses_dates_and_uuids_are_documents() -> None:
    at, own = datetime(2030, 1, 2, tzinfo=UTC), UUID(int=1)
    assert orjson.loads(to_document([Model(at=at), Data(own)])) == [
        {"at": "2030-01-02T00:00:00Z"},
        {"id": str(own)},
    ]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_json_does_not_know_is_null(number: float) -> None:
    assert to_document({"n": number}) == '{"n":null}'


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "value", [object(), b"\xff", CIRCLE, print], ids=["object", "bytes", "circle", "function"]
)
def test_what_is_no_json_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidInput, match="the result cannot be written as JSON") as caught:
        to_document(value, "the result")
    assert caught.value.remedy


def test_a_forgotten_await_is_named() -> None:
    async def answer() -> int:
        return 42

    forgotten = answer()
    with pytest.raises(InvalidInput) as caught:
        to_document({"answer": forgotten}, "the result")
    forgotten.close()
    assert caught.value.remedy == "write `await` before the call that made it"


@pytest.mark.parametrize("value", [None, [], "{}", 1, True], ids=repr)
def test_a_payload_is_an_object(value: Any) -> None:
    with pytest.raises(
        InvalidInput, match=f"the payload must be a JSON object, not {type(value).__name__}"
    ):
        to_payload(value, "the payload")


@pytest.mark.parametrize("value", [{"a": "\0"}, {"\0": 1}, {"a": [{"b": "\\\0"}]}], ids=repr)
def test_a_payload_with_a_nul_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="the payload contains a NUL character"):
        to_payload(value, "the payload")


@pytest.mark.parametrize("value", [{"a": "\\u0000"}, {"a": "\\\\u0000"}, {"a": "u0000"}], ids=repr)
def test_a_payload_that_only_spells_a_nul_is_kept(value: Any) -> None:
    assert orjson.loads(to_payload(value, "the payload")) == value


def test_a_payload_has_a_limit_in_bytes() -> None:
    at_limit = {"a": "é" * 5}
    size = len(to_payload(at_limit, "the payload").encode())
    assert size == 18
    assert to_payload(at_limit, "the payload", bytes_max=size)
    with pytest.raises(InvalidInput, match="the payload has 18 bytes; at most 17 are allowed"):
        to_payload(at_limit, "the payload", bytes_max=size - 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the payload is not JSON"),
        ("{", "the payload is not JSON: .* line 1, column 2"),
        ('{\n"a": x}', "the payload is not JSON: .* line 2, column 6"),
        ('{"a": NaN}', "the payload is not JSON"),
        ("{} {}", "the payload is not JSON"),
        ("[]", "the payload must be a JSON object, not list"),
        ("null", "the payload must be a JSON object, not NoneType"),
        ('"\\ud800"', "the payload is not JSON"),
    ],
)
def test_text_that_is_no_payload_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_payload(text, "the payload")


def test_text_that_is_a_payload_is_read() -> None:
    assert parse_payload(' {"a": [1, "é"]} ', "the payload") == {"a": [1, "é"]}


def test_half_of_a_surrogate_pair_becomes_the_replacement_character() -> None:
    """A model's answer cut within an emoji is paid for: it must not be lost."""
    document = to_document({"text": "cut \ud83d here", "more": ["\udc00"]})
    assert document == '{"text":"cut \ufffd here","more":["\ufffd"]}'


DIGITS = "has more than 4,300 digits"
NESTING = "it nests deeper than 200 levels"
UNREADABLE = {
    "digits": ('{"n": 1e5000}', DIGITS),
    "digits beside others": ('[{"a": [1, 2, "x"]}, ' + "9" * (DIGITS_MAX + 1) + "]", DIGITS),
    "a fraction": ("1" * 400 + ".5", "too large for a float"),
    "a fraction, deep": ("[" * 300 + "1" * 400 + ".5" + "]" * 300, NESTING),
    "lists": ("[" * (NESTING_MAX + 1) + "1" + "]" * (NESTING_MAX + 1), NESTING),
    "objects": ('{"a":' * (NESTING_MAX + 1) + "1" + "}" * (NESTING_MAX + 1), NESTING),
    "thousands of lists": ("[" * 5000 + "]" * 5000, NESTING),
}
unreadable = pytest.mark.parametrize(
    ("document", "reason"), UNREADABLE.values(), ids=UNREADABLE.keys()
)


@pytest.mark.both
@unreadable
async def test_a_document_that_python_cannot_read_says_why(
    conn: Connection, document: str, reason: str
) -> None:
    found = await fetch_val(conn, "select %s::jsonb", [document])
    assert isinstance(found, Unreadable)
    assert reason in found.reason
    assert orjson.loads(orjson.dumps(found)) == {"unreadable": found.reason}
    with pytest.raises(InvalidInput, match="the result cannot be read: .*" + reason):
        readable(found, "the result")


@pytest.mark.parametrize(
    "document",
    [
        "9" * DIGITS_MAX,
        "-" + "9" * (DIGITS_MAX - 1),
        "12345678901234567890123",
        "[" * NESTING_MAX + "1" + "]" * NESTING_MAX,
        "1" * 300 + ".5",
        '"' + "1" * 5000 + '.5"',
        str(["["] * 500).replace("'", '"'),
    ],
    ids=["digits", "negative digits", "23 digits", "nesting", "a fraction", "text", "brackets"],
)
async def test_what_python_reads_is_read_exactly(conn: Connection, document: str) -> None:
    found = await fetch_val(conn, "select %s::jsonb", [document])
    assert found == json.loads(document)
    assert from_document(to_document(found)) == found


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (10**5000, DIGITS),
        (nested(201), NESTING),
        (nested(2000), "cannot be written as JSON"),
    ],
    ids=["digits", "nesting", "deep nesting"],
)
def test_what_could_not_be_read_back_is_not_written(value: Any, reason: str) -> None:
    with pytest.raises(InvalidInput, match="the result .*" + reason):
        to_document([value], "the result")
    with pytest.raises(InvalidInput, match="the payload .*" + reason) as refused:
        to_payload({"value": value}, "the payload")
    assert refused.value.remedy


@unreadable
def test_a_payload_on_the_command_line_must_be_readable(document: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match="the payload"):
        parse_payload('{"value": ' + document + "}", "the payload")


def test_long_numbers_of_the_command_line_are_exact() -> None:
    assert parse_payload('{"n": 12345678901234567890123}', "it") == {"n": 12345678901234567890123}
