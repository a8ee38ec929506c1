"""Threads: one per chat, its status, its lists, what its messages tell of it, and its erasing."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest

from db.conversations import message_artifacts, messages, threads
from db.conversations.message_artifacts import MessageArtifactKind
from db.conversations.messages import MessageRole
from db.conversations.threads import Thread, ThreadStatus
from db.errors import Conflict, Contended, InvalidInput, NotFound
from db.migrate import migrate
from db.pool import Connection, Database, execute, fetch_val
from tests.db.racing import until_blocked

Move = Callable[[Connection, UUID], Awaitable[Thread]]


async def test_a_thread_is_made_once_and_found_again(conn: Connection) -> None:
    user, agent = uuid4(), uuid4()
    made = await threads.get_or_create(
        conn,
        "telegram",
        "42",
        user_id=user,
        agent_id=agent,
        title="Hello",
        metadata={"language": "de"},
    )
    assert (made.platform, made.chat_id, made.title) == ("telegram", "42", "Hello")
    assert (made.user_id, made.agent_id, made.team_id) == (user, agent, None)
    assert (made.status, made.archived_at, made.metadata) == ("active", None, {"language": "de"})
    assert made.created_at.tzinfo is not None

    assert await threads.get_or_create(conn, "telegram", "42", title="Other") == made
    assert await threads.get_by_chat_id(conn, "telegram", "42") == made
    assert await threads.get_by_id(conn, made.id) == made


async def test_each_platform_chat_and_team_has_its_own_thread(conn: Connection) -> None:
    team = uuid4()
    made = [
        await threads.get_or_create(conn, "telegram", "42"),
        await threads.get_or_create(conn, "slack", "42"),
        await threads.get_or_create(conn, "telegram", "43"),
        await threads.get_or_create(conn, "telegram", "42", team_id=team),
    ]
    assert len({thread.id for thread in made}) == 4
    assert await threads.get_by_chat_id(conn, "telegram", "42", team) == made[3]


async def test_an_unknown_thread_is_not_found(conn: Connection) -> None:
    with pytest.raises(NotFound, match="there is no thread telegram 42"):
        await threads.get_by_chat_id(conn, "telegram", "42")
    for call in (
        threads.get_by_id,
        threads.update,
        threads.archive,
        threads.unarchive,
        threads.close,
        threads.reopen,
        threads.delete,
        threads.undelete,
        threads.activity,
        threads.erase,
    ):
        unknown = uuid4()
        with pytest.raises(NotFound, match=f"there is no thread {unknown}"):
            await call(conn, unknown)


@pytest.mark.parametrize(("platform", "chat_id"), [("", "1"), ("a", " "), ("a", "b\0")])
async def test_a_chat_needs_its_names(conn: Connection, platform: str, chat_id: str) -> None:
    with pytest.raises(InvalidInput, match="is not a name"):
        await threads.get_or_create(conn, platform, chat_id)


@pytest.mark.both
async def test_who_creates_a_thread_at_the_same_time_gets_the_same(
    database: Database, conn: Connection
) -> None:
    found: list[Thread] = []

    async def second(other: Connection) -> None:
        found.append(await threads.get_or_create(other, "telegram", "42"))

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        found.append(await threads.get_or_create(conn, "telegram", "42"))
        tasks.start_soon(second, other)
        await until_blocked(database, other)
    assert found[0] == found[1]


@pytest.mark.both
async def test_a_thread_whose_maker_rolled_back_is_made_by_who_waited(
    database: Database, conn: Connection
) -> None:
    found: list[Thread] = []

    async def second(other: Connection) -> None:
        found.append(await threads.get_or_create(other, "telegram", "42"))

    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(force_rollback=True),
    ):
        await threads.get_or_create(conn, "telegram", "42")
        tasks.start_soon(second, other)
        await until_blocked(database, other)
    assert await threads.get_by_chat_id(conn, "telegram", "42") == found[0]


async def test_many_at_once_make_one_thread(database: Database) -> None:
    found: list[Thread] = []

    async def create() -> None:
        async with database.connection() as conn:
            found.append(await threads.get_or_create(conn, "telegram", "42"))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(create)
    assert len({thread.id for thread in found}) == 1


async def test_an_update_changes_what_is_given_and_keeps_the_rest(conn: Connection) -> None:
    user = uuid4()
    made = await threads.get_or_create(
        conn, "telegram", "42", title="Hello", user_id=user, metadata={"a": 1}
    )
    changed = await threads.update(conn, made.id, title="Bye", agent_id=user)
    assert (changed.title, changed.agent_id) == ("Bye", user)
    assert (changed.user_id, changed.metadata) == (user, {"a": 1})
    assert changed.updated_at > made.updated_at

    emptied = await threads.update(conn, made.id, title=None, user_id=None, metadata={})
    assert (emptied.title, emptied.user_id, emptied.metadata) == (None, None, {})
    assert emptied.agent_id == user
    same = await threads.update(conn, made.id)
    assert same.model_dump(exclude={"updated_at"}) == emptied.model_dump(exclude={"updated_at"})


async def test_archiving_keeps_its_time_and_unarchiving_forgets_it(conn: Connection) -> None:
    thread = await threads.get_or_create(conn, "telegram", "42")
    archived = await threads.archive(conn, thread.id)
    assert archived.status == ThreadStatus.ARCHIVED
    assert archived.archived_at is not None
    assert await threads.archive(conn, thread.id) == archived

    active = await threads.unarchive(conn, thread.id)
    assert (active.status, active.archived_at) == ("active", None)
    assert await threads.unarchive(conn, thread.id) == active


@pytest.mark.parametrize(
    ("move", "back"),
    [(threads.archive, threads.unarchive), (threads.unarchive, threads.archive)],
)
async def test_a_thread_that_is_moved_back_meanwhile_is_moved_again(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, move: Move, back: Move
) -> None:
    """The update met it as wished; before it was read, another call moved it back."""
    thread = await threads.get_or_create(conn, "telegram", "42")
    await threads.archive(conn, thread.id)
    wished = await move(conn, thread.id)
    read, times = threads.get_by_id, iter(range(3))

    async def read_late(conn: Connection, thread_id: UUID) -> Thread:
        if next(times) == 0:
            await back(conn, thread_id)
        return await read(conn, thread_id)

    monkeypatch.setattr(threads, "get_by_id", read_late)
    assert (await move(conn, thread.id)).status is wished.status


async def test_a_thread_that_is_moved_back_each_time_is_told_so(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = await threads.get_or_create(conn, "telegram", "42")
    await threads.archive(conn, thread.id)
    read = threads.get_by_id

    async def read_late(conn: Connection, thread_id: UUID) -> Thread:
        await threads.unarchive(conn, thread_id)
        seen = await read(conn, thread_id)
        await execute(
            conn, "update jobsworth.chat_threads set status = 'archived', archived_at = now()"
        )
        return seen

    monkeypatch.setattr(threads, "get_by_id", read_late)
    with pytest.raises(Contended, match="is moved again and again"):
        await threads.archive(conn, thread.id)


async def test_a_closed_thread_can_be_archived_but_not_unarchived(conn: Connection) -> None:
    thread = await threads.get_or_create(conn, "telegram", "42")
    assert (await threads.close(conn, thread.id)).status == "closed"
    with pytest.raises(Conflict, match=f"thread {thread.id} is closed: it cannot become active"):
        await threads.unarchive(conn, thread.id)
    assert (await threads.archive(conn, thread.id)).status == "archived"
    closed = await threads.close(conn, thread.id)
    assert (closed.status, closed.archived_at) == ("closed", None)


async def test_a_deleted_thread_stays_deleted_but_is_still_there(conn: Connection) -> None:
    thread = await threads.get_or_create(conn, "telegram", "42")
    deleted = await threads.delete(conn, thread.id)
    assert deleted.status == "deleted"
    for call in (threads.archive, threads.unarchive, threads.close, threads.reopen):
        with pytest.raises(Conflict, match=f"thread {thread.id} is deleted: it cannot become"):
            await call(conn, thread.id)
    assert await threads.get_or_create(conn, "telegram", "42") == deleted


async def test_a_users_threads_are_listed_newest_first_and_counted(conn: Connection) -> None:
    user = uuid4()
    made = [await threads.get_or_create(conn, "telegram", str(n), user_id=user) for n in range(4)]
    await threads.get_or_create(conn, "telegram", "other", user_id=uuid4())
    await threads.archive(conn, made[0].id)
    await threads.delete(conn, made[1].id)

    first = await threads.list_by_user(conn, user, limit=2)
    rest = await threads.list_by_user(conn, user, before_id=first[-1].id)
    assert [thread.id for thread in [*first, *rest]] == [made[3].id, made[2].id, made[0].id]
    assert await threads.count_by_user(conn, user) == 3
    for status, expected in {"active": 2, "archived": 1, "deleted": 1, "closed": 0}.items():
        listed = await threads.list_by_user(conn, user, status=ThreadStatus(status))
        assert {thread.status for thread in listed} <= {status}
        assert len(listed) == expected
        assert await threads.count_by_user(conn, user, ThreadStatus(status)) == expected


@pytest.mark.parametrize("limit", [0, 1001])
async def test_a_page_has_a_bound(conn: Connection, limit: int) -> None:
    with pytest.raises(InvalidInput, match="is not 1 to 1,000"):
        await threads.list_by_user(conn, uuid4(), limit=limit)


async def test_activity_is_derived_from_the_messages(conn: Connection) -> None:
    thread = await threads.get_or_create(conn, "telegram", "42")
    other = await threads.get_or_create(conn, "telegram", "43")
    assert await threads.activity(conn, thread.id) == threads.Activity(
        messages=0, last_message_at=None
    )
    for _ in range(3):
        last = await messages.insert(conn, thread.id, MessageRole.USER, "hi")
        assert (await threads.activity(conn, thread.id)).last_message_at == last.created_at
    await messages.insert(conn, other.id, MessageRole.USER, "hi")
    assert (await threads.activity(conn, thread.id)).messages == 3


async def test_the_enum_says_the_same_as_the_database(conn: Connection) -> None:
    statuses = await fetch_val(conn, "select enum_range(null::jobsworth.thread_status)::text[]")
    assert statuses == list(ThreadStatus)


async def spoken(conn: Connection, chat_id: str) -> tuple[UUID, UUID]:
    thread = await threads.get_or_create(conn, "telegram", chat_id)
    message = await messages.insert(conn, thread.id, MessageRole.USER, "hi")
    await message_artifacts.store(conn, message.id, MessageArtifactKind.OCR_TEXT, uri="file:///a")
    return thread.id, message.id


async def rows(conn: Connection) -> tuple[int, int, int]:
    query = """
    select array[(select count(*) from jobsworth.chat_threads),
      (select count(*) from jobsworth.chat_messages),
      (select count(*) from jobsworth.message_artifacts)]
    """
    found: Any = await fetch_val(conn, query)
    return tuple(found)


@pytest.mark.both
async def test_erasing_a_thread_takes_its_messages_and_their_artifacts(conn: Connection) -> None:
    thread_id, _ = await spoken(conn, "42")
    await spoken(conn, "43")
    await threads.erase(conn, thread_id)

    assert await rows(conn) == (1, 1, 1)
    with pytest.raises(NotFound):
        await threads.get_by_id(conn, thread_id)


@pytest.mark.both
async def test_a_thread_with_messages_is_not_deleted_by_plain_sql(conn: Connection) -> None:
    thread_id, _ = await spoken(conn, "42")
    with pytest.raises(InvalidInput, match="chat_messages is append-only: delete is refused"):
        await execute(conn, "delete from jobsworth.chat_threads where id = %s", [thread_id])
    assert await rows(conn) == (1, 1, 1)


@pytest.mark.both
async def test_erasing_opens_no_door_for_the_rest_of_the_transaction(conn: Connection) -> None:
    thread_id, _ = await spoken(conn, "42")
    _, kept = await spoken(conn, "43")
    async with conn.transaction():
        await threads.erase(conn, thread_id)
        with pytest.raises(InvalidInput, match="append-only"):
            async with conn.transaction():
                await execute(conn, "delete from jobsworth.chat_messages where id = %s", [kept])
        with pytest.raises(NotFound):
            await threads.erase(conn, thread_id)
        with pytest.raises(InvalidInput, match="append-only"):
            async with conn.transaction():
                await execute(conn, "delete from jobsworth.chat_messages where id = %s", [kept])
    assert await rows(conn) == (1, 1, 1)


async def test_erasing_in_a_second_schema_uses_its_own_setting(
    database_url: str, conn: Connection
) -> None:

    migrate(database_url, "second")
    async with Database(database_url, schema="second") as database, database.connection() as other:
        thread_id, _ = await spoken(other, "42")
        await threads.erase(other, thread_id)
        assert await rows(other) == (0, 0, 0)
    _, kept = await spoken(conn, "42")
    await execute(conn, "select set_config('second.erase', 'on', false)")
    with pytest.raises(psycopg.errors.RestrictViolation):
        await conn.execute("delete from jobsworth.chat_messages where id = %s", [kept])
