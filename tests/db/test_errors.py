"""Errors: whatever PostgreSQL says becomes one of ours, which says whether to try again."""

from typing import LiteralString

import anyio
import psycopg
import psycopg_pool
import pytest
from anyio import Event

from db import errors
from db.errors import (
    Conflict,
    Contended,
    DatabaseError,
    Exhausted,
    InvalidInput,
    JobsworthError,
    NotFound,
    Refused,
    Unavailable,
    translate,
    translated,
)
from db.pool import Connection, Database, execute, fetch_val


@pytest.mark.parametrize(
    ("statement", "kind", "code"),
    [
        ("select nonsense", Refused, "42703"),
        ("selct 1", Refused, "42601"),
        ("select * from nowhere", Refused, "42P01"),
        ("select 1 / 0", Refused, "22012"),
        ("select 'x'::int", Refused, "22P02"),
        ("insert into jobsworth.reactive_jobs (mode) values (null)", Refused, "23502"),
        ("insert into jobsworth.reactive_jobs (mode) values ('')", Refused, "23514"),
        ("set transaction_timeout_of_nobody = 1", Refused, "42704"),
        (
            "insert into jobsworth.queues (name) values ('a'), ('a')",
            Refused,
            "23505",
        ),
        (
            """
            insert into jobsworth.chat_messages (thread_id, role, text)
            values (jobsworth.uuidv7(), 'user', '')
            """,
            Refused,
            "23503",
        ),
    ],
)
async def test_a_statement_that_cannot_succeed_is_refused_for_good(
    conn: Connection, statement: LiteralString, kind: type[DatabaseError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        await execute(conn, statement)
    assert caught.value.sqlstate == code
    assert not caught.value.retriable


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("08006", Unavailable),
        ("57P01", Unavailable),
        ("57014", Unavailable),
        ("25006", Unavailable),
        ("40001", Contended),
        ("40P01", Contended),
        ("55P03", Contended),
        ("53100", Exhausted),
        ("53200", Exhausted),
        ("53300", Exhausted),
        ("58030", Exhausted),
        ("P0002", NotFound),
        ("23505", Refused),
        ("55000", Refused),
        ("42501", Refused),
        ("P0001", Refused),
        ("XX000", Refused),
    ],
)
async def test_each_code_has_its_kind(
    conn: Connection, code: str, kind: type[JobsworthError]
) -> None:
    await fetch_val(conn, "select set_config('test.code', %s, false)", [code])
    with pytest.raises(kind, match="it went wrong") as caught:
        await execute(
            conn,
            """
            do $$ begin
              raise exception 'it went wrong'
                using errcode = (select current_setting('test.code'));
            end $$
            """,
        )
    assert type(caught.value) is kind
    assert caught.value.retriable is (kind in (Unavailable, Contended, Exhausted))
    if kind.retriable:
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("P0002", NotFound),
        ("23505", Conflict),
        ("55000", Conflict),
        ("22023", InvalidInput),
        ("54000", InvalidInput),
        ("P0001", InvalidInput),
    ],
)
async def test_what_our_functions_raise_with_a_hint_says_whose_fault_it_is(
    conn: Connection, code: str, kind: type[JobsworthError]
) -> None:
    await fetch_val(conn, "select set_config('test.code', %s, false)", [code])
    with pytest.raises(kind) as caught:
        await execute(
            conn,
            """
            do $$ begin
              raise exception 'it went wrong'
                using errcode = (select current_setting('test.code')), hint = 'Do better.';
            end $$
            """,
        )
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.remedy) == ("it went wrong", "Do better.")
    assert str(caught.value) == "it went wrong (Do better.)"
    assert not caught.value.retriable


async def test_the_failing_row_is_not_in_the_message(conn: Connection) -> None:
    """It would carry payloads into logs."""
    for statement in (
        "insert into jobsworth.reactive_jobs (mode, payload) values ('', '{\"secret\": 1}')",
        "insert into jobsworth.reactive_jobs (mode, payload) values (null, '{\"secret\": 1}')",
    ):
        with pytest.raises(Refused) as caught:
            await execute(conn, statement)
        assert "secret" not in str(caught.value)


async def test_the_taken_key_is_in_the_message(conn: Connection) -> None:
    await execute(conn, "insert into jobsworth.queues (name) values ('research')")
    with pytest.raises(Refused, match=r"Key \(name\)=\(research\) already exists"):
        await execute(conn, "insert into jobsworth.queues (name) values ('research')")


