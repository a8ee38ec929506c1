"""Chat threads: one for each conversation.

In: a platform and its chat id. Out: the thread of that chat (of that team), its status and title.
Its message count and the time of its last message are derived from the messages, so they cannot
drift.
"""

from enum import StrEnum
from typing import Any, LiteralString, TypedDict, TypeVar, Unpack
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit, check_options
from db.documents import to_payload, to_text
from db.errors import Conflict, Contended, InvalidInput, NotFound
from db.pool import execute, fetch_all, fetch_one, fetch_val
from db.transactions import transaction

LIMIT_MAX = 1_000
ROUNDS_MAX = 5

Row = TypeVar("Row")


class ThreadStatus(StrEnum):
    ACTIVE = "active"
    ARCHIVED = "archived"
    CLOSED = "closed"
    DELETED = "deleted"


class MessagePolicy(StrEnum):
    """What a new message means for the work on earlier ones: docs/messages.md."""

    QUEUE = "queue"
    MERGE = "merge"
    INTERRUPT = "interrupt"
    SUPERSEDE = "supersede"


class Thread(BaseModel):
    """A row of `chat_threads`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    user_id: UUID | None
    agent_id: UUID | None
    platform: str
    chat_id: str
    title: str | None
    status: ThreadStatus
    message_policy: MessagePolicy
    metadata: dict[str, Any]
    created_at: AwareDatetime
    updated_at: AwareDatetime
    archived_at: AwareDatetime | None


class Activity(BaseModel):
    """How many messages a thread has, and when the last one came; derived from the messages."""

    model_config = ConfigDict(frozen=True)

    messages: int
    last_message_at: AwareDatetime | None


class ThreadChanges(TypedDict, total=False):
    """What `update` can change; fields that are left out stay."""

    title: str | None
    user_id: UUID | None
    agent_id: UUID | None
    metadata: dict[str, Any]
    message_policy: MessagePolicy


THREAD_COLUMNS: LiteralString = """
  t.id, t.team_id, t.user_id, t.agent_id, t.platform, t.chat_id, t.title, t.status,
  t.message_policy, t.metadata, t.created_at, t.updated_at, t.archived_at
"""

INSERT_IF_NEW: LiteralString = (
    """
insert into jobsworth.chat_threads as t (
  team_id, user_id, agent_id, platform, chat_id, title, metadata)
values (%(team_id)s, %(user_id)s, %(agent_id)s, %(platform)s, %(chat_id)s, %(title)s,
  %(metadata)s::jsonb)
on conflict on constraint one_thread_per_chat do nothing
returning """
    + THREAD_COLUMNS
)


async def get_or_create(
    conn: AsyncConnection[Any],
    platform: str,
    chat_id: str,
    *,
    team_id: UUID | None = None,
    user_id: UUID | None = None,
    agent_id: UUID | None = None,
    title: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> Thread:
    """The thread of this chat; created with the other arguments if there is none.

    Concurrent calls for one chat get the same thread. An existing thread, whatever its status, is
    returned as it is.
    """
    values = {
        "team_id": team_id,
        "user_id": user_id,
        "agent_id": agent_id,
        "platform": _name("platform", platform),
        "chat_id": _name("chat_id", chat_id),
        "title": None if title is None else to_text(title),
        "metadata": to_payload(metadata or {}, "the metadata of a thread"),
    }
    # Read first: threads are found far more often than created, and a conflict is not free. Again,
    # because the thread that caused a conflict may be erased before it is read.
    for _ in range(ROUNDS_MAX):
        thread = await _find(conn, values) or await fetch_one(conn, INSERT_IF_NEW, values, Thread)
        if thread is not None:
            return thread
    raise Contended(
        f"thread {platform} {chat_id} is created and erased again and again", "try again"
    )


GET_BY_CHAT_ID: LiteralString = (
    "select "
    + THREAD_COLUMNS
    + """
from jobsworth.chat_threads t
where t.platform = %(platform)s and t.chat_id = %(chat_id)s
  and t.team_id is not distinct from %(team_id)s::uuid
"""
)


async def get_by_chat_id(
    conn: AsyncConnection[Any], platform: str, chat_id: str, team_id: UUID | None = None
) -> Thread:
    """The thread of this chat. Raises `NotFound`."""
    values = {"platform": platform, "chat_id": chat_id, "team_id": team_id}
    thread = await _find(conn, values)
    if thread is None:
        raise NotFound(f"there is no thread {platform} {chat_id}", "create it: get_or_create")
    return thread


async def _find(conn: AsyncConnection[Any], values: dict[str, Any]) -> Thread | None:
    return await fetch_one(conn, GET_BY_CHAT_ID, values, Thread)


GET_BY_ID: LiteralString = (
    "select "
    + THREAD_COLUMNS
    + """
