"""Switching to another space: it is filled beside the ones in use, and missed by no text.

In: the space of another embedder. Out: all memories that have no vector there, in the outbox, for
its embedder alone; superseded ones too, for whoever asks what held before. From `begin` on, a text
that another embedder stores waits for this space too (`outbox.written`). The state is in the
database, so whoever has the embedder may go on: the command that was killed, run again, or a
worker.
"""

from typing import LiteralString, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from db.memory.spaces import Space, SpaceKey
from db.pool import Connection, execute, fetch_all, fetch_one
from db.transactions import transaction

TOGETHER = 5_000
FIRST = UUID(int=0)


class Lacking(BaseModel):
    """The memories that have no vector in a space: how many, and the bytes of their texts."""

    model_config = ConfigDict(frozen=True)

    texts: int
    bytes: int


class Progress(NamedTuple):
    """How many texts wait for a space, and the reason if some were put off; how many are dead."""

    left: int
    reason: str | None
    dead: int


LACKING: LiteralString = """
select count(*) as texts, coalesce(sum(octet_length(m.text)), 0)::bigint as bytes
from jobsworth.memories m
where m.status = 'active' and not exists (
    select 1
    from jobsworth.embeddings e
    join jobsworth.embedding_spaces s on s.id = e.space_id
    where e.memory_id = m.id and (s.provider, s.model, s.dimensions, s.chunker)
      = (%(provider)s, %(model)s, %(dimensions)s, %(chunker)s))
  or m.superseded_at is not null and not exists (
    select 1
    from jobsworth.past_embeddings p
    join jobsworth.embedding_spaces s on s.id = p.space_id
    where p.memory_id = m.id and (s.provider, s.model, s.dimensions, s.chunker)
      = (%(provider)s, %(model)s, %(dimensions)s, %(chunker)s))
"""


async def lacking(conn: Connection, key: SpaceKey) -> Lacking:
    """What a switch to this space would embed. Reads all memories."""
    found = await fetch_one(conn, LACKING, key._asdict(), Lacking)
    assert found is not None
    return found


BEGIN: LiteralString = """
with begun as (
  update jobsworth.embedding_spaces s set switched_at = clock_timestamp()
  where s.id = %(space_id)s
)
-- What waits for the space of an earlier switch.
update jobsworth.embedding_outbox o
set space_id = %(space_id)s
where o.space_id <> %(space_id)s
"""


async def begin(conn: Connection, space: Space) -> None:
    """Have every text embedded in this space too, from now on."""
    await execute(conn, BEGIN, {"space_id": space.id})


QUEUE: LiteralString = """
with looked_at as materialized (
  select m.id
  from jobsworth.memories m
  where m.id > %(after)s
  order by m.id
  limit %(limit)s
), wanted as materialized (
  -- Locked: one that is retracted at this moment would come back into the outbox.
  select m.id, m.team_id, m.superseded_at
  from looked_at l
  join jobsworth.memories m on m.id = l.id
  where m.status = 'active' or m.superseded_at is not null
  order by m.id
  for share of m
), queued as (
  insert into jobsworth.embedding_outbox (memory_id, team_id, superseded_at, space_id)
  select w.id, w.team_id, w.superseded_at, %(space_id)s
  from wanted w
  where not exists (
      select 1 from jobsworth.embeddings e where e.memory_id = w.id and e.space_id = %(space_id)s)
    and not exists (
      select 1 from jobsworth.past_embeddings p
      where p.memory_id = w.id and p.space_id = %(space_id)s)
  on conflict (memory_id) do nothing
  returning memory_id
)
select (select l.id from looked_at l order by l.id desc limit 1) as last,
  (select count(*) from queued) as queued
"""


async def queue(conn: Connection, space: Space) -> int:
    """Queue the memories that have no vector in this space; returns how many it added.

    In batches, each committed. What was being stored elsewhere meanwhile is found by another call.
    """
    after, added = FIRST, 0
    while True:
        values = {"after": after, "limit": TOGETHER, "space_id": space.id}
        [row] = await fetch_all(conn, QUEUE, values)
        added += row["queued"]
        if row["last"] is None:
            return added
        after = row["last"]


PROGRESS: LiteralString = """
select count(*) filter (where o.dead_at is null) as left,
  (array_agg(o.last_error) filter (where o.last_error is not null and o.dead_at is null))[1]
    as reason,
  count(*) filter (where o.dead_at is not null) as dead
from jobsworth.embedding_outbox o
where o.space_id = %(space_id)s
"""


async def progress(conn: Connection, space: Space) -> Progress:
    """How far the filling of a space is."""
    [row] = await fetch_all(conn, PROGRESS, {"space_id": space.id})
    return Progress(**row)


STOP: LiteralString = """
update jobsworth.embedding_spaces s set switched_at = null
where s.switched_at is not null
"""
DROP_QUEUED: LiteralString = """
delete from jobsworth.embedding_outbox o
where o.space_id is not null
  and (exists (select 1 from jobsworth.embeddings e where e.memory_id = o.memory_id)
    or exists (select 1 from jobsworth.past_embeddings p where p.memory_id = o.memory_id))
"""
RELEASE_QUEUED: LiteralString = """
update jobsworth.embedding_outbox o set space_id = null where o.space_id is not null
"""


async def stop(conn: Connection) -> int:
    """End every switch; returns how many texts no longer wait for one. What is stored stays."""
    async with transaction(conn):
        await execute(conn, STOP)
        dropped = await execute(conn, DROP_QUEUED)
        await execute(conn, RELEASE_QUEUED)
    return dropped
