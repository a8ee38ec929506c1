"""The outbox: memories that wait to be embedded, and the statement that stores their vectors.

In: memories, which a trigger queues as they are inserted. Out: their vectors in one space; of those
that were superseded meanwhile, or that a switch adds, apart from the others'.

Invariant: a memory leaves the outbox only in the statement that stores its vectors, and only once.
`lease_due` only postpones its next try, so two daemons do not embed the same text, and a daemon
that is killed loses none. A memory that was refused too often is dead: it stays, with the reason,
until `revive` or the deletion of the memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.documents import to_text
from db.memory.spaces import SWITCHED_TO, Space, SpaceKey
from db.memory.vectors import Vector, halfvec
from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val

NO_SPACE = SpaceKey("", "", 0)


class Payer(NamedTuple):
    """On whose account texts are embedded. `mode`: of the job that remembered them, if it is known
    still.
    """

    team_id: UUID | None = None
    agent_id: UUID | None = None
    thread_id: UUID | None = None
    run_id: UUID | None = None
    mode: str | None = None


class DueText(BaseModel):
    """A memory's text leased for embedding; `tries` counts this one.

    `run_id`, `mode`: of its job.
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    text: str
    tries: int
    refusals: int
    team_id: UUID | None
    agent_id: UUID | None
    thread_id: UUID | None
    run_id: UUID | None
    mode: str | None

    @property
    def payer(self) -> Payer:
        return Payer(self.team_id, self.agent_id, self.thread_id, self.run_id, self.mode)


class ChunkVector(NamedTuple):
    """The vector of `text[start:end]`, and a hash of that content."""

    start: int
    end: int
    content_hash: UUID
    vector: Vector


class Outbox(BaseModel):
    """How many memories wait for their first vectors, how long the oldest has waited; how many have
    failed or wait for a budget or a limit, and the reason of the oldest of those; how many are dead
    letters, which count in none of these; and how many a switch is still to add to another space.
    """

    model_config = ConfigDict(frozen=True)

    pending: int
    oldest_seconds: float | None
    failing: int
    reason: str | None
    dead: int
    switching: int


class DeadLetter(BaseModel):
    """A memory that no daemon tries to embed any more, and the last reason."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    source_kind: str
    source_id: str | None
    text: str
    tries: int
    last_error: str | None
    dead_at: AwareDatetime


LEASE_DUE: LiteralString = """
with fresh as materialized (
  select o.memory_id
  from jobsworth.embedding_outbox o
  where %(fresh)s and o.next_try_at <= now() and o.dead_at is null and o.space_id is null
  order by o.next_try_at
  limit %(limit)s
  for update skip locked
), switched as materialized (
  select o.memory_id
  from jobsworth.embedding_outbox o
  where o.next_try_at <= now() and o.dead_at is null and o.space_id = (
    select s.id from jobsworth.embedding_spaces s
    where (s.provider, s.model, s.dimensions, s.chunker)
      = (%(provider)s, %(model)s, %(dimensions)s, %(chunker)s))
  order by o.next_try_at
  limit %(limit)s - (select count(*) from fresh)
  for update skip locked
), due as (
  select f.memory_id from fresh f union all select s.memory_id from switched s
)
update jobsworth.embedding_outbox o
set tries = o.tries + 1, next_try_at = now() + %(lease_seconds)s::float8 * interval '1 second'
from due d
join jobsworth.memories m on m.id = d.memory_id
where o.memory_id = d.memory_id
returning o.memory_id as id, m.text, o.tries, o.refusals, m.team_id, m.agent_id, m.thread_id,
  (select j.run_id from jobsworth.reactive_jobs j where j.id = m.job_id) as run_id,
  (select j.mode from jobsworth.reactive_jobs j where j.id = m.job_id) as mode
