"""Memories: texts that jobs (or callers) want remembered, and the search for them.

In: texts. A trigger queues each to be embedded (`outbox`); the vectors are stored beside them, in
the space of their embedder (`spaces`). Out: hits.

Invariant: a memory is deleted with its vectors and its place in the outbox. A search in one team's
memories reads no other's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit
from db.documents import to_document, to_text
from db.errors import InvalidInput, translated
from db.ids import uuidv7
from db.memory import insertion, status
from db.memory.outbox import ChunkVector, chunk_rows
from db.memory.spaces import Space
from db.memory.status import MemoryType
from db.memory.vectors import Vector, halfvec
from db.pool import Connection, execute, fetch_all
from db.transactions import transaction

LIMIT_MAX = 10_000
# Measured: README of pgvector's filters and docs/benchmarks.md.
EXACT_ROWS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Text:
    """A text to remember. `source_kind` and `source_id` name its source (a message, a file …). With
    `job_id` and `effect_key` it is remembered once, however often it is passed in.

    importance, confidence: 0 to 1. valid_from, valid_to: when it holds (None: since it is made, and
    for good). message_ids, step_name and file_name: its evidence. supersedes: the memory whose
    place it takes. Without a session_id it is of the session of its job, else of its thread.
    """

    text: str
    source_kind: str = "note"
    source_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    team_id: UUID | None = None
    agent_id: UUID | None = None
    thread_id: UUID | None = None
    job_id: UUID | None = None
    effect_key: str | None = None
    session_id: UUID | None = None
    type: MemoryType = MemoryType.FACT
    importance: float = 0.5
    confidence: float = 1.0
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    message_ids: Sequence[UUID] = ()
    step_name: str | None = None
    file_name: str | None = None
    supersedes: UUID | None = None


class Hit(BaseModel):
    """A memory that was found. `score` is 1 minus the cosine distance of its nearest chunk,
    `text[start:end]`: 1 for the same direction. `matched`: how many of the query's identifiers it
    has.
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    text: str
    score: float
    start: int
    end: int
    matched: int
    source_kind: str
    source_id: str | None
    metadata: dict[str, Any]
    team_id: UUID | None
    agent_id: UUID | None
    thread_id: UUID | None
    job_id: UUID | None
    created_at: AwareDatetime
    type: MemoryType
    importance: float
    confidence: float
    valid_from: AwareDatetime | None
    valid_to: AwareDatetime | None


async def _insert(conn: Connection, texts: Sequence[Text], ids: Sequence[UUID]) -> list[UUID]:
    new = await insertion.insert(conn, list(map(_row, texts, ids)))
    pairs = zip(texts, ids, strict=True)
    successors = {one.supersedes: made for one, made in pairs if one.supersedes and made in new}
    for old in sorted(successors):  # in the order in which others lock them
        await status.supersede(conn, old, successors[old])
    return new


async def put(conn: Connection, texts: Sequence[Text]) -> list[UUID]:
    """Remember texts, which are to be embedded; returns the ids of the new ones, in order.

    Those that supersede others do so in the same commit. Raises `Conflict` if another memory has
    superseded one of them already, `NotFound`, and `InvalidInput`.
    """
    if any(text.supersedes for text in texts):
        async with transaction(conn):
            return await _insert(conn, texts, [uuidv7() for _ in texts])
    return await _insert(conn, texts, [uuidv7() for _ in texts])


ADD_VECTORS: LiteralString = """
with made as (
  delete from jobsworth.embedding_outbox o
  where o.memory_id = any(%(ids)s::uuid[])
  returning o.memory_id, o.team_id
)
insert into jobsworth.embeddings (
  memory_id, space_id, chunk_no, team_id, start_offset, end_offset, content_hash, vector)
select m.memory_id, %(space_id)s, c.chunk_no, m.team_id, c.start_offset, c.end_offset,
  c.content_hash, jobsworth.halfvec(c.vector)
from made m
join jsonb_to_recordset(%(chunks)s::jsonb) as c (
  memory_id uuid, chunk_no int, start_offset int, end_offset int, content_hash uuid, vector text)
  on c.memory_id = m.memory_id
"""


async def add(
    conn: Connection, space: Space, texts: Sequence[Text], vectors: Sequence[Vector]
) -> list[UUID]:
    """Remember texts with vectors that the caller has made; returns the new ids, in order.

    `vectors` has the shape `(len(texts), space.dimensions)`. Raises `InvalidInput`.
    """
    if len(texts) != len(vectors):
        raise InvalidInput(
            f"{len(texts)} texts came with {len(vectors)} vectors", "give one vector for each text"
        )
    # No hash of the content: a vector of the caller's is nobody else's.
    ids = [uuidv7() for _ in texts]
    chunks = {
        memory_id: [ChunkVector(0, len(text.text), memory_id, vector)]
        for memory_id, text, vector in zip(ids, texts, vectors, strict=True)
    }
    values = {"space_id": space.id, "ids": ids, "chunks": chunk_rows(space, chunks)}
    with translated():
        async with transaction(conn):
            new = await _insert(conn, texts, ids)
            await execute(conn, ADD_VECTORS, values)
    return new


