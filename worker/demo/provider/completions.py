"""Chat completions in the format of OpenAI's API, with their token usage.

In: a model's reply, and the request. Out: the body of the API's response, cut to the limit that the
request sets. Pure. The demo's provider and the tests' stub provider use it.
"""

import json
from dataclasses import dataclass
from typing import Any, cast

Body = dict[str, Any]
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call; `arguments` as the model wrote them, which need not be valid JSON."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answers, before it is cut to a limit."""

    text: str | None = None
    tools: tuple[ToolUse, ...] = ()


def completion(model: str, number: int, reply: Reply, body: Body) -> Body:
    """The body of the API's response number `number`, cut to the limit that `body` sets."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    reply, finish_reason = _limited(reply, limit)
    message: Body = {"role": "assistant", "content": reply.text}
    if reply.tools:
        message["tool_calls"] = [
            {
                "id": tool.id or f"call_{number}_{n}",
                "type": "function",
                "function": {"name": tool.name, "arguments": tool.arguments},
            }
            for n, tool in enumerate(reply.tools)
        ]
    read, written, cached = _prompt_tokens(body), _reply_tokens(reply), _cached_tokens(body)
    usage: Body = {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }
    if cached:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": usage,
    }


def tokens(text: str) -> int:
    return max(1, -(-len(text) // CHARACTERS_PER_TOKEN))


def text_of(message: Body) -> str:
    """The whole text of a message, its parts joined."""
    return "".join(texts_of(message))


def texts_of(message: Body) -> list[str]:
    """The text of each part of a message; one text where it has no parts."""
    content = message.get("content")
    if isinstance(content, list):
        parts = cast(list[Body], content)
        return [str(part.get("text", "")) for part in parts]
    return [str(content or "")]


def _limited(reply: Reply, limit: int | None) -> tuple[Reply, str]:
    if reply.tools:
        return reply, "tool_calls"
    if limit is None or reply.text is None or tokens(reply.text) <= limit:
        return reply, "stop"
    return Reply(reply.text[: limit * CHARACTERS_PER_TOKEN]), "length"


def _prompt_tokens(body: Body) -> int:
    messages = sum(_message_tokens(message) for message in body["messages"])
    return messages + (tokens(json.dumps(body["tools"])) if body.get("tools") else 0)


def _cached_tokens(body: Body) -> int:
    """The tokens before the last answer: the provider read those for the request before."""
    messages: list[Body] = body["messages"]
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    return sum(_message_tokens(message) for message in messages[: answers[-1]]) if answers else 0


def _message_tokens(message: Body) -> int:
    called = message.get("tool_calls")
    return tokens(text_of(message)) + (tokens(json.dumps(called)) if called else 0)


def _reply_tokens(reply: Reply) -> int:
    written = [reply.text or "", *(tool.name + tool.arguments for tool in reply.tools)]
    return sum(tokens(text) for text in written if text) or 1