"""


async def lease_due(
    conn: Connection,
    limit: int,
    lease_seconds: float,
    key: SpaceKey = NO_SPACE,
    *,
    fresh: bool = True,
) -> list[DueText]:
    """Take up to `limit` due texts; after `lease_seconds` they are due again.

    First those that have no vector yet (not if `fresh` is false), then those that a switch adds to
    the space `key`. Each must be passed to `written`, `postponed`, `refused` or `released`.
    """
    values = {"limit": limit, "lease_seconds": lease_seconds, "fresh": fresh, **key._asdict()}
    return await fetch_all(conn, LEASE_DUE, values, DueText)


EXTENDED: LiteralString = """
update jobsworth.embedding_outbox o
set next_try_at = now() + %(lease_seconds)s::float8 * interval '1 second'
where o.memory_id = any(%(ids)s::uuid[])
"""


async def extended(conn: Connection, ids: Sequence[UUID], lease_seconds: float) -> None:
    """Lease texts for longer: their embedding is under way."""
    await execute(conn, EXTENDED, {"ids": list(ids), "lease_seconds": lease_seconds})


KNOWN: LiteralString = """
select distinct on (e.content_hash) e.content_hash, e.vector::text as vector
from jobsworth.embeddings e
where e.space_id = %(space_id)s and e.content_hash = any(%(hashes)s::uuid[])
"""


async def known(conn: Connection, space: Space, hashes: Sequence[UUID]) -> dict[UUID, list[float]]:
    """The vectors of those contents that have one in this space already."""
    rows = await fetch_all(conn, KNOWN, {"space_id": space.id, "hashes": list(hashes)})
    return {row["content_hash"]: orjson.loads(row["vector"]) for row in rows}


# A text that is stored in another space than the one that was switched to waits for that one.
WRITTEN: LiteralString = (
    "with target as materialized ("
    + SWITCHED_TO
    + """
), kept as materialized (
  -- The memories first, as whoever deletes them does, and in the order of ids: no deadlock.
  select m.id, m.team_id
  from jobsworth.memories m
  where m.id = any(%(ids)s::uuid[])
  order by m.id
  for key share
), held as materialized (
  -- Whether it is superseded is read from the row that is locked: it may have been just now.
  select o.memory_id, k.team_id, o.superseded_at
  from jobsworth.embedding_outbox o
  join kept k on k.id = o.memory_id
  order by o.memory_id
  for update of o
), waiting as materialized (
  select h.memory_id, t.id as space_id
  from held h
  join target t on t.id <> %(space_id)s
  where not exists (
    select 1 from jobsworth.embeddings e where e.memory_id = h.memory_id and e.space_id = t.id)
  and not exists (
    select 1 from jobsworth.past_embeddings p where p.memory_id = h.memory_id and p.space_id = t.id)
), queued as (
  update jobsworth.embedding_outbox o
  set space_id = w.space_id, next_try_at = now(), tries = 0, refusals = 0, last_error = null
  from waiting w
  where o.memory_id = w.memory_id
), moved as (
  delete from jobsworth.embedding_outbox o
  using held h
  where o.memory_id = h.memory_id
    and not exists (select 1 from waiting w where w.memory_id = h.memory_id)
), chunks as materialized (
  select h.memory_id, h.team_id, h.superseded_at, c.chunk_no, c.start_offset, c.end_offset,
    c.content_hash, jobsworth.halfvec(c.vector) as vector
  from held h
  join jsonb_to_recordset(%(chunks)s::jsonb) as c (
    memory_id uuid, chunk_no int, start_offset int, end_offset int, content_hash uuid, vector text)
    on c.memory_id = h.memory_id
), stored as (
  insert into jobsworth.embeddings (
    memory_id, space_id, chunk_no, team_id, start_offset, end_offset, content_hash, vector)
  select c.memory_id, %(space_id)s, c.chunk_no, c.team_id, c.start_offset, c.end_offset,
    c.content_hash, c.vector
  from chunks c
  where c.superseded_at is null
  on conflict do nothing
), stored_apart as (
  insert into jobsworth.past_embeddings (
    memory_id, space_id, chunk_no, team_id, start_offset, end_offset, vector, superseded_at)
  select c.memory_id, %(space_id)s, c.chunk_no, c.team_id, c.start_offset, c.end_offset, c.vector,
    c.superseded_at
  from chunks c
  where c.superseded_at is not null
  on conflict do nothing
)
select count(*) from held
"""
)


async def written(
    conn: Connection, space: Space, made: Mapping[UUID, Sequence[ChunkVector]]
) -> int:
    """Store the vectors of leased texts, and take these out of the outbox; returns how many texts.

    One statement, so no text is lost between the two. The vectors of none are stored twice, even
    if its lease ran out and another daemon embedded it as well. Raises `InvalidInput`.
    """
    values = {"space_id": space.id, "ids": list(made), "chunks": chunk_rows(space, made)}
    return await fetch_val(conn, WRITTEN, values)


def chunk_rows(space: Space, made: Mapping[UUID, Sequence[ChunkVector]]) -> str:
    """The rows of `embeddings` that these vectors become, as JSON. Raises `InvalidInput`."""
    rows: list[dict[str, Any]] = [
        {
            "memory_id": memory_id,
            "chunk_no": number,
            "start_offset": chunk.start,
            "end_offset": chunk.end,
            "content_hash": chunk.content_hash,
            "vector": halfvec(chunk.vector, space.dimensions, space.model),
        }
        for memory_id, chunks in made.items()
        for number, chunk in enumerate(chunks, 1)
    ]
    return orjson.dumps(rows).decode()


POSTPONED: LiteralString = """
update jobsworth.embedding_outbox o
set next_try_at = now() + p.delay_seconds * interval '1 second', last_error = %(error)s,
  tries = case when %(counted)s then o.tries else o.tries - 1 end