async def test_a_deadlock_is_retriable(database: Database, conn: Connection) -> None:
    """Two transactions, each holding the row the other wants."""
    seen: list[JobsworthError] = []
    await execute(conn, "insert into jobsworth.queues (name) values ('a'), ('b')")

    async def both(first: str, second: str, on: Connection, held: Event, other: Event) -> None:
        update = "update jobsworth.queues set paused = true where name = %s"
        try:
            async with on.transaction():
                await execute(on, update, [first])
                held.set()
                await other.wait()
                await execute(on, update, [second])
        except JobsworthError as error:
            seen.append(error)

    a, b = Event(), Event()
    async with database.connection() as other, anyio.create_task_group() as tasks:
        tasks.start_soon(both, "a", "b", conn, a, b)
        tasks.start_soon(both, "b", "a", other, b, a)
    assert [type(error) for error in seen] == [Contended]


async def test_a_lock_timeout_is_retriable(database: Database, conn: Connection) -> None:
    async with database.connection() as other, conn.transaction():
        await execute(conn, "lock table jobsworth.queues")
        await execute(other, "set lock_timeout = '50ms'")
        with pytest.raises(Contended) as caught:
            await fetch_val(other, "select count(*) from jobsworth.queues")
    assert caught.value.sqlstate == "55P03"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable) as caught, translated():
        await psycopg.AsyncConnection.connect("postgresql://nobody@127.0.0.1:1/x?connect_timeout=2")
    assert caught.value.retriable
    assert "\n" not in caught.value.message
    assert "JOBSWORTH_DATABASE_URL" in caught.value.remedy


async def test_an_ended_session_is_unavailable(database: Database, conn: Connection) -> None:
    async with database.connection() as other:
        pid = other.info.backend_pid
        assert await fetch_val(conn, "select pg_terminate_backend(%s, 5000)", [pid])
        with pytest.raises(Unavailable) as caught:
            await fetch_val(other, "select 1")
    assert caught.value.retriable


def test_a_pool_without_a_free_connection_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="no database connection became free"), translated():
        raise psycopg_pool.PoolTimeout("30 s")
    with pytest.raises(Unavailable, match="the connection pool is closed"), translated():
        raise psycopg_pool.PoolClosed("closed")


def test_what_is_not_the_drivers_passes_through() -> None:
    with pytest.raises(KeyError), translated():
        raise KeyError
    with pytest.raises(NotFound), translated():
        raise NotFound("no")


async def test_a_nul_in_a_parameter_is_refused(conn: Connection) -> None:
    with pytest.raises(Refused, match="NUL"):
        await fetch_val(conn, "select %s", ["a\0b"])
    assert await fetch_val(conn, "select 1") == 1


def test_every_error_is_in_the_tree_of_the_modules_docstring() -> None:
    kinds = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, JobsworthError)
    ]
    assert len(kinds) == 12
    for kind in kinds:
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind.__doc__


@pytest.mark.parametrize(
    ("statement", "remedy"),
    [
        ("insert into t (parent) values (7)", "create the row that is referred to first"),
        ("delete from jobsworth.queues where name = 'parent'", "delete the rows that refer to it"),
        ("insert into jobsworth.queues (name) values ('parent')", "read the row that has the key"),
        ("insert into t (n) values (-1)", "a value that the constraint allows"),
        ("insert into t (n) values (null)", "give the column that it names a value"),
        ("insert into t (n) values ('x')", "reads as the type"),
        ("insert into t (n) values (99999999999)", "fits the type and the range"),
        ("select from jobsworth.nothing", "jobsworth migrate"),
        ("select jobsworth.nothing()", "jobsworth migrate"),
        ("select from nowhere.reactive_jobs", "jobsworth migrate"),
        ("create table nowhere.t ()", "jobsworth migrate"),
        ("selct 1", "correct the statement"),
    ],
)
async def test_each_refusal_says_what_to_do(
    conn: Connection, statement: LiteralString, remedy: str
) -> None:
    await execute(
        conn,
        """
        create table t (n int not null default 1 check (n > 0),
          parent text references jobsworth.queues (name));
        insert into jobsworth.queues (name) values ('parent');
        insert into t (parent) values ('parent')
        """,
    )
    with pytest.raises(Refused) as caught:
        await execute(conn, statement)
    assert remedy in caught.value.remedy


def test_every_code_of_postgresql_has_a_remedy() -> None:
    kinds = {
        kind.sqlstate: kind
        for kind in vars(psycopg.errors).values()
        if isinstance(kind, type) and issubclass(kind, psycopg.Error) and kind.sqlstate
    }
    assert len(kinds) > 200
    for code, kind in kinds.items():
        error = translate(kind("it went wrong"))
        assert error.remedy, code
    assert translate(psycopg.ProgrammingError("cannot adapt")).remedy
