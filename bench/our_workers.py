"""Our own worker processes, and drains that are timed on PostgreSQL's clock.

A drain lasts from the first `started_at` to the last `finished_at`. Its jobs are those of a range
of ids, which the primary key finds in a table of any size.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from bench.contender import ROOT, STOP_SECONDS_MAX, clean_environment
from bench.ours import SETTINGS
from db.ids import uuidv7
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob

POLL_SECONDS = 0.02
WAIT_SECONDS_MAX = 60.0
DRAIN_SECONDS_MAX = 180

Connection = psycopg.Connection[tuple[Any, ...]]
Process = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The jobs of one drain: the first and the last id, and the number of jobs."""

    first: UUID
    last: UUID
    count: int


@contextmanager
def our_worker(url: str, *, log: Path | None = None, **settings: object) -> Iterator[Process]:
    """A worker process with the benchmark's settings and these (`slots=1` is JOBSWORTH_SLOTS=1).

    `log` is a file that its log is appended to.
    """
    ours = {
        "database_url": url,
        "handlers": "bench.our_handlers",
        "drain_seconds": 5,
    } | settings
    named = {f"JOBSWORTH_{name.upper()}": str(value) for name, value in ours.items()}
    with open(os.devnull if log is None else log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "worker"],
            cwd=ROOT,
            env=clean_environment() | SETTINGS | named,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if log is None else output,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def connect(url: str) -> Connection:
    """A plain connection; every statement commits."""
    return psycopg.connect(url, autocommit=True)


def enqueue(url: str, jobs: Iterable[NewJob]) -> Stretch:
    """Enqueue these jobs, which must not set their ids; committed on return."""

    async def work() -> int:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            return await enqueue_many(connection, jobs)

    first = uuidv7()
    count = asyncio.run(work())
    return Stretch(first, uuidv7(), count)


def settle_statistics(connection: Connection) -> None:
    """Vacuum and analyze, so that no run pays for the dead rows of the one before."""
    connection.execute("vacuum (analyze) jobsworth.reactive_jobs")


def wait_until(
    connection: Connection, workers: Sequence[Process], question: LiteralString, *values: object
) -> None:
    """Wait until the query returns true. Raises `RuntimeError` if a worker has ended."""
    give_up = time.monotonic() + WAIT_SECONDS_MAX
    while not _value(connection, question, *values):
        _must_live(workers)
        if time.monotonic() > give_up:
            raise TimeoutError(f"not true within {WAIT_SECONDS_MAX:g} s: {question.strip()}")
        time.sleep(POLL_SECONDS)


def wait_registered(connection: Connection, workers: Sequence[Process]) -> None:
    """Wait until all of these workers are ready to claim."""
    question = "select count(*) = %s from jobsworth.workers"
    wait_until(connection, workers, question, len(workers))


LAST_OF: LiteralString = """
select j.id from jobsworth.reactive_jobs j
where j.id between %s and %s order by j.id desc limit 1
"""

LEFT: LiteralString = """
select count(*) from jobsworth.reactive_jobs j
where j.id between %s and %s and j.finished_at is null
"""

ENDED: LiteralString = "select finished_at is not null from jobsworth.reactive_jobs where id = %s"


def wait_finished(
    connection: Connection,
    workers: Sequence[Process],
    jobs: Stretch,
    seconds_max: float = DRAIN_SECONDS_MAX,
) -> None:
    """Wait until these jobs have ended. Raises `TimeoutError` with the number that have not."""
    give_up = time.monotonic() + seconds_max
    # Wait for the last job first: counting all of them while they run would load the server.
    last = _value(connection, LAST_OF, jobs.first, jobs.last)
    while not (
        _value(connection, ENDED, last) and _value(connection, LEFT, jobs.first, jobs.last) == 0
    ):
        _must_live(workers)
        if time.monotonic() > give_up:
            left = _value(connection, LEFT, jobs.first, jobs.last)
            raise TimeoutError(f"{left:,} of {jobs.count:,} jobs left after {seconds_max:g} s")
        time.sleep(POLL_SECONDS)


RATE: LiteralString = """
select count(*), extract(epoch from max(j.finished_at) - min(j.started_at))::float8
from jobsworth.reactive_jobs j
where j.id between %s and %s and j.status = 'done'
"""


def rate(connection: Connection, jobs: Stretch) -> float:
    """Jobs per second, from the first start to the last end; every job must be done."""
    row = connection.execute(RATE, (jobs.first, jobs.last)).fetchone()
    assert row is not None
    done, seconds = row
    if done != jobs.count:
        raise RuntimeError(f"{done:,} of {jobs.count:,} jobs are done")
    return done / seconds


def drain(url: str, jobs: Stretch, **settings: object) -> float:
    """Jobs per second of one worker process that runs these jobs."""
    with connect(url) as connection:
        settle_statistics(connection)
        with our_worker(url, log=None, **settings) as worker:
            wait_finished(connection, [worker], jobs)
        return rate(connection, jobs)


def _must_live(workers: Sequence[Process]) -> None:
    for worker in workers:
        if worker.poll() is not None:
            raise RuntimeError(f"a worker ended by itself ({worker.returncode})")


def _value(connection: Connection, query: LiteralString, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()
    return row[0] if row else None
