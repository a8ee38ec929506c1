"""What people said, as memories: each message once for each version of the extractor.

In: a thread, or what a run dealt with of it. Out: its users' messages, and then memories with them
as their evidence. Invariant: a message is marked as read in the commit that remembers what it
states, if anything; only the job that has taken it does so, so two jobs at once read none twice. A
later statement of the same person supersedes an earlier one about the same subject; nothing is
deleted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
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
from db.pool import Connection, execute, fetch_all

KIND = "extracted"
# So often a model is paid for a message, once with others and once alone, if nothing comes of it.
UNUSABLE_MAX = 2
LIMIT_MAX = 1_000


class Said(BaseModel):
    """A message of a user. `person`: the id of its author, or of its thread if that is unknown.

    `unusable`: so many outputs on it were of no use.
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    text: str
    person: str
    unusable: int = 0


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


# Two jobs read one thread after the other, so that the second sees what the first has taken.
ONE_READER: LiteralString = """
select pg_advisory_xact_lock(hashtextextended(
  'jobsworth.extracted_messages ' || %(thread_id)s::text || ' ' || %(extractor)s, 0))
"""


async def take(
    conn: Connection,
    origin: Origin,
    *,
    run_id: UUID | None = None,
    after: UUID | None = None,
    limit: int = 50,
    fitting: Callable[[Sequence[Said]], Sequence[Said]] = tuple,
) -> list[Said]:
    """Take messages of users that nobody has read yet, oldest first, in the caller's transaction.

    The job that took one alone keeps what it states; it is free again when that job has ended
    without. One on which `UNUSABLE_MAX` outputs were of no use is left. With `run_id` only those
    that the run's jobs dealt with, `after` only later ones. `fitting` chooses some of those that
    are found.
    """
    check_limit(limit, LIMIT_MAX, "ask for fewer messages")
    await execute(conn, ONE_READER, {"thread_id": origin.thread_id, "extractor": origin.extractor})
    while found := await _unread(conn, origin, run_id, after, limit):
        chosen = {one.id: one for one in fitting(found)}
        if taken := await _mark(conn, origin, list(chosen)):
            return [chosen[message_id] for message_id in taken]
    return []


UNREAD: LiteralString = """
select m.id, m.text, coalesce(m.author_user_id, m.thread_id)::text as person,
  coalesce(t.unusable, 0) as unusable
from jobsworth.chat_messages m
left join jobsworth.extracted_messages t on t.message_id = m.id and t.extractor = %(extractor)s
where m.thread_id = %(thread_id)s and m.role = 'user'
  and m.team_id is not distinct from %(team_id)s
  and (%(after)s::uuid is null or m.id > %(after)s)
  and (%(run_id)s::uuid is null or exists (
    select 1 from jobsworth.reactive_jobs j
    where j.run_id = %(run_id)s and j.trigger_message_id in (m.id, m.merged_into)))
  and not exists (select 1 from jobsworth.retracted_messages r where r.message_id = m.id)
  and not coalesce(t.kept or t.unusable >= %(unusable_max)s, false)
  and not exists (
    select 1 from jobsworth.reactive_jobs j
    where j.id = t.job_id and j.id <> %(job_id)s and j.finished_at is null)
order by m.id
limit %(limit)s
"""


async def _unread(
    conn: Connection, origin: Origin, run_id: UUID | None, after: UUID | None, limit: int
) -> list[Said]:
    values = {
        "job_id": origin.job_id,
        "thread_id": origin.thread_id,
        "team_id": origin.team_id,
        "extractor": origin.extractor,
        "run_id": run_id,
        "after": after,
        "limit": limit,
        "unusable_max": UNUSABLE_MAX,
    }
    return await fetch_all(conn, UNREAD, values, Said)


# One that is kept meanwhile, by a job that a person had tried again, is read.
MARK: LiteralString = """
insert into jobsworth.extracted_messages as x (message_id, extractor, team_id, thread_id, job_id)
select m.id, %(extractor)s, m.team_id, m.thread_id, %(job_id)s
from jobsworth.chat_messages m
where m.id = any(%(ids)s::uuid[])
order by m.id
on conflict (message_id, extractor) do update set job_id = excluded.job_id where not x.kept
returning x.message_id
"""


async def _mark(conn: Connection, origin: Origin, ids: Sequence[UUID]) -> list[UUID]:
    values = {"ids": list(ids), "extractor": origin.extractor, "job_id": origin.job_id}
    return sorted(row["message_id"] for row in await fetch_all(conn, MARK, values))


SPOIL: LiteralString = """
update jobsworth.extracted_messages x
set unusable = x.unusable + 1
where x.message_id = any(%(ids)s::uuid[]) and x.extractor = %(extractor)s
  and x.job_id = %(job_id)s and not x.kept
"""


async def spoil(conn: Connection, origin: Origin, ids: Sequence[UUID]) -> int:
    """Count that a model's output on these messages was of no use, in the caller's transaction."""
    values = {"ids": list(ids), "extractor": origin.extractor, "job_id": origin.job_id}
    return await execute(conn, SPOIL, values)


async def keep(
    conn: Connection, origin: Origin, ids: Sequence[UUID], stated: Sequence[Statement]
) -> Counter[str]:
    """Remember what these messages state, in the caller's transaction: they are read then.

    Counts what became of the statements: remembered; superseded (the earlier memories whose place
    they took); known: another job has taken the message, it is gone or taken back, or the same is
    remembered; outdated: the person said something else later.
    """
    free = await _free(conn, origin, ids)
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
    """Lock these messages; those that are the job's to keep, and that are not taken back."""
    await fetch_all(conn, LOCK, {"ids": list(ids)})
    return await _read(conn, origin, ids)


# In a statement of its own: it sees what those did for whom the lock was waited for.
READ: LiteralString = """
update jobsworth.extracted_messages x
set kept = true
where x.message_id = any(%(ids)s::uuid[]) and x.extractor = %(extractor)s
  and x.job_id = %(job_id)s and not x.kept
returning x.message_id, exists (
  select 1 from jobsworth.retracted_messages r where r.message_id = x.message_id) as taken_back
"""


async def _read(conn: Connection, origin: Origin, ids: Sequence[UUID]) -> set[UUID]:
    values = {"ids": list(ids), "extractor": origin.extractor, "job_id": origin.job_id}
    read = await fetch_all(conn, READ, values)
    return {row["message_id"] for row in read if not row["taken_back"]}


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
