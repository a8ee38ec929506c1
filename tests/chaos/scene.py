"""A database, its diary and its daemons: what every fault test plays with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from tests.chaos import diary
from tests.chaos.nursery import Daemon, Nursery
from tests.support import connect, until_sync
from worker.settings import Settings

# Ten times the default pace, with room for a machine that is busy with other things.
QUICK = {
    "JOBSWORTH_HANDLERS": "tests.chaos.handlers",
    "JOBSWORTH_HTTP_PORT": "off",
    "JOBSWORTH_HEARTBEAT_SECONDS": "0.2",
    "JOBSWORTH_LEASE_STOP_SECONDS": "1",
    "JOBSWORTH_RESCUE_SECONDS": "1.5",
    "JOBSWORTH_RETRY_BASE_SECONDS": "0.05",
    "JOBSWORTH_RETRY_MAX_SECONDS": "0.5",
    "JOBSWORTH_SLOTS": "10",
    "JOBSWORTH_POOL_MIN": "1",
    "JOBSWORTH_POOL_MAX": "6",
}
# The default pace, over the quick one.
USUAL = {
    f"JOBSWORTH_{name.upper()}": f"{Settings.model_fields[name].default:g}"
    for name in ("heartbeat_seconds", "lease_stop_seconds", "rescue_seconds")
}


class Scene:
    """One database with its daemons."""

    def __init__(self, url: str, directory: Path, nursery: Nursery) -> None:
        self.url = url
        self.directory = directory
        self.daemons: list[Daemon] = []
        self._nursery = nursery
        self._conn: psycopg.Connection[DictRow] | None = None

    @property
    def conn(self) -> psycopg.Connection[DictRow]:
        """The test's own connection: it commits at once, and comes back after a restart."""
        if self._conn is None or self._conn.closed:
            self._conn = connect(self.url)
        return self._conn

    def start(self, env: Mapping[str, str] | None = None) -> Daemon:
        """Start a daemon at the quick pace; it lives in this scene."""
        own = {
            "JOBSWORTH_CHAOS_DIR": str(self.directory),
            "JOBSWORTH_SPOOL_DIR": str(self.directory / "spool"),
        }
        surroundings = QUICK | own | dict(env or {})
        daemon = self._nursery.start(self.url, surroundings)
        self.daemons.append(daemon)
        return daemon

    def enqueue(self, mode: str, payload: Mapping[str, Any] | None = None, **options: Any) -> UUID:
        """`jobsworth.enqueue`, with any of its options by name."""
        names = "".join(f", {name} => %({name})s" for name in options)
        values = {"mode": mode, "payload": Jsonb(dict(payload or {})), **options}
        query = f"select jobsworth.enqueue(%(mode)s, %(payload)s{names}) as id"
        return self.value(query, values)  # pyright: ignore[reportArgumentType]

    def thread(self) -> UUID:
        """A new chat thread."""
        return self.value(
            "insert into jobsworth.chat_threads (platform, chat_id)"
            " values ('chaos', gen_random_uuid()) returning id"
        )

    def value(self, query: LiteralString, values: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row."""
        row = self.conn.execute(query, values).fetchone()
        return None if row is None else next(iter(row.values()))

    def rows(self, query: LiteralString, values: Mapping[str, Any] | None = None) -> list[DictRow]:
        return self.conn.execute(query, values).fetchall()

    def job(self, job_id: UUID) -> DictRow:
        """A job's row."""
        [row] = self.rows("select * from jobsworth.reactive_jobs where id = %(id)s", {"id": job_id})
        return row

    def until_status(self, job_id: UUID, *statuses: str, seconds: float = 60) -> DictRow:
        """The job's row, once it has one of these statuses."""

        try:
            until_sync(lambda: self.job(job_id)["status"] in statuses, seconds)
        except AssertionError:
            raise AssertionError(f"not {statuses}: {self.job(job_id)}\n{self.tails()}") from None
        return self.job(job_id)

    def until_noted(self, what: str, job_id: UUID, attempt: int) -> diary.Entry:
        """The diary's entry, once it is there."""

        def there() -> list[diary.Entry]:
            wanted = (what, str(job_id), attempt)
            return [
                entry for entry in self.diary() if (entry.what, entry.job, entry.attempt) == wanted
            ]

        try:
            return until_sync(there, 20, f"{what} in attempt {attempt} of {job_id}")[0]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tails()}") from None

    def until_pids(self, attempt: int) -> list[int]:
        """The processes that a `process.never` has started, itself first."""
        file = self.directory / f"pids.{attempt}"
        until_sync(file.exists, 20, f"{file}")
        return [int(pid) for pid in file.read_text().split()]

    def until_gone(self, pids: list[int]) -> None:
        """Until these processes have ended."""
        until_sync(lambda: not any(map(_runs, pids)), 10, f"the end of {pids}")

    def until_all_ended(self, seconds: float) -> None:
        """Decide what is asked until no job is open any more."""
        try:
            until_sync(self._decided_and_ended, seconds)
        except AssertionError:
            raise AssertionError(f"still open: {self.open_jobs()}\n{self.tails()}") from None

    def decide(self) -> None:
        """Approve whatever is asked, and say "again" of whatever step waits for that."""
        self.conn.execute(
            "select jobsworth.resolve(a.id, 'ship', 'test') from jobsworth.approvals a"
            " where a.status = 'pending'"
        )
        self.conn.execute(
            "select jobsworth.decide_step(s.job_id, s.name, 'again', decided_by => 'test')"
            " from jobsworth.steps s join jobsworth.reactive_jobs j on j.id = s.job_id"
            " where s.effect = 'unsafe' and s.kind = 'step' and s.finished_at is null"
            " and j.status = 'waiting' and j.waiting_for = 'person'"
        )

    def open_jobs(self) -> list[DictRow]:
        return self.rows(
            "select id, mode, status, waiting_for, attempt, crashes, lane, error"
            " from jobsworth.reactive_jobs where finished_at is null order by id limit 20"
        )

    def diary(self) -> list[diary.Entry]:
        """What the handlers wrote down, oldest first."""
        return diary.read(self.directory / "diary")

    def open_gate(self, name: str = "hold") -> None:
        """Let whatever waits at this gate pass, now and later."""
        (self.directory / name).touch()

    def tails(self) -> str:
        return "\n".join(daemon.tail() for daemon in self.daemons[-3:])

    def close(self) -> None:
        """Kill what still runs."""
        if self._conn is not None:
            self._conn.close()
        for daemon in self.daemons:
            daemon.end()

    def _decided_and_ended(self) -> bool:
        self.decide()
        return not self.value(
            "select exists (select from jobsworth.reactive_jobs where finished_at is null)"
        )


# A process that has ended and that nobody has waited for is still in the table.
def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def scene(database_url: str, tmp_path: Path, nursery: Nursery) -> Iterator[Scene]:
    """A fresh database, whose daemons are forked instead of started."""
    with playing(database_url, tmp_path, nursery) as scene:
        yield scene


@contextmanager
def playing(url: str, directory: Path, nursery: Nursery) -> Iterator[Scene]:
    """A scene that is cleared at its end."""
    scene = Scene(url, directory, nursery)
    try:
        yield scene
    finally:
        scene.close()
