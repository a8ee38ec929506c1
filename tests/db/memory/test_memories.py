"""Memory: the outbox loses and doubles nothing, and the search is exact and kept to its scope."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import pytest

from db.errors import InvalidInput
from db.memory import memories, outbox, spaces
from db.memory.memories import Text
from db.memory.outbox import ChunkVector
from db.memory.spaces import Space, SpaceKey
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from tests.db import rows
from tests.support import until

LEASE_SECONDS = 60.0

OUTBOX: LiteralString = """
select m.text, o.tries, o.last_error, o.next_try_at > now() as put_off
from jobsworth.embedding_outbox o join jobsworth.memories m on m.id = o.memory_id
order by m.id
"""

MAKE_DUE: LiteralString = """
update jobsworth.embedding_outbox set next_try_at = now() - interval '1 second'
"""


async def space_of(conn: Connection, dimensions: int = 3) -> Space:
    return await spaces.get_or_create(conn, SpaceKey("test", "m", dimensions))


async def embed_all(conn: Connection, space: Space, vector: list[float] | None = None) -> int:
    due = await outbox.lease_due(conn, 1000, LEASE_SECONDS)
    return await store(conn, space, [text.id for text in due], vector or [1.0, 0.0, 0.0])


async def store(conn: Connection, space: Space, ids: Iterable[UUID], vector: list[float]) -> int:
    made = {one: [ChunkVector(0, 1, one, vector)] for one in ids}
    return await outbox.written(conn, space, made)


async def found(conn: Connection, space: Space, **scope: Any) -> list[str]:
    hits = await memories.search(conn, space, [1.0, 0.0, 0.0], limit=10, **scope)
    return [hit.text for hit in hits]


async def test_a_space_is_created_once_by_many(database: Database, conn: Connection) -> None:
    spaces: list[Space] = []

    async def create() -> None:
        async with database.connection() as connection:
            spaces.append(await space_of(connection))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(create)
    assert len(set(spaces)) == 1
    assert (await space_of(conn, 4)).id != spaces[0].id
    for dimensions in (0, 16_001):
        with pytest.raises(InvalidInput, match="dimensions"):
            await space_of(conn, dimensions)


@pytest.mark.both
async def test_hits_come_best_first_with_their_scores(conn: Connection) -> None:
    space = await space_of(conn)
    texts = [Text("opposite"), Text("same"), Text("across"), Text("near")]
    vectors = [[-1.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    ids = await memories.add(conn, space, texts, vectors)
    hits = await memories.search(conn, space, [2.0, 0.0, 0.0], limit=10)
    assert [hit.text for hit in hits] == ["same", "near", "across", "opposite"]
    assert [hit.score for hit in hits] == pytest.approx([1, 2**-0.5, 0, -1], abs=1e-3)
    assert [hit.id for hit in hits] == [ids[1], ids[3], ids[2], ids[0]]
    assert len(await memories.search(conn, space, [1.0, 0.0, 0.0], limit=2)) == 2


@pytest.mark.both
@pytest.mark.parametrize("dimensions", [1, 256, 1536, 4000])
async def test_any_dimension_can_be_stored_and_searched(conn: Connection, dimensions: int) -> None:
    space = await space_of(conn, dimensions)
    vector = [0.5] * dimensions
    await memories.add(conn, space, [Text("here")], [vector])
    [hit] = await memories.search(conn, space, vector)
    assert hit.score == pytest.approx(1)


async def test_a_wrong_vector_is_refused_and_nothing_stored(conn: Connection) -> None:
    space = await space_of(conn)
    good = [1.0, 0.0, 0.0]
    wrong: list[tuple[list[Any], str]] = [
        ([1.0, 0.0], "2 dimensions"),
        ([], "0 dimensions"),
        ([1.0, 0.0, 1e6], "half-precision"),
        ([1.0, 0.0, "x"], "half-precision"),
        ([1.0, 0.0, float("nan")], "nan"),
        ([1.0, 0.0, float("inf")], "nan or infinity"),
    ]
    for vector, reason in wrong:
        with pytest.raises(InvalidInput, match=reason):
            await memories.add(conn, space, [Text("a"), Text("b")], [good, vector])
        with pytest.raises(InvalidInput, match=reason):
            await memories.search(conn, space, vector)
    with pytest.raises(InvalidInput, match="2 texts came with 1 vectors"):
        await memories.add(conn, space, [Text("a"), Text("b")], [good])
    assert await found(conn, space) == []


async def test_a_vector_without_direction_is_never_found(conn: Connection) -> None:
    space = await space_of(conn)
    zero = [0.0, 0.0, 0.0]
    await memories.add(conn, space, [Text("nowhere"), Text("here")], [zero, [1.0, 0.0, 0.0]])
    assert await found(conn, space) == ["here"]
    assert await memories.search(conn, space, zero) == []


async def test_spaces_are_searched_apart(conn: Connection) -> None:
    space, other = (
        await space_of(conn),
        await spaces.get_or_create(conn, SpaceKey("test", "other", 3)),
    )
    await memories.add(conn, space, [Text("mine")], [[1.0, 0.0, 0.0]])
    await memories.add(conn, other, [Text("theirs")], [[1.0, 0.0, 0.0]])
    assert await found(conn, space) == ["mine"]
    assert await found(conn, other) == ["theirs"]


@pytest.mark.both
async def test_a_search_keeps_to_its_scope(conn: Connection) -> None:
    space, team_id, thread_id = await space_of(conn), uuid4(), uuid4()
    texts = [
        Text("plain", metadata={"lang": "en", "tags": ["a", "b"]}),
        Text("summary", source_kind="summary", metadata={"lang": "de", "n": {"x": 1}}),
        Text("thread", thread_id=thread_id),
        Text("team", team_id=team_id),
    ]
    await memories.add(conn, space, texts, [[1.0, 0.0, 0.0]] * 4)
    assert await found(conn, space) == ["plain", "summary", "thread"]
    assert await found(conn, space, team_id=team_id) == ["team"]
    assert await found(conn, space, team_id=uuid4()) == []
    assert await found(conn, space, any_team=True) == ["plain", "summary", "thread", "team"]
    assert await found(conn, space, thread_id=thread_id) == ["thread"]
    assert await found(conn, space, source_kind="summary") == ["summary"]
    assert await found(conn, space, metadata={"lang": "en"}) == ["plain"]
    assert await found(conn, space, metadata={"tags": ["b"]}) == ["plain"]
    assert await found(conn, space, metadata={"n": {"x": 1}}) == ["summary"]
    assert await found(conn, space, metadata={"lang": "fr"}) == []


@pytest.mark.both
async def test_a_text_goes_through_the_outbox_unchanged(conn: Connection) -> None:
    space, job_id = await space_of(conn), await rows.new_job(conn)
    text = Text(
        "said \0 so",
        "message",
        "m-1\0",
        metadata={"a": "\0"},
        job_id=job_id,
        effect_key="note 1",
    )
    await memories.put(conn, [text])
    created_at = await fetch_val(conn, "select created_at from jobsworth.memories")
    assert await embed_all(conn, space) == 1
    [hit] = await memories.search(conn, space, [1.0, 0.0, 0.0])
    assert (hit.text, hit.source_kind, hit.source_id) == ("said \u2400 so", "message", "m-1\u2400")
    assert (hit.metadata, hit.job_id) == ({"a": "\u2400"}, job_id)
    assert hit.created_at == created_at
    assert (await outbox.counts(conn)).pending == 0


async def test_a_text_of_a_job_is_remembered_once(conn: Connection) -> None:
    space, job_id = await space_of(conn), await rows.new_job(conn)
    text = Text("once", job_id=job_id, effect_key="note 1")
    assert len(await memories.put(conn, [text, text])) == 1
    assert await memories.put(conn, [text]) == []
    assert await embed_all(conn, space) == 1
    assert await memories.put(conn, [text]) == []
    assert await memories.add(conn, space, [text], [[1.0, 0.0, 0.0]]) == []
    assert await found(conn, space) == ["once"]


async def test_two_daemons_lease_different_texts(database: Database, conn: Connection) -> None:
    await memories.put(conn, [Text(str(n)) for n in range(10)])
    async with database.transaction() as first, database.connection() as second:
        mine = await outbox.lease_due(first, 4, LEASE_SECONDS)
        theirs = await outbox.lease_due(second, 10, LEASE_SECONDS)
    assert (len(mine), len(theirs)) == (4, 6)
    assert not {text.id for text in mine} & {text.id for text in theirs}
    assert await outbox.lease_due(conn, 10, LEASE_SECONDS) == []


async def test_the_texts_of_a_killed_daemon_are_due_again(conn: Connection) -> None:
    [text_id] = await memories.put(conn, [Text("kept")])
    [first] = await outbox.lease_due(conn, 10, LEASE_SECONDS)
    waits = await outbox.next_due_seconds(conn)
    assert waits is not None
    assert 0 < waits <= LEASE_SECONDS
    await execute(conn, MAKE_DUE)
    [second] = await outbox.lease_due(conn, 10, LEASE_SECONDS)
    assert (first.id, first.tries, second.id, second.tries) == (text_id, 1, text_id, 2)


async def test_a_text_embedded_by_two_daemons_is_stored_once(
    database: Database, conn: Connection
) -> None:
    """The first one's lease ran out while it embedded."""
    space = await space_of(conn)
    ids = await memories.put(conn, [Text("a"), Text("b")])
    counts: list[int] = []
    async with database.connection() as other, anyio.create_task_group() as tasks:

        async def write_late() -> None:
            counts.append(await store(other, space, reversed(ids), [0.0, 1.0, 0.0]))

        async with conn.transaction():
            counts.append(await store(conn, space, ids, [1.0, 0.0, 0.0]))
            tasks.start_soon(write_late)
            await until(lambda: rows.is_blocked(database, other))
    assert counts == [2, 0]
    assert sorted(await found(conn, space)) == ["a", "b"]