# What a hit must be, beside active.
IN_SCOPE: LiteralString = """
      and (%(any_team)s or m.team_id = %(team_id)s::uuid
        or (m.team_id is null and %(team_id)s::uuid is null))
      and (%(agent_id)s::uuid is null or m.agent_id = %(agent_id)s)
      and (%(thread_id)s::uuid is null or m.thread_id = %(thread_id)s)
      and (%(source_kind)s::text is null or m.source_kind = %(source_kind)s)
      and (%(source_id)s::text is null or m.source_id = %(source_id)s)
      and (%(session_id)s::uuid is null or jobsworth.is_of_session(m, %(session_id)s))
      and (%(since)s::timestamptz is null or m.created_at >= %(since)s)
      and (%(until)s::timestamptz is null or m.created_at < %(until)s)
      and m.metadata @> %(metadata)s::jsonb
      and (%(types)s::jobsworth.memory_type[] is null or m.type = any(%(types)s))
      and (%(as_of)s::timestamptz is null or m.created_at <= %(as_of)s or m.valid_from is not null)
      and (m.valid_from is null or m.valid_from <= coalesce(%(as_of)s, now()))
      and (m.valid_to is null or m.valid_to > coalesce(%(as_of)s, now()))
"""

# `past`: what was superseded after `as_of` held then. It is compared exactly: of a subject that has
# changed there are few.
#
# Reciprocal rank fusion (Cormack et al. 2009) of two lists. A list of words over all memories would
# drown paraphrases; this one has only those that contain an identifier of the query, and only an
# identifier that at most `common` memories of the scope contain. On a tie it goes first.
SEARCH: LiteralString = (
    """
with past as materialized (
  select p.memory_id, p.start_offset, p.end_offset, p.vector,
    jobsworth.cosine_distance(p.vector, jobsworth.halfvec(%(vector)s::text)) as distance
  from jobsworth.past_embeddings p
  join jobsworth.memories m on m.id = p.memory_id
  where %(as_of)s::timestamptz is not null and p.superseded_at > %(as_of)s
    and p.space_id = %(space_id)s
"""
    + IN_SCOPE
    + """
), nearest as (
  select n.memory_id, n.distance, n.start_offset, n.end_offset
  from jobsworth.nearest(
    %(space_id)s, jobsworth.halfvec(%(vector)s::text), %(limit)s, %(team_id)s, %(any_team)s,
    %(agent_id)s, %(thread_id)s, %(source_kind)s, %(since)s, %(until)s, %(metadata)s::jsonb,
    %(exact_rows)s, %(source_id)s::text, %(session_id)s::uuid,
    %(types)s::jobsworth.memory_type[], %(as_of)s::timestamptz) n
  union all
  select c.memory_id, c.distance, c.start_offset::int, c.end_offset::int
  from (
    select distinct on (p.memory_id) p.*
    from past p
    where p.distance <> 'nan'
    order by p.memory_id, p.distance, p.start_offset) c
), near as materialized (
  select n.*, row_number() over (order by n.distance, n.memory_id) as place
  from nearest n
  order by n.distance, n.memory_id
  limit %(limit)s
), found as (
  select w.word, m.id
  from unnest((jobsworth.identifiers(%(query)s::text))[:20]) as w (word)
  cross join lateral (
    select m.id
    from jobsworth.memories m
    where m.identifiers @> array[w.word] and m.identifiers is not null
      and (m.status = 'active' or m.id in (select p.memory_id from past p))
"""
    + IN_SCOPE
    + """
    limit %(common)s + 1) m
), named as (
  select f.id, count(*) as matched
  from found f
  where f.word in (select g.word from found g group by g.word having count(*) <= %(common)s)
  group by f.id
), literal as (
  select n.id, n.matched, v.distance, v.start_offset, v.end_offset,
    row_number() over (order by n.matched desc, v.distance, n.id) as place
  from named n
  cross join lateral (
    select jobsworth.cosine_distance(e.vector, jobsworth.halfvec(%(vector)s::text)) as distance,
      e.start_offset, e.end_offset
    from jobsworth.embeddings e
    where e.memory_id = n.id and e.space_id = %(space_id)s
    union all
    select p.distance, p.start_offset, p.end_offset from past p where p.memory_id = n.id
    order by 1
    limit 1) v
)
select m.id, m.text, 1 - coalesce(n.distance, nullif(l.distance, 'nan'), 1) as score,
  coalesce(n.start_offset, l.start_offset) as start, coalesce(n.end_offset, l.end_offset) as end,
  coalesce(l.matched, 0) as matched, m.source_kind, m.source_id,
  case when %(bare)s then '{}' else m.metadata end as metadata, m.team_id, m.agent_id, m.thread_id,
  m.job_id, m.created_at, m.type, m.importance, m.confidence, m.valid_from, m.valid_to
from near n
full join literal l on l.id = n.memory_id
join jobsworth.memories m on m.id = coalesce(n.memory_id, l.id)
order by coalesce(1.0 / (60 + n.place), 0) + coalesce(1.0 / (60 + l.place), 0) desc,
  l.place, n.distance, m.id
limit %(limit)s
"""
)
# An identifier that more memories have names none of them.
COMMON_MAX = 50