from unnest(%(ids)s::uuid[], %(delays)s::float8[]) as p (id, delay_seconds)
where o.memory_id = p.id
"""


async def postponed(
    conn: Connection, delays: Mapping[UUID, float], error: str, *, counted: bool = True
) -> None:
    """Postpone leased texts, each by its own number of seconds, and record why.

    `counted`: they were tried. A text that waits for a budget was not.
    """
    values = {
        "ids": list(delays),
        "delays": list(delays.values()),
        "error": to_text(error),
        "counted": counted,
    }
    await execute(conn, POSTPONED, values)


REFUSED: LiteralString = """
update jobsworth.embedding_outbox o
set next_try_at = now() + %(delay_seconds)s::float8 * interval '1 second',
  last_error = %(error)s, refusals = o.refusals + 1,
  dead_at = case when o.refusals + 1 >= %(refusals_max)s then now() end
where o.memory_id = %(id)s
returning dead_at is not null
"""


async def refused(
    conn: Connection, memory_id: UUID, delay_seconds: float, error: str, refusals_max: int
) -> bool:
    """Postpone a leased text that was refused for itself, and record why; after `refusals_max`
    refusals it is dead. Returns whether it is.
    """
    values = {
        "id": memory_id,
        "delay_seconds": delay_seconds,
        "error": to_text(error),
        "refusals_max": refusals_max,
    }
    return bool(await fetch_val(conn, REFUSED, values))


RELEASED: LiteralString = """
update jobsworth.embedding_outbox o
set next_try_at = now(), tries = o.tries - 1
where o.memory_id = any(%(ids)s::uuid[])
"""


async def released(conn: Connection, ids: Sequence[UUID]) -> None:
    """Return leased texts untried; they are due at once."""
    await execute(conn, RELEASED, {"ids": list(ids)})


DEAD: LiteralString = """
select o.memory_id as id, m.team_id, m.source_kind, m.source_id,
  left(m.text, %(characters)s) as text, o.tries, o.last_error, o.dead_at
from jobsworth.embedding_outbox o
join jobsworth.memories m on m.id = o.memory_id
where o.dead_at is not null
order by o.dead_at desc, o.memory_id
limit %(limit)s
"""


async def dead_letters(
    conn: Connection, limit: int = 100, *, characters: int = 200
) -> list[DeadLetter]:
    """The latest dead letters, with the beginnings of their texts."""
    return await fetch_all(conn, DEAD, {"limit": limit, "characters": characters}, DeadLetter)


REVIVE: LiteralString = """
update jobsworth.embedding_outbox o
set dead_at = null, refusals = 0, next_try_at = now()
where o.dead_at is not null and (%(ids)s::uuid[] is null or o.memory_id = any(%(ids)s))
"""


async def revive(conn: Connection, ids: Sequence[UUID] | None = None) -> int:
    """Let dead letters (None: all) be tried again; returns how many."""
    return await execute(conn, REVIVE, {"ids": None if ids is None else list(ids)})


COUNTS: LiteralString = """
select count(*) filter (where o.dead_at is null and o.space_id is null) as pending,
  extract(epoch from now()
    - min(o.created_at) filter (where o.dead_at is null and o.space_id is null))::float8
    as oldest_seconds,
  count(*) filter (where o.last_error is not null and o.dead_at is null) as failing,
  (array_agg(o.last_error order by o.created_at)
    filter (where o.last_error is not null and o.dead_at is null))[1] as reason,
  count(*) filter (where o.dead_at is not null) as dead,
  count(*) filter (where o.dead_at is null and o.space_id is not null) as switching
from jobsworth.embedding_outbox o
"""


async def counts(conn: Connection) -> Outbox:
    """The counts of the outbox, for health and metrics."""
    state = await fetch_one(conn, COUNTS, {}, Outbox)
    assert state is not None
    return state


NEXT_DUE: LiteralString = """
select extract(epoch from min(o.next_try_at) - clock_timestamp())::float8
from jobsworth.embedding_outbox o
where o.dead_at is null and o.space_id is null
"""


async def next_due_seconds(conn: Connection) -> float | None:
    """Seconds until the next text is due (0 or less: it is due), or None if no text waits."""
    return await fetch_val(conn, NEXT_DUE)
