"""An inbox is read whole or refused with every mistake; shuffling keeps each thread's order."""

from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT
from worker.demo.inbox import (
    SHIPPED,
    Decide,
    InboxError,
    InboxMessage,
    filled,
    grouped,
    load_inbox,
    shuffled,
)

GOOD = {"thread": "a", "user": "Ada", "text": "Hello"}


def inbox(folder: Path, *lines: object) -> Path:
    file = folder / "inbox.jsonl"
    texts = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
    file.write_bytes(b"\n".join(texts))
    return file


def refused(folder: Path, *lines: object) -> str:
    with pytest.raises(InboxError) as error:
        load_inbox(inbox(folder, *lines))
    return error.value.message


def test_each_line_is_a_message_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    messages = load_inbox(inbox(tmp_path, GOOD, b"", b"  ", GOOD | {"text": ""}))
    assert [(m.line, m.thread, m.user, m.text) for m in messages] == [
        (1, "a", "Ada", "Hello"),
        (4, "a", "Ada", ""),
    ]
    assert (messages[0].mode, messages[0].expect.status) == ("classify", "done")


def test_a_decision_is_an_option_with_or_without_a_comment(tmp_path: Path) -> None:
    messages = load_inbox(
        inbox(
            tmp_path,
            GOOD | {"decide": "approve"},
            GOOD | {"decide": {"option": "reject", "comment": "no"}},
        )
    )
    assert [m.decide for m in messages] == [
        Decide(option="approve"),
        Decide(option="reject", comment="no"),
    ]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "inbox.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + orjson.dumps(GOOD) + b"\r\n" + orjson.dumps(GOOD) + b"\r\n")
    assert len(load_inbox(file)) == 2


def test_line_separators_inside_a_text_do_not_end_the_line(tmp_path: Path) -> None:
    file = inbox(tmp_path, '{"thread": "a", "user": "Ada", "text": "a\u2028b\x85c"}'.encode(), GOOD)
    assert [m.line for m in load_inbox(file)] == [1, 2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "this is not JSON"),
        (b"[1]", "a message is a JSON object, not list"),
        ({"user": "Ada", "text": "x"}, "thread: Field required"),
        (GOOD | {"thread": ""}, "thread: String should have at least 1 character"),
        (GOOD | {"text": 7}, "text: Input should be a valid string"),
        (GOOD | {"colour": "red"}, "colour: Extra inputs are not permitted"),
        (GOOD | {"when": "later"}, "when: Input should be 'now', 'busy' or 'settled'"),
        (GOOD | {"decide": {"comment": "x"}}, "decide.option: Field required"),
        (GOOD | {"expect": {"status": "great"}}, "expect.status: Input should be"),
        (GOOD | {"payload": [1]}, "payload: Input should be a valid dictionary"),
    ],
)
def test_a_mistake_is_reported_with_file_and_line(
    tmp_path: Path, line: object, reason: str
) -> None:
    message = refused(tmp_path, GOOD, line)
    assert message.startswith(f"{tmp_path / 'inbox.jsonl'}:2: {reason}")


def test_all_mistakes_are_reported_at_once_up_to_a_bound(tmp_path: Path) -> None:
    assert [line.split(":")[1] for line in refused(tmp_path, b"{", GOOD, b"[]").splitlines()] == [
        "1",
        "3",
    ]
    assert refused(tmp_path, *[b"{"] * 50).splitlines()[-1] == "and 30 more"


def test_busy_needs_a_message_before_it(tmp_path: Path) -> None:
    message = refused(tmp_path, GOOD, {**GOOD, "thread": "b", "when": "busy"})
    assert 'inbox.jsonl:2: when: "busy" needs a message before it' in message


def test_a_redelivery_repeats_its_message(tmp_path: Path) -> None:
    first = GOOD | {"platform_message_id": "7"}
    assert (
        len(load_inbox(inbox(tmp_path, first, first, {**first, "thread": "b", "text": "!"}))) == 3
    )
    assert ":2: platform_message_id: line 1 has the same id" in refused(
        tmp_path, first, first | {"text": "other"}
    )


