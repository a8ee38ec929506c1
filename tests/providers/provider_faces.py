"""The protocols of the stub provider, by the path of their requests.

Each reads a request as the chat that it is, and writes the answer of that chat in its own words; so
one script, one bill and one set of faults serve them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.providers import anthropic_face, openai_chat, responses_face, usage_script
from worker.demo.provider.completions import Body


@dataclass(frozen=True, slots=True)
class Face:
    """One protocol; `broken` makes the error event of a stream that fails.

    `closing`: how many events end a stream after all of the answer has been told. `within`: the
    body of an error that comes with status 200. `states_total`: its usage has a sum of all tokens.
    """

    chat_of: Callable[[Body], Body]
    answer_of: Callable[[Body], Body]
    events: Callable[[Body, Body], Iterator[Body]]
    error: Callable[[int, str], Body]
    broken: Callable[[int, str], Body]
    within: Callable[[int, str], Body]
    closing: int = 1
    last: bytes = b""
    states_total: bool = True

    def stream(self, answer: Body, asked: Body) -> list[bytes]:
        return [*map(event_of, self.events(answer, asked)), *([self.last] if self.last else [])]


def event_of(event: Body) -> bytes:
    """A server-sent event, with its name if it has one."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def _same(body: Body) -> Body:
    return body


def _chunks(answer: Body, asked: Body) -> Iterator[Body]:
    options: Body = asked.get("stream_options") or {}
    return openai_chat.chunks(answer, with_usage=bool(options.get("include_usage")))


def _openai_error(status: int, message: str) -> Body:
    return {"error": {"message": message, "type": "scripted", "code": status}}


FACES = {
    "/v1/chat/completions": Face(
        _same,
        usage_script.chat_completion,
        _chunks,
        _openai_error,
        _openai_error,
        _openai_error,
        last=b"data: [DONE]\n\n",
    ),
    "/v1/messages": Face(
        anthropic_face.chat_of,
        anthropic_face.answer_of,
        lambda answer, _: anthropic_face.events(answer),
        anthropic_face.error,
        anthropic_face.error,
        anthropic_face.error,
        states_total=False,
    ),
    "/v1/responses": Face(
        responses_face.chat_of,
        responses_face.answer_of,
        lambda answer, _: responses_face.events(answer),
        _openai_error,
        responses_face.error,
        responses_face.failed,
        closing=0,
    ),
}
EMBEDDINGS = "/v1/embeddings"
