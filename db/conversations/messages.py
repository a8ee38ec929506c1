"""Chat messages: written once, never changed.

In: a thread, a role and a text. Out: a row that no update and no delete can change. A message that
a platform delivers twice is stored once. `receive` writes a message and the job that handles it in
one commit, so neither exists without the other. By the thread's policy, work on earlier messages
makes way for the message, or a waiting job takes it too.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, LiteralString, TypedDict, Unpack
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit, check_options
from db.conversations.threads import MessagePolicy, policy_of
from db.conversations.threads import get_by_id as get_thread
from db.documents import to_document, to_metadata, to_text
from db.errors import Conflict, NotFound
from db.pool import Database, fetch_all, fetch_one, fetch_val
from db.queue import jobs
from db.safe_write import write_safely
from db.transactions import transaction

LIMIT_MAX = 10_000


class MessageRole(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


class Message(BaseModel):
    """A row of `chat_messages`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    thread_id: UUID
    role: MessageRole
    text: str
    author_user_id: UUID | None
    author_agent_id: UUID | None
    recipient_agent_id: UUID | None
    request_id: str | None
    platform_message_id: str | None
    raw_payload: Any
    metadata: dict[str, Any]
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    latency_ms: int | None
    job_id: UUID | None
    merged_into: UUID | None
    created_at: AwareDatetime


class Received(BaseModel):
    """A message and its job; `duplicate` if both existed already.

    `job` is None for a message that was stored without one. A message that was merged
    (`message.merged_into`) has the job of that message.
    """

    model_config = ConfigDict(frozen=True)

    message: Message
    job: jobs.Job | None
    duplicate: bool


class MessageOptions(TypedDict, total=False):
    """Where a message comes from; for a model's message, also its model, tokens and latency."""

    author_user_id: UUID | None
    author_agent_id: UUID | None
    recipient_agent_id: UUID | None
    request_id: str | None
    platform_message_id: str | None
    raw_payload: Any
    metadata: Mapping[str, Any] | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    latency_ms: int | None
    job_id: UUID | None


async def receive(
    conn: AsyncConnection[Any] | Database,
    thread_id: UUID,
    text: str,
    mode: str,
    payload: Mapping[str, Any] | None = None,
    *,
    platform_message_id: str | None = None,
    author_user_id: UUID | None = None,
    request_id: str | None = None,
    raw_payload: Any = None,
    metadata: Mapping[str, Any] | None = None,
    policy: MessagePolicy | str | None = None,
    **options: Unpack[jobs.JobOptions],
) -> Received:
    """Store a user's message and enqueue the job that handles it, in one commit.

    The message is the job's trigger; the job belongs to the thread and its team, and to the
    thread's lane. `db.queue.jobs.NewJob` explains its options. `policy`, or else that of the
    thread, says what becomes of the work on earlier messages (docs/messages.md); a job that takes
    this message too keeps its own payload and options. If the thread has the `platform_message_id`
    already, nothing is written, and the stored message is returned with its
    job. With a `Database` in place of the connection it is committed on return; a connection that
    is lost meanwhile is replaced if there is a `platform_message_id`. Raises `NotFound` if there is
    no such thread; `Conflict` if it is deleted.
    """
    check_options("receive", options, jobs.JobOptions.__annotations__)
    chosen = policy_of(policy)
    origin: MessageOptions = {
        "platform_message_id": platform_message_id,
        "author_user_id": author_user_id,
        "request_id": request_id,
        "raw_payload": raw_payload,
        "metadata": metadata,
    }

    async def write(conn: AsyncConnection[Any]) -> Received:
        async with transaction(conn):
            message, duplicate = await _store(
                conn, thread_id, MessageRole.USER, text, origin, mode, chosen
            )
            if duplicate or message.merged_into is not None:
                job = await _job_of(conn, message.merged_into or message.id)
            else:
                job = await _enqueue(conn, message, mode, payload, options)
        return Received(message=message, job=job, duplicate=duplicate)

    return await write_safely(conn, write, once=platform_message_id is None)


