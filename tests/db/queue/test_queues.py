"""Queues: paused and resumed by name."""

from uuid import uuid4

import pytest

from db.errors import InvalidInput
from db.pool import Connection, Database, execute
from db.queue import queues


async def test_a_queue_is_paused_and_resumed(conn: Connection) -> None:
    assert await queues.list_all(conn) == []
    paused = await queues.pause(conn, "research")
    assert (paused.name, paused.paused) == ("research", True)
    assert await queues.list_all(conn) == [paused]

    resumed = await queues.resume(conn, "research")
    assert not resumed.paused
    assert resumed.changed_at > paused.changed_at
    assert await queues.list_all(conn) == [resumed]


async def test_pausing_again_keeps_since_when(conn: Connection) -> None:
    paused = await queues.pause(conn, "research")
    assert await queues.pause(conn, "research") == paused


async def test_a_queue_that_was_never_paused_can_be_resumed(conn: Connection) -> None:
    assert not (await queues.resume(conn, "research")).paused


async def test_queues_are_listed_by_name(conn: Connection) -> None:
    for name in ("b", "a", "c"):
        await queues.pause(conn, name)
    assert [queue.name for queue in await queues.list_all(conn)] == ["a", "b", "c"]


async def test_resuming_wakes_idle_workers(database: Database, conn: Connection) -> None:
    await execute(
        conn,
        """
        insert into jobsworth.workers (id, host, pid, version, modes, queues, slots, idle)
        values (%s, 'host', 1, '0', '{}', '{}', 1, true)
        """,
        [uuid4()],
    )
    await conn.execute('listen "jobsworth.wake"')
    async with database.connection() as other:
        await queues.pause(other, "research")
        await queues.resume(other, "research")
    assert [notice async for notice in conn.notifies(timeout=5, stop_after=1)]


@pytest.mark.parametrize("name", ["", " ", "a\0"])
async def test_a_queue_needs_a_name(conn: Connection, name: str) -> None:
    with pytest.raises(InvalidInput, match="is not the name of a queue"):
        await queues.pause(conn, name)
    with pytest.raises(InvalidInput, match="is not the name of a queue"):
        await queues.resume(conn, name)
