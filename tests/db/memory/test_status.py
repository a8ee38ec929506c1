"""Memories are superseded, retracted and restored; only active ones have vectors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import pytest

from db.conversations import messages, threads
from db.diagnosis import violations
from db.errors import Conflict, DatabaseError, InvalidInput, NotFound
from db.memory import memories, outbox, spaces, status, switch
from db.memory.memories import Text
from db.memory.remembered import MemoryEffect
from db.memory.spaces import Space, SpaceKey
from db.memory.status import MemoryStatus, MemoryType
from db.pool import Connection, Database, execute, fetch_val
from db.queue import effects, jobs
from db.queue.effects import Origin
from tests.db.racing import until_blocked

QUERY = [1.0, 0.0, 0.0]
NOW = datetime.now(UTC)
STORED: LiteralString = """
select (select count(*) from jobsworth.embeddings where memory_id = %(id)s)
  + 10 * (select count(*) from jobsworth.embedding_outbox where memory_id = %(id)s)
"""
PAST: LiteralString = """
select count(*) from jobsworth.past_embeddings p join jobsworth.memories m on m.id = p.memory_id
where m.id = %(id)s and p.superseded_at = m.superseded_at
"""
# What `STORED` is for a memory that waits for its vectors, and for one that has them.
WAITS, EMBEDDED, GONE = 10, 1, 0


async def space_of(conn: Connection) -> Space:
    return await spaces.get_or_create(conn, SpaceKey("test", "m", 3))


async def embedded(conn: Connection, *texts: Text) -> list[UUID]:
    return await memories.add(conn, await space_of(conn), texts, [QUERY] * len(texts))


async def recalled(conn: Connection, **scope: Any) -> set[str]:
    hits = await memories.search(conn, await space_of(conn), QUERY, limit=100, **scope)
    return {hit.text for hit in hits}


async def stored(conn: Connection, memory_id: UUID) -> int:
    return await fetch_val(conn, STORED, {"id": memory_id})


async def states(conn: Connection, *ids: UUID) -> list[str]:
    return [(await status.get(conn, one)).status.value for one in ids]


@pytest.mark.both
async def test_a_memory_is_superseded_with_its_successor_retracted_and_restored(
    conn: Connection,
) -> None:
    [berlin] = await embedded(conn, Text("berlin", type=MemoryType.DECISION))
    [waiting] = await memories.put(conn, [Text("not embedded yet")])
    assert [await stored(conn, berlin), await stored(conn, waiting)] == [EMBEDDED, WAITS]
    [hamburg] = await embedded(conn, Text("hamburg", supersedes=berlin))
    await status.retract(conn, waiting, "a joke")
    assert await recalled(conn) == {"hamburg"}
    assert [await stored(conn, one) for one in (berlin, waiting, hamburg)] == [GONE, GONE, EMBEDDED]
    old, new = await status.get(conn, berlin), await status.get(conn, hamburg)
    assert (old.status, old.superseded_by, new.supersedes) == ("superseded", hamburg, [berlin])
    assert old.updated_at > old.created_at
    assert (await status.get(conn, waiting)).status_reason == "a joke"

    # Repeated, they change nothing; what has ended otherwise is refused by name.
    await status.supersede(conn, berlin, hamburg)
    await status.retract(conn, waiting)
    for wrong, reason in (
        (Text("x", supersedes=berlin), f"is superseded already by {hamburg}"),
        (Text("x", supersedes=waiting), "is retracted already"),
    ):
        with pytest.raises(Conflict, match=reason) as refused:
            await memories.put(conn, [wrong])
        assert refused.value.remedy
    with pytest.raises(NotFound, match="there is no memory"):
        await memories.put(conn, [Text("x", supersedes=uuid4())])
    with pytest.raises(InvalidInput, match="not of one team"):
        await memories.put(conn, [Text("x", team_id=uuid4(), supersedes=hamburg)])
    with pytest.raises(InvalidInput, match="cannot supersede itself"):
        await status.supersede(conn, hamburg, hamburg)
    with pytest.raises(Conflict, match="is superseded, so it supersedes nothing"):
        await status.supersede(conn, hamburg, berlin)
    with pytest.raises(Conflict, match="was superseded by"):
        await status.restore(conn, berlin)
    assert await fetch_val(conn, "select count(*) from jobsworth.memories") == 3

    await status.restore(conn, waiting)
    assert await states(conn, berlin, waiting, hamburg) == ["superseded", "active", "active"]
    assert await stored(conn, waiting) == WAITS
    listed = await status.list_memories(conn, types=[MemoryType.DECISION])
    assert [one.text for one in listed] == ["berlin"]

    # Who deletes the successor does not bring back what it corrected.
    await execute(conn, "delete from jobsworth.memories where id = %(id)s", {"id": hamburg})
    assert await states(conn, berlin) == ["retracted"]
    assert await violations.list_violations(conn) == []


async def test_what_held_at_a_time_is_found_though_it_was_superseded_since(
    conn: Connection,
) -> None:
    clock: LiteralString = "select clock_timestamp()"
    times = [await fetch_val(conn, clock)]
    old: UUID | None = None
    for city in ("berlin-12", "hamburg-3", "bremen"):
        [old] = await embedded(conn, Text(city, supersedes=old))
        times.append(await fetch_val(conn, clock))
    made = await status.list_memories(conn)
    assert {one.status for one in made} == {"superseded", "active"}
    for at, held in zip(times, (set[str](), {"berlin-12"}, {"hamburg-3"}, {"bremen"}), strict=True):
        assert await recalled(conn, as_of=at) == held
    assert await recalled(conn) == {"bremen"}
    # In a space that is filled since then too, though some of them never had a vector.
    later = await spaces.get_or_create(conn, SpaceKey("test", "later", 3))
    [never] = await memories.put(conn, [Text("was said")])
    [since] = await memories.put(conn, [Text("is said", supersedes=never)])
    assert [await stored(conn, one) for one in (never, since)] == [WAITS, WAITS]
    assert [(h.model, h.memories) for h in await spaces.hidden(conn, later.key)] == [("m", 1)]
    hidden = await spaces.hidden(conn, later.key, times[0])
    assert [(one.model, one.memories) for one in hidden] == [("m", 3)]
    assert (await switch.lacking(conn, later.key)).texts == 5
    await switch.begin(conn, later)
    assert await switch.queue(conn, later) == 3
    for one in await status.list_memories(conn):
        await outbox.written(conn, later, {one.id: [outbox.ChunkVector(0, 3, one.id, QUERY)]})
        # One by one, and what is stored is not queued again.
        assert await switch.queue(conn, later) == 0
    assert (await switch.progress(conn, later)).left == 0
    assert (await switch.lacking(conn, later.key)).texts == 0
    assert (await spaces.list_all(conn))[-1].missing == 0

    async def found_later(at: datetime | None = None) -> set[str]:
        return {hit.text for hit in await memories.search(conn, later, QUERY, as_of=at)}

    for at, held in zip(times, (set[str](), {"berlin-12"}, {"hamburg-3"}, {"bremen"}), strict=True):
        assert await found_later(at) == await recalled(conn, as_of=at) == held
    assert await found_later() == {"bremen", "is said"}
    # Within the same scope, and by its identifiers too.
    assert await recalled(conn, as_of=times[1], team_id=uuid4()) == set()
    assert await recalled(conn, as_of=times[1], types=[MemoryType.DECISION]) == set()
    space = await space_of(conn)
    for at, matched in ((times[1], [1]), (times[2], [0]), (None, [0])):
        hits = await memories.search(conn, space, QUERY, query="what of berlin-12", as_of=at)
        assert [hit.matched for hit in hits] == matched
    # What was never true did not hold then either.
    [wrong] = [one.id for one in made if one.text == "hamburg-3"]
    await status.retract(conn, wrong)
    assert await recalled(conn, as_of=times[2]) == await found_later(times[2]) == set()
    assert await recalled(conn, as_of=times[1]) == await found_later(times[1]) == {"berlin-12"}
    assert await violations.list_violations(conn) == []


async def test_a_memory_holds_from_a_time_to_a_time(conn: Connection) -> None:
    """Nothing sweeps: the clock alone lets it expire, and `as_of` looks back."""
    day = timedelta(days=1)
    made = await embedded(
        conn,
        Text("was", valid_from=NOW - 9 * day, valid_to=NOW - day),
        Text("is", valid_from=NOW - 5 * day),
        Text("will be", valid_from=NOW + day, type=MemoryType.PROCEDURE),
        Text("plain", type=MemoryType.PREFERENCE),
    )
    soon = datetime.now(UTC) + 2 * day
    assert await recalled(conn) == {"is", "plain"}
    assert await recalled(conn, query="any of INV-1") == {"is", "plain"}
    assert await recalled(conn, as_of=NOW - 2 * day) == {"was", "is"}
    assert await recalled(conn, as_of=NOW - 8 * day) == {"was"}
    assert await recalled(conn, as_of=soon) == {"is", "will be", "plain"}
    kinds = [MemoryType.PROCEDURE, MemoryType.PREFERENCE]
    assert await recalled(conn, types=kinds, as_of=soon) == {"will be", "plain"}
    assert await states(conn, made[0], made[1]) == ["expired", "active"]
    expired = await status.list_memories(conn, status=MemoryStatus.EXPIRED)
    active = await status.list_memories(conn, status=MemoryStatus.ACTIVE)
    assert ([one.text for one in expired], len(active)) == (["was"], 3)
    [named] = await embedded(conn, Text("bill INV-77", valid_to=datetime.now(UTC) + day))
    assert "bill INV-77" in await recalled(conn, query="INV-77")
    past: LiteralString = (
        "update jobsworth.memories set valid_from = '2020-01-01', valid_to = '2021-01-01'"
        " where id = %(id)s"
    )
    await execute(conn, past, {"id": named})
    assert "bill INV-77" not in await recalled(conn, query="INV-77")


async def test_of_two_that_supersede_a_memory_one_wins_and_the_other_is_told(
    database: Database, conn: Connection
) -> None:
    [old] = await embedded(conn, Text("old"))
    told: list[str] = []
    async with database.connection() as other:

        async def late() -> None:
            with pytest.raises(Conflict) as refused:
                await memories.put(other, [Text("second", supersedes=old)])
            told.append(str(refused.value))

        async with anyio.create_task_group() as tasks, conn.transaction():
            await memories.put(conn, [Text("first", supersedes=old)])
            tasks.start_soon(late)
            await until_blocked(database, other)
    [first, _] = await status.list_memories(conn)
    assert (first.text, first.supersedes) == ("first", [old])
    assert f"is superseded already by {first.id}" in told[0]
    assert await fetch_val(conn, "select count(*) from jobsworth.memories") == 2


async def test_vectors_that_are_stored_meanwhile_do_not_outlive_the_memory(
    database: Database, conn: Connection
) -> None:
    [one] = await memories.put(conn, [Text("text")])
    space = await space_of(conn)
    made = {one: [outbox.ChunkVector(0, 4, one, QUERY)]}
    async with database.connection() as other:
        async with anyio.create_task_group() as tasks, conn.transaction():
            assert await outbox.written(conn, space, made) == 1
            tasks.start_soon(status.retract, other, one)
            await until_blocked(database, other)
        assert await stored(conn, one) == GONE
        assert await outbox.written(conn, space, made) == 0

        # Superseded while its vectors are stored, and before: they are kept apart.
        [first, second] = await memories.put(conn, [Text("first"), Text("second")])
        [other_one] = await memories.put(other, [Text("right")])

        async def store(memory_id: UUID, on: Connection) -> None:
            chunk = outbox.ChunkVector(0, 4, memory_id, QUERY)
            assert await outbox.written(on, space, {memory_id: [chunk]}) == 1

        for begins, follows in ((True, first), (False, second)):
            async with anyio.create_task_group() as tasks, conn.transaction():
                if begins:
                    await store(follows, conn)
                    tasks.start_soon(status.supersede, other, follows, other_one)
                else:
                    await status.supersede(conn, follows, other_one)
                    tasks.start_soon(store, follows, other)
                await until_blocked(database, other)
            assert await stored(conn, follows) == GONE
            assert await fetch_val(conn, PAST, {"id": follows}) == 1
    assert await violations.list_violations(conn) == []


async def test_a_switch_of_embedders_leaves_out_what_is_retracted_meanwhile(
    database: Database, conn: Connection
) -> None:
    retracted, leaving, kept = await embedded(conn, Text("a"), Text("b"), Text("c"))
    await status.retract(conn, retracted)
    space = await spaces.get_or_create(conn, SpaceKey("test", "later", 3))
    queued: list[int] = []
    async with database.connection() as other:

        async def fill() -> None:
            queued.append(await switch.queue(other, space))

        async with anyio.create_task_group() as tasks, conn.transaction():
            await status.retract(conn, leaving)
            tasks.start_soon(fill)
            await until_blocked(database, other)
    assert queued == [1]
    assert [await stored(conn, one) for one in (retracted, leaving)] == [GONE, GONE]
    assert await stored(conn, kept) == WAITS + EMBEDDED
    assert (await switch.lacking(conn, space.key)).texts == 1


async def test_a_jobs_memory_supersedes_in_its_commit_and_a_replay_is_not_told(
    conn: Connection,
) -> None:
    session = uuid4()
    job = (await jobs.enqueue(conn, "work", session_id=session)).job_id
    [old] = await embedded(conn, Text("old"))
    effect = MemoryEffect(
        *("memory:it", "new", "note"),
        type=MemoryType.DECISION,
        importance=0.9,
        valid_from=NOW,
        message_ids=(job,),
        step_name="s",
        supersedes=old,
    )
    for _ in range(2):
        await effects.write(conn, [(Origin(job), effect)])
    [new] = [one for one in await status.list_memories(conn) if one.text == "new"]
    assert (new.type, new.importance, new.valid_from) == (MemoryType.DECISION, 0.9, NOW)
    assert (new.message_ids, new.step_name, new.session_id) == ([job], "s", session)
    assert new.supersedes == [old]
    late = MemoryEffect("memory:2", "x", "n", supersedes=old)
    with pytest.raises(Conflict, match="is superseded already"):
        await effects.write(conn, [(Origin(job), late)])


@pytest.mark.both
async def test_plain_sql_remembers_and_supersedes(conn: Connection) -> None:
    first = await fetch_val(conn, "select jobsworth.remember('the first', importance => 0.9)")
    second = await fetch_val(
        conn,
        "select jobsworth.remember('the second', 'preference', supersedes => %(id)s)",
        {"id": first},
    )
    assert await states(conn, first, second) == ["superseded", "active"]
    assert (await status.get(conn, second)).type is MemoryType.PREFERENCE
    wrong: list[tuple[LiteralString, str]] = [
        ("select jobsworth.remember('x', importance => 1.5)", "importance_is_0_to_1"),
        ("select jobsworth.remember('x', confidence => 'NaN')", "confidence_is_0_to_1"),
        ("select jobsworth.remember('x', 'opinion')", "invalid input value for enum"),
        (
            "select jobsworth.remember('x', valid_from => now(), valid_to => now())",
            "valid_to_is_after_valid_from",
        ),
        ("update jobsworth.memories set status = 'expired'", "expired_is_never_stored"),
        (
            "update jobsworth.memories set superseded_by = null",
            "superseded_has_a_successor",
        ),
    ]
    for statement, reason in wrong:
        with pytest.raises(DatabaseError, match=reason):
            await execute(conn, statement)


async def test_what_was_remembered_of_a_message_is_suspended_with_it(
    database: Database, conn: Connection
) -> None:
    thread = await threads.get_or_create(conn, "x", "1")
    said = [
        (await messages.insert(conn, thread.id, messages.MessageRole.USER, text)).id
        for text in ("a joke", "the truth")
    ]
    joke, both, truth = await embedded(
        conn, *(Text(str(n), message_ids=ids) for n, ids in enumerate((said[:1], said, said[1:])))
    )
    late: list[UUID] = []
    async with (
        database.connection() as other,
        anyio.create_task_group() as tasks,
        conn.transaction(),
    ):
        late += await memories.put(conn, [Text("3", message_ids=said[:1])])
        tasks.start_soon(status.retract_message, other, said[0])
        await until_blocked(database, other)
    after = (await memories.put(conn, [Text("4", message_ids=said)]))[0]
    plain = (await memories.put(conn, [Text("5", message_ids=[uuid4()])]))[0]
    gone = (joke, both, *late, after)
    assert await states(conn, *gone, truth, plain) == ["suspended"] * 4 + ["active"] * 2
    assert [await stored(conn, one) for one in gone] == [GONE] * 4
    assert (await status.get(conn, after)).status_reason == f"message {said[0]} was retracted"
    assert await status.retract_message(conn, said[0]) == 0
    assert [m.id for m in await messages.fetch_recent(conn, thread.id)] == said[1:]
    await status.restore(conn, both)
    assert await stored(conn, both) == WAITS
    with pytest.raises(NotFound, match="there is no message"):
        await status.retract_message(conn, uuid4())
    assert await violations.list_violations(conn) == []


async def test_what_must_never_be_is_listed(conn: Connection) -> None:
    a, b, c = await embedded(conn, Text("a"), Text("b"), Text("c"))
    await execute(conn, "set session_replication_role = replica")
    by: LiteralString = (
        "update jobsworth.memories set status = 'superseded', superseded_by = %(by)s"
        " where id = %(id)s"
    )
    for one, successor in ((a, b), (b, a), (c, uuid4())):
        await execute(conn, by, {"id": one, "by": successor})
    await execute(conn, "reset session_replication_role")
    found = {(one.invariant, one.subject_id) for one in await violations.list_violations(conn)}
    circle, alone = "memories that supersede each other", "memory superseded by none"
    vectors = {("vectors of a memory that is not active", one) for one in (a, b, c)}
    assert found == {(circle, a), (circle, b), (alone, c), *vectors}
