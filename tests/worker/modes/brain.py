"""A provider's model for the shipped modes: it answers by the tools that it is offered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.providers.openai_chat import Body, Reply, ToolUse

Call = tuple[str, Mapping[str, Any]]


def calls(*given: Call) -> Reply:
    return Reply(tools=tuple(ToolUse(name, json.dumps(values)) for name, values in given))


def offered(body: Body) -> set[str]:
    return {tool["function"]["name"] for tool in body.get("tools", ())}


def system_of(body: Body) -> str:
    return "\n".join(str(m["content"]) for m in body["messages"] if m["role"] in ROLES_OF_SYSTEM)


def said_in(body: Body) -> list[tuple[str, Any]]:
    """Role and content of what is no instruction."""
    told = [m for m in body["messages"] if m["role"] not in ROLES_OF_SYSTEM]
    return [(m["role"], m.get("content")) for m in told]


def last_text(content: Any) -> str:
    """The text itself, or the last one: what is remembered stands before it."""
    return content if isinstance(content, str) else content[-1]["text"]


ROLES_OF_SYSTEM = ("system", "developer")


@dataclass
class Brain:
    """What it says in each mode; `doing` is one reply for each request of `execute`."""

    mode: str = "answer"
    answer: str = "At nine."
    plan: Mapping[str, Any] = field(default_factory=dict[str, Any])
    doing: Sequence[Reply] = ()
    bodies: list[Body] = field(default_factory=list[Body])

    def reply(self, body: Body) -> Reply:
        self.bodies.append(body)
        tools = offered(body)
        if "classified" in tools:
            return calls(("classified", {"mode": self.mode, "reason": "it says so"}))
        if "planned" in tools:
            return calls(("planned", self.plan))
        if "carried_out" in tools:
            answered = sum(message["role"] == "assistant" for message in body["messages"])
            return self.doing[min(answered, len(self.doing) - 1)]
        return Reply(self.answer)
