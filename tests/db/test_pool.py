"""The pool: bounds, transactions, plain SQL, and what happens when the server is away."""

import asyncio
import itertools
import random
import time
from contextlib import suppress
from typing import LiteralString

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel

from db.errors import Refused, Unavailable
from db.migrate import migrate
from db.pool import (
    Connection,
    Database,
    LastStatement,
    bounded,
    commit_with,
    execute,
    fetch_all,
    fetch_one,
    fetch_val,
)
from db.queue import queues
from db.server.embedded import Embedded
from db.sessions import connect_parameters
from tests.support import until


async def pids(database: Database) -> set[int]:
    """The server's processes of this pool."""
    rows = await database.fetch_all(
        """
        select a.pid from pg_stat_activity a
        where a.datname = current_database() and a.application_name = 'pool-test'
        """
    )
    return {row["pid"] for row in rows}


async def test_the_pool_keeps_within_its_bounds(database_url: str, database: Database) -> None:
    async with Database(
        database_url, pool_min=2, pool_max=3, acquire_seconds=0.2, application_name="pool-test"
    ) as pool:

        async def at_least_two() -> bool:
            return len(await pids(database)) == 2

        await until(at_least_two)
        async with pool.connection(), pool.connection(), pool.connection():
            assert len(await pids(database)) == 3
            with pytest.raises(Unavailable, match="no database connection became free in time"):
                await pool.fetch_val("select 1")
        assert await pool.fetch_val("select 1") == 1


async def test_a_closed_pool_leaves_no_connection(database_url: str, database: Database) -> None:
    pool = Database(database_url, pool_min=3, pool_max=3, application_name="pool-test")
    async with pool, pool.connection(), pool.connection(), pool.connection():
        assert len(await pids(database)) == 3

    async def none_left() -> bool:
        return not await pids(database)

    await until(none_left)
    with pytest.raises(Unavailable, match="the connection pool is closed"):
        await pool.fetch_val("select 1")


async def test_plain_sql_gives_rows_columns_and_counts(database: Database) -> None:
    assert await database.execute("create table t (n int, s text)") == -1
    assert await database.execute("insert into t values (1, 'a'), (2, 'b')") == 2
    assert await database.execute("update t set s = %(s)s where n > %(n)s", {"s": "c", "n": 1}) == 1
    assert await database.fetch_one("select n, s from t order by n desc") == {"n": 2, "s": "c"}
    assert await database.fetch_one("select n from t where n > 5") is None
    assert await database.fetch_all("select n from t order by n") == [{"n": 1}, {"n": 2}]
    assert await database.fetch_all("select n from t where n > 5") == []
    assert await database.fetch_val("select max(n) from t") == 2
    assert await database.fetch_val("select n from t where n > 5") is None


async def test_rows_become_models(conn: Connection) -> None:
    class Row(BaseModel):
        n: int

    assert await fetch_one(conn, "select 1 as n", None, Row) == Row(n=1)
    assert await fetch_one(conn, "select 1 as n where false", None, Row) is None
    assert await fetch_all(conn, "select n from generate_series(1, 2) n", None, Row) == [
        Row(n=1),
        Row(n=2),
    ]


async def test_a_transaction_commits_whole_or_not_at_all(database: Database) -> None:
    await database.execute("create table t (n int)")
    async with database.transaction() as conn:
        await execute(conn, "insert into t values (1)")
        await execute(conn, "insert into t values (2)")
        assert await database.fetch_val("select count(*) from t") == 0
    assert await database.fetch_val("select count(*) from t") == 2

    with suppress(KeyError):
        async with database.transaction() as conn:
            await execute(conn, "delete from t")
            assert await fetch_val(conn, "select count(*) from t") == 0
            raise KeyError("mine")
    assert await database.fetch_val("select count(*) from t") == 2


@pytest.mark.parametrize("spoil", ["select 1 / 0", "rollback", "commit"])
async def test_a_transaction_that_cannot_commit_says_so(
    database: Database, spoil: LiteralString
) -> None:
    """The block swallowed the error of a statement, or ended the transaction by itself."""
    await database.execute("create table t (n int)")

    async def insert() -> None:
        async with database.transaction() as conn:
            await execute(conn, "insert into t values (1)")
            with suppress(Refused):
                await execute(conn, spoil)

    with pytest.raises(Refused) as caught:
        await insert()
    assert "was not committed" in caught.value.message or "ended within" in caught.value.message
    assert caught.value.remedy
    assert await database.fetch_val("select count(*) from t") == (1 if spoil == "commit" else 0)


