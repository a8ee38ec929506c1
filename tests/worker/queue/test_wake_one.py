"""A job that becomes ready tells one worker that can run it, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import DictRow

from db.pool import Connection, execute
from db.queue import promote
from db.queue.promote import NOBODY, Claimant
from tests.db.protocol import add, claim, done, finish, lease_of, register, running
from tests.support import connect

pytestmark = pytest.mark.both

IDLE: LiteralString = "update jobsworth.workers set idle = true where id = any(%(ids)s)"


@pytest.fixture
def listener(database_url: str) -> Iterator[psycopg.Connection[DictRow]]:
    with connect(database_url) as listener:
        listener.execute('listen "jobsworth.wake"')
        yield listener


def heard(listener: psycopg.Connection[DictRow]) -> list[str]:
    """Everything that was said since the last call."""
    listener.execute("select pg_notify('jobsworth.wake', 'the end')")
    said: list[str] = []
    for note in listener.notifies(timeout=10):
        if note.payload == "the end":
            return said
        said.append(note.payload)
    raise AssertionError(f"no end after {said}")


async def idle(conn: Connection, *modes: str) -> UUID:
    worker_id = await register(conn, modes or ("answer",))
    await execute(conn, IDLE, {"ids": [worker_id]})
    return worker_id


async def end_of_first(conn: Connection, worker_id: UUID, lanes: int = 1) -> list[UUID]:
    """The first jobs of these lanes have ended; each has one that waits behind it."""
    for n in range(lanes):
        await add(conn, lane=f"lane {n}")
    firsts = (await claim(conn, worker_id, lanes)).jobs
    for n in range(lanes):
        await add(conn, lane=f"lane {n}")
    await finish(conn, *(done(lease_of(job, worker_id)) for job in firsts))
    return [job.id for job in firsts]


async def test_a_promotion_tells_one_idle_worker(
    conn: Connection, listener: psycopg.Connection[DictRow]
) -> None:
    own = await register(conn)
    ended = await end_of_first(conn, own)
    others = {await idle(conn) for _ in range(3)}
    heard(listener)
    await promote.unblock(conn, ended)
    [told] = heard(listener)
    assert UUID(told) in others


async def test_a_worker_with_room_is_told_nothing_and_neither_are_others(
    conn: Connection, listener: psycopg.Connection[DictRow]
) -> None:
    own = await idle(conn)
    ended = await end_of_first(conn, own)
    await idle(conn)
    heard(listener)
    await promote.unblock(conn, ended, Claimant(own, 1))
    assert heard(listener) == []


@pytest.mark.parametrize("room", [0, 1])
async def test_for_jobs_beyond_its_room_another_is_told(
    conn: Connection, listener: psycopg.Connection[DictRow], room: int
) -> None:
    own = await idle(conn)
    ended = await end_of_first(conn, own, lanes=room + 1)
    other = await idle(conn)
    heard(listener)
    await promote.unblock(conn, ended, Claimant(own, room))
    assert heard(listener) == [str(other)]


async def test_only_a_worker_that_knows_the_mode_and_the_queue_is_told(
    conn: Connection, listener: psycopg.Connection[DictRow]
) -> None:
    own = await register(conn)
    ended = await end_of_first(conn, own)
    knows, elsewhere = await idle(conn), await idle(conn)
    await idle(conn, "plan")
    await execute(
        conn, "update jobsworth.workers set queues = '{x}' where id = %(id)s", {"id": elsewhere}
    )
    await execute(conn, "update jobsworth.workers set modes = '{}' where id = %(id)s", {"id": own})
    heard(listener)
    await promote.unblock(conn, ended, Claimant(own, 10))
    assert heard(listener) == [str(knows)]


async def test_many_jobs_at_once_tell_everybody(
    conn: Connection, listener: psycopg.Connection[DictRow]
) -> None:
    own = await register(conn)
    ended = await end_of_first(conn, own, lanes=20)
    await idle(conn)
    heard(listener)
    await promote.unblock(conn, ended, NOBODY)
    assert heard(listener) == [""]


async def test_nobody_is_told_while_nobody_is_idle(
    conn: Connection, listener: psycopg.Connection[DictRow]
) -> None:
    lease = await running(conn, lane="lane")
    await add(conn, lane="lane")
    await finish(conn, done(lease))
    await promote.unblock(conn, [lease.job_id])
    assert heard(listener) == []
