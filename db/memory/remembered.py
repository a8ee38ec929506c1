"""What jobs remember: memories that commit together with the ending of an attempt.

In: what handlers gave `job.remember`. Out: rows of `memories`, once by (job, effect key), and what
they supersede.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson

from db.documents import to_document
from db.ids import uuidv7
from db.memory import insertion
from db.memory.status import MemoryType
from db.pool import Connection, execute


@dataclass(frozen=True, slots=True)
class MemoryEffect:
    """A text to embed after the job has finished; the fields are those of `memories.Text`.

    `metadata` is JSON text.
    """

    key: str
    text: str
    source_kind: str
    source_id: str | None = None
    metadata: str = "{}"
    type: MemoryType = MemoryType.FACT
    importance: float | None = None
    confidence: float | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    message_ids: tuple[UUID, ...] = ()
    step_name: str | None = None
    file_name: str | None = None
    supersedes: UUID | None = None


class JobMemory(NamedTuple):
    """A memory, and the job that remembers it."""

    job_id: UUID
    team_id: UUID | None
    agent_id: UUID | None
    thread_id: UUID | None
    memory: MemoryEffect


async def write(conn: Connection, made: Sequence[JobMemory]) -> int:
    """Insert these memories inside the caller's transaction, and let them supersede others.

    Returns how many are new. Raises `Conflict` if another memory has superseded one of those.
    """
    rows: list[dict[str, Any]] = [
        {
            "id": uuidv7(),
            "team_id": one.team_id,
            "agent_id": one.agent_id,
            "thread_id": one.thread_id,
            "job_id": one.job_id,
            "effect_key": one.memory.key,
            "source_kind": one.memory.source_kind,
            "source_id": one.memory.source_id,
            "text": one.memory.text,
            "metadata": orjson.Fragment(one.memory.metadata),
            "type": one.memory.type,
            "importance": one.memory.importance,
            "confidence": one.memory.confidence,
            "valid_from": one.memory.valid_from,
            "valid_to": one.memory.valid_to,
            "message_ids": list(one.memory.message_ids) or None,
            "step_name": one.memory.step_name,
            "file_name": one.memory.file_name,
        }
        for one in made
    ]
    written = len(await insertion.insert(conn, rows))
    if any(one.memory.supersedes for one in made):
        await _supersede(conn, made)
    return written


# In the order of what is superseded: two batches do not deadlock.
SUPERSEDE: LiteralString = """
select jobsworth.supersede_memory(o.supersedes, o.id)
from (
  select e.supersedes, m.id
  from jsonb_to_recordset(%(rows)s::jsonb) as e (job_id uuid, key text, supersedes uuid)
  join jobsworth.memories m on m.job_id = e.job_id and m.effect_key = e.key
  order by e.supersedes, m.id
  offset 0) o
"""


async def _supersede(conn: Connection, made: Sequence[JobMemory]) -> None:
    rows = [
        {"job_id": one.job_id, "key": one.memory.key, "supersedes": one.memory.supersedes}
        for one in made
        if one.memory.supersedes is not None
    ]
    await execute(conn, SUPERSEDE, {"rows": to_document(rows)})
