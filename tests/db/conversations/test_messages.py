"""Messages: kept as they were said, once, together with their job; found again cheaply."""

from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from db.conversations import messages, threads
from db.conversations.messages import Message, MessageRole, Received
from db.conversations.threads import Thread
from db.errors import InvalidInput, NotFound
from db.pool import Connection, Database, execute, fetch_val
from db.queue import jobs
from tests.db.racing import until_blocked


@pytest.fixture
async def thread(conn: Connection) -> Thread:
    return await threads.get_or_create(conn, "telegram", "42", team_id=uuid4())


async def count(conn: Connection) -> tuple[int, int]:
    return (
        await fetch_val(conn, "select count(*) from jobsworth.chat_messages"),
        await fetch_val(conn, "select count(*) from jobsworth.reactive_jobs"),
    )


async def test_a_message_is_kept_with_all_that_is_known_of_it(
    conn: Connection, thread: Thread
) -> None:
    known: dict[str, Any] = {
        "author_user_id": uuid4(),
        "author_agent_id": uuid4(),
        "recipient_agent_id": uuid4(),
        "request_id": "request 1",
        "platform_message_id": "p1",
        "raw_payload": {"update": [1, "two"]},
        "model": "some-model",
        "input_tokens": 10,
        "output_tokens": 20,
        "latency_ms": 300,
        "job_id": uuid4(),
    }
    message = await messages.insert(conn, thread.id, MessageRole.ASSISTANT, "Hello", **known)

    assert {name: getattr(message, name) for name in known} == known
    assert (message.role, message.text) == ("assistant", "Hello")
    assert (message.thread_id, message.team_id) == (thread.id, thread.team_id)
    assert message.created_at.tzinfo is not None
    assert await messages.get_by_id(conn, message.id) == message


async def test_a_message_without_its_thread_is_not_found_and_leaves_the_transaction_intact(
    conn: Connection, thread: Thread
) -> None:
    unknown = uuid4()
    async with conn.transaction():
        with pytest.raises(NotFound, match=f"there is no thread {unknown}"):
            await messages.insert(conn, unknown, MessageRole.USER, "hi", platform_message_id="p")
        await messages.insert(conn, thread.id, MessageRole.USER, "hi")
    assert await count(conn) == (1, 0)


async def test_an_unknown_message_is_not_found(conn: Connection, thread: Thread) -> None:
    unknown = uuid4()
    with pytest.raises(NotFound, match=f"there is no message {unknown}"):
        await messages.get_by_id(conn, unknown)
    assert await messages.get_by_platform_id(conn, thread.id, "p1") is None


async def test_a_nul_in_a_message_becomes_visible(conn: Connection, thread: Thread) -> None:
    message = await messages.insert(
        conn, thread.id, MessageRole.USER, "a\0b", raw_payload={"text": "a\0b"}
    )
    assert message.text == "a␀b"
    assert message.raw_payload == {"text": "a␀b"}


async def test_a_redelivered_message_is_the_stored_one(conn: Connection, thread: Thread) -> None:
    first = await messages.insert(conn, thread.id, MessageRole.USER, "hi", platform_message_id="p1")
    again = await messages.insert(
        conn, thread.id, MessageRole.USER, "hi, again", platform_message_id="p1"
    )
    assert again == first
    assert await messages.get_by_platform_id(conn, thread.id, "p1") == first
    assert await count(conn) == (1, 0)


async def test_each_thread_has_its_own_platform_ids(conn: Connection, thread: Thread) -> None:
    other = await threads.get_or_create(conn, "telegram", "43")
    for thread_id in (thread.id, other.id):
        await messages.insert(conn, thread_id, MessageRole.USER, "hi", platform_message_id="p1")
    assert await count(conn) == (2, 0)


