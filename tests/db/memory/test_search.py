"""The search over many memories: by the index or exact, never fewer rows than there are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import pytest

from db.errors import InvalidInput
from db.memory import index_recall, memories, outbox, spaces
from db.memory.memories import Hit, Text
from db.memory.outbox import ChunkVector
from db.memory.spaces import Space, SpaceKey
from db.pool import Connection, execute, fetch_all, fetch_val
from worker.cli.installation.database_checks import judge_recall

DIMENSIONS = 8
MANY = 1_000
BIG, SMALL = UUID(int=1), UUID(int=2)
SMALL_ROWS = 12

# A team of many and one of few, whose vectors are far from the query: the nearest thousands are
# others'. Every hundredth memory has metadata.
FILL: LiteralString = """
with added as (
  insert into jobsworth.memories (team_id, source_kind, text, metadata)
  select case when n <= %(small)s then %(small_team)s::uuid else %(big_team)s::uuid end,
    case when n %% 500 = 0 then 'rare' else 'note' end, 'text ' || n,
    case when n %% 100 = 0 then '{"rare": true}'::jsonb else '{}' end
  from generate_series(1, %(many)s) n
  returning id, team_id, text
)
insert into jobsworth.embeddings (
  memory_id, space_id, chunk_no, team_id, start_offset, end_offset, content_hash, vector)
select a.id, %(space_id)s, 1, a.team_id, 0, length(a.text), a.id,
  jobsworth.halfvec('[' || array_to_string(array(
    select case when a.team_id = %(small_team)s::uuid and d = 1 then -1
                else random() end
    from generate_series(1, %(dimensions)s) d where a.id is not null), ',') || ']')
from added a
"""
NEAREST: LiteralString = """
select n.memory_id, n.by_index
from jobsworth.nearest(%(space_id)s, jobsworth.halfvec(%(vector)s), %(k)s, %(team_id)s,
  exact_rows => %(exact_rows)s) n