async def search(
    conn: Connection,
    space: Space,
    vector: Vector,
    *,
    query: str | None = None,
    limit: int = 5,
    team_id: UUID | None = None,
    any_team: bool = False,
    agent_id: UUID | None = None,
    thread_id: UUID | None = None,
    source_kind: str | None = None,
    source_id: str | None = None,
    session_id: UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
    types: Sequence[MemoryType] | None = None,
    as_of: datetime | None = None,
    exact_rows: int = EXACT_ROWS_MAX,
    bare: bool = False,
) -> list[Hit]:
    """The active memories nearest to `vector` (of `space.dimensions` numbers), best first.

    Those that hold now, or `as_of` that instant, what was superseded since then included: a memory
    without `valid_from` holds since it was made.

    Searches one team's memories (None: those of no team), or with `any_team` all, which is for
    operators. The other filters do not apply when None; a memory is of the session of its thread
    or job; `since` is included, `until` is not; a
    hit's metadata must contain `metadata`. With `query`, the text that `vector` was made of,
    memories that contain one of its identifiers (`inv-2041`, `worker_id`) are found by it, and come
    first. Up to `exact_rows` vectors in scope are all compared; above, the space's index is used.
    `bare` hits have no metadata, which may be large.
    """
    check_limit(limit, LIMIT_MAX, "ask for fewer memories")
    values = {
        "space_id": space.id,
        "vector": halfvec(vector, space.dimensions, space.model),
        "query": None if query is None else to_text(query),
        "team_id": team_id,
        "any_team": any_team,
        "agent_id": agent_id,
        "thread_id": thread_id,
        "source_kind": source_kind,
        "source_id": None if source_id is None else to_text(source_id),
        "session_id": session_id,
        "since": since,
        "until": until,
        "metadata": to_document(dict(metadata or {}), "the metadata filter"),
        "types": None if types is None else list(types),
        "as_of": as_of,
        "limit": limit,
        "exact_rows": exact_rows,
        "bare": bare,
        "common": COMMON_MAX,
    }
    return await fetch_all(conn, SEARCH, values, Hit)


BY_IDS: LiteralString = """
select m.id, m.text, 0::float8 as score, 0 as start, 0 as end, 0 as matched, m.source_kind,
  m.source_id, m.metadata, m.team_id, m.agent_id, m.thread_id, m.job_id, m.created_at, m.type,
  m.importance, m.confidence, m.valid_from, m.valid_to
from jobsworth.memories m
where m.id = any(%(ids)s::uuid[])
"""


async def by_ids(conn: Connection, ids: Sequence[UUID]) -> dict[str, Hit]:
    """These memories by their ids as text, whatever became of them; scores and places are 0."""
    hits = await fetch_all(conn, BY_IDS, {"ids": list(ids)}, Hit)
    return {str(hit.id): hit for hit in hits}


DELETE_BY_SOURCE: LiteralString = """
with held as materialized (
  -- In the order of ids, as `written` takes them.
  select m.id
  from jobsworth.memories m
  where m.source_kind = %(source_kind)s and m.source_id = %(source_id)s
    and (m.team_id = %(team_id)s::uuid or (m.team_id is null and %(team_id)s::uuid is null))
  order by m.id
  for update
)
delete from jobsworth.memories m
using held h
where m.id = h.id
"""


async def delete_by_source(
    conn: Connection, source_kind: str, source_id: str, *, team_id: UUID | None = None
) -> int:
    """Delete the memories of one team from this source, embedded or not; returns how many."""
    values = {"source_kind": source_kind, "source_id": source_id, "team_id": team_id}
    return await execute(conn, DELETE_BY_SOURCE, values)


def _row(text: Text, memory_id: UUID) -> dict[str, Any]:
    return {
        "id": memory_id,
        "team_id": text.team_id,
        "agent_id": text.agent_id,
        "thread_id": text.thread_id,
        "job_id": text.job_id,
        "effect_key": text.effect_key,
        "source_kind": to_text(text.source_kind),
        "source_id": None if text.source_id is None else to_text(text.source_id),
        "text": to_text(text.text),
        "metadata": orjson.Fragment(to_document(dict(text.metadata), "the metadata")),
        "session_id": text.session_id,
        "type": text.type,
        "importance": text.importance,
        "confidence": text.confidence,
        "valid_from": text.valid_from,
        "valid_to": text.valid_to,
        "message_ids": list(text.message_ids) or None,
        "step_name": text.step_name,
        "file_name": text.file_name,
    }
