"""What a caller passes in by mistake is refused with its name, the reason and the remedy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from db.approvals import approvals, webhooks
from db.conversations import message_artifacts, messages, threads
from db.conversations.message_artifacts import MessageArtifactKind
from db.conversations.messages import MessageRole
from db.deployments import deployments
from db.diagnosis import violations
from db.errors import InvalidInput
from db.money import budgets
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import JobStatus
from db.runs import runs

Call = Callable[[Connection, Any], Awaitable[object]]
ID: UUID = uuid4()

INSERT: Any = messages.insert
RECEIVE: Any = messages.receive
START: Any = runs.start
UPSERT: Any = runs.upsert
UPDATE: Any = threads.update
ENQUEUE: Any = jobs.enqueue
MISSPELT: list[tuple[Any, list[Any], str, str]] = [
    (INSERT, [ID, MessageRole.USER, "hi"], "raw_paylod", "raw_payload"),
    (RECEIVE, [ID, "hi", "answer"], "prority", "priority"),
    (START, [[]], "idempotancy_key", "idempotency_key"),
    (UPSERT, [], "idempotancy_key", "idempotency_key"),
    (UPDATE, [ID], "titel", "title"),
    (ENQUEUE, ["answer"], "uniqe_key", "unique_key"),
]


@pytest.mark.parametrize(
    ("function", "values", "given", "meant"), MISSPELT, ids=[f.__name__ for f, *_ in MISSPELT]
)
async def test_a_misspelt_option_is_named(
    conn: Connection, function: Any, values: list[Any], given: str, meant: str
) -> None:
    reason = f"{function.__name__} has no option '{given}' .did you mean {meant}?"
    with pytest.raises(InvalidInput, match=reason):
        await function(conn, *values, **{given: "k"})


OF_AN_ID: dict[str, Call] = {
    "id": jobs.get_by_id,
    "thread_id": lambda c, one: jobs.list_jobs(c, thread_id=one),
    "run_id": runs.get_jobs,
    "message_id": message_artifacts.get_for_message,
    "approval_id": approvals.get_by_id,
    "job_id": lambda c, one: runs.metrics(c, job_id=one),
    "team_id": lambda c, one: runs.list_runs(c, team_id=one),
}


@pytest.mark.parametrize("one", ["ada", 5, "", True, 1.5], ids=repr)
@pytest.mark.parametrize(("name", "call"), OF_AN_ID.items(), ids=OF_AN_ID.keys())
async def test_an_id_of_the_wrong_type_is_named(
    conn: Connection, name: str, call: Call, one: object
) -> None:
    with pytest.raises(InvalidInput, match=f"{name} must be a UUID, not {one!r}") as refused:
        await call(conn, one)
    assert "uuid.UUID" in refused.value.remedy


TEXTS: dict[str, tuple[str, Call]] = {
    "list": ("mode", lambda c, text: jobs.list_jobs(c, mode=text)),
    "cancel": ("reason", lambda c, text: jobs.cancel(c, ID, text)),
    "get_by_chat_id": ("chat_id", lambda c, text: threads.get_by_chat_id(c, "web", text)),
    "upsert": ("actor", lambda c, text: runs.upsert(c, idempotency_key="k", actor=text)),
    "budget": (
        "name",
        lambda c, text: budgets.set_budget(c, text, 5, unit="money", period="day"),
    ),
}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\0b", "contains a NUL character, which PostgreSQL cannot store .remove it"),
        ("a\ud800", "is not Unicode text: it has half of a surrogate pair .decode it"),
    ],
    ids=["NUL", "surrogate"],
)
@pytest.mark.parametrize(("name", "call"), TEXTS.values(), ids=TEXTS.keys())
async def test_a_text_that_postgresql_cannot_store_is_named(
    conn: Connection, name: str, call: Call, text: str, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=f"{name} {reason}"):
        await call(conn, text)


LIMITED: dict[str, Call] = {
    "jobs": lambda c, n: jobs.list_jobs(c, limit=n),
    "runs": lambda c, n: runs.list_runs(c, limit=n),
    "threads": lambda c, n: threads.list_by_user(c, ID, limit=n),
    "messages": lambda c, n: messages.fetch_recent(c, ID, n),
    "approvals": approvals.get_pending,
    "deliveries": webhooks.deliveries,
    "violations": violations.list_violations,
    "deployments": lambda c, n: deployments.get_recent(c, None, n),
}


@pytest.mark.parametrize("limit", [-1, 0, 2**70, 1.5, True, "ten", None], ids=repr)
@pytest.mark.parametrize("call", LIMITED.values(), ids=LIMITED.keys())
async def test_a_limit_is_a_number_from_1(conn: Connection, call: Call, limit: object) -> None:
    with pytest.raises(InvalidInput, match=f"limit {limit!r} is not 1 to "):
        await call(conn, limit)


async def test_what_no_enum_has_is_named(conn: Connection) -> None:
    wrong: Any = "finished"
    with pytest.raises(InvalidInput, match="status cannot be 'finished'"):
        await jobs.list_jobs(conn, status=wrong)
    assert await jobs.list_jobs(conn, status=JobStatus.DONE) == []


@pytest.mark.parametrize("uri", ["", "  ", 5], ids=repr)
async def test_an_address_is_not_empty(conn: Connection, uri: Any) -> None:
    with pytest.raises(InvalidInput, match="has the empty uri .*give an address, or leave it out"):
        await message_artifacts.store(conn, ID, MessageArtifactKind.FILE_META, uri=uri)


async def test_tokens_are_whole(conn: Connection) -> None:
    from decimal import Decimal

    half = Decimal("1.5")
    with pytest.raises(InvalidInput, match="1.5 is not a number of tokens .give a whole number"):
        await budgets.set_budget(conn, "b", half, unit="tokens", period="day")
    await budgets.set_budget(conn, "b", 1, unit="tokens", period="day")
    with pytest.raises(InvalidInput, match="1.5 is not a number of tokens"):
        await budgets.raise_to(conn, "b", half)
