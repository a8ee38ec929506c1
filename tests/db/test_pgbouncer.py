"""Sessions through PgBouncer in transaction mode: nothing is prepared, lost or left for others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import psycopg
import pytest

from db.errors import Unavailable
from db.pool import Connection, Database, execute, fetch_rows, fetch_val
from db.server.embedded import Embedded
from tests.odd_settings import odd
from tests.pgbouncer import pgbouncer, pooled_url

# What PgBouncer sets itself for each client, and what the server itself sets.
TRACKED = {
    *("application_name", "client_encoding", "DateStyle", "standard_conforming_strings"),
    *("TimeZone", "transaction_isolation"),
}
LEFT = """
select s.name, s.setting from pg_catalog.pg_settings s where s.source = 'session' order by s.name
"""


@pytest.fixture
def folder(server: Embedded) -> Iterator[Path]:
    with pgbouncer(server) as folder:
        yield folder


@pytest.fixture
def pooled(folder: Path, database_url: str) -> str:
    return pooled_url(folder, urlsplit(database_url).path.removeprefix("/"))


async def test_statements_are_prepared_on_the_server_itself_and_not_through_a_pooler(
    database: Database, pooled: str
) -> None:
    async with Database(pooled, pool_min=1, pool_max=1) as through:
        for pool, known in ((database, 1), (through, 0)):
            async with pool.connection() as conn:
                assert conn.pooled == (pool is through)
                await fetch_rows(conn, "select 1", None, prepare=True)
                names = "select count(*) from pg_prepared_statements"
                assert await fetch_val(conn, names) == known


async def test_many_clients_that_want_to_prepare_do_not_meet(pooled: str) -> None:
    """Each client counts its statements from 0, so all of them give the same names."""

    async def ask(pool: Database, client: int) -> None:
        for turn in range(30):
            async with pool.connection() as conn:
                rows = await fetch_rows(
                    conn, "select %(a)s::int, %(b)s::int", {"a": client, "b": turn}, prepare=True
                )
                assert rows == [(client, turn)]
            await anyio.lowlevel.checkpoint()

    async with (
        Database(pooled, pool_min=4, pool_max=4) as one,
        Database(pooled, pool_min=4, pool_max=4) as other,
        anyio.create_task_group() as tasks,
    ):
        for client in range(20):
            tasks.start_soon(ask, (one, other)[client % 2], client)


async def test_what_a_session_says_follows_it_and_nothing_else_stays(
    database_url: str, folder: Path
) -> None:
    strange = {"DateStyle": "German", "client_encoding": "LATIN1", "jit": "on", "lock_timeout": "9"}
    with odd(database_url, strange, "database"):
        pooled = pooled_url(folder, urlsplit(database_url).path.removeprefix("/"))
        async with Database(pooled, pool_min=2, pool_max=2) as pool:
            # While one is in a transaction, the other one is given another server connection.
            async with pool.transaction() as held:
                assert await fetch_val(held, "show DateStyle") == "ISO, DMY"
                assert await fetch_val(held, "show lock_timeout") == "0"
                assert await pool.fetch_val("show DateStyle") == "ISO, DMY"
                assert await pool.fetch_val("show client_encoding") == "UTF8"
            assert await pool.fetch_val("show lock_timeout") == "9ms"
            async with await psycopg.AsyncConnection.connect(pooled, autocommit=True) as stranger:
                cursor = await stranger.execute("show DateStyle")
                assert await cursor.fetchone() == ("German, DMY",)
                cursor = await stranger.execute(LEFT)
                assert {row[0] for row in await cursor.fetchall()} <= TRACKED


@pytest.mark.parametrize(
    ("mixed_up", "code"),
    [
        ("do $$ begin execute 'deallocate all'; end $$", "26000"),
        ("prepare _pg3_1 as select 1", "42P05"),
    ],
)
async def test_a_mix_up_costs_one_connection_and_nothing_is_prepared_after_it(
    database_url: str, mixed_up: LiteralString, code: str
) -> None:
    """As with a pooler that passes itself off as the server."""

    async def prepared(conn: Connection) -> list[int]:
        words: tuple[LiteralString, ...] = ("select 2", "select 3", "select 2")
        return [(await fetch_rows(conn, each, None, prepare=True))[0][0] for each in words]

    async def mix_up(pool: Database) -> None:
        async with pool.connection() as conn:
            await fetch_rows(conn, "select 2", None, prepare=True)
            await conn.execute(mixed_up)
            await prepared(conn)

    async with Database(database_url, pool_min=2, pool_max=2) as pool:
        with pytest.raises(Unavailable, match="mixes up sessions") as caught:
            await mix_up(pool)
        assert (caught.value.retriable, caught.value.sqlstate) == (True, code)
        async with pool.connection() as one, pool.connection() as two:
            for conn in (one, two):
                assert await prepared(conn) == [2, 3, 2]
                assert await fetch_val(conn, "select count(*) from pg_prepared_statements") == 0


async def test_transactions_through_a_pooler_do_not_depend_on_the_role(
    server: Embedded, database_url: str
) -> None:
    settings = {"default_transaction_isolation": "serializable", "statement_timeout": "300ms"}
    with odd(database_url, settings, "role") as url:
        role = str(urlsplit(url).username)
        with pgbouncer(server, [role]) as folder:
            pooled = pooled_url(folder, urlsplit(url).path.removeprefix("/"), role)
            async with Database(pooled) as pool, pool.transaction() as conn:
                assert await fetch_val(conn, "show transaction_isolation") == "read committed"
                await execute(conn, "select pg_sleep(0.5)")
