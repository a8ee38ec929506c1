"""Spaces: which vectors can be compared with each other, and the index of each.

In: what makes an embedder's vectors (its provider, model, dimensions and chunker). Out: the space
of those vectors, how complete it is, and its HNSW index, built while others read and write.
"""

from datetime import datetime
from typing import LiteralString, NamedTuple, cast

from pydantic import BaseModel, ConfigDict

from db.errors import InvalidInput, translated
from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val

DIMENSIONS_MAX = 16_000
# https://github.com/pgvector/pgvector#half-precision-indexing
INDEXED_DIMENSIONS_MAX = 4_000
COUNTED_MAX = 10_000
HIDDEN_REMEDY = (
    "to find them, go back to that embedder (JOBSWORTH_EMBEDDER_URL, _MODEL, _DIMENSIONS) or embed "
    "them with this one: jobsworth memory switch"
)


class SpaceKey(NamedTuple):
    """What makes vectors comparable. `provider` is the kind of endpoint, not its address; `chunker`
    names the way in which texts are cut.
    """

    provider: str
    model: str
    dimensions: int
    chunker: str = "whole"


class Space(BaseModel):
    """The vectors that one embedder makes."""

    model_config = ConfigDict(frozen=True)

    id: int
    provider: str
    model: str
    dimensions: int
    chunker: str

    @property
    def key(self) -> SpaceKey:
        return SpaceKey(self.provider, self.model, self.dimensions, self.chunker)


class SpaceState(Space):
    """A space, and how complete it is. Counts end at 10,000; `queued`: a switch is adding so many
    memories to it; `index_valid` is None without an index.
    """

    vectors: int
    missing: int
    queued: int
    index_valid: bool | None
    index_bytes: int | None


class Hidden(BaseModel):
    """Memories that have no vector in the space of an embedder, and which other space has one."""

    model_config = ConfigDict(frozen=True)

    model: str
    dimensions: int
    memories: int

    def __str__(self) -> str:
        least = "at least " if self.memories == COUNTED_MAX else ""
        return (
            f"{least}{self.memories:,} memories were made by another embedder, {self.model} with "
            f"{self.dimensions:,} dimensions, and cannot be found by this one"
        )


class IndexProgress(BaseModel):
    """How far the building of an index is. `done` and `total` are rows."""

    model_config = ConfigDict(frozen=True)

    phase: str
    done: int
    total: int


FIND: LiteralString = """
select s.id, s.provider, s.model, s.dimensions, s.chunker
from jobsworth.embedding_spaces s
where (s.provider, s.model, s.dimensions, s.chunker)
  = (%(provider)s, %(model)s, %(dimensions)s, %(chunker)s)
"""


async def find(conn: Connection, key: SpaceKey) -> Space | None:
    """The space of an embedder; None if nothing was embedded by it yet."""
    return await fetch_one(conn, FIND, key._asdict(), Space)


ADD: LiteralString = """
insert into jobsworth.embedding_spaces (provider, model, dimensions, chunker)
values (%(provider)s, %(model)s, %(dimensions)s, %(chunker)s)
on conflict do nothing
"""


async def get_or_create(conn: Connection, key: SpaceKey) -> Space:
    """The space of an embedder; several callers may create it at once. Raises `InvalidInput`."""
    if not 1 <= key.dimensions <= DIMENSIONS_MAX:
        raise InvalidInput(
            f"a vector of {key.dimensions} dimensions cannot be stored",
            f"use 1 to {DIMENSIONS_MAX:,} dimensions",
        )
    space = await find(conn, key)
    if space is None:
        await execute(conn, ADD, key._asdict())
        space = await find(conn, key)
        assert space is not None  # spaces are never deleted
    return space


SWITCHED_TO: LiteralString = """
select s.id
from jobsworth.embedding_spaces s
where s.switched_at is not null
order by s.switched_at desc, s.id desc
limit 1
"""


async def switched_to(conn: Connection) -> int | None:
    """The id of the space that was switched to last; None if none was, or the switch was ended."""
    return await fetch_val(conn, SWITCHED_TO)


LIST_ALL: LiteralString = """
select s.id, s.provider, s.model, s.dimensions, s.chunker,
  (select count(*) from (
    select 1 from jobsworth.embeddings e where e.space_id = s.id limit %(most)s) x) as vectors,
  (select count(*) from (
    select 1 from jobsworth.memories m
    where (m.status = 'active' or m.superseded_at is not null) and not exists (
        select 1 from jobsworth.embeddings e where e.memory_id = m.id and e.space_id = s.id)
      and not exists (
        select 1 from jobsworth.past_embeddings p where p.memory_id = m.id and p.space_id = s.id)
    limit %(most)s) x) as missing,
  (select count(*) from (
    select 1 from jobsworth.embedding_outbox o
    where o.space_id = s.id and o.dead_at is null limit %(most)s) x) as queued,
  i.valid as index_valid, i.bytes as index_bytes
from jobsworth.embedding_spaces s
left join jobsworth.space_indexes() i on i.space_id = s.id
order by s.id
"""