async def insert(
    conn: AsyncConnection[Any] | Database,
    thread_id: UUID,
    role: MessageRole,
    text: str,
    **options: Unpack[MessageOptions],
) -> Message:
    """Store a message; if the thread has its `platform_message_id` already, return the stored one.

    With a `Database` in place of the connection it is committed on return; a connection that is
    lost meanwhile is replaced if there is a `platform_message_id`. Raises `NotFound` if there is no
    such thread; `Conflict` if it is deleted.
    """
    check_options("insert", options, MessageOptions.__annotations__)

    async def write(conn: AsyncConnection[Any]) -> Message:
        async with transaction(conn):
            message, _ = await _store(
                conn, thread_id, role, text, options, None, MessagePolicy.QUEUE
            )
        return message

    return await write_safely(conn, write, once=options.get("platform_message_id") is None)


MESSAGE_COLUMNS: LiteralString = """
  m.id, m.team_id, m.thread_id, m.role, m.text, m.author_user_id, m.author_agent_id,
  m.recipient_agent_id, m.request_id, m.platform_message_id, m.raw_payload,
  coalesce(m.metadata, '{}') as metadata, m.model, m.input_tokens, m.output_tokens, m.latency_ms,
  m.job_id, m.merged_into, m.created_at
"""

GET_BY_ID: LiteralString = (
    "select "
    + MESSAGE_COLUMNS
    + """
from jobsworth.chat_messages m
where m.id = %(id)s
"""
)


async def get_by_id(conn: AsyncConnection[Any], message_id: UUID) -> Message:
    """One message. Raises `NotFound`."""
    message = await fetch_one(conn, GET_BY_ID, {"id": message_id}, Message)
    if message is None:
        raise NotFound(
            f"there is no message {message_id}", "list the messages of a thread: fetch_recent"
        )
    return message


GET_BY_PLATFORM_ID: LiteralString = (
    "select "
    + MESSAGE_COLUMNS
    + """
from jobsworth.chat_messages m
where m.thread_id = %(thread_id)s and m.platform_message_id = %(platform_message_id)s
"""
)


async def get_by_platform_id(
    conn: AsyncConnection[Any], thread_id: UUID, platform_message_id: str
) -> Message | None:
    """The message with the platform's own id, or None if it has not arrived yet."""
    values = {"thread_id": thread_id, "platform_message_id": platform_message_id}
    return await fetch_one(conn, GET_BY_PLATFORM_ID, values, Message)


GET_BY_SOURCE: LiteralString = (
    "select "
    + MESSAGE_COLUMNS
    + """
from jobsworth.chat_threads t
join jobsworth.chat_messages m on m.thread_id = t.id
where t.platform = %(platform)s and t.chat_id = %(chat_id)s
  and t.team_id is not distinct from %(team_id)s::uuid
  and m.platform_message_id = %(platform_message_id)s
"""
)


async def get_by_source(
    conn: AsyncConnection[Any],
    platform: str,
    chat_id: str,
    platform_message_id: str,
    team_id: UUID | None = None,
) -> Message | None:
    """The message that a platform delivered to one of its chats, or None if it has not arrived."""
    values = {
        "platform": platform,
        "chat_id": chat_id,
        "team_id": team_id,
        "platform_message_id": platform_message_id,
    }
    return await fetch_one(conn, GET_BY_SOURCE, values, Message)


LIST_OF_JOB: LiteralString = (
    "select "
    + MESSAGE_COLUMNS
    + """
from jobsworth.chat_messages m
where m.job_id = %(job_id)s
order by m.id
"""
)


async def list_of_job(conn: AsyncConnection[Any], job_id: UUID) -> list[Message]:
    """The messages that a job wrote, oldest first."""
    return await fetch_all(conn, LIST_OF_JOB, {"job_id": job_id}, Message)


LIST_OF_REQUEST: LiteralString = (
    "select "
    + MESSAGE_COLUMNS
    + """
from jobsworth.chat_messages m
where m.request_id = %(request_id)s
order by m.id
"""
)


