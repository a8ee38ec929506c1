"""One connection for one command.

In: settings. Out: a connection to the installation they name, its schema checked; the embedded
database is started for it where no URL is set, brought to this version's schema, and stopped again
if nobody else uses it. Invariant: no password is ever shown.
"""

import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread
import psycopg
from psycopg.conninfo import conninfo_to_dict

from db.errors import SchemaMismatch, Unavailable
from db.migrate import SchemaState, check, migrate
from db.pool import Connection
from db.server.embedded import Embedded
from worker.cli.output import say
from worker.settings import Settings

T = TypeVar("T")

CONNECT_SECONDS_MIN = 1.0
RETRY_SECONDS = 0.2
# Starting up, recovering, or out of connections: these end by themselves.
PASSING = ("57P03", "53300")


def run_in_database(settings: Settings, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `work` with a connection to the installation of the settings; returns its result.

    Raises `Unavailable`, `SchemaMismatch`, and what `work` raises.
    """

    async def connect_and_work() -> T:
        async with connected(settings) as conn:
            return await work(conn)

    return run_async(connect_and_work)


def run_async(work: Callable[[], Awaitable[T]]) -> T:
    """Run an async function in this process's loop, to its end."""
    return anyio.run(work, backend_options={"use_uvloop": sys.platform != "win32"})


@asynccontextmanager
async def connected(settings: Settings) -> AsyncGenerator[Connection]:
    """A connection to an installation whose schema is the one this version knows.

    Raises `Unavailable` (with the address, without the password) and `SchemaMismatch`.
    """
    async with database_url(settings) as url, connection_to(url, settings) as conn:
        state = await check(conn, settings.schema_name)
        if state.state in ("missing", "older") and settings.database_url is None:
            await anyio.to_thread.run_sync(migrate, url, settings.schema_name)
        elif state.state != "ok":
            raise schema_mismatch(state)
        yield conn


@asynccontextmanager
async def database_url(settings: Settings) -> AsyncGenerator[str]:
    """The URL of the settings, or that of the embedded database, which runs meanwhile."""
    if settings.database_url is not None:
        yield settings.database_url
        return
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
    """A connection, whatever the schema there; waits `connect_seconds` for a server that starts."""
    conn = await _connect(url, settings)
    conn.schema = settings.schema_name
    conn.statement_seconds = settings.statement_seconds
    try:
        yield conn
    finally:
        with anyio.CancelScope(shield=True):
            await conn.close()


def schema_mismatch(state: SchemaState) -> SchemaMismatch:
    """The error that says what `state` says."""
    message, _, remedy = state.message.partition("; run")
    return SchemaMismatch(message, f"run{remedy}")


def shown_url(url: str) -> str:
    """A connection string as people may see it: who, where, which; no password, no options."""
    parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    user = f"{parts['user']}@" if "user" in parts else ""
    port = f":{parts['port']}" if "port" in parts else ""
    return f"postgresql://{user}{parts.get('host', '')}{port}/{parts.get('dbname', '')}"


async def _connect(url: str, settings: Settings) -> Connection:
    seconds = max(settings.connect_seconds, CONNECT_SECONDS_MIN)
    reason = f"no answer within {seconds:g} s"
    with anyio.move_on_after(seconds):
        while True:
            try:
                return await Connection.connect(
                    url, autocommit=True, application_name="jobsworth cli"
                )
            except psycopg.Error as error:
                reason = _reason(error)
                if not _passes(error):
                    break
            await anyio.sleep(RETRY_SECONDS)
    raise Unavailable(
        f"the database {shown_url(url)} cannot be reached: {reason}",
        "check that PostgreSQL runs there and that JOBSWORTH_DATABASE_URL is right",
    )


# libpq gives no code for what a server says before a session begins.
def _passes(error: psycopg.Error) -> bool:
    return error.sqlstate in PASSING or any(
        words in str(error) for words in ("is starting up", "too many clients", "shutting down")
    )


def _reason(error: psycopg.Error) -> str:
    reasons = [
        line.rpartition("failed: ")[2] for line in str(error).splitlines() if "failed:" in line
    ]
    found = [re.sub(r"^(FATAL|ERROR):\s*", "", reason).strip() for reason in reasons]
    return "; ".join(dict.fromkeys(filter(None, found))) or str(error).strip().partition("\n")[0]
