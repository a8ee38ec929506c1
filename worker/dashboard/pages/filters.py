"""The filter of the page of jobs: an address, and what it means.

In: what an address asks for. Out: a `JobFilter`, and back. Invariant: the page, the operations on
what it matches, and the link back from such an operation mean the same jobs.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError

from db.bulk.filters import JobFilter
from db.documents import parse_payload
from db.errors import InvalidInput
from db.people import agents
from db.pool import Connection
from db.queue.jobs import JobStatus, WaitReason
from worker.cli.terminal.ids import whole_id
from worker.cli.terminal.times import parse_since
from worker.dashboard.pages.choices import chosen

# The filters that are typed: name, label, an example.
TEXTS = (
    ("mode", "Mode", "answer"),
    ("queue", "Queue", "default"),
    ("error", "Error has", "rate limit"),
    ("payload", "Payload has", '{"name": "Ada"}'),
    ("since", "Since", "2h, today"),
)
MORE_TEXTS = (
    ("until", "Until", "1h, yesterday"),
    ("agent", "Agent", "name or UUID"),
    ("key", "Unique key", "order-17"),
    ("thread", "Thread", "UUID"),
    ("lane", "Lane", "name"),
    ("request", "Request", "id"),
)
NAMES = {"status", "reason"} | {name for name, _, _ in (*TEXTS, *MORE_TEXTS)}
# An address's name for what a filter calls otherwise.
FIELDS = {
    "reason": "waiting_for",
    "thread": "thread_id",
    "agent": "agent_id",
    "key": "unique_key",
    "request": "request_id",
    "until": "before",
}


async def filter_of(conn: Connection, asked: Mapping[str, str], now: datetime) -> JobFilter:
    """The filter that an address says. Raises `InvalidInput`; also for one that says nothing."""
    values: dict[str, Any] = {
        FIELDS.get(name, name): value for name, value in asked.items() if name in NAMES
    }
    values["status"] = chosen(JobStatus, asked.get("status"))
    values["waiting_for"] = chosen(WaitReason, asked.get("reason"))
    for name in ("since", "until"):
        if name in asked:
            values[FIELDS.get(name, name)] = parse_since(asked[name], name, now)
    if "thread" in asked:
        values["thread_id"] = whole_id(asked["thread"], "thread")
    if "agent" in asked:
        values["agent_id"] = await _agent(conn, asked["agent"])
    if "payload" in asked:
        values["payload"] = parse_payload(asked["payload"], "the payload")
    try:
        return JobFilter.model_validate(values)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"the filter cannot be used: {reason}", "change it") from error


def asked_of(which: JobFilter) -> dict[str, str]:
    """The address that says this filter, apart from its team."""
    names = {field: name for name, field in FIELDS.items()}
    return {
        names.get(field, field): orjson.dumps(value).decode()
        if field == "payload"
        else value.isoformat()
        if isinstance(value, datetime)
        else str(value)
        for field, value in which
        if value is not None and field != "team_id"
    }


async def _agent(conn: Connection, text: str) -> UUID:
    """An agent's id; or that of the only agent of a name."""
    try:
        return UUID(text)
    except ValueError:
        named = [each for each in await agents.list_agents(conn) if each.name == text]
    if len(named) != 1:
        found = f"{len(named)} agents are" if named else "no agent is"
        raise InvalidInput(f"{found} called {text!r}", "give the agent's id: jobsworth agent list")
    return named[0].id
