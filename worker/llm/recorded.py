"""What a replay reads instead of asking a model again: the response, and what was asked.

In: a request to a model, and its response. Out: the step's document, and the response back from it.
Invariant: a recorded response is only read by a request that asks the same; times, ids and the like
are not part of what is asked. Nor is what a provider wrote about its own answers, so another model
may go on with a conversation.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from pydantic import ValidationError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    ToolCallPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from pydantic_core import to_json

# These differ between attempts that ask the same.
_INCIDENTAL = frozenset(
    {
        *("timestamp", "run_id", "conversation_id", "metadata", "usage", "provider_response_id"),
        *("provider_details", "provider_url", "failed_attempts", "state"),
    }
)
_NOT_ASKED = frozenset(
    {"extra_headers", "max_retries", "timeout", "request_timeout", "first_event_timeout"}
)


# What a provider says of its answer besides the answer: who wrote it, and its own names for it.
_OF_PROVIDER = frozenset({"id", "provider_name", "signature"})


class UnknownShape(Exception):
    """A record is not an answer of a model, or not one that this version can read."""


def document_of(asked: Mapping[str, str], response: ModelResponse) -> dict[str, Any]:
    """The step's output: the response, with the hashes of what was asked."""
    [dumped] = ModelMessagesTypeAdapter.dump_python([response], mode="json", fallback=_named)
    return {"asked": dict(asked), "response": dumped}


def changed(document: Mapping[str, Any], asked: Mapping[str, str]) -> list[str]:
    """The parts of the request that differ from the recorded one, by the names of its hashes."""
    asked_before: object = document["asked"]
    before = cast(dict[str, object], asked_before if isinstance(asked_before, dict) else {})
    return [what for what, digest in asked.items() if before.get(what) != digest]


def response_of(document: Any) -> ModelResponse:
    """The response in a step's output. Raises `UnknownShape`."""
    try:
        [response] = ModelMessagesTypeAdapter.validate_python([document["response"]])
        document["asked"]
    except (KeyError, TypeError) as error:
        raise UnknownShape("it has neither what was asked nor what was answered") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UnknownShape(f"{place}: {first['msg']}") from error
    if not isinstance(response, ModelResponse):
        raise UnknownShape("it is a request")
    return response


def tools_text(parameters: ModelRequestParameters) -> bytes:
    """All that is sent besides messages and settings, always in the same order."""
    instructions = [part.content for part in parameters.instruction_parts or ()]
    return _canonical([_tools(parameters), instructions])


class Asked(NamedTuple):
    """What is asked: the SHA-256 (hex) of each part of the request, by its name; and its texts.

    The texts are JSON: first all that is sent besides the messages, then each message.
    """

    hashes: dict[str, str]
    texts: list[bytes]


def asked_of(
    messages: Sequence[ModelMessage],
    settings: ModelSettings,
    parameters: ModelRequestParameters,
    unrecorded_tools: Collection[str] = (),
) -> Asked:
    """What this request asks.

    The results of `unrecorded_tools` are left out: they may differ each time.
    """
    dumped = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
    instructions = [message.pop("instructions", None) for message in dumped]
    parts = [part.content for part in parameters.instruction_parts or ()]
    told = [_sorted(_told(message, unrecorded_tools)) for message in dumped]
    how = {key: value for key, value in settings.items() if key not in _NOT_ASKED}
    besides: dict[str, Any] = {
        "instructions": [instructions, parts],
        "tools or output type": _tools(parameters),
        "settings": how,
    }
    texts = {what: _canonical(value) for what, value in besides.items()}
    hashes = {
        what: hashlib.sha256(text).hexdigest()
        for what, text in {"messages": b"\n".join(told), **texts}.items()
    }
    # Each message names its instructions, mostly the same.
    named = dict.fromkeys(str(each) for each in instructions if each)
    texts["instructions"] = _canonical(parts or list(named))
    return Asked(hashes, [b"{%s}" % b", ".join(_members(texts)), *told])


def with_unique_ids(response: ModelResponse, messages: Sequence[ModelMessage]) -> ModelResponse:
    """The response, with ids of tool calls that are unique in the conversation.

    Some providers repeat ids; then the tools' results could not be told apart.
    """
    seen = {
        part.tool_call_id
        for message in messages
        for part in message.parts
        if isinstance(part, ToolCallPart)
    }
    parts = list(response.parts)
    for n, part in enumerate(parts):
        if isinstance(part, ToolCallPart):
            wanted, number = part.tool_call_id, 2
            while part.tool_call_id in seen:
                part = replace(part, tool_call_id=f"{wanted}-{number}")
                number += 1
            seen.add(part.tool_call_id)
            parts[n] = part
    return replace(response, parts=parts)


def _tools(parameters: ModelRequestParameters) -> dict[str, Any]:
    output = parameters.output_object
    return {
        "tools": [_definition(tool) for tool in parameters.function_tools],
        "output_tools": [_definition(tool) for tool in parameters.output_tools],
        "native_tools": [tool.kind for tool in parameters.native_tools],
        "output_mode": parameters.output_mode,
        "output_object": output and output.json_schema,
    }


def _definition(tool: ToolDefinition) -> list[Any]:
    return [tool.name, tool.description, tool.parameters_json_schema, tool.strict]


def _members(texts: Mapping[str, bytes]) -> Iterator[bytes]:
    for what, text in texts.items():
        yield b"%s: %s" % (json.dumps(what).encode(), text)


def _told(message: dict[str, Any], unrecorded_tools: Collection[str]) -> dict[str, Any]:
    parts = [_essence(part, unrecorded_tools) for part in message["parts"]]
    if message["kind"] != "response":
        return {**_essence(message), "parts": parts}
    said = [{key: part[key] for key in part.keys() - _OF_PROVIDER} for part in parts]
    return {"kind": "response", "parts": said}


def _essence(part: dict[str, Any], unrecorded_tools: Collection[str] = ()) -> dict[str, Any]:
    essence = {key: value for key, value in part.items() if key not in _INCIDENTAL}
    if part.get("part_kind") == "tool-return" and part["tool_name"] in unrecorded_tools:
        return {"part_kind": "tool-return", "tool_call_id": part["tool_call_id"]}
    return essence


def _named(value: object) -> str:
    return type(value).__name__


def _canonical(value: object) -> bytes:
    return _sorted(json.loads(to_json(value, fallback=_named)))


def _sorted(plain: object) -> bytes:
    """JSON of a plain value, always in the same order."""
    return json.dumps(plain, sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass")
