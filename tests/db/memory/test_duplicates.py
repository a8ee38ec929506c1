"""What says the same is offered for merging, and merged with the evidence of all, or refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import anyio
import pytest

from db.conversations import messages, threads
from db.diagnosis import violations
from db.errors import Conflict, InvalidInput, NotFound
from db.memory import duplicates, memories, spaces, status
from db.memory.memories import Text
from db.memory.spaces import SpaceKey
from db.memory.status import MemoryType
from db.pool import Connection, Database
from tests.db.racing import until_blocked
from worker.memory.ranking import said

ALIKE = ("Ada lives in Berlin.", "ada really lives in BERLIN!", "“Ada” lives in the Berlin …")
OTHERS = (
    *("Ada lives not in Berlin.", "Ada lives in Berlin 2.", "Berlin lives in Ada."),
    *("the", "The", "…", "a\tb\nc", "a b c", "ÄRGER", "ärger", "x" * 300),
)


async def test_what_says_the_same_is_listed_as_a_recall_sees_it(conn: Connection) -> None:
    """The one in SQL and the one of the ranking agree."""
    texts = (*ALIKE, *OTHERS)
    made = await memories.put(conn, [Text(text) for text in texts])
    await memories.put(
        conn,
        [
            Text(ALIKE[0], type=MemoryType.PREFERENCE),
            Text(ALIKE[0], agent_id=uuid4()),
            Text(ALIKE[0], session_id=uuid4()),
            Text(ALIKE[0], thread_id=uuid4()),
        ],
    )
    team = uuid4()
    twins = await memories.put(conn, [Text("x", team_id=team), Text("X", team_id=team)])
    groups: dict[object, list[UUID]] = {}
    for one, text in zip(made, texts, strict=True):
        groups.setdefault(said(text), []).append(one)
    alike = {frozenset(group) for group in groups.values() if len(group) > 1}
    found = await duplicates.find(conn)
    assert {frozenset([one.keep, *one.others]) for one in found} == {*alike, frozenset(twins)}
    # The latest of those that weigh as much is kept.
    assert (found[0].keep, found[0].text) == (made[2], ALIKE[2])
    [own] = await duplicates.find(conn, team_id=team)
    assert (own.keep, own.others, own.team_id) == (twins[1], twins[:1], team)
    await status.retract(conn, twins[0])
    assert await duplicates.find(conn, team_id=team) == []


async def test_a_merge_supersedes_with_the_evidence_of_all_or_does_nothing(
    conn: Connection,
) -> None:
    thread = await threads.get_or_create(conn, "x", "1")
    first, second = [
        (await messages.insert(conn, thread.id, messages.MessageRole.USER, text)).id
        for text in ("in Berlin", "yes, Berlin")
    ]
    space = await spaces.get_or_create(conn, SpaceKey("test", "m", 3))
    texts = [
        Text(ALIKE[0], importance=0.9, message_ids=(first,)),
        Text(ALIKE[1], confidence=0.5, message_ids=(first, second)),
        Text(ALIKE[2], team_id=uuid4()),
        Text(ALIKE[2]),
    ]
    one, two, of_team, gone = await memories.add(conn, space, texts, [[1.0, 0.0, 0.0]] * 4)
    await status.retract(conn, gone)
    wrong: list[tuple[list[UUID], type[Exception], str]] = [
        ([], InvalidInput, "nothing to merge"),
        ([one, two], InvalidInput, "cannot supersede itself"),
        ([one, of_team], InvalidInput, "not of one team, agent, thread and session"),
        ([one, gone], Conflict, f"memory {gone} is retracted already"),
        ([one, uuid4()], NotFound, "there is no memory"),
    ]
    for others, error, words in wrong:
        with pytest.raises(error, match=words):
            await duplicates.merge(conn, two, others)
    assert (await status.get(conn, one)).status == "active"
    for _ in range(2):  # repeated, it changes nothing
        await duplicates.merge(conn, two, [one])
    kept = await status.get(conn, two)
    assert (kept.supersedes, kept.importance, kept.confidence) == ([one], 0.9, 1)
    assert (kept.message_ids, kept.text) == ([first, second], ALIKE[1])
    hits = await memories.search(conn, space, [1.0, 0.0, 0.0])
    assert [hit.id for hit in hits] == [two]
    with pytest.raises(Conflict, match=f"{one} is superseded, so it supersedes nothing"):
        await duplicates.merge(conn, one, [two])
    # What it rests on now counts for it too.
    assert await status.retract_message(conn, second) == 1
    with pytest.raises(Conflict, match="is suspended"):
        await duplicates.merge(conn, (await memories.put(conn, [Text("z")]))[0], [two])
    assert await violations.list_violations(conn) == []


async def test_of_a_merge_and_what_happens_meanwhile_the_later_is_told(
    database: Database, conn: Connection
) -> None:
    thread = await threads.get_or_create(conn, "x", "1")

    async def pair() -> tuple[UUID, UUID, UUID]:
        told = await messages.insert(conn, thread.id, messages.MessageRole.USER, "x")
        one, two = await memories.put(conn, [Text("x", message_ids=(told.id,)), Text("x")])
        return one, two, told.id

    async def meanwhile(
        before: Callable[[], Awaitable[object]], other: Connection, keep: UUID, gone: UUID
    ) -> str:
        refused: list[str] = []

        async def merge() -> None:
            with pytest.raises(Conflict) as error:
                await duplicates.merge(other, keep, [gone])
            refused.append(str(error.value))

        async with anyio.create_task_group() as tasks, conn.transaction():
            await before()
            tasks.start_soon(merge)
            await until_blocked(database, other)
        return refused[0]

    async with database.connection() as other:
        one, two, _ = await pair()
        words = await meanwhile(lambda: duplicates.merge(conn, two, [one]), other, one, two)
        assert f"{one} is superseded, so it supersedes nothing" in words
        one, two, _ = await pair()
        words = await meanwhile(lambda: status.retract(conn, one), other, two, one)
        assert f"{one} is retracted already" in words
        one, two, told = await pair()
        words = await meanwhile(lambda: status.retract_message(conn, told), other, two, one)
        assert f"{one} is suspended: message {told} was retracted" in words
        # The other way about: what the message leads to by then is suspended.
        one, two, told = await pair()
        suspended: list[int] = []

        async def retract() -> None:
            suspended.append(await status.retract_message(other, told))

        async with anyio.create_task_group() as tasks, conn.transaction():
            await duplicates.merge(conn, two, [one])
            tasks.start_soon(retract)
            await until_blocked(database, other)
        assert (suspended, (await status.get(conn, two)).status) == ([1], "suspended")
    assert await violations.list_violations(conn) == []
