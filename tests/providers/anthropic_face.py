"""The stub provider's Anthropic Messages API: requests and answers in its format.

In: a request to `/v1/messages`, read as the chat that it is; and the answer of that chat. Out: the
message, or its events. Its `input_tokens` are what was neither read from nor written to the cache,
as Anthropic counts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from worker.demo.provider.completions import Body, text_of

PIECE_CHARACTERS = 12
STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def chat_of(asked: Body) -> Body:
    """The same request as a chat completion's."""
    messages: list[Body] = []
    if asked.get("system"):
        messages.append({"role": "system", "content": asked["system"]})
    for message in asked["messages"]:
        messages += _messages(message)
    chat: Body = {"model": asked["model"], "messages": messages, "max_tokens": asked["max_tokens"]}
    if asked.get("tools"):
        chat["tools"] = [
            {
                "type": "function",
                "function": {"name": tool["name"], "parameters": tool["input_schema"]},
            }
            for tool in asked["tools"]
        ]
    return chat


def _messages(message: Body) -> Iterator[Body]:
    content = message["content"]
    blocks: list[Body] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else content
    )
    for block in blocks:
        if block["type"] == "tool_result":
            yield {"role": "tool", "content": text_of(block), "tool_call_id": block["tool_use_id"]}
    told: Body = {
        "role": message["role"],
        "content": "".join(block["text"] for block in blocks if block["type"] == "text"),
    }
    used = [block for block in blocks if block["type"] == "tool_use"]
    if used:
        told["tool_calls"] = [
            {
                "id": block["id"],
                "type": "function",
                "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
            }
            for block in used
        ]
    if told["content"] or used:
        yield told


def answer_of(chat: Body) -> Body:
    """The chat completion as a message."""
    [choice] = chat["choices"]
    message = choice["message"]
    content: list[Body] = []
    if message["content"]:
        content.append({"type": "text", "text": message["content"]})
    for call in message.get("tool_calls", []):
        function = call["function"]
        block = {"type": "tool_use", "id": call["id"], "name": function["name"]}
        content.append({**block, "input": _input(function["arguments"])})
    answer: Body = {
        "id": chat["id"].replace("chatcmpl", "msg"),
        "type": "message",
        "role": "assistant",
        "model": chat["model"],
        "content": content,
        "stop_reason": STOP_REASONS[choice["finish_reason"]],
        "stop_sequence": None,
    }
    if "usage" in chat:
        answer["usage"] = _usage(chat["usage"]) | chat.get("terms", {})
        if chat.get("runs"):
            searches = chat["runs"].get("web_searches", 0)
            answer["usage"]["server_tool_use"] = {
                "web_search_requests": searches,
                "web_fetch_requests": 0,
            }
    return answer


def _input(arguments: str) -> Any:
    """The input of a tool call; arguments that are not JSON stay a text."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _usage(usage: Body) -> Body:
    details: Body = usage.get("prompt_tokens_details") or {}
    read, written = details.get("cached_tokens", 0), details.get("cache_write_tokens", 0)
    for_an_hour = details.get("cache_write_1h_tokens", 0)
    told: Body = {
        "input_tokens": usage["prompt_tokens"] - read - written,
        "output_tokens": usage["completion_tokens"],
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - for_an_hour,
            "ephemeral_1h_input_tokens": for_an_hour,
        },
    }
    of_output: Body = usage.get("completion_tokens_details") or {}
    if thought := of_output.get("reasoning_tokens"):
        told["output_tokens_details"] = {"thinking_tokens": thought}
    return told


def events(answer: Body) -> Iterator[Body]:
    """The message as events of a stream: input tokens in the first, output tokens in the last."""
    begun: Body = {**answer, "content": [], "stop_reason": None}
    if "usage" in answer:
        begun["usage"] = {**answer["usage"], "output_tokens": 1}
        begun["usage"].pop("output_tokens_details", None)
    yield {"type": "message_start", "message": begun}
    yield {"type": "ping"}
    for index, block in enumerate(answer["content"]):
        for event in _block_events(block):
            yield {"index": index, **event}
    end: Body = {
        "type": "message_delta",
        "delta": {"stop_reason": answer["stop_reason"], "stop_sequence": None},
    }
    if "usage" in answer:
        end["usage"] = {
            key: count for key, count in answer["usage"].items() if key.startswith("output_tokens")
        }
    yield end
    yield {"type": "message_stop"}


def _block_events(block: Body) -> Iterator[Body]:
    text, kind = block.get("text"), "text"
    begun: Body = {"type": "text", "text": ""}
    if text is None:
        text, kind = json.dumps(block["input"]), "input_json"
        begun = {**block, "input": {}}
    yield {"type": "content_block_start", "content_block": begun}
    piece = "text" if kind == "text" else "partial_json"
    for start in range(0, len(text), PIECE_CHARACTERS):
        delta = {"type": f"{kind}_delta", piece: text[start : start + PIECE_CHARACTERS]}
        yield {"type": "content_block_delta", "delta": delta}
    yield {"type": "content_block_stop"}


def error(status: int, message: str) -> Body:
    """The body of an error, also as an event of a stream."""
    kind = ERROR_TYPES.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