from jobsworth.chat_threads t
where t.id = %(id)s
"""
)


async def get_by_id(conn: AsyncConnection[Any], thread_id: UUID) -> Thread:
    """One thread. Raises `NotFound`."""
    return _found(await fetch_one(conn, GET_BY_ID, {"id": thread_id}, Thread), thread_id)


UPDATE: LiteralString = (
    """
update jobsworth.chat_threads t
set title = case when new.has_title then %(title)s else t.title end,
  user_id = case when new.has_user_id then %(user_id)s::uuid else t.user_id end,
  agent_id = case when new.has_agent_id then %(agent_id)s::uuid else t.agent_id end,
  metadata = case when new.has_metadata then %(metadata)s::jsonb else t.metadata end,
  message_policy = coalesce(%(message_policy)s::jobsworth.message_policy, t.message_policy)
from (values (
    'title' = any(%(changed)s::text[]), 'user_id' = any(%(changed)s::text[]),
    'agent_id' = any(%(changed)s::text[]), 'metadata' = any(%(changed)s::text[])))
  as new (has_title, has_user_id, has_agent_id, has_metadata)
where t.id = %(id)s
returning """
    + THREAD_COLUMNS
)


async def update(
    conn: AsyncConnection[Any], thread_id: UUID, **changes: Unpack[ThreadChanges]
) -> Thread:
    """Change the given fields; the database keeps `updated_at`. Raises `NotFound`."""
    check_options("update", changes, ThreadChanges.__annotations__)
    title = changes.get("title")
    values = {
        "id": thread_id,
        "changed": list(changes),
        "title": None if title is None else to_text(title),
        "user_id": changes.get("user_id"),
        "agent_id": changes.get("agent_id"),
        "metadata": to_payload(changes.get("metadata", {}), "the metadata of a thread"),
        "message_policy": policy_of(changes.get("message_policy")),
    }
    return _found(await fetch_one(conn, UPDATE, values, Thread), thread_id)


MOVE: LiteralString = (
    """
update jobsworth.chat_threads t
set status = %(status)s::jobsworth.thread_status,
  archived_at = case when %(status)s::jobsworth.thread_status = 'archived' then now() end
where t.id = %(id)s and t.status = any(%(allowed)s::jobsworth.thread_status[])
returning """
    + THREAD_COLUMNS
)


async def archive(conn: AsyncConnection[Any], thread_id: UUID) -> Thread:
    """Archive an active or closed thread; an archived one keeps its `archived_at`.

    Raises `NotFound`; `Conflict` for a deleted thread.
    """
    return await _move(conn, thread_id, ThreadStatus.ARCHIVED, ["active", "closed"])


async def unarchive(conn: AsyncConnection[Any], thread_id: UUID) -> Thread:
    """Make an archived thread active again; an active one stays so.

    Raises `NotFound`; `Conflict` for a closed or deleted thread.
    """
    return await _move(conn, thread_id, ThreadStatus.ACTIVE, ["archived"])


async def close(conn: AsyncConnection[Any], thread_id: UUID) -> Thread:
    """End the conversation; nothing is removed. Raises `NotFound`; `Conflict` if it is deleted."""
    return await _move(conn, thread_id, ThreadStatus.CLOSED, ["active", "archived"])


async def reopen(conn: AsyncConnection[Any], thread_id: UUID) -> Thread:
    """Make a closed thread active again; an active one stays so.

    Raises `NotFound`; `Conflict` for an archived or deleted thread.
    """
    return await _move(conn, thread_id, ThreadStatus.ACTIVE, ["closed"])


async def delete(conn: AsyncConnection[Any], thread_id: UUID) -> Thread:
    """Mark the thread as deleted: it takes no more messages. Its rows remain until `erase`.

    Raises `NotFound`.
    """
    return await _move(conn, thread_id, ThreadStatus.DELETED, ["active", "archived", "closed"])


async def undelete(conn: AsyncConnection[Any], thread_id: UUID) -> Thread:
    """Make a deleted thread active again, whatever it was before; an active one stays so.

    Raises `NotFound`; `Conflict` for an archived or closed thread.
    """
    return await _move(conn, thread_id, ThreadStatus.ACTIVE, ["deleted"])


async def _move(
    conn: AsyncConnection[Any], thread_id: UUID, status: ThreadStatus, allowed: list[str]
) -> Thread:
    values = {"id": thread_id, "status": status, "allowed": allowed}
    # Another call may move the thread between the update, which finds nothing to do, and the read.
    for _ in range(ROUNDS_MAX):
        moved = await fetch_one(conn, MOVE, values, Thread)
        thread = moved or await get_by_id(conn, thread_id)
        if thread.status is status:
            return thread
        if thread.status not in allowed:
            raise Conflict(
                f"thread {thread_id} is {thread.status}: it cannot become {status}",
                _way(thread, status),
            )
    raise Contended(f"thread {thread_id} is moved again and again by another caller", "try again")


def _way(thread: Thread, status: ThreadStatus) -> str:
    """How a thread of another status gets there."""
    back = {"archived": "unarchive", "closed": "reopen", "deleted": "undelete"}.get(thread.status)
    other = "" if status is ThreadStatus.ACTIVE else f", and make it {status} then"
    return f"make it active first: jobsworth thread {back} {thread.id}{other}"


LIST_BY_USER: LiteralString = (
    "select "
    + THREAD_COLUMNS
    + """
