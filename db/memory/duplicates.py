"""Memories that say the same in nearly the same words: a list of them, and their merging.

In: the memories. Out: of those that say the same, one that supersedes the others and rests on the
evidence of all (`duplicates.sql`). Invariant: nothing merges by itself, and only what belongs to
the same team, agent, thread and session.
"""

from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import BaseModel, ConfigDict

from db.arguments import check_limit
from db.memory.status import LIMIT_MAX, MemoryType
from db.pool import execute, fetch_all


class Duplicates(BaseModel):
    """Active memories that say the same as `text`, which is that of `keep`."""

    model_config = ConfigDict(frozen=True)

    keep: UUID
    others: list[UUID]
    text: str
    type: MemoryType
    team_id: UUID | None
    agent_id: UUID | None
    thread_id: UUID | None
    session_id: UUID | None


FIND: LiteralString = """
select d.keep, d.others, d.text, d.type, d.team_id, d.agent_id, d.thread_id, d.session_id
from jobsworth.duplicate_memories d
where %(team_id)s::uuid is null or d.team_id = %(team_id)s
order by cardinality(d.others) desc, d.keep
limit %(limit)s
"""


async def find(
    conn: AsyncConnection[Any], *, team_id: UUID | None = None, limit: int = 100
) -> list[Duplicates]:
    """What says the same, the most often said first; of one team, or of all. Reads all texts."""
    check_limit(limit, LIMIT_MAX)
    return await fetch_all(conn, FIND, {"team_id": team_id, "limit": limit}, Duplicates)


MERGE: LiteralString = "select jobsworth.merge_memories(%(keep)s, %(others)s)"


async def merge(conn: AsyncConnection[Any], keep: UUID, others: Sequence[UUID]) -> None:
    """Let `keep` supersede the others, with the evidence of all, in the caller's transaction.

    Raises `Conflict` if one of them has ended meanwhile, `NotFound`, and `InvalidInput`.
    """
    await execute(conn, MERGE, {"keep": keep, "others": list(others)})
