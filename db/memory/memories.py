"""Memory: texts that wait for an embedder, vectors, and the search over them.

In: texts that jobs (or callers) want remembered. They wait in `embedding_outbox`, a small table;
`written` moves them, with their vectors, into `embeddings` in one statement. Out: hits, by exact
cosine search within one space (a model and its dimension).

Invariant: a text leaves the outbox only in the statement that stores its vector, and only once.
`lease_due` only postpones its next try, so two daemons do not embed the same text, and a daemon
that is killed loses none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import UUID

import orjson
from pgvector import HalfVector
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit
from db.documents import to_document, to_text
from db.errors import InvalidInput, translated
from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val
from db.transactions import transaction

DIMENSIONS_MAX = 16_000
LIMIT_MAX = 10_000
HIDDEN_MAX = 10_000
HIDDEN_REMEDY = (
    "to find them, go back to that embedder: JOBSWORTH_EMBEDDER_URL, _MODEL and _DIMENSIONS"
)

Vector = Sequence[float]


@dataclass(frozen=True, slots=True)
class Text:
    """A text to remember. `source_kind` and `source_id` name its source (a message, a file …). With
    `job_id` and `effect_key` it is remembered once, however often it is passed in.
    """

    text: str
    source_kind: str = "note"
    source_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    team_id: UUID | None = None
    thread_id: UUID | None = None
    job_id: UUID | None = None
    effect_key: str | None = None


class Space(BaseModel):
    """The vectors of one model in one dimension, which can be compared with each other."""

    model_config = ConfigDict(frozen=True)

    id: int
    model: str
    dimensions: int


class DueText(BaseModel):
    """A text leased for embedding; `tries` counts this one."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    text: str
    tries: int


class Hit(BaseModel):
    """A remembered text. `score` is 1 minus the cosine distance: 1 for the same direction."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    text: str
    score: float
    source_kind: str
    source_id: str | None
    metadata: dict[str, Any]
    job_id: UUID | None
    created_at: AwareDatetime


class Hidden(BaseModel):
    """Memories in the space of another embedder, which no search with this one finds."""

    model_config = ConfigDict(frozen=True)

    model: str
    dimensions: int
    memories: int

    def __str__(self) -> str:
        least = "at least " if self.memories == HIDDEN_MAX else ""
        return (
            f"{least}{self.memories:,} memories were made by another embedder, {self.model} with "
            f"{self.dimensions:,} dimensions, and cannot be found by this one"
        )


class Outbox(BaseModel):
    """How many texts wait to be embedded, how long the oldest has waited, how many have failed."""

    model_config = ConfigDict(frozen=True)

    pending: int
    oldest_seconds: float | None
    failing: int


FIND_SPACE: LiteralString = """
select s.id, s.model, s.dimensions
from jobsworth.embedding_spaces s
where s.model = %(model)s and s.dimensions = %(dimensions)s
"""

ADD_SPACE: LiteralString = """
insert into jobsworth.embedding_spaces (model, dimensions)
values (%(model)s, %(dimensions)s)
on conflict do nothing
"""


async def get_or_create_space(conn: Connection, model: str, dimensions: int) -> Space:
    """The space of a model and dimension; several callers may create it at once."""
    if not 1 <= dimensions <= DIMENSIONS_MAX:
        raise InvalidInput(
            f"a vector of {dimensions} dimensions cannot be stored",
            f"use 1 to {DIMENSIONS_MAX:,} dimensions",
        )
    values = {"model": model, "dimensions": dimensions}
    space = await fetch_one(conn, FIND_SPACE, values, Space)
    if space is None:
        await execute(conn, ADD_SPACE, values)
        space = await fetch_one(conn, FIND_SPACE, values, Space)
        assert space is not None  # spaces are never deleted
    return space


ADD: LiteralString = """
insert into jobsworth.embeddings (
  team_id, thread_id, job_id, effect_key, space_id, source_kind, source_id, text, metadata, vector)
select t.team_id, t.thread_id, t.job_id, t.effect_key, %(space_id)s, t.source_kind, t.source_id,
  t.text, t.metadata, jobsworth.halfvec(v.vector)
from jsonb_to_recordset(%(texts)s::jsonb) as t (
  team_id uuid, thread_id uuid, job_id uuid, effect_key text, source_kind text, source_id text,
  text text, metadata jsonb, n int)
join unnest(%(vectors)s::text[]) with ordinality as v (vector, n) on v.n = t.n
order by t.n
on conflict do nothing
returning id
"""


async def add(
    conn: Connection, space: Space, texts: Sequence[Text], vectors: Sequence[Vector]
) -> list[UUID]:
    """Store texts with vectors that the caller has made; returns the new ids, in order.

    `vectors` has the shape `(len(texts), space.dimensions)`. Raises `InvalidInput`.
    """
    if len(texts) != len(vectors):
        raise InvalidInput(
            f"{len(texts)} texts came with {len(vectors)} vectors", "give one vector for each text"
        )
    values = {
        "space_id": space.id,
        "texts": _documents(texts),
        "vectors": [_halfvec(space, vector) for vector in vectors],
    }
    return [row["id"] for row in await fetch_all(conn, ADD, values)]


SEARCH: LiteralString = """
select e.id, e.text, 1 - d.distance as score, e.source_kind, e.source_id, e.metadata, e.job_id,
  e.created_at