def test_a_file_that_is_missing_empty_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InboxError, match="there is no inbox"):
        load_inbox(tmp_path / "none.jsonl")
    with pytest.raises(InboxError, match="has no message in it"):
        load_inbox(inbox(tmp_path))
    with pytest.raises(InboxError, match="inbox.jsonl:2: this is not UTF-8 text"):
        load_inbox(inbox(tmp_path, GOOD, b"\xff\xfe"))
    with pytest.raises(InboxError, match="cannot be read"):
        load_inbox(tmp_path)


def test_only_the_named_placeholders_are_filled(tmp_path: Path) -> None:
    line = GOOD | {
        "text": "{sha} {other} {{sha}}",
        "payload": {"a": ["{sha}", {"b": "{sha}"}], "c": 1},
    }
    message = filled(load_inbox(inbox(tmp_path, line))[0], {"sha": "f00"})
    assert message.text == "f00 {other} {f00}"
    assert message.payload == {"a": ["f00", {"b": "f00"}], "c": 1}


@st.composite
def scripts(draw: st.DrawFn) -> list[InboxMessage]:
    threads = draw(st.lists(st.sampled_from("abcd"), max_size=20))
    seen: set[str] = set()
    script: list[InboxMessage] = []
    for number, thread in enumerate(threads, 1):
        when = draw(st.sampled_from(["now", "busy", "settled"])) if thread in seen else "now"
        seen.add(thread)
        line = {"thread": thread, "user": "u", "text": "", "when": when}
        script.append(InboxMessage.model_validate(line).model_copy(update={"line": number}))
    return script


def of_threads(script: list[InboxMessage]) -> dict[str, list[int]]:
    lines: dict[str, list[int]] = defaultdict(list)
    for message in script:
        lines[message.thread].append(message.line)
    return lines


@given(scripts(), st.integers())
def test_shuffling_is_a_permutation_that_keeps_the_order_of_each_thread(
    script: list[InboxMessage], seed: int
) -> None:
    played = shuffled(script, seed)
    assert Counter(m.line for m in played) == Counter(m.line for m in script)
    assert of_threads(played) == of_threads(script)


@given(scripts(), st.integers())
def test_shuffling_keeps_a_busy_message_directly_after_its_predecessor(
    script: list[InboxMessage], seed: int
) -> None:
    played = shuffled(script, seed)
    predecessors = {
        later.line: earlier.line for group in grouped(script) for earlier, later in pairwise(group)
    }
    places = {message.line: place for place, message in enumerate(played)}
    assert {m.line for m in script if m.when == "busy"} == predecessors.keys()
    assert all(places[before] + 1 == places[line] for line, before in predecessors.items())


@given(scripts(), st.integers())
def test_the_same_seed_gives_the_same_order(script: list[InboxMessage], seed: int) -> None:
    assert shuffled(script, seed) == shuffled(script, seed)


def test_a_seed_changes_the_order_across_threads() -> None:
    script = [InboxMessage(thread=thread, user="u", text="") for thread in "abcdefgh"]
    orders = {tuple(m.thread for m in shuffled(script, seed)) for seed in range(5)}
    assert len(orders) > 1


def test_the_shipped_inbox_holds_what_the_demo_promises() -> None:
    script = load_inbox(SHIPPED)
    assert len(script) >= 25
    assert len({message.thread for message in script}) >= 5
    decided = Counter(message.decide.option for message in script if message.decide)
    assert decided["approve"] >= 1
    assert decided["reject"] >= 1
    assert {m.expect.deployment for m in script} >= {"healthy", "rolled_back"}
    assert any(message.when == "busy" for message in script)
    assert any(message.mode == "poison" and message.expect.status == "failed" for message in script)
    delivered = Counter((m.thread, m.platform_message_id) for m in script if m.platform_message_id)
    assert max(delivered.values()) == 2


def test_the_examples_readme_describes_every_key() -> None:
    readme = (ROOT / "examples" / "README.md").read_text()
    for key in InboxMessage.model_fields.keys() - {"line"}:
        assert f"`{key}`" in readme