async def test_a_write_that_is_rolled_back_loses_no_text(conn: Connection) -> None:
    space = await space_of(conn)
    [text_id] = await memories.put(conn, [Text("kept")])
    async with conn.transaction(force_rollback=True):
        assert await store(conn, space, [text_id], [1.0, 0.0, 0.0]) == 1
    assert await found(conn, space) == []
    assert (await outbox.counts(conn)).pending == 1


async def test_postponed_texts_say_why_and_are_not_due(conn: Connection) -> None:
    first, second, _ = await memories.put(conn, [Text("a"), Text("b"), Text("c")])
    await outbox.lease_due(conn, 10, LEASE_SECONDS)
    await outbox.postponed(conn, {first: 300.0, second: -1.0}, "it is down\0")
    assert [text.text for text in await outbox.lease_due(conn, 10, LEASE_SECONDS)] == ["b"]
    a, b, c = await fetch_all(conn, OUTBOX)
    assert (a["last_error"], a["tries"], a["put_off"]) == ("it is down\u2400", 1, True)
    assert (b["tries"], c["tries"], c["last_error"]) == (2, 1, None)


async def test_released_texts_are_due_at_once_and_not_counted_as_tried(conn: Connection) -> None:
    [text_id] = await memories.put(conn, [Text("a")])
    await outbox.lease_due(conn, 10, LEASE_SECONDS)
    await outbox.released(conn, [text_id])
    [text] = await outbox.lease_due(conn, 10, LEASE_SECONDS)
    assert text.tries == 1


