"""One connection for one command.

In: settings. Out: a connection to the installation they name, its schema checked; or a pool of one,
for a write that is tried again. Where no URL is set, the embedded database is started, brought to
this version's schema, and stopped afterwards if no other process uses it. Invariant: no password is
ever shown.
"""

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread
import psycopg

from db.errors import SchemaMismatch
from db.migrate import SchemaState, check, migrate
from db.pool import Connection, Database
from db.reach import passes, unreachable
from db.sessions import connect_parameters
from worker.cli.terminal.output import say
from worker.settings import Settings, load_settings

T = TypeVar("T")

CONNECT_SECONDS_MIN = 1.0
RETRY_SECONDS = 0.2


def run_in_database(
    work: Callable[[Connection], Awaitable[T]], settings: Settings | None = None
) -> T:
    """Run `work` with a connection to the installation of the settings, and return its result.

    The settings are read from the environment if none are given. Raises `SettingsError`,
    `Unavailable`, `SchemaMismatch`, and what `work` raises.
    """
    known = settings or load_settings()

    async def connect_and_work() -> T:
        async with connected(known) as conn:
            return await work(conn)

    return run_async(connect_and_work)


def write_in_database(work: Callable[[Database], Awaitable[T]]) -> T:
    """`run_in_database` with a pool of one connection, for writes that are harmless twice
    (`db.safe_write`): a connection that is lost meanwhile is replaced.
    """
    settings = load_settings()

    async def connect_and_work() -> T:
        async with pooled(settings) as database:
            return await work(database)

    return run_async(connect_and_work)


def ask_quickly(work: Callable[[Connection], Awaitable[T]], seconds: float) -> T | None:
    """Run `work` if a database answers within `seconds`; None if not, or for any error.

    The embedded database is asked if it runs, and never started.
    """

    async def connect_and_work() -> T | None:
        settings = load_settings()
        url = settings.database_url
        if url is None:
            from db.server.embedded import Embedded

            embedded = Embedded(settings.data_dir)
            if not embedded.running():
                return None
            url = embedded.url
        with anyio.move_on_after(seconds):
            async with connection_to(url, settings) as conn:
                conn.statement_seconds = seconds
                return await work(conn)
        return None

    try:
        return run_async(connect_and_work)
    except Exception:
        return None


def run_async(work: Callable[[], Awaitable[T]]) -> T:
    """Run an async function in this process's loop, to its end."""
    return anyio.run(work, backend_options={"use_uvloop": sys.platform != "win32"})


@asynccontextmanager
async def connected(settings: Settings) -> AsyncGenerator[Connection]:
    """A connection to an installation whose schema is the one this version knows.

    Raises `Unavailable` (with the address, without the password) and `SchemaMismatch`.
    """
    async with database_url(settings) as url, connection_to(url, settings) as conn:
        await _check_schema(conn, url, settings)
        yield conn


@asynccontextmanager
async def pooled(settings: Settings, connections: int = 1) -> AsyncGenerator[Database]:
    """As `connected`, a pool of at most so many connections."""
    async with database_url(settings) as url:
        async with connection_to(url, settings) as conn:
            await _check_schema(conn, url, settings)
        async with _pool(url, settings, connections) as database:
            yield database


@asynccontextmanager
async def database_url(settings: Settings) -> AsyncGenerator[str]:
    """The URL of the settings, or that of the embedded database, which runs meanwhile."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    from db.server.embedded import Embedded  # not needed with a URL

    embedded = Embedded(settings.data_dir)
    if not embedded.running():
        say(f"starting the embedded database in {settings.data_dir} (a worker keeps it up) …")
    try:
        await anyio.to_thread.run_sync(embedded.open)
        yield embedded.url
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(embedded.close)


@asynccontextmanager
async def connection_to(url: str, settings: Settings) -> AsyncGenerator[Connection]:
    """A connection that ignores the state of the schema; waits for a server that is starting."""
    conn = await _connect(url, settings)
    try:
        await conn.begin_session(settings.schema_name, settings.statement_seconds)
        yield conn
    finally:
        with anyio.CancelScope(shield=True):
            await conn.close()


def schema_mismatch(state: SchemaState) -> SchemaMismatch:
    """The error for a schema in this state."""
    message, _, remedy = state.message.partition("; run")
    return SchemaMismatch(message, f"run{remedy}")


async def _check_schema(conn: Connection, url: str, settings: Settings) -> None:
    state = await check(conn, settings.schema_name)
    if state.state in ("missing", "older") and settings.database_url is None:
        await anyio.to_thread.run_sync(migrate, url, settings.schema_name)
    elif state.state != "ok":
        raise schema_mismatch(state)


def _pool(url: str, settings: Settings, connections: int) -> Database:
    return Database(
        url,
        schema=settings.schema_name,
        pool_min=1,
        pool_max=connections,
        statement_seconds=settings.statement_seconds,
        acquire_seconds=max(settings.connect_seconds, CONNECT_SECONDS_MIN),
        application_name="jobsworth cli",
    )


async def _connect(url: str, settings: Settings) -> Connection:
    seconds = max(settings.connect_seconds, CONNECT_SECONDS_MIN)
    failed = psycopg.OperationalError(f"no answer within {seconds:g} s")
    with anyio.move_on_after(seconds):
        while True:
            try:
                return await Connection.connect(url, **connect_parameters("jobsworth cli"))
            except psycopg.Error as error:
                failed = error
                if not passes(error):
                    break
            await anyio.sleep(RETRY_SECONDS)
    raise unreachable(url, failed)
