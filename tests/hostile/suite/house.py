"""A daemon among hostile jobs, and what must be true of it afterwards.

In: jobs and rows of a test. Out: how each job ended. The house fails a test whose daemon ended,
whose neighbours were charged with anything, or one of whose jobs has no readable end.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import LiteralString, cast
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from tests.support import WorkerProcess, Workers, connect, until_sync

SETTLE_SECONDS = 400
ERROR_CHARS_MAX = 20_000
SHOWN_CHARS = 1_000
# What only a mistake of ours would say.
OUR_MISTAKES = ("Traceback (most recent call last)", "a mistake in Jobsworth", "InternalError")
# An error of Python's out of our own code: it says neither what is wrong nor what helps.
RAW = re.compile(
    r"^(AttributeError|KeyError|OverflowError|RecursionError|TypeError|UnicodeEncodeError|ValueError)"
    r": .*\(.*/(db|worker)/[a-z_/]+\.py:\d+\)$",
    re.DOTALL,
)
QUICK = {
    "JOBSWORTH_HANDLERS": "tests.hostile.suite.house_handlers",
    "JOBSWORTH_FAILURES_MAX": "1",
    "JOBSWORTH_RETRY_BASE_SECONDS": "0.05",
    "JOBSWORTH_RETRY_MAX_SECONDS": "0.2",
    "JOBSWORTH_SLOTS": "20",
    "JOBSWORTH_LOG_ATTEMPTS_PER_SECOND": "0",
}

# Texts only: what these jobs hold may be more than a client can read.
ENDINGS: LiteralString = """
select id, mode, queue, status::text as status, waiting_for::text as waiting_for, error, crashes,
  run_at::text as run_at
from jobsworth.reactive_jobs
"""
MOVING: LiteralString = """
select j.id, j.mode, j.status::text as status, j.waiting_for::text as waiting_for, j.error
from jobsworth.reactive_jobs j
where (j.status = 'running' and j.worker_id in (select id from jobsworth.workers))
  or (j.status = 'queued' and exists (
    select 1 from jobsworth.workers w where j.mode = any (w.modes) and j.queue = any (w.queues)))
  or (j.status = 'waiting' and j.waiting_for = 'timer'
    and j.run_at < clock_timestamp() + interval '10 seconds')
limit 5
"""
AT_WORK: LiteralString = "select 1 from jobsworth.workers where 'neighbour' = any (modes)"
ADD_NEIGHBOURS: LiteralString = """
select jobsworth.enqueue('neighbour', jsonb_build_object('n', n)) from generate_series(1, %(n)s) n
"""


class House:
    """One database, one daemon, and neighbours that must not notice anything."""

    def __init__(self, url: str, conn: psycopg.Connection[DictRow], workers: Workers) -> None:
        self.url = url
        self.conn = conn
        self._workers = workers
        self.daemon: WorkerProcess | None = None
        self.health_url = ""

    @classmethod
    @contextmanager
    def open(cls, url: str, workers: Workers) -> Generator[House]:
        """Open it without a daemon; `start` brings one."""
        with connect(url) as conn:
            yield cls(url, conn, workers)

    def start(self, env: Mapping[str, str] | None = None) -> WorkerProcess:
        """Start the daemon, and wait until it works."""
        self.daemon = self._workers.start(self.url, QUICK | dict(env or {}))
        self.health_url = self.daemon.wait_for("health.listened", 60)["url"]
        until_sync(lambda: self.conn.execute(AT_WORK).fetchone(), 60, "the daemon's row")
        return self.daemon

    def add_neighbours(self, jobs: int) -> None:
        """Enqueue that many jobs that must end well, whatever happens beside them."""
        self.conn.execute(ADD_NEIGHBOURS, {"n": jobs})

    def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until no job moves any more."""
        until_sync(self._is_still, seconds, "the end of all jobs")

    def endings(self) -> dict[UUID, DictRow]:
        """How each job stands, by id."""
        return {row["id"]: row for row in self.conn.execute(ENDINGS)}

    def check(self) -> None:
        """Fail unless the daemon lives, its neighbours ended well and each end can be read."""
        assert self.daemon is not None
        endings = self.endings().values()
        neighbours = [row for row in endings if row["mode"] == "neighbour"]
        if not neighbours:
            raise AssertionError("a hostile test needs neighbours")
        harmed = [row for row in neighbours if row["status"] != "done" or row["crashes"]]
        _none(harmed, "neighbours were harmed")
        _none([row for row in endings if not _readable(row)], "jobs have no readable end")
        _none([line for line in self.daemon.lines if _is_our_mistake(line)], "lines of a mistake")
        with urllib.request.urlopen(self.health_url + "/healthz", timeout=30) as answer:
            assert answer.status == 200
        self.daemon.terminate()
        assert self.daemon.wait(60) == 0

    def _is_still(self) -> bool:
        assert self.daemon is not None
        if self.daemon.ended():
            code = self.daemon.wait(1)
            raise AssertionError(f"the daemon ended ({code}):\n{self.daemon.tail(5)}")
        return self.conn.execute(MOVING).fetchone() is None


def _none(found: Sequence[object], what: str) -> None:
    if found:
        raise AssertionError(f"{len(found)} {what}, as {str(found[0])[:SHOWN_CHARS]}")


def _readable(row: DictRow) -> bool:
    error = cast("str", row["error"] or "")
    if row["status"] != "failed":
        return True
    return bool(error.strip()) and len(error) <= ERROR_CHARS_MAX and not RAW.search(error)


def _is_our_mistake(line: str) -> bool:
    return any(mistake in line for mistake in OUR_MISTAKES)