@pytest.mark.both
@pytest.mark.parametrize(
    "statement",
    [
        "update jobsworth.chat_messages set text = 'changed'",
        "update jobsworth.chat_messages set created_at = now()",
        "delete from jobsworth.chat_messages",
    ],
)
async def test_a_message_cannot_be_changed_or_deleted(
    conn: Connection, thread: Thread, statement: Any
) -> None:
    message = await messages.insert(conn, thread.id, MessageRole.USER, "hi")
    with pytest.raises(InvalidInput, match="chat_messages is append-only") as caught:
        await execute(conn, statement)
    assert "jobsworth.erase = 'ID'; here it is compared with thread_id" in caught.value.remedy
    assert await messages.get_by_id(conn, message.id) == message


async def test_the_last_messages_come_oldest_first(conn: Connection, thread: Thread) -> None:
    other = await threads.get_or_create(conn, "telegram", "43")
    said = [
        await messages.insert(conn, thread.id, MessageRole.USER, str(number)) for number in range(5)
    ]
    await messages.insert(conn, other.id, MessageRole.USER, "elsewhere")

    assert await messages.fetch_recent(conn, thread.id, 3) == said[2:]
    assert await messages.fetch_recent(conn, thread.id) == said
    assert await messages.fetch_recent(conn, uuid4()) == []


@pytest.mark.parametrize("limit", [0, 10_001])
async def test_the_last_messages_have_a_bound(conn: Connection, thread: Thread, limit: int) -> None:
    with pytest.raises(InvalidInput, match="is not 1 to 10,000"):
        await messages.fetch_recent(conn, thread.id, limit)


@pytest.mark.both
async def test_the_last_messages_cost_the_same_at_any_length(
    conn: Connection, thread: Thread
) -> None:
    await execute(
        conn,
        """
        insert into jobsworth.chat_messages (thread_id, role, text)
        select %s, 'user', repeat('text ', 20) from generate_series(1, 50000)
        """,
        [thread.id],
    )
    explain = "explain (analyze, buffers, format json)" + messages.FETCH_RECENT
    values = {"thread_id": thread.id, "limit": 20}
    await fetch_val(conn, explain, values)  # which plans what the function runs
    found = await fetch_val(conn, explain, values)
    plan = found[0]["Plan"]
    assert plan["Actual Rows"] == 20
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 50


async def test_messages_are_counted_by_role(conn: Connection, thread: Thread) -> None:
    for role in (MessageRole.USER, MessageRole.USER, MessageRole.TOOL):
        await messages.insert(conn, thread.id, role, "hi")
    assert await messages.count_by_role(conn, thread.id) == {
        MessageRole.USER: 2,
        MessageRole.ASSISTANT: 0,
        MessageRole.SYSTEM: 0,
        MessageRole.TOOL: 1,
    }


async def test_the_enum_says_the_same_as_the_database(conn: Connection) -> None:
    roles = await fetch_val(conn, "select enum_range(null::jobsworth.message_role)::text[]")
    assert roles == list(MessageRole)


@pytest.mark.both
async def test_a_received_message_and_its_job_point_at_each_other(
    conn: Connection, thread: Thread
) -> None:
    user = uuid4()
    received = await messages.receive(
        conn,
        thread.id,
        "hi",
        "classify",
        {"n": 1},
        platform_message_id="p1",
        author_user_id=user,
        request_id="r1",
        raw_payload={"raw": True},
        priority=1,
    )
    message, job = received.message, received.job
    assert not received.duplicate
    assert (message.role, message.text, message.author_user_id) == ("user", "hi", user)
    assert (message.request_id, message.raw_payload) == ("r1", {"raw": True})
    assert job is not None
    assert (job.mode, job.payload, job.priority) == ("classify", {"n": 1}, 1)
    assert (job.trigger_message_id, job.thread_id) == (message.id, thread.id)
    assert (job.team_id, job.lane) == (thread.team_id, str(thread.id))
    assert job.status == "queued"