"""
QUERY = [1.0] * DIMENSIONS


async def space_of(conn: Connection, dimensions: int = DIMENSIONS) -> Space:
    return await spaces.get_or_create(conn, SpaceKey("test", "m", dimensions))


async def fill(conn: Connection) -> Space:
    """A space of `MANY` memories with its index."""
    space = await space_of(conn)
    await add_many(conn, space)
    assert await spaces.build_index(conn, space)
    await execute(conn, "analyze jobsworth.embeddings")
    return space


async def add_many(conn: Connection, space: Space) -> None:
    await execute(
        conn,
        FILL,
        {
            "many": MANY,
            "small": SMALL_ROWS,
            "small_team": SMALL,
            "big_team": BIG,
            "space_id": space.id,
            "dimensions": DIMENSIONS,
        },
    )


async def nearest(
    conn: Connection, space: Space, k: int, team_id: UUID | None, exact_rows: int
) -> tuple[list[UUID], bool]:
    """The ids, and whether they came by the index."""
    values = {
        "space_id": space.id,
        "vector": str(QUERY),
        "k": k,
        "team_id": team_id,
        "exact_rows": exact_rows,
    }
    rows = await fetch_all(conn, NEAREST, values)
    return [row["memory_id"] for row in rows], any(row["by_index"] for row in rows)


@pytest.mark.both
async def test_a_large_scope_is_searched_by_the_index_and_a_small_one_exactly(
    conn: Connection,
) -> None:
    space = await fill(conn)
    exact, by_index = await nearest(conn, space, 20, BIG, MANY)
    assert not by_index
    found, by_index = await nearest(conn, space, 20, BIG, 100)
    assert by_index
    assert len(set(found)) == 20
    assert len(set(found) & set(exact)) >= 19
    assert found[0] == exact[0]

    # A small team's rows are measured, not those of the space.
    found, by_index = await nearest(conn, space, 20, SMALL, 100)
    assert (len(found), by_index) == (SMALL_ROWS, False)
    # Other spaces, and spaces that are not there, are empty.
    other = await space_of(conn, DIMENSIONS + 1)
    assert await memories.search(conn, other, [1.0] * 9, any_team=True) == []


SCANS: LiteralString = """
select s.idx_scan from pg_stat_user_indexes s
where s.indexrelname = %(name)s and s.relid = 'jobsworth.embeddings'::regclass
"""


BREAK_OFF: LiteralString = """
update pg_index set indisvalid = false
where indexrelid = (select oid from pg_class where relname ~ '^embeddings_space_')
"""


async def scans(conn: Connection, space: Space) -> int:
    await execute(conn, "select pg_stat_force_next_flush()")
    await execute(conn, "select pg_stat_clear_snapshot()")
    return await fetch_val(conn, SCANS, {"name": f"embeddings_space_{space.id}"})


async def test_no_search_returns_fewer_rows_than_there_are(conn: Connection) -> None:
    """Also where the index alone would: rare metadata, a rare kind, a small team, a young time."""
    space = await fill(conn)
    now = await fetch_val(conn, "select clock_timestamp()")
    scopes: list[tuple[dict[str, Any], int]] = [
        ({"team_id": SMALL}, SMALL_ROWS),
        ({"team_id": BIG, "metadata": {"rare": True}}, 10),
        ({"any_team": True, "source_kind": "rare"}, 2),
        ({"any_team": True, "source_kind": "rare", "metadata": {"rare": True}}, 2),
        ({"team_id": BIG, "until": now}, 200),
        ({"team_id": BIG, "since": now}, 0),
    ]
    # Little memory and few tuples: the iterative scan gives up at once.
    await execute(conn, "set hnsw.max_scan_tuples = 1")
    for scope, rows in scopes:
        # The measured scope is above the threshold in each, so the index is tried first.
        hits = await memories.search(conn, space, QUERY, limit=200, exact_rows=0, **scope)
        exact = await memories.search(conn, space, QUERY, limit=200, exact_rows=MANY, **scope)
        assert len(hits) == len(exact) == rows, scope
    await execute(conn, "reset hnsw.max_scan_tuples")
    for scope, rows in scopes:
        hits = await memories.search(conn, space, QUERY, limit=200, exact_rows=0, **scope)
        assert len(hits) == rows, scope

    # The index was tried; and it is built once, or again if its building was broken off.
    before = await scans(conn, space)
    assert (await nearest(conn, space, 5, BIG, 100))[1]
    assert await scans(conn, space) == before + 1
    assert not await spaces.build_index(conn, space)
    [state] = await spaces.list_all(conn)
    assert (state.index_valid, state.vectors, state.missing) == (True, MANY, 0)
    await execute(conn, BREAK_OFF)
    assert not (await nearest(conn, space, 5, BIG, 100))[1]
    assert await spaces.build_index(conn, space)
    assert (await nearest(conn, space, 5, BIG, 100))[1]
    wide = await space_of(conn, 4_001)
    with pytest.raises(InvalidInput, match="4,001 dimensions cannot be indexed"):
        await spaces.build_index(conn, wide)
    assert await spaces.index_progress(conn) is None


# So it misses what is inserted from now on.
LEAVE_OUT: LiteralString = """
update pg_index set indisready = false
where indexrelid = (select c.oid from pg_class c where c.relname like 'embeddings_space_%%')
"""


async def test_a_sample_tells_how_much_an_index_misses(conn: Connection) -> None:
    assert await index_recall.sample(conn) == []
    space = await fill(conn)
    [whole] = await index_recall.sample(conn)
    assert (whole.space_id, whole.queries) == (space.id, index_recall.QUERIES)
    assert whole.recall >= index_recall.RECALL_MIN
    assert judge_recall(whole) is None
    await execute(conn, LEAVE_OUT)
    await add_many(conn, space)
    await execute(conn, "analyze jobsworth.embeddings")
    [half] = await index_recall.sample(conn, 20)
    assert half.recall < index_recall.RECALL_MIN
    warned = judge_recall(half)
    assert warned is not None
    assert f"reindex index concurrently jobsworth.{half.index_name}" in (warned.remedy or "")


@pytest.mark.both
async def test_a_long_text_is_found_once_with_its_nearest_chunk(conn: Connection) -> None:
    space = await space_of(conn, 2)
    [one, two] = await memories.put(conn, [Text("0123456789"), Text("short")])
    await outbox.lease_due(conn, 10, 60)
    vectors = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
    made = {
        one: [ChunkVector(n * 3, n * 3 + 3, UUID(int=n), v) for n, v in enumerate(vectors)],
        two: [ChunkVector(0, 5, UUID(int=9), [0.8, 0.6])],
    }
    assert await outbox.written(conn, space, made) == 2
    hits = await memories.search(conn, space, [0.0, 1.0], limit=5)
    assert [(hit.id, hit.start, hit.end) for hit in hits] == [(one, 3, 6), (two, 0, 5)]
    assert [hit.score for hit in hits] == pytest.approx([1, 0.6], abs=1e-3)
    # A content that has a vector is known, in its space alone.
    known = await outbox.known(conn, space, [UUID(int=2), UUID(int=77)])
    assert known == {UUID(int=2): pytest.approx([0.6, 0.8], abs=1e-3)}
    assert await outbox.known(conn, await space_of(conn, 3), [UUID(int=2)]) == {}


WORDS: list[tuple[str, set[str]]] = [
    ("Ticket INV-2041 is late.", {"inv-2041"}),
    ("(worker_id) fails in parseHeader()", {"worker_id", "parseheader"}),
    ("on 2026-05-01, v1.2.3 came", {"2026-05-01", "v1.2.3"}),
    ("a@b.org wrote; ask ann.lee@acme.example", {"ann.lee@acme.example", "ann.lee"}),
    ("see /srv/app/main.py:12 and INV-7/INV-8", {"srv/app/main.py:12", "inv-7/inv-8"}),
    ("3 apples, 42 pears, a well-known and/or e.g. THE END", set()),
    ("", set()),
]


async def test_identifiers_are_told_from_words(conn: Connection) -> None:
    for text, wanted in WORDS:
        found = set(await fetch_val(conn, "select jobsworth.identifiers(%s)", [text]))
        assert wanted <= found, text
        assert wanted or not found, text
    parts = await fetch_val(conn, "select jobsworth.identifiers('INV-7/INV-8')")
    assert set(parts) == {"inv-7/inv-8", "inv-7", "inv-8"}


@pytest.mark.both
async def test_an_identifier_is_found_first_and_paraphrases_are_not_drowned(
    conn: Connection,
) -> None:
    space = await space_of(conn, 2)
    texts = [
        Text("about cats"),
        Text("about kittens, in 2024"),
        Text("Order ORD-77123 was lost", team_id=None),
        Text("Order ORD-77124 was lost"),
        Text("Order ORD-77123 of others", team_id=BIG),
    ]
    vectors = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
    await memories.add(conn, space, texts, vectors)
    await memories.add(conn, space, [Text(f"year 2024 no {n}") for n in range(60)], [[-1, 0]] * 60)

    async def found(query: str | None, **scope: Any) -> list[Hit]:
        return await memories.search(conn, space, [1.0, 0.0], query=query, limit=3, **scope)

    [first, *rest] = await found("what became of ord-77123?")
    assert (first.text, first.matched) == ("Order ORD-77123 was lost", 1)
    assert first.score == pytest.approx(0, abs=1e-3)
    assert [hit.text for hit in rest] == ["about cats", "about kittens, in 2024"]
    # A year that many memories have names none of them; nor does a common word.
    for query in ("who slept in 2024?", "about cats", None):
        assert [hit.text for hit in await found(query)][:2] == [
            "about cats",
            "about kittens, in 2024",
        ]
    # The scope holds for words too.
    assert [hit.text for hit in await found("ORD-77123", team_id=BIG)] == [
        "Order ORD-77123 of others"
    ]
    assert [hit.matched for hit in await found("ORD-77123", source_kind="summary")] == []


IN_SESSION: LiteralString = """
insert into jobsworth.chat_threads (platform, chat_id, session_id) values ('t', 'c', %(session)s)
returning id
"""
JOB_IN_SESSION: LiteralString = """
insert into jobsworth.reactive_jobs (mode, session_id) values ('x', %(session)s) returning id
"""


async def test_a_search_keeps_to_agent_and_time(conn: Connection) -> None:
    space, agent = await space_of(conn, 2), UUID(int=9)
    old, new = await memories.add(
        conn, space, [Text("old", agent_id=agent), Text("new")], [[1.0, 0.0]] * 2
    )
    await execute(
        conn,
        "update jobsworth.memories set created_at = '2020-01-01Z' where id = %s",
        [old],
    )
    year = datetime(2020, 1, 1, tzinfo=UTC)

    async def ids(**scope: Any) -> list[UUID]:
        return [hit.id for hit in await memories.search(conn, space, [1.0, 0.0], **scope)]

    assert await ids(agent_id=agent) == [old]
    assert await ids(since=year, until=year + timedelta(seconds=1)) == [old]
    assert await ids(until=year) == []
    assert await ids(since=year + timedelta(days=1)) == [new]


async def test_a_search_keeps_to_a_source_and_to_a_session(conn: Connection) -> None:
    """By vectors and by identifiers, exact and by the index."""
    space, session = await space_of(conn, 2), UUID(int=7)
    thread: UUID = await fetch_val(conn, IN_SESSION, {"session": session})
    job: UUID = await fetch_val(conn, JOB_IN_SESSION, {"session": session})
    texts = [
        Text("by thread inv-1", source_kind="file", source_id="a.pdf", thread_id=thread),
        Text("by job inv-1", source_kind="file", source_id="b.pdf", job_id=job, effect_key="k"),
        Text("of nobody inv-1", source_kind="file", source_id="a.pdf"),
        Text("of none inv-1"),
    ]
    talked, worked, free, _ = await memories.add(conn, space, texts, [[1.0, 0.0]] * 4)
    assert await spaces.build_index(conn, space)

    async def ids(how: dict[str, Any], limit: int, **scope: Any) -> set[UUID]:
        found = await memories.search(conn, space, [1.0, 0.0], limit=limit, **how, **scope)
        return {hit.id for hit in found}

    for how in ({"exact_rows": n, "query": q} for n in (0, 100) for q in (None, "inv-1")):
        assert await ids(how, 2, source_id="a.pdf") == {talked, free}
        assert await ids(how, 2, session_id=session) == {talked, worked}
        assert await ids(how, 9, session_id=session, source_id="b.pdf") == {worked}
        assert await ids(how, 9, session_id=UUID(int=8)) == set()


async def test_dead_letters_wait_for_a_person(conn: Connection) -> None:
    [one, two] = await memories.put(conn, [Text("bad " * 100), Text("good")])
    await outbox.lease_due(conn, 10, 60)
    assert not await outbox.refused(conn, one, 0, "too long\0", 2)
    assert await outbox.refused(conn, one, 0, "too long", 2)
    await outbox.released(conn, [two])
    assert [text.id for text in await outbox.lease_due(conn, 10, 60)] == [two]
    counts = await outbox.counts(conn)
    assert (counts.pending, counts.dead, counts.failing) == (1, 1, 0)
    [letter] = await outbox.dead_letters(conn, characters=7)
    assert (letter.id, letter.text, letter.last_error) == (one, "bad bad", "too long")
    assert await outbox.revive(conn, [two]) == 0
    assert await outbox.revive(conn) == 1
    assert [text.id for text in await outbox.lease_due(conn, 10, 60)] == [one]