async def test_the_state_of_the_outbox_is_told(conn: Connection) -> None:
    empty = await outbox.counts(conn)
    assert (empty.pending, empty.oldest_seconds, empty.failing) == (0, None, 0)
    assert await outbox.next_due_seconds(conn) is None
    first, _ = await memories.put(conn, [Text("a"), Text("b")])
    await execute(
        conn,
        "update jobsworth.embedding_outbox set created_at = now() - interval '1 hour'"
        " where memory_id = %s",
        [first],
    )
    await outbox.postponed(conn, {first: 10.0}, "down")
    state = await outbox.counts(conn)
    assert (state.pending, state.failing) == (2, 1)
    assert state.oldest_seconds == pytest.approx(3600, abs=60)


@pytest.mark.both
async def test_a_source_is_forgotten_embedded_or_not(conn: Connection) -> None:
    space, team_id = await space_of(conn), uuid4()

    def of(source_id: str, **options: Any) -> Text:
        return Text(source_id, "file", source_id, **options)

    await memories.put(conn, [of("x"), of("y"), of("x", team_id=team_id)])
    await embed_all(conn, space)
    await memories.put(conn, [of("x"), of("y"), Text("x", "message", "x")])
    assert await memories.delete_by_source(conn, "file", "x") == 2
    assert await memories.delete_by_source(conn, "file", "x") == 0
    assert await found(conn, space) == ["y"]
    assert await found(conn, space, team_id=team_id) == ["x"]
    assert (await outbox.counts(conn)).pending == 2
    assert await memories.delete_by_source(conn, "file", "x", team_id=team_id) == 1


async def test_a_text_on_its_way_is_forgotten_too(database: Database, conn: Connection) -> None:
    """Forgetting waits for the move, and then looks where the text went."""
    space = await space_of(conn)
    [text_id] = await memories.put(conn, [Text("secret", "file", "x")])
    counts: list[int] = []
    async with database.connection() as other, anyio.create_task_group() as tasks:

        async def forget() -> None:
            counts.append(await memories.delete_by_source(other, "file", "x"))

        async with conn.transaction():
            await store(conn, space, [text_id], [1.0, 0.0, 0.0])
            tasks.start_soon(forget)
            await until(lambda: rows.is_blocked(database, other))
    assert counts == [1]
    assert await found(conn, space) == []


async def test_nothing_depends_on_where_pgvector_is(database_url: str) -> None:
    async with Database(database_url, pool_min=1) as database, database.connection() as conn:
        await execute(conn, "create schema extensions")
        await execute(conn, "alter extension vector set schema extensions")
        await execute(conn, "set search_path to pg_catalog")
        space = await space_of(conn)
        ids: list[UUID] = await memories.put(conn, [Text("here")])
        assert await store(conn, space, ids, [1.0, 0.0, 0.0]) == 1
        assert await found(conn, space) == ["here"]