from jobsworth.chat_threads t
where t.user_id = %(user_id)s
  and case when %(status)s::jobsworth.thread_status is null then t.status <> 'deleted'
    else t.status = %(status)s::jobsworth.thread_status end
  and (%(before_id)s::uuid is null or t.id < %(before_id)s::uuid)
order by t.id desc
limit %(limit)s
"""
)


async def list_by_user(
    conn: AsyncConnection[Any],
    user_id: UUID,
    *,
    status: ThreadStatus | None = None,
    limit: int = 100,
    before_id: UUID | None = None,
) -> list[Thread]:
    """A user's threads, newest first, at most `limit` (1 to 1,000); without `status`, all but the
    deleted ones. For the next page, pass the last id of this one as `before_id`.
    """
    check_limit(limit, LIMIT_MAX)
    values = {"user_id": user_id, "status": status, "limit": limit, "before_id": before_id}
    return await fetch_all(conn, LIST_BY_USER, values, Thread)


COUNT_BY_USER: LiteralString = """
select count(*)
from jobsworth.chat_threads t
where t.user_id = %(user_id)s
  and case when %(status)s::jobsworth.thread_status is null then t.status <> 'deleted'
    else t.status = %(status)s::jobsworth.thread_status end
"""


async def count_by_user(
    conn: AsyncConnection[Any], user_id: UUID, status: ThreadStatus | None = None
) -> int:
    """How many threads a user has; without `status`, all but the deleted ones."""
    return await fetch_val(conn, COUNT_BY_USER, {"user_id": user_id, "status": status})


ACTIVITY: LiteralString = """
select
  (select count(*) from jobsworth.chat_messages c where c.thread_id = t.id) as messages,
  (select m.created_at from jobsworth.chat_messages m
   where m.thread_id = t.id
   order by m.id desc
   limit 1) as last_message_at
from jobsworth.chat_threads t
where t.id = %(id)s
"""


async def activity(conn: AsyncConnection[Any], thread_id: UUID) -> Activity:
    """How many messages the thread has, and when the last one came. Raises `NotFound`."""
    return _found(await fetch_one(conn, ACTIVITY, {"id": thread_id}, Activity), thread_id)


SET_ERASE: LiteralString = "select set_config('jobsworth.erase', %(erase)s, true)"

ERASE: LiteralString = "delete from jobsworth.chat_threads t where t.id = %(id)s"


async def erase(conn: AsyncConnection[Any], thread_id: UUID) -> None:
    """Remove a thread for good, with its messages and their artifacts: the only way to delete
    messages. Jobs, approvals, memories and the books keep their rows with its id.

    Raises `NotFound`.
    """
    async with transaction(conn):
        await execute(conn, SET_ERASE, {"erase": str(thread_id)})
        erased = await execute(conn, ERASE, {"id": thread_id})
        await execute(conn, SET_ERASE, {"erase": ""})
        if not erased:
            raise _not_found(thread_id)


def policy_of(word: str | None) -> MessagePolicy | None:
    """The policy of this name. Raises `InvalidInput`."""
    try:
        return None if word is None else MessagePolicy(word)
    except ValueError:
        raise InvalidInput(
            f"the policy {word!r} is not one of {', '.join(MessagePolicy)}",
            "leave it out for that of the thread",
        ) from None


def _found(row: Row | None, thread_id: UUID) -> Row:
    if row is None:
        raise _not_found(thread_id)
    return row


def _not_found(thread_id: UUID) -> NotFound:
    return NotFound(f"there is no thread {thread_id}", "create it: get_or_create")


def _name(thing: str, value: str) -> str:
    if not value.strip() or "\0" in value:
        raise InvalidInput(f"{thing} {value!r} is not a name", "pass the platform's own name")
    return value