async def list_all(conn: Connection) -> list[SpaceState]:
    """All spaces, oldest first, and how many memories have no vector in each: active ones, and
    superseded ones.
    """
    return await fetch_all(conn, LIST_ALL, {"most": COUNTED_MAX}, SpaceState)


HIDDEN: LiteralString = """
select s.model, s.dimensions, n.memories
from jobsworth.embedding_spaces s
cross join lateral (
  select count(*) as memories
  from (
    select 1 from jobsworth.embeddings e
    where e.space_id = s.id and e.chunk_no = 1 and not exists (
      select 1 from jobsworth.embeddings o
      join jobsworth.embedding_spaces mine on mine.id = o.space_id
      where o.memory_id = e.memory_id
        and (mine.provider, mine.model, mine.dimensions, mine.chunker)
          = (%(provider)s, %(model)s, %(dimensions)s, %(chunker)s))
    union all
    select 1 from jobsworth.past_embeddings e
    where %(as_of)s::timestamptz is not null and e.superseded_at > %(as_of)s
      and e.space_id = s.id and e.chunk_no = 1 and not exists (
        select 1 from jobsworth.past_embeddings o
        join jobsworth.embedding_spaces mine on mine.id = o.space_id
        where o.memory_id = e.memory_id
          and (mine.provider, mine.model, mine.dimensions, mine.chunker)
            = (%(provider)s, %(model)s, %(dimensions)s, %(chunker)s))
    limit %(most)s) x) n
where (s.provider, s.model, s.dimensions, s.chunker)
    <> (%(provider)s, %(model)s, %(dimensions)s, %(chunker)s)
  and n.memories > 0
order by n.memories desc, s.model, s.dimensions
"""


async def hidden(conn: Connection, key: SpaceKey, as_of: datetime | None = None) -> list[Hidden]:
    """The memories that a search with this embedder cannot find, by the embedder that made them.

    Each is counted up to 10,000. With `as_of`, those too that were superseded since.
    """
    values = {**key._asdict(), "most": COUNTED_MAX, "as_of": as_of}
    return await fetch_all(conn, HIDDEN, values, Hidden)


INDEX: LiteralString = """
select i.valid from jobsworth.space_indexes() i where i.space_id = %(space_id)s
"""
# Its name is that of a schema's index, which a statement cannot take as a parameter.
DROP_INDEX: LiteralString = """
select format('drop index concurrently if exists %%s', i.oid::regclass)
from jobsworth.space_indexes() s
join pg_class i on i.relname = s.index_name
join pg_index x on x.indexrelid = i.oid and x.indrelid = 'jobsworth.embeddings'::regclass
where s.space_id = %(space_id)s
"""
MAKE_INDEX: LiteralString = "select jobsworth.index_space(%(space_id)s)"


async def build_index(conn: Connection, space: Space) -> bool:
    """Build the HNSW index of a space; False if it has one. Others read and write meanwhile.

    Takes minutes for a million vectors. `conn` is in no transaction, and the schema's owner's. An
    index that an earlier call left unfinished is made anew. Raises `InvalidInput`.
    """
    if space.dimensions > INDEXED_DIMENSIONS_MAX:
        raise InvalidInput(
            f"vectors of {space.dimensions:,} dimensions cannot be indexed",
            f"use a model with at most {INDEXED_DIMENSIONS_MAX:,}; the search stays exact",
        )
    values = {"space_id": space.id}
    valid = await fetch_val(conn, INDEX, values)
    if valid:
        return False
    if valid is False:
        await _run_made(conn, await fetch_val(conn, DROP_INDEX, values))
    await _run_made(conn, await fetch_val(conn, MAKE_INDEX, values))
    return True


async def _run_made(conn: Connection, statement: str) -> None:
    """Run a statement that the database has made, for as long as it takes."""
    with translated():
        await conn.execute("set statement_timeout = 0")
        await conn.execute(cast(LiteralString, statement))


PROGRESS: LiteralString = """
select p.phase, p.tuples_done as done, p.tuples_total as total
from pg_stat_progress_create_index p
where p.datname = current_database() and p.relid = 'jobsworth.embeddings'::regclass
"""


async def index_progress(conn: Connection) -> IndexProgress | None:
    """How far the index is that is being built now, if any."""
    return await fetch_one(conn, PROGRESS, {}, IndexProgress)


def counted(number: int) -> str:
    """A count that ends at 10,000, in words."""
    return f"{number:,}" if number < COUNTED_MAX else f"{number:,}+"