async def test_literals_of_your_own_sql_stay_as_they_are(database_url: str) -> None:
    """Only the name of the schema is written in, where it qualifies an object."""
    async with Database(database_url, schema="elsewhere", pool_min=1) as pool:
        told = await pool.fetch_one(
            """
            select 'jobsworth.a' as plain, E'it\\'s jobsworth.b' as escaped, 'it''s jobsworth.c' as
            doubled, $$jobsworth.d$$ as dollars, $x$jobsworth.$$e$x$ as tagged,
            1 as "jobsworth.f" /* jobsworth.g /* ' */ */ -- 'jobsworth.h
            """
        )
        assert told == {
            "plain": "jobsworth.a",
            "escaped": "it's jobsworth.b",
            "doubled": "it's jobsworth.c",
            "dollars": "jobsworth.d",
            "tagged": "jobsworth.$$e",
            "jobsworth.f": 1,
        }
        for query in ("select from jobsworth.queues", "select '' from jobsworth.queues"):
            with pytest.raises(Refused, match=r'"elsewhere\.queues" does not exist'):
                await pool.fetch_all(query)


async def test_a_commit_that_is_refused_is_one_of_our_errors(database: Database) -> None:
    await database.execute(
        "create table t (n int, constraint once unique (n) deferrable initially deferred)"
    )
    with pytest.raises(Refused, match="once"):
        async with database.transaction() as conn:
            await execute(conn, "insert into t values (1), (1)")
    assert await database.fetch_val("select count(*) from t") == 0


async def test_statements_outside_a_transaction_commit_at_once(
    database: Database, conn: Connection
) -> None:
    await execute(conn, "create table t (n int)")
    await execute(conn, "insert into t values (1)")
    async with database.connection() as other:
        assert await fetch_val(other, "select count(*) from t") == 1


async def test_an_error_leaves_the_pool_usable(database: Database) -> None:
    for _ in range(20):
        with pytest.raises(Refused):
            await database.execute("select nonsense")
    assert await database.fetch_val("select 1") == 1


async def test_statements_go_to_the_pools_schema(database_url: str, database: Database) -> None:
    migrate(database_url, "second")
    async with Database(database_url, schema="second") as second:
        async with second.connection() as conn:
            assert conn.schema == "second"
            await queues.pause(conn, "research")
        assert await second.fetch_val("select count(*) from jobsworth.queues") == 1
    assert await database.fetch_val("select count(*) from jobsworth.queues") == 0
    assert await database.fetch_val("select count(*) from second.queues") == 1


async def test_a_cancellation_waits_for_the_statement_and_keeps_the_connection(
    conn: Connection,
) -> None:
    await execute(conn, "create table t (n int)")
    pid = conn.info.backend_pid
    with anyio.move_on_after(0.05) as scope:
        await execute(conn, "insert into t select 1 from pg_sleep(0.5)")
        await anyio.lowlevel.checkpoint()
        pytest.fail("the cancellation was lost")
    assert scope.cancelled_caught
    assert await fetch_val(conn, "select count(*) from t") == 1
    assert conn.info.backend_pid == pid


async def test_no_cancellation_however_often_takes_a_connection_out_of_the_pool(
    database_url: str,
) -> None:
    """`Task.cancel` ignores shields, and so do `asyncio.timeout` and `asyncio.wait_for`."""

    async def work(pool: Database) -> None:
        async with pool.transaction() as conn:
            await execute(conn, "select pg_sleep(0.005)")
            await execute(conn, "select 1")

    drawn = random.Random(1)
    async with Database(database_url, pool_min=2, pool_max=2, acquire_seconds=10) as pool:
        for _ in range(40):
            task = asyncio.create_task(work(pool))
            while not task.done():
                await asyncio.sleep(drawn.random() * 0.004)
                task.cancel()
        async with pool.connection(), pool.connection():
            pass


async def test_a_cancellation_meets_the_connection_that_was_waited_for(database_url: str) -> None:
    """Python 3.11 loses the lock of a condition whose waiter is told and canceled at once."""

    async def wait(pool: Database, scope: anyio.CancelScope) -> None:
        with scope:
            async with pool.connection():
                await anyio.lowlevel.checkpoint()

    async with Database(database_url, pool_min=1, pool_max=1, acquire_seconds=10) as pool:
        for turns_to_cancel, turns_to_return in itertools.product(range(4), repeat=2):
            scope = anyio.CancelScope()
            async with anyio.create_task_group() as tasks, pool.connection():
                tasks.start_soon(wait, pool, scope)
                tasks.start_soon(_cancel_after, turns_to_cancel, scope)
                await _turns(turns_to_return)
            async with pool.connection():
                pass


async def _cancel_after(turns: int, scope: anyio.CancelScope) -> None:
    await _turns(turns)
    scope.cancel()


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_statement_has_a_bound(database_url: str, database: Database) -> None:
    async with Database(
        database_url, statement_seconds=0.2, application_name="pool-test"
    ) as impatient:
        with pytest.raises(Unavailable, match="did not answer within 0.2 s"):
            await impatient.execute("select pg_sleep(60)")
        assert await impatient.fetch_val("select 1") == 1

        async def stopped() -> bool:
            query = "select count(*) from pg_stat_activity a where a.wait_event = 'PgSleep'"
            return await database.fetch_val(query) == 0

        await until(stopped)


