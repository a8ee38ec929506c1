"""The life of memories: what kind each is, and how it ends.

In: ids. Out: memories that are active, suspended, superseded, retracted or expired. Invariant: only
an active memory has vectors that searches meet, but for those `as_of` a time before it was
superseded; nothing here deletes a memory (`status.sql`).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit
from db.documents import to_text
from db.errors import NotFound
from db.pool import execute, fetch_all, fetch_one, fetch_val

LIMIT_MAX = 1_000


class MemoryType(StrEnum):
    """What a memory is."""

    FACT = "fact"
    PREFERENCE = "preference"
    DECISION = "decision"
    PROCEDURE = "procedure"
    EPISODE = "episode"
    SUMMARY = "summary"


class MemoryStatus(StrEnum):
    """Whether a memory is recalled: only an active one is.

    suspended: a message that it was derived from has been retracted. expired: its `valid_to` has
    passed.
    """

    ACTIVE = "active"
    SUSPENDED = "suspended"
    SUPERSEDED = "superseded"
    RETRACTED = "retracted"
    EXPIRED = "expired"


class Memory(BaseModel):
    """A row of `memories`. `supersedes`: the memories whose place it has taken. `superseded_at`:
    until then it was active.
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    type: MemoryType
    status: MemoryStatus
    status_reason: str | None
    superseded_by: UUID | None
    superseded_at: AwareDatetime | None
    supersedes: list[UUID]
    text: str
    importance: float
    confidence: float
    valid_from: AwareDatetime | None
    valid_to: AwareDatetime | None
    source_kind: str
    source_id: str | None
    message_ids: list[UUID] | None
    step_name: str | None
    file_name: str | None
    team_id: UUID | None
    agent_id: UUID | None
    thread_id: UUID | None
    session_id: UUID | None
    job_id: UUID | None
    metadata: dict[str, Any]
    created_at: AwareDatetime
    updated_at: AwareDatetime


class RecalledBy(BaseModel):
    """A memory that a job recalled; `text` and `status` (as it is now) are None if it is deleted.

    `query`: what the job asked, None if it was too long to keep. `score` is the sum of `parts`.
    """

    model_config = ConfigDict(frozen=True)

    attempt: int
    step_name: str
    recalled_at: AwareDatetime
    query: str | None
    place: int
    memory_id: UUID
    score: float
    parts: dict[str, float]
    status: MemoryStatus | None
    text: str | None


MEMORY_COLUMNS: LiteralString = """
  m.id, m.type, jobsworth.memory_status(m.status, m.valid_to) as status, m.status_reason,
  m.superseded_by, m.superseded_at,
  array(select p.id from jobsworth.memories p where p.superseded_by = m.id order by p.id)
    as supersedes,
  m.text, m.importance, m.confidence, m.valid_from, m.valid_to, m.source_kind, m.source_id,
  m.message_ids, m.step_name, m.file_name, m.team_id, m.agent_id, m.thread_id, m.session_id,
  m.job_id, m.metadata, m.created_at, m.updated_at
"""

GET: LiteralString = (
    "select "
    + MEMORY_COLUMNS
    + """
from jobsworth.memories m
where m.id = %(id)s
"""
)


async def get(conn: AsyncConnection[Any], memory_id: UUID) -> Memory:
    """The memory with this id. Raises `NotFound`."""
    found = await fetch_one(conn, GET, {"id": memory_id}, Memory)
    if found is None:
        raise NotFound(f"there is no memory {memory_id}", "list them: jobsworth memory list")
    return found