async def list_of_request(conn: AsyncConnection[Any], request_id: str) -> list[Message]:
    """The messages of a request, replies included, oldest first."""
    return await fetch_all(conn, LIST_OF_REQUEST, {"request_id": request_id}, Message)


FETCH_RECENT: LiteralString = (
    "select "
    + MESSAGE_COLUMNS
    + """
from jobsworth.recent_messages(%(thread_id)s, %(limit)s) m
order by m.id desc
"""
)


async def fetch_recent(
    conn: AsyncConnection[Any], thread_id: UUID, limit: int = 50
) -> list[Message]:
    """The last `limit` (1 to 10,000) messages of a thread, oldest first, without retracted ones;
    the cost does not grow with the thread.
    """
    check_limit(limit, LIMIT_MAX, "ask for fewer messages")
    values = {"thread_id": thread_id, "limit": limit}
    return (await fetch_all(conn, FETCH_RECENT, values, Message))[::-1]


LIST_PAGE: LiteralString = (
    "select "
    + MESSAGE_COLUMNS
    + """
from jobsworth.chat_messages m
where m.thread_id = %(thread_id)s
  and (%(before_id)s::uuid is null or m.id < %(before_id)s)
  and (%(after_id)s::uuid is null or m.id > %(after_id)s)
  and not exists (select from jobsworth.retracted_messages r where r.message_id = m.id)
"""
)
# In the order of the index of threads: in that of the ids alone, all messages could be read.
NEWEST: LiteralString = "order by m.thread_id desc, m.id desc limit %(limit)s"
OLDEST: LiteralString = "order by m.thread_id, m.id limit %(limit)s"


async def list_page(
    conn: AsyncConnection[Any],
    thread_id: UUID,
    *,
    before_id: UUID | None = None,
    after_id: UUID | None = None,
    limit: int = 50,
) -> list[Message]:
    """The last `limit` (1 to 10,000) messages of a thread, or of those before one, or the first of
    those after one; oldest first, without retracted ones.
    """
    check_limit(limit, LIMIT_MAX, "ask for fewer messages")
    values = {
        "thread_id": thread_id,
        "before_id": before_id,
        "after_id": after_id,
        "limit": limit,
    }
    if after_id is None:
        return (await fetch_all(conn, LIST_PAGE + NEWEST, values, Message))[::-1]
    return await fetch_all(conn, LIST_PAGE + OLDEST, values, Message)


GET_FOR_TRIGGER: LiteralString = (
    "select "
    + MESSAGE_COLUMNS
    + """
from jobsworth.chat_messages m
where m.id = %(id)s or m.merged_into = %(id)s
order by m.id
"""
)


async def get_for_trigger(conn: AsyncConnection[Any], message_id: UUID) -> list[Message]:
    """The message that triggered a job, and those that the job took too, oldest first."""
    return await fetch_all(conn, GET_FOR_TRIGGER, {"id": message_id}, Message)


COUNT_BY_ROLE: LiteralString = """
select m.role, count(*) as messages
from jobsworth.chat_messages m
where m.thread_id = %(thread_id)s
group by m.role
"""


async def count_by_role(conn: AsyncConnection[Any], thread_id: UUID) -> dict[MessageRole, int]:
    """How many messages of each role a thread has; roles without messages count 0."""
    rows = await fetch_all(conn, COUNT_BY_ROLE, {"thread_id": thread_id})
    found = {row["role"]: row["messages"] for row in rows}
    return {role: found.get(role, 0) for role in MessageRole}


