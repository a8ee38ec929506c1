"""The stub provider's OpenAI Responses API: requests and answers in its format.

In: a request to `/v1/responses`, read as the chat that it is; and the answer of that chat. Out: the
response, or its events.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.demo.provider.completions import Body, texts_of

PIECE_CHARACTERS = 12


def chat_of(asked: Body) -> Body:
    """The same request as a chat completion's."""
    messages: list[Body] = []
    if asked.get("instructions"):
        messages.append({"role": "system", "content": asked["instructions"]})
    given = asked["input"]
    items: list[Body] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for item in items:
        _tell(messages, item)
    chat: Body = {"model": asked["model"], "messages": messages}
    if asked.get("max_output_tokens"):
        chat["max_tokens"] = asked["max_output_tokens"]
    if asked.get("tools"):
        chat["tools"] = [{"type": "function", "function": tool} for tool in asked["tools"]]
    return chat


def _tell(messages: list[Body], item: Body) -> None:
    """Join the items of one answer of the model to one chat message."""
    kind = item.get("type", "message")
    if kind == "function_call_output":
        messages.append(
            {"role": "tool", "content": item["output"], "tool_call_id": item["call_id"]}
        )
    elif kind == "function_call":
        if messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "message":
        messages.append({"role": item["role"], "content": "".join(texts_of(item))})


def answer_of(chat: Body) -> Body:
    """The chat completion as a response."""
    [choice] = chat["choices"]
    message = choice["message"]
    output: list[Body] = []
    number = chat["id"].removeprefix("chatcmpl-")
    if message["content"]:
        text: Body = {
            "type": "output_text",
            "text": message["content"],
            "annotations": [],
            "logprobs": [],
        }
        output.append({**_message(number), "status": "completed", "content": [text]})
    for n, call in enumerate(message.get("tool_calls", [])):
        output.append(
            {
                "type": "function_call",
                "id": f"fc_{number}_{n}",
                "call_id": call["id"],
                "name": call["function"]["name"],
                "arguments": call["function"]["arguments"],
                "status": "completed",
            }
        )
    output = [*_runs(number, chat.get("runs", {})), *output]
    cut_short = choice["finish_reason"] == "length"
    answer: Body = {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 0,
        "model": chat["model"],
        "status": "incomplete" if cut_short else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut_short else None,
        "error": None,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    if "usage" in chat:
        answer["usage"] = _usage(chat["usage"])
    if "service_tier" in chat.get("terms", {}):
        answer["service_tier"] = chat["terms"]["service_tier"]
    return answer


def _runs(number: str, runs: Body) -> Iterator[Body]:
    """The items of the provider's own tools."""
    kinds: dict[str, Body] = {
        "web_searches": {
            "type": "web_search_call",
            "action": {"type": "search", "query": "tea", "queries": ["tea"]},
        },
        "storage_searches": {"type": "file_search_call", "queries": ["tea"], "results": None},
        "code_executions": {
            "type": "code_interpreter_call",
            "code": "1",
            "container_id": "c",
            "outputs": None,
        },
    }
    for name, count in runs.items():
        for n in range(count):
            yield {"id": f"run_{number}_{name}_{n}", "status": "completed", **kinds[name]}


def _usage(usage: Body) -> Body:
    read: Body = usage.get("prompt_tokens_details") or {}
    written: Body = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, **read},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0, **written},
        "total_tokens": usage["total_tokens"],
    }


def events(answer: Body) -> Iterator[Body]:
    """The response as its stream's events, numbered."""
    for number, event in enumerate(_events(answer)):
        yield {**event, "sequence_number": number}


def _events(answer: Body) -> Iterator[Body]:
    begun: Body = {**answer, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(answer["output"]):
        pieces = {"message": _text_events, "function_call": _call_events}
        for event in pieces.get(item["type"], _run_events)(item):
            yield {"output_index": index, **event}
    yield {"type": f"response.{answer['status']}", "response": answer}


def _text_events(item: Body) -> Iterator[Body]:
    [part] = item["content"]
    place: Body = {"item_id": item["id"], "content_index": 0}
    begun: Body = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "item": begun}
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    for piece in _pieces(part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}
    yield {"type": "response.output_item.done", "item": item}


def _run_events(item: Body) -> Iterator[Body]:
    yield {"type": "response.output_item.added", "item": {**item, "status": "in_progress"}}
    yield {"type": "response.output_item.done", "item": item}


def _call_events(item: Body) -> Iterator[Body]:
    begun = {**item, "status": "in_progress", "arguments": ""}
    yield {"type": "response.output_item.added", "item": begun}
    place = {"item_id": item["id"]}
    for piece in _pieces(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
    told = {"name": item["name"], "arguments": item["arguments"]}
    yield {"type": "response.function_call_arguments.done", **place, **told}
    yield {"type": "response.output_item.done", "item": item}


def _message(number: str) -> Body:
    return {"type": "message", "id": f"msg_{number}", "role": "assistant"}


def _pieces(text: str) -> list[str]:
    return [text[at : at + PIECE_CHARACTERS] for at in range(0, len(text), PIECE_CHARACTERS)]


def error(status: int, message: str) -> Body:
    """The error event of a stream."""
    code = "rate_limit_exceeded" if status == 429 else "server_error"
    return {"type": "error", "code": code, "message": message, "param": None}


def failed(status: int, message: str) -> Body:
    """A response that failed, as the whole answer."""
    return {
        "id": "resp_failed",
        "object": "response",
        "created_at": 0,
        "model": "unknown",
        "status": "failed",
        "error": {"code": error(status, message)["code"], "message": message},
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
