"""Databases for tests: a fresh, migrated one for each, from a template, in tens of milliseconds.

In: nothing, or the URL of a PostgreSQL server of yours. Out: URLs. Without one, a server of the
embedded PostgreSQL runs as long as the tests do, in a folder that goes with it: in memory, if there
is plenty, and without the flushes that make commits survive a power cut.
"""

import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from db.errors import translated
from db.migrate import migrate
from db.schema import DEFAULT_SCHEMA

# Copying the template there takes a fifth of the processor time that it takes on a disk.
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 2 * 2**30
# What these give away is lost when the machine goes down, not by `kill -9` of the server.
UNFLUSHED: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "256MB",
}


class Server:
    """A PostgreSQL server that hands out databases. `url` leads to one where it may create more."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Of this process: tests that run side by side share a server of yours.
        self._template = f"jobsworth_template_{uuid4().hex[:12]}"
        self._made = False

    @contextmanager
    def database(self) -> Generator[str]:
        """The URL of a fresh, migrated database, which is dropped when the block ends."""
        if not self._made:
            self._make_template()
        name = f"jobsworth_test_{uuid4().hex}"
        # Copying files is three times as fast as the default, which logs every page.
        self._run(
            SQL("create database {} template {} strategy file_copy").format(
                Identifier(name), Identifier(self._template)
            )
        )
        try:
            yield self._named(name)
        finally:
            self._drop(name)

    def close(self) -> None:
        """Drop the template."""
        if self._made:
            self._drop(self._template)

    def _make_template(self) -> None:
        self._run(SQL("create database {}").format(Identifier(self._template)))
        self._made = True
        migrate(self._named(self._template), DEFAULT_SCHEMA)

    def _drop(self, name: str) -> None:
        self._run(SQL("drop database if exists {} with (force)").format(Identifier(name)))

    def _named(self, name: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))

    def _run(self, statement: Composed) -> None:
        with translated(), psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def embedded_server() -> Generator[Server]:
    """A server of its own for these tests. Needs the extra `embedded`."""
    from db.server.embedded import start

    folder = Path(tempfile.mkdtemp(prefix="jobsworth-testing-", dir=_base()))
    try:
        with start(folder, config=UNFLUSHED) as server:
            yield Server(server.database_url("postgres"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server_at(url: str) -> Generator[Server]:
    """Your own server; `url` names a role that may create databases."""
    server = Server(url)
    try:
        yield server
    finally:
        server.close()


def _base() -> Path | None:
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES_MIN:
        return MEMORY
    return None
