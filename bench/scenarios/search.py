"""A search for memories by size: what it finds of the nearest ten, and how long it takes."""

import asyncio
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any, LiteralString
from uuid import UUID

import numpy as np
import psycopg
from psycopg import sql

from bench.lab import OURS, Lab
from bench.our_workers import connect, settle_statistics
from bench.results import Figure
from db.memory import memories, spaces
from db.memory.spaces import Space, SpaceKey
from db.migrate import migrate
from db.pool import Connection, Database, execute

NAME = "search"
TITLE = "A search for memories, by how many there are"
METHOD = """
Vectors of 384 numbers around 1,000 centres (from a fixed seed), one for each memory, of 200 teams:
team n has 1/n as many as the first one. One memory in ten has the metadata that the filter asks
for. The space has its HNSW index, made with 1 GB of `maintenance_work_mem`. Thirty queries each for
ten hits, one after the other: over all teams, within the largest team and within the smallest.
"recall@10": how many of the ten nearest, as an exact search of the same scope finds them, are found
(1 where there are none). "ms": of a query, by the client's clock. The scope of 20,000 vectors is
compared exactly, as are the filtered ones of 200,000. One run, on two cores of an AMD EPYC that did
other work too: the times are upper bounds.
"""

SIZES = (1_000, 20_000, 200_000)
QUICK_SIZES = (1_000,)
DIMENSIONS, CENTRES, TEAMS, QUERIES, K = 384, 1_000, 200, 30, 10
SEED = 13
EVERY_ROW = 2**31 - 2
FILTER = {"kind": 7}
Vectors = np.ndarray[Any, np.dtype[np.float32]]


def run(lab: Lab) -> Iterator[Figure]:
    """Each size in a database of its own."""
    if lab.contender(OURS) is None:
        return
    for size in QUICK_SIZES if lab.quick else SIZES:
        url = lab.server.database(f"search{size}")
        migrate(url, "jobsworth")
        chance = np.random.default_rng(SEED)
        centres = chance.standard_normal((CENTRES, DIMENSIONS), np.float32)
        with connect(url) as connection:
            began = time.monotonic()
            space = _fill(connection, size, centres, chance)
            settle_statistics(connection)
        lab.say(f"{NAME}: {size:,} vectors after {time.monotonic() - began:.0f} s")
        yield from asyncio.run(_measure(lab, url, space, size, centres, chance))


def _near(centres: Vectors, count: int, chance: np.random.Generator) -> Vectors:
    """So many vectors, each near one of the centres."""
    noise = chance.standard_normal((count, DIMENSIONS), np.float32)
    return centres[chance.integers(0, CENTRES, count)] + noise


STAGED: LiteralString = "create table public.staged (n int, team int, vector {})"
TYPE: LiteralString = "select t.oid::regtype::text from pg_type t where t.typname = 'halfvec'"
QUIET: LiteralString = "set session_replication_role = replica"
MEMORIES: LiteralString = """
insert into jobsworth.memories (id, team_id, source_kind, text, metadata)
select lpad(s.n::text, 32, '0')::uuid, lpad(s.team::text, 32, '0')::uuid, 'note',
  'memory ' || md5(s.n::text), jsonb_build_object('kind', s.n %% %s)
from public.staged s
"""
EMBEDDINGS: LiteralString = """
insert into jobsworth.embeddings (
  memory_id, space_id, chunk_no, team_id, start_offset, end_offset, content_hash, vector)
select m.id, %s, 1, m.team_id, 0, 39, m.id, s.vector
from public.staged s
join jobsworth.memories m on m.id = lpad(s.n::text, 32, '0')::uuid
"""
SPACE: LiteralString = """
insert into jobsworth.embedding_spaces (provider, model, dimensions, chunker)
values (%s, %s, %s, %s) returning id
"""
ROOM: LiteralString = "set maintenance_work_mem = '1GB'"
KEY = SpaceKey("bench", "bench", DIMENSIONS)