from jobsworth.embeddings e
cross join lateral (
  select jobsworth.cosine_distance(e.vector, jobsworth.halfvec(%(vector)s::text)) as distance
) d
where e.space_id = %(space_id)s
  and (%(any_team)s or e.team_id = %(team_id)s::uuid
    or (e.team_id is null and %(team_id)s::uuid is null))
  and (%(thread_id)s::uuid is null or e.thread_id = %(thread_id)s)
  and (%(source_kind)s::text is null or e.source_kind = %(source_kind)s)
  and e.metadata @> %(metadata)s::jsonb
  -- The distance of a vector of zeros is NaN.
  and d.distance <> 'nan'
order by d.distance, e.id
limit %(limit)s
"""


async def search(
    conn: Connection,
    space: Space,
    vector: Vector,
    *,
    limit: int = 5,
    team_id: UUID | None = None,
    any_team: bool = False,
    thread_id: UUID | None = None,
    source_kind: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> list[Hit]:
    """The texts nearest to `vector` (of `space.dimensions` numbers), best first; exact.

    Searches one team's texts (None: those of no team), or with `any_team` all, which is for
    operators. The other filters do not apply when None; a hit's metadata must contain `metadata`.
    """
    check_limit(limit, LIMIT_MAX, "ask for fewer memories")
    values = {
        "space_id": space.id,
        "vector": _halfvec(space, vector),
        "team_id": team_id,
        "any_team": any_team,
        "thread_id": thread_id,
        "source_kind": source_kind,
        "metadata": to_document(dict(metadata or {}), "the metadata filter"),
        "limit": limit,
    }
    return await fetch_all(conn, SEARCH, values, Hit)


HIDDEN: LiteralString = """
select s.model, s.dimensions, n.memories
from jobsworth.embedding_spaces s
cross join lateral (
  select count(*) as memories
  from (
    select 1 from jobsworth.embeddings e
    where e.space_id = s.id
    limit %(most)s) x) n
where (s.model, s.dimensions) <> (%(model)s, %(dimensions)s) and n.memories > 0
order by n.memories desc, s.model, s.dimensions
"""


async def hidden(conn: Connection, model: str, dimensions: int) -> list[Hidden]:
    """The memories that a search with this embedder cannot find, by the embedder that made them.

    Each is counted up to 10,000.
    """
    values = {"model": model, "dimensions": dimensions, "most": HIDDEN_MAX}
    return await fetch_all(conn, HIDDEN, values, Hidden)


FORGET_PENDING: LiteralString = """
delete from jobsworth.embedding_outbox o
where o.source_kind = %(source_kind)s and o.source_id = %(source_id)s
  and (o.team_id = %(team_id)s::uuid or (o.team_id is null and %(team_id)s::uuid is null))
"""

FORGET_EMBEDDED: LiteralString = """
delete from jobsworth.embeddings e
where e.source_kind = %(source_kind)s and e.source_id = %(source_id)s
  and (e.team_id = %(team_id)s::uuid or (e.team_id is null and %(team_id)s::uuid is null))
"""


async def delete_by_source(
    conn: Connection, source_kind: str, source_id: str, *, team_id: UUID | None = None
) -> int:
    """Delete the texts of one team from this source, embedded or not; returns how many."""
    values = {"source_kind": source_kind, "source_id": source_id, "team_id": team_id}
    with translated():
        async with transaction(conn):
            # In this order: the first statement waits for a `written` that is moving a text, and
            # only a later statement sees the text in its new place.
            pending = await execute(conn, FORGET_PENDING, values)
            return pending + await execute(conn, FORGET_EMBEDDED, values)


PUT: LiteralString = """
insert into jobsworth.embedding_outbox (
  team_id, thread_id, job_id, effect_key, source_kind, source_id, text, metadata)
select t.team_id, t.thread_id, t.job_id, t.effect_key, t.source_kind, t.source_id, t.text,
  t.metadata
from jsonb_to_recordset(%(texts)s::jsonb) as t (
  team_id uuid, thread_id uuid, job_id uuid, effect_key text, source_kind text, source_id text,
  text text, metadata jsonb)
-- A job's text that has been embedded is no longer in the outbox.
where not exists (
  select 1 from jobsworth.embeddings e where e.job_id = t.job_id and e.effect_key = t.effect_key)