async def test_the_shield_ends_at_its_bound() -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer within 0.1 s"):
        async with bounded(0.1):
            await anyio.sleep(60)
    assert time.monotonic() - started < 5


async def test_a_read_only_connection_is_thrown_away(database_url: str, database: Database) -> None:
    """After a failover the pool may still hold connections to what is a standby now."""
    await database.execute("create table t (n int)")
    async with Database(database_url, pool_min=1, pool_max=1) as pool:
        async with pool.connection() as conn:
            pid = conn.info.backend_pid
            await execute(conn, "set default_transaction_read_only = on")
        with pytest.raises(Unavailable) as caught:
            await pool.execute("insert into t values (1)")
        assert (caught.value.sqlstate, caught.value.retriable) == ("25006", True)
        assert await pool.execute("insert into t values (1)") == 1
        assert await pool.fetch_val("select pg_backend_pid()") != pid


async def test_a_dead_connection_is_replaced(database_url: str, database: Database) -> None:
    async with Database(database_url, pool_min=1, pool_max=1) as pool:
        pid = await pool.fetch_val("select pg_backend_pid()")
        await database.fetch_val("select pg_terminate_backend(%s, 5000)", [pid])
        with pytest.raises(Unavailable):
            await pool.fetch_val("select 1")
        assert await pool.fetch_val("select pg_backend_pid()") != pid


@pytest.mark.own_server
async def test_a_pool_opens_without_a_server_and_finds_it_later(
    server: Embedded, database_url: str
) -> None:
    server.stop("fast")
    async with Database(database_url, acquire_seconds=0.5) as pool:
        with pytest.raises(Unavailable) as caught:
            await pool.fetch_val("select 1")
        assert caught.value.retriable
        await anyio.to_thread.run_sync(server.restart)

        async def answers() -> bool:
            try:
                return await pool.fetch_val("select 1") == 1
            except Unavailable:
                return False

        await until(answers, seconds=30)


@pytest.mark.own_server
async def test_a_pool_survives_a_restart_of_its_server(server: Embedded, database_url: str) -> None:
    async with Database(database_url, acquire_seconds=5) as pool:
        await pool.execute("create table t (n int)")
        await anyio.to_thread.run_sync(server.restart)

        async def writes() -> bool:
            try:
                return await pool.execute("insert into t values (1)") == 1
            except Unavailable:
                return False

        await until(writes, seconds=30)
        assert await pool.fetch_val("select count(*) from t") == 1


@pytest.mark.both
async def test_a_transaction_that_falls_silent_is_ended_by_the_server(database: Database) -> None:
    """A worker frozen in mid-transaction would hold its jobs, and nobody could rescue them."""
    async with database.transaction() as conn:
        assert await fetch_val(conn, "show idle_in_transaction_session_timeout") == "10s"

    async def fall_silent() -> None:
        async with database.transaction() as conn:
            await execute(conn, "set local idle_in_transaction_session_timeout = '1ms'")
            await anyio.sleep(0.1)
            await execute(conn, "select 1")

    with pytest.raises(Unavailable):
        await fall_silent()
    assert await database.fetch_val("select 1") == 1


async def test_a_pool_waits_and_renews_its_connections_as_it_is_told() -> None:
    pool = Database(
        "postgresql://localhost/none", acquire_seconds=9, lifetime_seconds=50, idle_seconds=7
    ).pool
    assert (pool.timeout, pool.max_lifetime, pool.max_idle) == (9, 50, 7)


async def test_an_echo_tells_statements_with_their_time_and_without_their_values(
    database_url: str,
) -> None:
    told: list[tuple[str, float]] = []

    def echo(statement: str, seconds: float) -> None:
        told.append((statement, seconds))

    async with Database(database_url, pool_min=1, pool_max=1, echo=echo) as pool:
        assert await pool.fetch_val("select\n  %(v)s::text", {"v": "s3cret"}) == "s3cret"
        with pytest.raises(Refused):
            await pool.execute("select 1 / %(v)s", {"v": 0})
        async with pool.connection() as conn:
            await conn.execute("begin")
            values = {"v": "it's s3cret\\", "n": -4711.5}
            last = LastStatement("select %(v)s::text, %(n)s::numeric as n1", values, list)
            await commit_with(conn, [last])
    told_texts = [statement for statement, _ in told]
    assert "select %(v)s::text" in told_texts
    assert "select 1 / %(v)s" in told_texts
    assert "select …::text, …::numeric as n1;commit" in told_texts
    assert not any("s3cret" in text or "4711" in text for text in told_texts)
    assert all(0 <= seconds < 30 for _, seconds in told)
    assert "cursor_factory" not in connect_parameters("quiet")
