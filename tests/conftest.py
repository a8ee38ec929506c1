"""Real PostgreSQL for every test: one server per version, one fresh database per test.

A test asks for `database_url` (migrated) or `empty_database_url` (no schema). It runs on PostgreSQL
18; marked `both`, on 18 and on 16, and those of the queue and of people a third time through
PgBouncer, unless they are marked `direct`; marked `own_server`, on a server nobody else uses, which
it may stop, restart and break (`server`). `conn` is a connection to it, out of the pool `database`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import structlog
from hypothesis import settings
from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier

from db.migrate import migrate
from db.pool import Connection, Database
from db.schema import DEFAULT_SCHEMA
from db.server.embedded import Embedded, start
from db.server.file_lock import FileLock
from tests import surroundings
from tests.pgbouncer import MISSING, pgbouncer, pooled_url
from tests.support import Workers, connect
from worker import log

# A property holds or it does not; how long a busy machine takes for it is no part of that.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

surroundings.settle()

# A logger would keep the streams of the test in which it first logged.
log.LOOKED_UP_ONCE = False

MAJORS = (18, 16)
# In place of a version: the newest one, through PgBouncer.
POOLED = "pgbouncer"
THROUGH_POOLER = (Path("tests/db/queue"), Path("tests/worker/queue"), Path("tests/db/people"))
TEMPLATE = "migrated"
DIRECTORIES = "jobsworth-test-"
SWEEP_SECONDS = 60
LOAD_SECONDS_MAX = 300.0
# Copying the template there takes a fifth of the processor time that it takes on a disk.
MEMORY = Path("/dev/shm")
DISK = Path("/tmp")
MEMORY_BYTES_MIN = 8 * 2**30

# What these give away is lost when the machine goes down, not by `kill -9` of the server.
CONFIG = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "10s",
    # Which of two things was there first: a row's own times are from before its commit.
    "track_commit_timestamp": "on",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    test = metafunc.definition
    if "way" in metafunc.fixturenames and test.get_closest_marker("both"):
        ways: list[int | str] = [*MAJORS]
        folder = test.path.relative_to(test.config.rootpath).parent
        if folder in THROUGH_POOLER and not test.get_closest_marker("direct"):
            ways.append(POOLED)
        ids = [way if isinstance(way, str) else f"pg{way}" for way in ways]
        metafunc.parametrize("way", ways, ids=ids, indirect=True)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def logging_left_as_found() -> Iterator[None]:
    """What a test configures (a command run in this process does) is not the next one's."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def way(request: pytest.FixtureRequest) -> int | str:
    """The PostgreSQL version of this test, or `POOLED`."""
    return getattr(request, "param", MAJORS[0])


@pytest.fixture
def major(way: int | str) -> int:
    """The PostgreSQL version of this test."""
    return way if isinstance(way, int) else MAJORS[0]


@pytest.fixture
def server(
    request: pytest.FixtureRequest, shared_servers: SharedServers, major: int
) -> Iterator[Embedded]:
    """The server of this test."""
    if request.node.get_closest_marker("own_server"):
        with _server(major) as own:
            yield own
    else:
        yield shared_servers.get(major)


@pytest.fixture
def empty_database_url(server: Embedded) -> Iterator[str]:
    """A fresh database without our schema."""
    with _database(server, "template1") as url:
        yield url


@pytest.fixture
def database_url(server: Embedded, shared_servers: SharedServers, way: int | str) -> Iterator[str]:
    """A fresh, migrated database; through PgBouncer where the test goes that way."""
    folder = shared_servers.pooler() if way == POOLED else None
    _make_template(server)
    with _database(server, TEMPLATE) as url:
        if folder is None:
            yield url
        else:
            yield pooled_url(folder, urlsplit(url).path.removeprefix("/"))