on conflict do nothing
returning id
"""


async def put(conn: Connection, texts: Sequence[Text]) -> list[UUID]:
    """Add texts that are to be embedded; returns the ids of the new ones."""
    return [row["id"] for row in await fetch_all(conn, PUT, {"texts": _documents(texts)})]


LEASE_DUE: LiteralString = """
with due as materialized (
  select o.id
  from jobsworth.embedding_outbox o
  where o.next_try_at <= now()
  order by o.next_try_at
  limit %(limit)s
  for update skip locked
)
update jobsworth.embedding_outbox o
set tries = o.tries + 1, next_try_at = now() + %(lease_seconds)s::float8 * interval '1 second'
from due d
where o.id = d.id
returning o.id, o.text, o.tries
"""


async def lease_due(conn: Connection, limit: int, lease_seconds: float) -> list[DueText]:
    """Take up to `limit` due texts; after `lease_seconds` they are due again.

    Each must be passed to `written`, `postponed` or `released`.
    """
    return await fetch_all(
        conn, LEASE_DUE, {"limit": limit, "lease_seconds": lease_seconds}, DueText
    )


WRITTEN: LiteralString = """
with held as materialized (
  -- In the order of ids, so that two daemons that lease the same texts cannot deadlock.
  select o.id
  from jobsworth.embedding_outbox o
  where o.id = any(%(ids)s::uuid[])
  order by o.id
  for update
), moved as (
  delete from jobsworth.embedding_outbox o
  using held h
  where o.id = h.id
  returning o.id, o.team_id, o.thread_id, o.job_id, o.effect_key, o.source_kind, o.source_id,
    o.text, o.metadata, o.created_at
)
insert into jobsworth.embeddings (
  team_id, thread_id, job_id, effect_key, space_id, source_kind, source_id, text, metadata, vector,
  created_at)
select m.team_id, m.thread_id, m.job_id, m.effect_key, %(space_id)s, m.source_kind, m.source_id,
  m.text, m.metadata, jobsworth.halfvec(v.vector), m.created_at
from moved m
join unnest(%(ids)s::uuid[], %(vectors)s::text[]) as v (id, vector) on v.id = m.id
on conflict do nothing
"""


async def written(conn: Connection, space: Space, vectors: Mapping[UUID, Vector]) -> int:
    """Move leased texts to the embeddings, with their vectors by id; returns how many were moved.

    One statement, so no text is lost between outbox and embeddings. None is stored twice, even if
    its lease ran out and another daemon embedded it as well.
    """
    values = {
        "space_id": space.id,
        "ids": list(vectors),
        "vectors": [_halfvec(space, vector) for vector in vectors.values()],
    }
    return await execute(conn, WRITTEN, values)


POSTPONED: LiteralString = """
update jobsworth.embedding_outbox o
set next_try_at = now() + p.delay_seconds * interval '1 second', last_error = %(error)s
from unnest(%(ids)s::uuid[], %(delays)s::float8[]) as p (id, delay_seconds)
where o.id = p.id
"""


async def postponed(conn: Connection, delays: Mapping[UUID, float], error: str) -> None:
    """Postpone leased texts, each by its own number of seconds, and record why."""
    values = {"ids": list(delays), "delays": list(delays.values()), "error": to_text(error)}
    await execute(conn, POSTPONED, values)


RELEASED: LiteralString = """
update jobsworth.embedding_outbox o
set next_try_at = now(), tries = o.tries - 1
where o.id = any(%(ids)s::uuid[])
"""


async def released(conn: Connection, ids: Sequence[UUID]) -> None:
    """Return leased texts untried; they are due at once."""
    await execute(conn, RELEASED, {"ids": list(ids)})


OUTBOX: LiteralString = """
select count(*) as pending,
  extract(epoch from now() - min(o.created_at))::float8 as oldest_seconds,
  count(*) filter (where o.last_error is not null) as failing
from jobsworth.embedding_outbox o
"""


async def outbox(conn: Connection) -> Outbox:
    """The counts of the outbox, for health and metrics."""
    state = await fetch_one(conn, OUTBOX, {}, Outbox)
    assert state is not None
    return state


NEXT_DUE: LiteralString = """
select extract(epoch from min(o.next_try_at) - clock_timestamp())::float8
from jobsworth.embedding_outbox o
"""


async def next_due_seconds(conn: Connection) -> float | None:
    """Seconds until the next text is due (0 or less: it is due), or None if no text waits."""
    return await fetch_val(conn, NEXT_DUE)


def _documents(texts: Sequence[Text]) -> str:
    return orjson.dumps([_document(n, text) for n, text in enumerate(texts, 1)]).decode()


def _document(n: int, text: Text) -> dict[str, Any]:
    return {
        "n": n,
        "team_id": text.team_id,
        "thread_id": text.thread_id,
        "job_id": text.job_id,
        "effect_key": text.effect_key,
        "source_kind": to_text(text.source_kind),
        "source_id": None if text.source_id is None else to_text(text.source_id),
        "text": to_text(text.text),
        "metadata": orjson.Fragment(to_document(dict(text.metadata), "the metadata")),
    }


def _halfvec(space: Space, vector: Vector) -> str:
    if len(vector) != space.dimensions:
        raise InvalidInput(
            f"a vector has {len(vector)} dimensions, the space of {space.model} has "
            f"{space.dimensions}",
            "embed with that model, or create a space of that dimension",
        )
    try:
        text = HalfVector([float(number) for number in vector]).to_text()
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"a vector holds something that is not a half-precision number: {error}",
            "give finite numbers up to 65504",
        ) from error
    if "n" in text:
        raise InvalidInput("a vector holds nan or infinity", "give finite numbers up to 65504")
    return text
