"""The PostgreSQL server that all contenders share, and its measurements."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from db.server.embedded import Embedded, start

# Enough memory for the tables and no checkpoint half-way, the rest as by default: commits are
# durable, autovacuum runs.
CONFIG = {"shared_buffers": "512MB", "max_wal_size": "4GB", "max_connections": "200"}


class Server:
    """A running server. Every measurement gets a fresh database on it."""

    def __init__(self, embedded: Embedded) -> None:
        self._embedded = embedded

    @property
    def url(self) -> str:
        return self._embedded.url

    @property
    def version(self) -> str:
        with psycopg.connect(self.url) as connection:
            row = connection.execute("show server_version").fetchone()
        return str(row[0]) if row else "unknown"

    def bin(self, name: str) -> Path:
        """The server's own `pgbench`, `psql`, …"""
        return self._embedded.bin(name)

    def database(self, name: str) -> str:
        """Drop the database of that name and its connections, create it, and return its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
            )
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return self._embedded.database_url(name)

    def cpu_seconds(self) -> float:
        """CPU time of all the server's processes since its start, ended ones included."""
        postmaster = psutil.Process(self._postmaster_pid())
        return tree_cpu_seconds(postmaster)

    def log_lines(self, containing: str) -> list[str]:
        """The lines of the server's log that contain this text."""
        log = (self._embedded.data_dir / "log").read_text(errors="replace")
        return [line for line in log.splitlines() if containing in line]

    def _postmaster_pid(self) -> int:
        folder = self._embedded.data_dir / f"pg{self._embedded.major}"
        return int((folder / "postmaster.pid").read_text().splitlines()[0])


@contextmanager
def running_server() -> Iterator[Server]:
    """A temporary server on a unix socket, removed with its data at the end."""
    folder = Path(tempfile.mkdtemp(prefix="jobsworth-bench-"))
    # Started by root, the server runs under another account, which must be able to enter.
    folder.chmod(0o755)
    try:
        with start(folder, config=CONFIG) as embedded:
            yield Server(embedded)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def pinned_snapshot(url: str) -> Iterator[None]:
    """Another session holds a snapshot of this database, so that no dead row can be removed."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("select count(*) from pg_catalog.pg_class")
        try:
            yield
        finally:
            connection.rollback()


def tree_cpu_seconds(root: psutil.Process) -> float:
    """CPU seconds of a process and its descendants, including those that have ended."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # it has just ended: its parent's count includes it from now on
        total += times.user + times.system + times.children_user + times.children_system
    return total
