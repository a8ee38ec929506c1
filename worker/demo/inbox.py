"""The inbox: the conversation that the demo plays, one JSON object to a line.

In: a file, by default inbox.jsonl beside this module. Out: its messages in order, checked; or every
mistake at once, with file and line.

    thread               which conversation it belongs to (required)
    user                 who writes (required)
    text                 what they write (required; may be empty)
    when                 "now" (default); "busy": while a job of the previous message of the thread
                         is unfinished; "settled": when every earlier job of the thread has finished
    decide               the decision on the approval that this message leads to: "approve",
                         "reject", another option, or {"option": …, "comment": …}. Without it, the
                         approval is rejected.
    expect               {"mode": a mode that must have run for the message, "status": the status
                         of its last job ("done" by default), "deployment": the status of its last
                         deployment ("healthy", "rolled_back", "failed")}
    mode, payload        enqueue this mode with this payload, instead of "classify" with none
    platform_message_id  the platform's own id; a second line with the same id in the same thread
                         is a redelivery and must change nothing

In texts and payloads, `{first_sha}`, `{good_sha}` and `{bad_sha}` stand for commits of the
repository that the demo makes: the one that is live at the start, one that works, and one whose
probe fails.

Invariant: `shuffled` keeps the order within each thread and each "busy" message directly after its
predecessor; it loses no message and repeats none.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from db.errors import InvalidInput

SHIPPED = Path(__file__).with_name("inbox.jsonl")

PROBLEMS_MAX = 20
NAME_CHARACTERS_MAX = 200


class InboxError(InvalidInput):
    """The inbox cannot be played; the error message has one line for each problem."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Decide(_Part):
    option: Annotated[str, Field(min_length=1)]
    comment: str | None = None


class Expect(_Part):
    mode: str | None = None
    status: Literal["done", "failed", "canceled"] = "done"
    deployment: Literal["healthy", "rolled_back", "failed"] | None = None


def _option_alone(value: object) -> object:
    return {"option": value} if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]


class InboxMessage(_Part):
    """One line of the inbox; `line` is its number in the file."""

    line: int = Field(default=0, exclude=True)
    thread: Name
    user: Name
    text: str
    when: Literal["now", "busy", "settled"] = "now"
    decide: Annotated[Decide | None, BeforeValidator(_option_alone)] = None
    expect: Expect = Expect()
    mode: Name = "classify"
    payload: dict[str, Any] = Field(default_factory=dict)
    platform_message_id: Name | None = None


def load_inbox(path: Path) -> list[InboxMessage]:
    """Read the messages of a file, in order. Raises `InboxError`."""
    problems: list[str] = []
    messages: list[InboxMessage] = []
    for number, text in enumerate(_lines(path), 1):
        if text.strip():
            try:
                messages.append(_message(text, number))
            except ValueError as error:
                problems += [f"{path}:{number}: {reason}" for reason in _reasons(error)]
    problems += [f"{path}:{line}: {reason}" for line, reason in _contradictions(messages)]
    if problems:
        raise InboxError(
            _some(problems), "the format is described in Jobsworth's examples/README.md"
        )
    if not messages:
        raise InboxError(f"{path} has no message in it", "add one JSON object to a line")
    return messages


def shuffled(messages: Sequence[InboxMessage], seed: int) -> list[InboxMessage]:
    """Mix the threads in an order drawn from `seed`; each thread keeps its own order."""
    groups = grouped(messages)
    of_thread: dict[str, list[list[InboxMessage]]] = defaultdict(list)
    for group in groups:
        of_thread[group[0].thread].append(group)
    turns = [group[0].thread for group in groups]
    random.Random(seed).shuffle(turns)
    upcoming = {thread: iter(own) for thread, own in of_thread.items()}
    return [message for thread in turns for message in next(upcoming[thread])]


def grouped(messages: Iterable[InboxMessage]) -> list[list[InboxMessage]]:
    """Group each message with the "busy" ones that follow it in its thread: they go in together."""
    groups: list[list[InboxMessage]] = []
    latest: dict[str, list[InboxMessage]] = {}
    for message in messages:
        if message.when == "busy" and message.thread in latest:
            latest[message.thread].append(message)
        else:
            latest[message.thread] = [message]
            groups.append(latest[message.thread])
    return groups


def filled(message: InboxMessage, values: Mapping[str, str]) -> InboxMessage:
    """Replace `{name}` in the text and the payload of a message, for the names in `values` only."""
    return message.model_copy(
        update={"text": _fill(message.text, values), "payload": _fill(message.payload, values)}
    )


def _lines(path: Path) -> list[str]:
    try:
        # Not splitlines(): JSON strings may hold U+2028 and the like as they are.
        return path.read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise InboxError(
            f"there is no inbox {path}", f"name an existing file; {SHIPPED} is one"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InboxError(f"{path}:{line}: this is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise InboxError(
            f"the inbox {path} cannot be read: {error.strerror or error}", "name a readable file"
        ) from None


def _message(text: str, number: int) -> InboxMessage:
    found: object = orjson.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"a message is a JSON object, not {type(found).__name__}")
    return InboxMessage.model_validate(found).model_copy(update={"line": number})


def _reasons(error: ValueError) -> list[str]:
    match error:
        case ValidationError():
            return [
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False)
            ]
        case orjson.JSONDecodeError():
            return [f"this is not JSON: {error.msg}, in column {error.colno}"]
        case _:
            return [str(error)]


def _contradictions(messages: Sequence[InboxMessage]) -> Iterable[tuple[int, str]]:
    begun: set[str] = set()
    delivered: dict[tuple[str, str], InboxMessage] = {}
    for message in messages:
        if message.when == "busy" and message.thread not in begun:
            yield message.line, 'when: "busy" needs a message before it in its thread'
        begun.add(message.thread)
        if message.platform_message_id is None:
            continue
        first = delivered.setdefault((message.thread, message.platform_message_id), message)
        if (first.user, first.text) != (message.user, message.text):
            yield (
                message.line,
                "platform_message_id: line "
                f"{first.line} has the same id in this thread, but another user or text",
            )


def _fill(value: Any, values: Mapping[str, str]) -> Any:
    match value:
        case str():
            for name, replacement in values.items():
                value = value.replace(f"{{{name}}}", replacement)
            return value
        case dict():
            members = cast("dict[str, Any]", value)
            return {key: _fill(member, values) for key, member in members.items()}
        case list():
            return [_fill(member, values) for member in cast("list[Any]", value)]
        case _:
            return value


def _some(problems: Sequence[str]) -> str:
    more = len(problems) - PROBLEMS_MAX
    return "\n".join([*problems[:PROBLEMS_MAX], *([f"and {more} more"] if more > 0 else [])])