LIST: LiteralString = (
    "select "
    + MEMORY_COLUMNS
    + """
from jobsworth.memories m
where (%(status)s::text is null or m.status = %(stored)s::jobsworth.memory_status
    and jobsworth.memory_status(m.status, m.valid_to)::text = %(status)s)
  and (%(types)s::jobsworth.memory_type[] is null or m.type = any(%(types)s))
  and (%(team_id)s::uuid is null or m.team_id = %(team_id)s)
  and (%(agent_id)s::uuid is null or m.agent_id = %(agent_id)s)
  and (%(before_id)s::uuid is null or m.id < %(before_id)s)
  and (%(after_id)s::uuid is null or m.id > %(after_id)s)
"""
)
NEWEST: LiteralString = "order by m.id desc limit %(limit)s"
OLDEST: LiteralString = "order by m.id limit %(limit)s"


async def list_memories(
    conn: AsyncConnection[Any],
    *,
    status: MemoryStatus | None = None,
    types: Sequence[MemoryType] | None = None,
    team_id: UUID | None = None,
    agent_id: UUID | None = None,
    before_id: UUID | None = None,
    after_id: UUID | None = None,
    limit: int = 100,
) -> list[Memory]:
    """The latest memories, latest first; with `after_id`, those that follow it. A filter does not
    apply when None.
    """
    check_limit(limit, LIMIT_MAX)
    values = {
        "status": status,
        "stored": MemoryStatus.ACTIVE if status == MemoryStatus.EXPIRED else status,
        "types": None if types is None else list(types),
        "team_id": team_id,
        "agent_id": agent_id,
        "before_id": before_id,
        "after_id": after_id,
        "limit": limit,
    }
    if after_id is None:
        return await fetch_all(conn, LIST + NEWEST, values, Memory)
    return (await fetch_all(conn, LIST + OLDEST, values, Memory))[::-1]


SUPERSEDE: LiteralString = "select jobsworth.supersede_memory(%(old)s, %(successor)s)"


async def supersede(conn: AsyncConnection[Any], memory_id: UUID, successor_id: UUID) -> None:
    """Let a memory be superseded by another one of its team, in the caller's transaction.

    Raises `Conflict` if it is superseded or retracted already, `NotFound`, and `InvalidInput`.
    """
    await execute(conn, SUPERSEDE, {"old": memory_id, "successor": successor_id})


RETRACT: LiteralString = "select jobsworth.retract_memory(%(id)s, %(reason)s)"


async def retract(conn: AsyncConnection[Any], memory_id: UUID, reason: str | None = None) -> None:
    """Take a memory back: it is recalled no more. Raises `NotFound`."""
    said = None if reason is None else to_text(reason)
    await execute(conn, RETRACT, {"id": memory_id, "reason": said})


RESTORE: LiteralString = "select jobsworth.restore_memory(%(id)s)"


async def restore(conn: AsyncConnection[Any], memory_id: UUID) -> None:
    """Let a retracted or suspended memory be recalled again, once it is embedded anew.

    Raises `Conflict` if it was superseded, and `NotFound`.
    """
    await execute(conn, RESTORE, {"id": memory_id})


RETRACT_MESSAGE: LiteralString = "select jobsworth.retract_message(%(id)s, %(reason)s)"


async def retract_message(
    conn: AsyncConnection[Any], message_id: UUID, reason: str | None = None
) -> int:
    """Take a message back: what was and what will be remembered of it is suspended.

    Returns how many memories that are now; the message stays. Raises `NotFound`.
    """
    said = None if reason is None else to_text(reason)
    return await fetch_val(conn, RETRACT_MESSAGE, {"id": message_id, "reason": said})


RECALLED_BY: LiteralString = """
select r.attempt, r.step_name, r.recalled_at, r.query, r.place, r.memory_id, r.score, r.parts,
  r.status, r.text
from jobsworth.recalls r
where r.job_id = %(job_id)s
order by r.recalled_at, r.step_name, r.place
"""


async def recalled_by(conn: AsyncConnection[Any], job_id: UUID) -> list[RecalledBy]:
    """What went into the work of a job: the memories that it recalled, best first."""
    return await fetch_all(conn, RECALLED_BY, {"job_id": job_id}, RecalledBy)
