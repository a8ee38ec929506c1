"""The finisher and COMMITs whose answer is lost: nothing is doubled, and every slot is freed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import LiteralString

import psycopg
import pytest

from db.errors import translated
from db.pool import BEGIN, Connection, Database, execute, fetch_val
from db.queue import promote
from db.queue.effects import JobEffect, MessageEffect
from tests.db.protocol import (
    breaches,
    die,
    rescue,
    state,
)
from tests.worker.queue.finishing import TEXTS, Desk, at_work, endings, put
from tests.worker.queue.finishing import desk as desk
from worker.queue.transition import Transition

pytestmark = pytest.mark.both


# The COMMIT whose answer is lost.


class LossyDatabase(Database):
    """What `lossy` does at the first COMMIT happens in its place; its answer never comes."""

    lossy: Callable[[Connection], Awaitable[None]] | None = None

    @asynccontextmanager
    async def transaction(self, begin: LiteralString = BEGIN) -> AsyncGenerator[Connection]:
        async with self.connection() as connection:
            with translated():
                await connection.execute(begin)
                try:
                    yield connection
                except BaseException:
                    with suppress(psycopg.Error):
                        await connection.execute("rollback")
                    raise
                lose, self.lossy = self.lossy, None
                if lose is None:
                    await connection.execute("commit")
                else:
                    await lose(connection)
                    raise psycopg.OperationalError("server closed the connection unexpectedly")


async def commit_and_break(connection: Connection) -> None:
    await connection.execute("commit")
    await connection.close()


async def test_a_commit_whose_answer_is_lost_doubles_nothing_and_frees_the_slots(
    database_url: str, conn: Connection
) -> None:
    batch = await endings(conn, 3, MessageEffect("message:1", "hello"), JobEffect("job:1", "plan"))
    lossy = LossyDatabase(database_url, pool_min=1, pool_max=3)
    lossy.lossy = commit_and_break
    async with lossy, at_work(Desk(lossy, conn)) as desk:
        put(desk, *batch)
        assert await desk.told_of(3) == {ending.job.id: "done" for ending in batch}
    assert desk.retries == 1
    assert await fetch_val(conn, TEXTS) == ["hello"] * 3
    jobs = "select count(*) from jobsworth.reactive_jobs where parent_id is not null"
    assert await fetch_val(conn, jobs) == 3
    # What it unblocked is looked at, though nobody knows what that was.
    assert set(desk.promoter.ids) == {e.job.id for e in batch}


async def test_a_park_whose_answer_is_lost_is_looked_at_and_its_cancel_is_not_missed(
    database_url: str, conn: Connection
) -> None:
    [ending] = await endings(conn, 1)
    park = Transition.parked("signal", "go")
    await execute(conn, "select jobsworth.send_signal(%(id)s, 'go')", {"id": ending.job.id})
    lossy = LossyDatabase(database_url, pool_min=1, pool_max=3)
    lossy.lossy = commit_and_break
    async with lossy, at_work(Desk(lossy, conn)) as desk:
        put(desk, ending._replace(transition=park))
        await desk.told_of(1)
    assert desk.promoter.ids == [ending.job.id]
    await promote.unblock(conn, [ending.job.id])
    assert await state(conn, ending.job.id) == ("queued", None)


@pytest.mark.parametrize("word", ["commit", "rollback"])
async def test_a_second_try_waits_until_the_first_commit_is_decided(
    database_url: str, conn: Connection, word: LiteralString
) -> None:
    """The answer is lost while the server is still at it; either way it ends up done once."""
    [ending] = await endings(conn, 1, MessageEffect("message:1", "hello"))
    open_ones: list[Connection] = []

    async def leave_open(connection: Connection) -> None:
        open_ones.append(connection)

    lossy = LossyDatabase(database_url, pool_min=2, pool_max=4)
    lossy.lossy = leave_open
    async with lossy:
        lossy.pool.putconn = _keep_open(lossy, open_ones)  # pyright: ignore[reportAttributeAccessIssue]
        async with at_work(Desk(lossy, conn)) as desk:
            put(desk, ending)
            await desk.retried()
            assert desk.told == []
            await open_ones[0].execute(word)
            assert await desk.told_of(1) == {ending.job.id: "done"}
        await open_ones[0].close()
    assert await fetch_val(conn, TEXTS) == ["hello"]
    assert await breaches(conn) == []


def _keep_open(database: Database, kept: list[Connection]) -> Callable[[Connection], object]:
    """The pool's `putconn`, which would roll an open transaction back."""
    put_back = database.pool.putconn

    async def putconn(connection: Connection) -> None:
        if connection not in kept:
            await put_back(connection)

    return putconn


async def test_an_ending_that_a_rescue_overtook_is_told_and_frees_its_slot(
    desk: Desk, conn: Connection
) -> None:
    [ending] = await endings(conn, 1, MessageEffect("message:1", "hello"))
    await die(conn, ending.lease.worker_id)
    await rescue(conn)
    put(desk, ending)
    await desk.told_of(1)
    assert await fetch_val(conn, TEXTS) is None
    assert await state(conn, ending.job.id) == ("queued", None)