# The team is the thread's. Without the thread nothing is inserted, and no error ends the caller's
# transaction.
INSERT: LiteralString = (
    """
insert into jobsworth.chat_messages as m (id, merged_into, team_id, thread_id, role, text,
  author_user_id, author_agent_id, recipient_agent_id, request_id, platform_message_id, raw_payload,
  metadata, model, input_tokens, output_tokens, latency_ms, job_id)
select coalesce(way.message_id, jobsworth.uuidv7()), way.merged_into, t.team_id, t.id,
  %(role)s::jobsworth.message_role, %(text)s, %(author_user_id)s::uuid,
  %(author_agent_id)s::uuid, %(recipient_agent_id)s::uuid, %(request_id)s,
  %(platform_message_id)s, %(raw_payload)s::jsonb, %(metadata)s::jsonb, %(model)s,
  %(input_tokens)s::int, %(output_tokens)s::int, %(latency_ms)s::int, %(job_id)s::uuid
from jobsworth.chat_threads t
-- Not called at all for the policy `queue`: it depends on a row that is not there then.
left join lateral (
  select w.message_id, w.merged_into
  from (
    select t.id as thread_id
    where coalesce(%(policy)s::text, t.message_policy::text) <> 'queue' offset 0) c
  cross join lateral jobsworth.make_way(
    c.thread_id, %(mode)s::text, %(policy)s::text, %(platform_message_id)s::text) w
) way on true
where t.id = %(thread_id)s and t.status <> 'deleted'
on conflict (thread_id, platform_message_id) where platform_message_id is not null do nothing
returning """
    + MESSAGE_COLUMNS
)


async def _store(
    conn: AsyncConnection[Any],
    thread_id: UUID,
    role: MessageRole,
    text: str,
    options: MessageOptions,
    mode: str | None,
    policy: MessagePolicy | None,
) -> tuple[Message, bool]:
    values = {**_values(thread_id, role, text, options), "mode": mode, "policy": policy}
    message = await fetch_one(conn, INSERT, values, Message)
    if message is not None:
        return message, False
    platform_message_id = options.get("platform_message_id")
    if platform_message_id is not None:
        stored = await get_by_platform_id(conn, thread_id, platform_message_id)
        if stored is not None:
            return stored, True
    await get_thread(conn, thread_id)
    raise Conflict(
        f"thread {thread_id} is deleted: it takes no messages",
        f"take the deletion back first: jobsworth thread undelete {thread_id}",
    )


def _values(
    thread_id: UUID, role: MessageRole, text: str, options: MessageOptions
) -> dict[str, Any]:
    raw_payload = options.get("raw_payload")
    return {
        "thread_id": thread_id,
        "role": role,
        "text": to_text(text),
        "author_user_id": options.get("author_user_id"),
        "author_agent_id": options.get("author_agent_id"),
        "recipient_agent_id": options.get("recipient_agent_id"),
        "request_id": options.get("request_id"),
        "platform_message_id": options.get("platform_message_id"),
        "raw_payload": None if raw_payload is None else to_document(raw_payload, "raw_payload"),
        "metadata": to_metadata(options.get("metadata"), "a message"),
        "model": options.get("model"),
        "input_tokens": options.get("input_tokens"),
        "output_tokens": options.get("output_tokens"),
        "latency_ms": options.get("latency_ms"),
        "job_id": options.get("job_id"),
    }


async def _enqueue(
    conn: AsyncConnection[Any],
    message: Message,
    mode: str,
    payload: Mapping[str, Any] | None,
    options: jobs.JobOptions,
) -> jobs.Job:
    enqueued = await jobs.enqueue(
        conn,
        mode,
        payload,
        thread_id=message.thread_id,
        trigger_message_id=message.id,
        team_id=message.team_id,
        **options,
    )
    return await jobs.get_by_id(conn, enqueued.job_id)


# Follow-up jobs inherit the trigger; the first job is the message's own.
JOB_OF: LiteralString = """
select j.id
from jobsworth.reactive_jobs j
where j.trigger_message_id = %(message_id)s
order by j.parent_id is not null, j.id
limit 1
"""


async def _job_of(conn: AsyncConnection[Any], message_id: UUID) -> jobs.Job | None:
    job_id = await fetch_val(conn, JOB_OF, {"message_id": message_id})
    return None if job_id is None else await jobs.get_by_id(conn, job_id)
