"""How `jobsworth job calls` prints what models were asked and what they said.

In: a job. Out: each of its calls with the texts of its request, as far as they are still kept, and
its recorded answer. A conversation sends its beginning again with each request; that is printed
once.
"""

import json
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from rich.text import Text

from db.money import call_texts
from db.money import calls as call_records
from db.money.calls import Call
from db.pool import Connection
from db.steps import steps
from worker.cli.terminal.output import emit, emit_facts, indented_json

NOT_KEPT = "(no longer kept, or never recorded: see JOBSWORTH_RECORD_CALLS)"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A call, the JSON texts that it sent (None: not kept), and its recorded answer."""

    call: Call
    asked: list[Any] | None
    answer: Any


async def read(conn: Connection, job_id: UUID) -> list[Exchange]:
    """The calls of a job, in the order they were started."""
    asked = {each.call_id: each.texts for each in await call_texts.of_job(conn, job_id)}
    said = {step.name: step.output for step in await steps.list_for_job(conn, job_id)}
    return [
        Exchange(
            call,
            None if call.id not in asked else [_read(text) for text in asked[call.id]],
            said.get(call.step_name or "") if call.status == "ok" else None,
        )
        for call in await call_records.list_calls(conn, job_id)
    ]


def emit_exchanges(exchanges: list[Exchange]) -> None:
    """Print them for people."""
    shown: list[Any] = []
    for exchange in exchanges:
        call = exchange.call
        emit(
            Text(f"{call.step_name or 'call'}: {call.provider}:{call.model}, {call.status}", "bold")
        )
        asked = exchange.asked
        facts = [("asked", NOT_KEPT)] if asked is None else _asked(asked, shown)
        emit_facts([*facts, ("said", said(exchange)), ("error", call.error)], indent="  ")
        shown = asked or shown


def _asked(asked: list[Any], shown: list[Any]) -> list[tuple[str, str | Text | None]]:
    same = 0
    while same < min(len(asked), len(shown)) and asked[same] == shown[same]:
        same += 1
    before = [("asked", f"({same} texts as before)")] if same else []
    new = [("asked", asked_words(text)) for text in asked[same:]]
    return [*before, *new]


def asked_words(text: Any) -> str:
    """A text of a request, in words; of None, that it is not kept."""
    return NOT_KEPT if text is None else words_of(text)


def said(exchange: Exchange) -> str | None:
    """What the model answered, in words; None without an answer."""
    match exchange.answer:
        case {"response": response}:
            return words_of(response)
        case answer:
            return None if answer is None else words_of(answer)


def words_of(message: Any) -> str:
    """A message in words if it is a plain text, else as JSON."""
    match message:
        case str():
            return message
        case {"parts": [*parts]} if all(
            isinstance(part, dict) for part in cast(list[object], parts)
        ):
            return "\n".join(map(_part, cast(list[dict[str, Any]], parts)))
        case _:
            return indented_json(message)


def _part(part: dict[str, Any]) -> str:
    kind, content = part.get("part_kind"), part.get("content")
    if isinstance(content, str) and kind in ("text", "user-prompt", "system-prompt", "thinking"):
        return f"{kind}: {content}"
    if kind == "tool-call":
        return f"tool-call {part.get('tool_name')}: {part.get('args')}"
    if kind == "tool-return":
        return f"tool-return {part.get('tool_name')}: {json.dumps(content, ensure_ascii=False)}"
    return f"{kind}: {json.dumps(part, ensure_ascii=False)}"


def _read(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text  # one that was cut, or in which a secret was masked