@pytest.fixture
def unguarded(database_url: str) -> None:
    """The test brings jobs into a state by plain updates, which the database refuses elsewhere."""
    with connect(database_url) as conn:
        conn.execute("alter table jobsworth.reactive_jobs disable trigger guard_status")


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Starts daemons (`workers.start(url, env, args)`), all killed when the test ends."""
    started = Workers()
    try:
        yield started
    finally:
        started.end()


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[SharedServers]:
    _sweep()
    with SharedServers() as servers:
        yield servers


class SharedServers(ExitStack):
    """One server per version, started when its first test comes."""

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[int, Embedded] = {}
        self._pooler: Path | None = None

    def get(self, major: int) -> Embedded:
        if major not in self._running:
            server = self._running[major] = self.enter_context(_server(major))
            # Kept open: a connection costs half as much as a database.
            _admins[server] = self.enter_context(connect(server.database_url("postgres")))
        return self._running[major]

    def pooler(self) -> Path:
        """The folder of a PgBouncer before the newest version."""
        if self._pooler is None:
            self._pooler = self.enter_context(pgbouncer(self.get(MAJORS[0])))
        return self._pooler


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        each for each in terminalreporter.stats.get("skipped", []) if MISSING in str(each.longrepr)
    ]
    if skipped:
        terminalreporter.section("PgBouncer is missing", "!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests of the queue did not run. {MISSING}", red=True)


@contextmanager
def _server(major: int) -> Generator[Embedded]:
    directory = Path(tempfile.mkdtemp(prefix=DIRECTORIES, dir=_base()))
    try:
        with start(directory, major, CONFIG) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _base() -> Path:
    """Where servers keep their files: in memory if there is plenty of it."""
    plenty = (
        MEMORY.is_dir()
        and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)
        > MEMORY_BYTES_MIN
    )
    return MEMORY if plenty else DISK


_admins: dict[Embedded, psycopg.Connection[DictRow]] = {}


@contextmanager
def _database(server: Embedded, template: str) -> Generator[str]:
    name = f"test_{uuid.uuid4().hex}"
    # Copying files is three times as fast as the default, which logs every page.
    _administer(server, "create database {} template {} strategy file_copy", name, template)
    try:
        yield server.database_url(name)
    finally:
        if server.running():
            _administer(server, "drop database {} with (force)", name)


# Renamed when it is whole, so a failing migration is tried, and shown, again by the next test.
def _make_template(server: Embedded) -> None:
    with _admin(server) as conn:
        found = conn.execute("select 1 from pg_database where datname = %s", [TEMPLATE]).fetchone()
    if found is not None:
        return
    _administer(server, "drop database if exists migrating with (force)")
    _administer(server, "create database migrating")
    migrate(server.database_url("migrating"), DEFAULT_SCHEMA)
    _administer(server, "alter database migrating rename to {}", TEMPLATE)
    _administer(server, "alter database {} allow_connections false", TEMPLATE)


def _administer(server: Embedded, statement: LiteralString, *names: str) -> None:
    with _admin(server) as conn:
        conn.execute(SQL(statement).format(*map(Identifier, names)))


@contextmanager
def _admin(server: Embedded) -> Generator[psycopg.Connection[DictRow]]:
    if server in _admins:
        yield _admins[server]
    else:
        with connect(server.database_url("postgres")) as conn:
            yield conn


# What a killed test run left behind: its servers would run, and fill the disk, for ever.
def _sweep() -> None:
    pattern = f"{DIRECTORIES}*/users.lock"
    for lock_file in (*MEMORY.glob(pattern), *DISK.glob(pattern)):
        directory = lock_file.parent
        with suppress(OSError):
            lock = FileLock(lock_file)
            if time.time() - lock_file.stat().st_mtime > SWEEP_SECONDS and lock.try_exclusive():
                for major in MAJORS:
                    Embedded(directory, major, {}).stop("immediate")
                shutil.rmtree(directory, ignore_errors=True)
            lock.release()


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    # A test may load a hundred thousand rows on a machine that has other things to do.
    async with Database(
        database_url, pool_min=1, pool_max=5, statement_seconds=LOAD_SECONDS_MAX
    ) as database:
        yield database


@pytest.fixture
async def conn(database: Database) -> AsyncGenerator[Connection]:
    async with database.connection() as connection:
        yield connection
