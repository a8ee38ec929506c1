"""The stub provider's answers to chats, and their usage.

A conversation scripts its own answers: a prompt that contains `[[…]]` says in there, turn by turn,
what the model does; a turn is chosen by how many answers the conversation already has, so a request
that is sent again is answered again the same. Turns are separated by `;;`, the items of a turn by
` + `:

    say TEXT            text; {results} is what the tools returned since the last answer
    call NAME {json}    a tool call; `call#x NAME {json}` gives it the id x
    raw NAME TEXT       a tool call whose arguments are that text, JSON or not

Without a script the model echoes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from worker.demo.provider.completions import Body, Reply, ToolUse, text_of

STREAM_PIECE_CHARACTERS = 12


def scripted(body: Body) -> Reply:
    """The answer that the conversation scripts, else an echo."""
    messages: list[Body] = body["messages"]
    found = re.search(
        r"\[\[(.*?)\]\]", "\n".join(text_of(m) for m in messages if m["role"] == "user"), re.DOTALL
    )
    if found is None:
        return Reply(f"You said: {text_of(messages[-1])}")
    turns = found[1].split(";;")
    answered = sum(message["role"] == "assistant" for message in messages)
    return _turn(turns[min(answered, len(turns) - 1)].strip(), messages)


def chunks(answer: Body, *, with_usage: bool) -> Iterator[Body]:
    """The same answer as a stream's chunks."""
    head = {key: answer[key] for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"
    if "service_tier" in answer:
        head["service_tier"] = answer["service_tier"]
    [choice] = answer["choices"]
    for delta in _deltas(choice["message"]):
        yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    end: Body = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    yield {**head, "choices": [end]}
    if with_usage and "usage" in answer:
        yield {**head, "choices": [], "usage": answer["usage"]}


# What may be wrong with an answer: edits of it.


def missing_usage(answer: Body) -> Body:
    answer.pop("usage", None)
    return answer


def inconsistent_usage(answer: Body) -> Body:
    """Report far too few input and output tokens, but the true total."""
    answer["usage"] = {**answer["usage"], "prompt_tokens": 1, "completion_tokens": 1}
    return answer


def excessive_usage(answer: Body) -> Body:
    usage = answer["usage"]
    usage["completion_tokens"] += 10_000_000
    usage["total_tokens"] += 10_000_000
    return answer


def malformed_tool_json(answer: Body) -> Body:
    for call in answer["choices"][0]["message"].get("tool_calls", []):
        call["function"]["arguments"] = call["function"]["arguments"][:-1] + ', "cut": '
    return answer


def duplicate_tool_ids(answer: Body) -> Body:
    for call in answer["choices"][0]["message"].get("tool_calls", []):
        call["id"] = "call_same"
    return answer


def _turn(turn: str, messages: list[Body]) -> Reply:
    text, tools = None, list[ToolUse]()
    for item in turn.split(" + "):
        verb, _, rest = item.strip().partition(" ")
        if verb == "say":
            text = rest.replace("{results}", ", ".join(_results(messages)))
            continue
        kind, _, given = verb.partition("#")
        if kind not in ("call", "raw"):
            raise ValueError(f"the script says {item!r}, which is neither say, call nor raw")
        name, _, arguments = rest.partition(" ")
        if kind == "call":
            json.loads(arguments or "{}")
        tools.append(ToolUse(name, arguments or "{}", given or None))
    return Reply(text, tuple(tools))


def _results(messages: list[Body]) -> list[str]:
    """The messages since the model's last answer, in the order of its calls."""
    last = max((n for n, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
    return [text_of(m) for m in messages[last + 1 :] if m["role"] == "tool"]


def _deltas(message: Body) -> Iterator[Body]:
    yield {"role": "assistant", "content": ""}
    text = message["content"] or ""
    for start in range(0, len(text), STREAM_PIECE_CHARACTERS):
        yield {"content": text[start : start + STREAM_PIECE_CHARACTERS]}
    for index, call in enumerate(message.get("tool_calls", [])):
        function = call["function"]
        begun = {"name": function["name"], "arguments": ""}
        yield {
            "tool_calls": [
                {"index": index, "id": call["id"], "type": "function", "function": begun}
            ]
        }
        written = function["arguments"]
        for start in range(0, len(written), STREAM_PIECE_CHARACTERS):
            piece = written[start : start + STREAM_PIECE_CHARACTERS]
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
