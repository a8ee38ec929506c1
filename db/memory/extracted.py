"""What people said, as memories: of each message once for each version of the extractor.

In: a thread, or what a run dealt with of it. Out: its users' messages, and then memories with them
as their evidence. Invariant: of a message that this version has remembered something of, nothing
more is remembered; the messages are locked, so also two jobs at once remember it once. A later
statement of the same person supersedes an earlier one about the same subject; nothing is deleted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from db.arguments import check_limit
from db.documents import to_document
from db.memory import memories
from db.memory.memories import Text
from db.memory.status import MemoryType
from db.pool import Connection, fetch_all

KIND = "extracted"
LIMIT_MAX = 1_000


class Said(BaseModel):
    """A message of a user. `person`: the id of its author, or of its thread if that is unknown."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    text: str
    person: str


@dataclass(frozen=True, slots=True)
class Statement:
    """Something that a person said in a message; `no` is its place there, from 1.

    `subject`: what it is about, in lower case; a later one about the same supersedes it. `quote`:
    the message's own words.
    """

    message_id: UUID
    no: int
    person: str
    type: MemoryType
    subject: str
    text: str
    quote: str
    confidence: float
    valid_from: datetime | None = None
    valid_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The job that extracts, the thread, and the version of the extractor."""

    job_id: UUID
    thread_id: UUID
    team_id: UUID | None
    agent_id: UUID | None
    extractor: str


UNREAD: LiteralString = """
select m.id, m.text, coalesce(m.author_user_id, m.thread_id)::text as person
from jobsworth.chat_messages m
where m.thread_id = %(thread_id)s and m.role = 'user'
  and m.team_id is not distinct from %(team_id)s
  and (%(run_id)s::uuid is null or exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = %(run_id)s and j.trigger_message_id in (m.id, m.merged_into)))
  and not exists (select 1 from jobsworth.retracted_messages r where r.message_id = m.id)
  and not exists (
    select 1 from jobsworth.memories x
    where x.source_kind = 'extracted' and x.source_id = m.id::text
      and x.metadata ->> 'extractor' = %(extractor)s)
order by m.id desc
limit %(limit)s
"""


async def unread(
    conn: Connection, origin: Origin, *, run_id: UUID | None = None, limit: int = 50
) -> list[Said]:
    """The latest messages of users of which nothing is remembered yet, oldest first.

    With `run_id` only those that the run's jobs dealt with.
    """
    check_limit(limit, LIMIT_MAX, "ask for fewer messages")
    values = {
        "thread_id": origin.thread_id,
        "team_id": origin.team_id,
        "run_id": run_id,
        "extractor": origin.extractor,
        "limit": limit,
    }
    return (await fetch_all(conn, UNREAD, values, Said))[::-1]


async def keep(conn: Connection, origin: Origin, stated: Sequence[Statement]) -> Counter[str]:
    """Remember statements, in the caller's transaction; counts what became of them.

    remembered; superseded (the earlier memories whose place they took); known: the message is dealt
    with or gone, or the same is remembered; outdated: the person said something else later.
    """
    free = await _free(conn, origin, sorted({one.message_id for one in stated}))
    counts: Counter[str] = Counter(remembered=0, superseded=0, known=0, outdated=0)
    for one in sorted(stated, key=lambda each: (each.message_id, each.no)):
        if one.message_id not in free:
            counts["known"] += 1
            continue
        earlier = await _earlier(conn, origin, one)
        if any(_same(each.text, one.text) for each in earlier):
            counts["known"] += 1
        elif any(each.message_id > one.message_id for each in earlier):
            counts["outdated"] += 1
        else:
            old = earlier[-1].id if earlier else None
            made = await memories.put(conn, [_memory(origin, one, old)])
            counts["remembered"] += len(made)
            counts["superseded"] += len(made) if old else 0
    return counts


LOCK: LiteralString = """
select m.id
from jobsworth.chat_messages m
where m.id = any(%(ids)s::uuid[])
order by m.id
for no key update
"""


async def _free(conn: Connection, origin: Origin, ids: Sequence[UUID]) -> set[UUID]:
    """Lock these messages; those of which nothing is remembered yet, and that are not retracted."""
    await fetch_all(conn, LOCK, {"ids": list(ids)})
    return await _dealt_with_by_none(conn, origin, ids)


# In a statement of its own: it sees what those did for whom the lock was waited for.
FREE: LiteralString = """
select m.id
from jobsworth.chat_messages m
where m.id = any(%(ids)s::uuid[])
  and not exists (select 1 from jobsworth.retracted_messages r where r.message_id = m.id)
  and not exists (
    select 1 from jobsworth.memories x
    where x.source_kind = 'extracted' and x.source_id = m.id::text
      and x.metadata ->> 'extractor' = %(extractor)s)
"""


async def _dealt_with_by_none(conn: Connection, origin: Origin, ids: Sequence[UUID]) -> set[UUID]:
    values = {"ids": list(ids), "extractor": origin.extractor}
    return {row["id"] for row in await fetch_all(conn, FREE, values)}


class Earlier(BaseModel):
    """An active memory of the same person about the same subject, and the message it is from."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    text: str
    message_id: UUID


EARLIER: LiteralString = """
select m.id, m.text, m.message_ids[1] as message_id
from jobsworth.memories m
where m.source_kind = 'extracted' and m.status = 'active' and m.type = %(type)s
  and m.metadata <> '{}' and m.metadata @> %(about)s::jsonb
  and m.team_id is not distinct from %(team_id)s and m.message_ids is not null
order by m.message_ids[1], m.id
for no key update
"""


async def _earlier(conn: Connection, origin: Origin, one: Statement) -> list[Earlier]:
    about = to_document({"person": one.person, "subject": one.subject}, "the subject")
    values = {"type": one.type, "about": about, "team_id": origin.team_id}
    return await fetch_all(conn, EARLIER, values, Earlier)


def _memory(origin: Origin, one: Statement, supersedes: UUID | None) -> Text:
    return Text(
        one.text,
        source_kind=KIND,
        source_id=str(one.message_id),
        metadata={
            "extractor": origin.extractor,
            "statement": one.no,
            "person": one.person,
            "subject": one.subject,
            "quote": one.quote,
        },
        team_id=origin.team_id,
        agent_id=origin.agent_id,
        thread_id=origin.thread_id,
        job_id=origin.job_id,
        effect_key=f"extracted {one.message_id} {one.no}",
        type=one.type,
        confidence=one.confidence,
        valid_from=one.valid_from,
        valid_to=one.valid_to,
        message_ids=(one.message_id,),
        supersedes=supersedes,
    )


def _same(one: str, other: str) -> bool:
    return one.casefold().split() == other.casefold().split()
