"""The list of threads: in the order of their last messages, with counts, at a bounded cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString
from uuid import uuid4

import pytest

from db.conversations import messages, recent_threads, threads
from db.conversations.messages import FETCH_RECENT, MessageRole
from db.conversations.recent_threads import COUNTED_MAX, list_recent
from db.errors import Conflict, InvalidInput, Refused
from db.pool import Connection, execute, fetch_all
from tests.db.rows import past_the_guards

LONG = 20_000
TALK: LiteralString = """
insert into jobsworth.chat_messages (thread_id, role, text)
select %s, (enum_range(null::jobsworth.message_role))[1 + n %% 4], 'hi'
from generate_series(1, %s) n
"""


async def test_threads_are_listed_by_their_last_message_and_paged(conn: Connection) -> None:
    user = uuid4()
    made = [await threads.get_or_create(conn, "x", str(n), user_id=user) for n in range(4)]
    for n, role in ((2, "user"), (0, "user"), (0, "assistant"), (1, "tool")):
        await messages.insert(conn, made[n].id, MessageRole(role), "hi")
    await threads.delete(conn, made[2].id)

    found = await list_recent(conn, user_id=user)
    assert [each.id for each in found] == [made[1].id, made[0].id, made[3].id]
    assert [each.messages for each in found] == [1, 2, 0]
    assert found[1].by_role == {"user": 1, "assistant": 1}
    assert (found[2].by_role, found[2].last_message_at) == ({}, None)
    assert found[0].last_message_at == (await threads.activity(conn, made[1].id)).last_message_at

    first = await list_recent(conn, platform="x", limit=1)
    rest = await list_recent(conn, platform="x", before_id=first[0].last_id)
    assert [*first, *rest] == found
    assert [one.id for one in await list_recent(conn, status=threads.ThreadStatus.DELETED)] == [
        made[2].id
    ]
    assert await list_recent(conn, agent_id=uuid4()) == []
    with pytest.raises(InvalidInput, match="is not 1 to 1,000"):
        await list_recent(conn, limit=0)


async def test_there_is_a_way_back_from_closed_and_from_deleted(conn: Connection) -> None:
    thread = await threads.get_or_create(conn, "x", "1")
    await threads.close(conn, thread.id)
    with pytest.raises(Conflict, match="is closed: it cannot become active .*thread reopen"):
        await threads.undelete(conn, thread.id)
    assert (await threads.reopen(conn, thread.id)).status == "active"
    await threads.delete(conn, thread.id)
    with pytest.raises(Conflict, match=r"deleted: .*undelete .*, and make it closed then"):
        await threads.close(conn, thread.id)
    assert (await threads.undelete(conn, thread.id)).status == "active"


async def test_a_deleted_thread_takes_no_messages_from_anybody(conn: Connection) -> None:
    thread = await threads.get_or_create(conn, "x", "1")
    stored = await messages.receive(conn, thread.id, "hi", "answer", platform_message_id="p1")
    await threads.delete(conn, thread.id)
    refused = f"thread {thread.id} is deleted: it takes no messages .*thread undelete {thread.id}"
    with pytest.raises(Conflict, match=refused):
        await messages.receive(conn, thread.id, "again", "answer", policy="interrupt")
    with pytest.raises(Conflict, match=refused):
        await messages.insert(conn, thread.id, MessageRole.TOOL, "again")
    by_sql = "insert into jobsworth.chat_messages (thread_id, role, text) values (%s, 'user', 'x')"
    with pytest.raises(Conflict, match=refused):
        await execute(conn, by_sql, [thread.id])
    # Delivered twice, it is known already; and nothing was stopped for what was refused.
    again = await messages.receive(conn, thread.id, "hi", "answer", platform_message_id="p1")
    assert (again.duplicate, again.message) == (True, stored.message)
    assert again.job is not None
    assert again.job.status == "queued"
    await threads.undelete(conn, thread.id)
    await execute(conn, by_sql, [thread.id])
    assert (await threads.activity(conn, thread.id)).messages == 2


async def test_a_message_keeps_the_callers_own_metadata(conn: Connection) -> None:
    thread = await threads.get_or_create(conn, "x", "1")
    made = await messages.receive(conn, thread.id, "hi", "answer", metadata={"lang": "de"})
    assert made.message.metadata == {"lang": "de"}
    assert (await messages.insert(conn, thread.id, MessageRole.USER, "hi")).metadata == {}
    with pytest.raises(Refused, match="metadata_is_an_object"):
        await execute(
            conn,
            "insert into jobsworth.chat_messages (thread_id, role, text, metadata)"
            " values (%s, 'user', 'x', '[1]')",
            [thread.id],
        )
    wrong: Any = [1]
    with pytest.raises(InvalidInput, match="metadata of a message"):
        await messages.insert(conn, thread.id, MessageRole.USER, "hi", metadata=wrong)


async def test_messages_are_found_by_where_they_come_from(conn: Connection) -> None:
    team, job = uuid4(), uuid4()
    thread = await threads.get_or_create(conn, "x", "1", team_id=team)
    told = await messages.insert(conn, thread.id, MessageRole.USER, "a", platform_message_id="p")
    made = await messages.insert(
        conn, thread.id, MessageRole.ASSISTANT, "b", job_id=job, request_id="r-1"
    )
    assert await messages.get_by_source(conn, "x", "1", "p", team) == told
    assert await messages.get_by_source(conn, "x", "1", "p") is None
    assert await messages.list_of_job(conn, job) == [made]
    assert await messages.list_of_request(conn, "r-1") == [made]
    assert await messages.list_of_request(conn, "r-2") == []


async def test_no_thread_is_too_long_to_be_listed_or_read(conn: Connection) -> None:
    thread = await threads.get_or_create(conn, "x", "long")
    async with past_the_guards(conn):
        await execute(conn, TALK, [thread.id, LONG])
    [listed] = await list_recent(conn)
    assert listed.messages == recent_threads.COUNTED_MAX
    assert sum(listed.by_role.values()) == COUNTED_MAX
    assert len(listed.by_role) == 4
    assert sum((await messages.count_by_role(conn, thread.id)).values()) == LONG
    assert len(await messages.fetch_recent(conn, thread.id, 20)) == 20

    values = {"thread_id": thread.id, "limit": 20}
    everything = "select * from jobsworth.recent_threads(100)"
    assert await blocks(conn, everything, {}) <= 1_100  # before a vacuum: each message counted
    # Each of the twenty is asked for in the index of what was retracted.
    assert await blocks(conn, FETCH_RECENT, values) <= 60
    await conn.execute("vacuum jobsworth.chat_messages")
    assert await blocks(conn, everything, {}) <= 50
    assert await blocks(conn, messages.COUNT_BY_ROLE, values) <= LONG / 50


async def blocks(conn: Connection, statement: Any, values: Mapping[str, object]) -> int:
    """How many blocks a statement reads, planned before, and without statistics."""
    explain = "explain (analyze, buffers, format json) " + statement
    await fetch_all(conn, explain, values)
    rows = await fetch_all(conn, explain, values)
    plan = rows[0]["QUERY PLAN"][0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
