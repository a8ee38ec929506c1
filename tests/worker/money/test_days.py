"""Every daemon closes days, none before the last transaction that could add to them has ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import LiteralString

import anyio
import pytest

from db.money import books, ledger
from db.money import days as ledger_days
from db.pool import Connection, Database, execute, fetch_val
from tests.support import Workers, until
from worker.money.days import DAY_PAUSE_SECONDS, WRITERS_PAUSE_SECONDS, Closer

pytestmark = pytest.mark.both

CLOSED: LiteralString = "select closed_through from jobsworth.ledger_closing"
ENTER: LiteralString = """
insert into jobsworth.token_ledger (entry, provider, model, input_tokens, occurred_at)
values ('settle', 'acme', 'large', 1, coalesce(%(at)s, clock_timestamp()))
"""


async def closable(conn: Connection) -> date:
    return (await ledger_days.look(conn)).closable


async def enter(conn: Connection, day: date | None = None) -> None:
    at = day and datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC)
    await execute(conn, ENTER, {"at": at})


@asynccontextmanager
async def written_before_its_end(database: Database, day: date) -> AsyncGenerator[Connection]:
    """An open transaction that has entered something while the day was today."""
    async with database.transaction() as writer:
        await writer.execute("set local session_replication_role = replica")
        await enter(writer, day)
        yield writer


async def test_days_are_closed_one_after_the_other(database: Database, conn: Connection) -> None:
    day = await closable(conn)
    for days in (0, 1, 5):
        await enter(conn, day - timedelta(days=days))
    closer = Closer(database)
    assert [await closer.work() for _ in range(4)] == [DAY_PAUSE_SECONDS] * 2 + [None] * 2
    assert await fetch_val(conn, CLOSED) == day
    assert await fetch_val(conn, "select count(*) from jobsworth.ledger_days") == 3
    assert await books.check(conn) == []


async def test_a_day_is_not_closed_while_somebody_may_add_to_it(
    database: Database, conn: Connection
) -> None:
    day = await closable(conn)
    closer = Closer(database)
    async with written_before_its_end(database, day):
        for _ in range(2):
            assert await closer.work() == WRITERS_PAUSE_SECONDS
        assert await fetch_val(conn, CLOSED) is None
    assert await closer.work() is None
    assert await fetch_val(conn, CLOSED) == day
    assert (await ledger.get_daily_usage(conn, day)).entries == 1


async def test_who_began_to_write_later_does_not_hold_it_up(
    database: Database, conn: Connection
) -> None:
    """Otherwise a busy ledger, where somebody always writes, would never be closed."""
    day = await closable(conn)
    closer = Closer(database)
    async with database.transaction() as later:
        async with written_before_its_end(database, day):
            assert await closer.work() == WRITERS_PAUSE_SECONDS
            await enter(later)
            assert await closer.work() == WRITERS_PAUSE_SECONDS
        assert await closer.work() is None
        assert await fetch_val(conn, CLOSED) == day


async def test_a_day_that_was_opened_again_is_closed_again(
    database: Database, conn: Connection
) -> None:
    day = await closable(conn)
    closer = Closer(database)
    assert await closer.work() is None
    await enter(conn, day)
    assert await fetch_val(conn, CLOSED) == day - timedelta(days=1)
    assert await closer.work() is None
    assert await fetch_val(conn, CLOSED) == day


async def test_daemons_that_close_at_once_close_each_day_once(
    database: Database, conn: Connection
) -> None:
    day = await closable(conn)
    for days in range(20):
        await enter(conn, day - timedelta(days=days))

    async def close_all() -> None:
        closer = Closer(database)
        while await closer.work() is not None or await fetch_val(conn, CLOSED) != day:
            pass

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(close_all)
    assert await fetch_val(conn, "select sum(entries) from jobsworth.ledger_days") == 20
    assert await books.check(conn) == []


async def test_a_daemon_does_so(database_url: str, conn: Connection, workers: Workers) -> None:
    day = await closable(conn)
    await enter(conn, day)
    workers.start(database_url)

    async def is_closed() -> bool:
        return await fetch_val(conn, CLOSED) == day

    await until(is_closed)
