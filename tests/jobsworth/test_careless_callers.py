"""A caller who passes the wrong thing gets an error that names it, with a remedy; never a traceback
of what is beneath, and never silence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any
from uuid import uuid4

import pytest

import jobsworth
from db.errors import JobsworthError
from db.pool import Connection, Database
from jobsworth import After, AgentOptions, NewJob, Node

ID = uuid4()

# What each function is called with; each value in turn is replaced by each of `WRONG`.
CALLS: dict[str, dict[str, Any]] = {
    "enqueue": {"mode": "answer", "payload": {}, "queue": "q", "unique_key": "k", "delay": 1},
    "start_run": {"nodes": [Node("a", "answer")], "request": {}, "actor": "ann", "trace_id": "t"},
    "signal": {"job_id": ID, "name": "go", "payload": None},
    "resolve": {"approval_id": ID, "option": "approve", "decided_by": "ann", "comment": "c"},
    "get_approval": {"approval_id": ID},
    "pending_approvals": {"limit": 5},
    "list_votes": {"approval_id": ID},
    "cancel": {"job_id": ID, "reason": "r"},
    "retry": {"job_id": ID},
    "run_now": {"job_id": ID},
    "cancel_run": {"run_id": ID},
    "retry_run": {"run_id": ID},
    "enqueue_many": {"jobs": [NewJob("answer")]},
}
VALUES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "NewJob": (NewJob, {"mode": "answer", "payload": {}, "after": (), "lane": "l"}),
    "Node": (Node, {"node": "a", "mode": "answer", "after": (), "payload": {}}),
    "After": (After, {"node": "a", "on_failure": "skip"}),
    "handler": (jobsworth.handler, {"mode": "careless"}),
    "webhook_keys": (jobsworth.webhook_keys, {}),
    "AgentOptions": (AgentOptions, {}),
}
WRONG: list[Any] = [
    *("", " ", "x\0y", "\ud800", "x" * 2_000_000, b"x", 0, -1, 10**400, 1.5, float("nan"), True),
    *([], [1], {}, {"a": object()}, {1: 2}, None, object(), Exception, ...),
]


def spelt(value: object) -> str:
    return f"{value!r:.12}" if not isinstance(value, int) or abs(value) < 10**9 else "huge"


async def told(call: Callable[[], Any]) -> str | None:
    """What is wrong with the way in which a call fails; None if it succeeds or says what to do."""
    try:
        result = call()
        if isawaitable(result):
            await result
    except JobsworthError as error:
        return None if error.remedy and len(str(error)) < 1_000 else f"no remedy: {error!s:.300}"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.300}"
    return None


@pytest.mark.parametrize("name", CALLS)
async def test_a_wrong_argument_is_named_with_a_remedy(
    database: Database, conn: Connection, name: str
) -> None:
    function: Callable[..., Awaitable[Any]] = getattr(jobsworth, name)
    usual = CALLS[name]
    found: dict[str, str | None] = {}
    for parameter in usual:
        for value in WRONG:
            arguments = usual | {parameter: value}
            found[f"{parameter}={spelt(value)}"] = await told(
                lambda arguments=arguments: function(conn, **arguments)
            )
            assert conn.info.transaction_status.name == "IDLE"
    for wrong in (None, "postgresql://", 5, object()):
        found[f"conn={spelt(wrong)}"] = await told(lambda wrong=wrong: function(wrong, **usual))
    assert {where: said for where, said in found.items() if said} == {}


@pytest.mark.parametrize("name", VALUES)
async def test_a_value_made_of_wrong_parts_is_refused_by_name(name: str) -> None:
    make, usual = VALUES[name]
    found = {
        f"{parameter}={spelt(value)}": await told(
            lambda p=parameter, v=value: make(**usual | {p: v})
        )
        for parameter in usual
        for value in WRONG
    }
    assert {where: said for where, said in found.items() if said} == {}
