"""The embedded database: PostgreSQL with pgvector, from a wheel.

Stage: before everything else, if no database URL is set. In: a data directory. Out: a running
server, reachable only through a unix socket, and the URL of its database.

Invariant: at most one server per data directory, which runs as long as a process uses it. Every
such process holds a shared lock (`flock`) on `users.lock`; starting and stopping happen under an
exclusive lock on `start.lock`. The kernel drops both at `kill -9`, so no count of users can be
wrong: a server whose last user was killed keeps running, and the next process uses it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from db.server.cluster import (
    OTHER_DATABASE,
    OWN_DIRECTORY,
    START_SECONDS_MAX,
    STOP_SECONDS_MAX,
    Cluster,
    EmbeddedError,
    StopMode,
)
from db.server.file_lock import FileLock, LockBusyError

__all__ = ["Embedded", "EmbeddedError", "StopMode", "start"]

DATABASE = "jobsworth"


def start(data_dir: Path, major: int = 18, config: Mapping[str, str] | None = None) -> Embedded:
    """Use the server of `data_dir`: create, start and recover it first, as needed.

    Blocks until it accepts connections. `config` adds to the settings of `db.server.cluster`; a
    server found running keeps those it was started with. Close what is returned: the last user to
    do so stops the server. Raises `EmbeddedError`, and `ExtraMissing` without the wheel.
    """
    server = Embedded(data_dir, major, config)
    server.open()
    return server


class Embedded:
    """This process's use of the server of one data directory."""

    def __init__(
        self, data_dir: Path, major: int = 18, config: Mapping[str, str] | None = None
    ) -> None:
        self._cluster = Cluster(data_dir, major, config or {})
        self._starting = FileLock(self.data_dir / "start.lock")
        self._users = FileLock(self.data_dir / "users.lock")

    def open(self) -> None:
        """Create, start and recover the server as needed, and use it. Raises `EmbeddedError`."""
        with self._alone(START_SECONDS_MAX):
            self._users.share()
            try:
                self._cluster.create()
                self._cluster.run()
                self._create_database()
            except BaseException:
                self._users.release()
                raise

    def keep_up(self) -> bool:
        """Start the server if it has ended or is ending; whether it had. Raises `EmbeddedError`."""
        if self._serves():
            return False
        with self._alone(START_SECONDS_MAX):
            if self._serves():
                return False
            self._cluster.run()
        return True

    def _serves(self) -> bool:
        return self._cluster.alive() and not self._cluster.is_stopping()

    def close(self) -> None:
        """Stop using the server; the last user stops it. A second call does nothing."""
        if not self._users.held:
            return
        try:
            with self._alone(STOP_SECONDS_MAX):
                if self._users.try_exclusive():
                    self._cluster.stop("fast")
        finally:
            self._users.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def data_dir(self) -> Path:
        return self._cluster.data_dir

    @property
    def major(self) -> int:
        return self._cluster.major

    @property
    def socket_dir(self) -> Path:
        """Where its socket is, at the usual port."""
        return self._cluster.socket_dir

    @property
    def url(self) -> str:
        """The libpq URI of the `jobsworth` database."""
        return self.database_url(DATABASE)

    def database_url(self, name: str) -> str:
        """The libpq URI of another database of the same server."""
        return self._cluster.url(name)

    def bin(self, name: str) -> Path:
        """The program `name` (`psql`, `pg_dump`, `pgbench`, …) of the server's own version."""
        return self._cluster.program(name)

    def running(self) -> bool:
        """Whether the server accepts connections now."""
        return self._cluster.state() == "ready"

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server even if other processes use it; `immediate` leaves it to crash
        recovery.
        """
        with self._alone(START_SECONDS_MAX):
            self._cluster.stop(mode)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server if it is running, start it, and wait until it has recovered."""
        with self._alone(START_SECONDS_MAX):
            self._cluster.stop(mode)
            self._cluster.run()

    # Every change of the server's state happens under this lock, by one process at a time.
    @contextmanager
    def _alone(self, seconds_max: float) -> Generator[None]:
        try:
            self._starting.exclusive(seconds_max)
        except LockBusyError as busy:
            raise EmbeddedError(
                f"data directory {self.data_dir}",
                f"another process has been starting or stopping its server for {seconds_max:g} s",
                f"look at {self._cluster.log}, and end that process",
            ) from busy
        except OSError as error:
            raise EmbeddedError(
                f"data directory {self.data_dir}",
                f"its lock cannot be taken: {error.strerror}",
                f"{OWN_DIRECTORY}, {OTHER_DATABASE}",
            ) from error
        try:
            yield
        finally:
            self._starting.release()

    def _create_database(self) -> None:
        try:
            with psycopg.connect(self.database_url("postgres"), autocommit=True) as conn:
                if conn.execute(FIND_DATABASE).fetchone() is None:
                    conn.execute(CREATE_DATABASE)
        except psycopg.Error as error:
            raise EmbeddedError(
                f"server in {self.data_dir}",
                f"its database {DATABASE} cannot be looked up or made: {str(error).strip()}",
                f"look at {self._cluster.log}",
            ) from error


FIND_DATABASE = "select 1 from pg_catalog.pg_database where datname = 'jobsworth'"
CREATE_DATABASE = "create database jobsworth"