def team_of(no: int) -> UUID:
    """The id of a team, 1 the largest."""
    return UUID(f"{no:032}")


def _fill(
    connection: psycopg.Connection[Any], size: int, centres: Vectors, chance: np.random.Generator
) -> Space:
    shares = 1 / np.arange(1, TEAMS + 1)
    teams = chance.choice(np.arange(1, TEAMS + 1), size, p=shares / shares.sum())
    teams[:TEAMS] = np.arange(1, TEAMS + 1)  # each has one at least
    connection.execute(QUIET)
    found = connection.execute(TYPE).fetchone()
    assert found is not None
    connection.execute(sql.SQL(STAGED).format(sql.SQL(found[0])))
    copy_in = "copy public.staged (n, team, vector) from stdin (format binary)"
    with connection.cursor().copy(copy_in) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
        for start in range(0, size, 10_000):
            count = min(10_000, size - start)
            vectors = _near(centres, count, chance)
            copy.write(b"".join(_rows(start, teams[start : start + count], vectors)))
        copy.write(struct.pack(">h", -1))
    connection.execute(MEMORIES, [10])
    made = connection.execute(SPACE, [*KEY]).fetchone()
    assert made is not None
    connection.execute(EMBEDDINGS, [made[0]])
    connection.execute("drop table public.staged")
    return Space(id=made[0], **KEY._asdict())


def _rows(start: int, teams: Iterable[int], vectors: Vectors) -> Iterator[bytes]:
    for n, (team, vector) in enumerate(zip(teams, vectors.astype(">f2"), strict=True), start):
        value = struct.pack(">hh", DIMENSIONS, 0) + vector.tobytes()
        yield struct.pack(">hiiiii", 3, 4, n, 4, team, len(value)) + value


async def _measure(
    lab: Lab, url: str, space: Space, size: int, centres: Vectors, chance: np.random.Generator
) -> list[Figure]:
    figures: list[Figure] = []
    async with Database(url) as database, database.connection() as connection:
        await execute(connection, ROOM)
        began = time.monotonic()
        await spaces.build_index(connection, space)
        lab.say(f"{NAME}: indexed after {time.monotonic() - began:.0f} s")
        scopes = {
            "all": {"any_team": True},
            "largest team": {"team_id": team_of(1)},
            "smallest team": {"team_id": team_of(TEAMS)},
        }
        queries = [one.tolist() for one in _near(centres, QUERIES, chance)]
        for name, scope in scopes.items():
            for filtered in (False, True):
                given = {**scope, **({"metadata": FILTER} if filtered else {})}
                recalls, took = await _ask(connection, space, queries, given)
                variant = f"{size:,}, {name}" + ", filter" * filtered
                lab.say(f"{NAME}: {variant}: {np.mean(recalls):.3f}, {np.median(took):.1f} ms")
                figures.append(Figure(NAME, OURS, "recall@10", variant, (float(np.mean(recalls)),)))
                figures.append(Figure(NAME, OURS, "ms", variant, tuple(took)))
                p95 = float(np.percentile(took, 95))
                figures.append(Figure(NAME, OURS, "ms, 95 %", variant, (p95,)))
    return figures


async def _ask(
    connection: Connection, space: Space, queries: list[list[float]], given: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """Of each query the share of the nearest that it finds, and its milliseconds."""
    recalls: list[float] = []
    took: list[float] = []
    for query in queries:
        exact = await memories.search(
            connection, space, query, limit=K, exact_rows=EVERY_ROW, **given
        )
        began = time.perf_counter()
        found = await memories.search(connection, space, query, limit=K, **given)
        took.append(1_000 * (time.perf_counter() - began))
        nearest = {one.id for one in exact}
        hits = len(nearest & {one.id for one in found})
        recalls.append(hits / len(nearest) if nearest else 1.0)
    return recalls, took