async def test_the_job_of_a_second_message_waits_in_the_threads_lane(
    conn: Connection, thread: Thread
) -> None:
    await messages.receive(conn, thread.id, "first", "classify")
    second = await messages.receive(conn, thread.id, "second", "classify")
    assert second.job is not None
    assert (second.job.status, second.job.waiting_for) == ("waiting", "lane")


@pytest.mark.both
async def test_a_redelivered_message_brings_nothing_new(conn: Connection, thread: Thread) -> None:
    first = await messages.receive(conn, thread.id, "hi", "classify", platform_message_id="p1")
    again = await messages.receive(conn, thread.id, "hi", "classify", platform_message_id="p1")
    assert again.duplicate
    assert (again.message, again.job) == (first.message, first.job)
    assert await count(conn) == (1, 1)


async def test_the_job_of_a_message_is_the_first_one_not_a_follow_up(
    conn: Connection, thread: Thread
) -> None:
    first = await messages.receive(conn, thread.id, "hi", "classify", platform_message_id="p1")
    assert first.job is not None
    # An id from before the job's own: a clock of another host may be late.
    follow_up = await jobs.enqueue(
        conn, "answer", trigger_message_id=first.message.id, id=UUID(int=7 << 76 | 2 << 62)
    )
    await execute(
        conn,
        "update jobsworth.reactive_jobs set parent_id = %s where id = %s",
        [first.job.id, follow_up.job_id],
    )
    again = await messages.receive(conn, thread.id, "hi", "classify", platform_message_id="p1")
    assert again.job == first.job


async def test_a_redelivered_message_that_was_stored_without_a_job_has_none(
    conn: Connection, thread: Thread
) -> None:
    await messages.insert(conn, thread.id, MessageRole.USER, "hi", platform_message_id="p1")
    received = await messages.receive(conn, thread.id, "hi", "classify", platform_message_id="p1")
    assert (received.duplicate, received.job) == (True, None)


@pytest.mark.both
async def test_two_deliveries_at_once_make_one_message_and_one_job(
    database: Database, conn: Connection, thread: Thread
) -> None:
    results: list[Received] = []

    async def deliver(on: Connection) -> None:
        results.append(
            await messages.receive(on, thread.id, "hi", "classify", platform_message_id="p1")
        )

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        await deliver(conn)
        tasks.start_soon(deliver, other)
        await until_blocked(database, other)
    assert [received.duplicate for received in results] == [False, True]
    assert results[0].message == results[1].message
    assert results[0].job == results[1].job
    assert await count(conn) == (1, 1)


async def test_a_job_that_makes_no_sense_leaves_no_message(
    conn: Connection, thread: Thread
) -> None:
    with pytest.raises(InvalidInput, match="priority 9"):
        await messages.receive(conn, thread.id, "hi", "classify", priority=9)
    with pytest.raises(InvalidInput, match="NUL"):
        await messages.receive(conn, thread.id, "hi", "classify", {"text": "\0"})
    assert await count(conn) == (0, 0)


async def test_a_message_for_no_thread_leaves_no_job(conn: Connection) -> None:
    with pytest.raises(NotFound, match="there is no thread"):
        await messages.receive(conn, uuid4(), "hi", "classify")
    assert await count(conn) == (0, 0)


async def test_a_rolled_back_message_takes_its_job_along(conn: Connection, thread: Thread) -> None:
    async with conn.transaction(force_rollback=True):
        await messages.receive(conn, thread.id, "hi", "classify")
        assert await count(conn) == (1, 1)
    assert await count(conn) == (0, 0)


async def test_a_row_has_no_column_unknown_to_the_model_but_the_effect_key(
    conn: Connection,
) -> None:
    columns = await fetch_val(
        conn,
        """
        select array_agg(a.attname::text) from pg_attribute a
        where a.attrelid = 'jobsworth.chat_messages'::regclass and a.attnum > 0
        """,
    )
    assert set(columns) - {"effect_key"} == set(Message.model_fields)
