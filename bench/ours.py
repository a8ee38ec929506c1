"""Jobsworth as a contender: its settings, and its adapter (`python -m bench.ours`).

It starts the shipped worker as a user would, with the handlers of `bench.handlers`.
"""

import asyncio
import json
import os
import random
import sys
import time
from importlib import metadata

import psycopg

from bench.contender import Contender, clean_environment
from bench.lab import OURS
from db.migrate import migrate
from db.queue.enqueue import enqueue_sync
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob

SETTINGS = {
    "JOBSWORTH_SLOTS": "2000",
    "JOBSWORTH_HTTP_PORT": "off",
    "JOBSWORTH_LOG_LEVEL": "warning",
}
SMALL_SETTINGS = SETTINGS | {"JOBSWORTH_SLOTS": "1"}

# The newest jobs first: they are the last to be settled, and once many jobs have passed through, a
# look for any queued or running one has to walk all their dead index entries.
LEFT = """
select exists (
    select 1
    from (select j.status from jobsworth.reactive_jobs j order by j.id desc limit 2000) newest
    where newest.status in ('queued', 'running'))
  or exists (select 1 from jobsworth.reactive_jobs j where j.status = 'queued')
  or exists (
    select 1 from jobsworth.reactive_jobs j
    where j.status = 'running' and j.worker_id is not null)
"""


def contender() -> Contender:
    """Jobsworth with the settings above, and defaults for the others."""
    return Contender(
        name=OURS,
        version=metadata.version("jobsworth"),
        command=(sys.executable, "-m", "bench.ours"),
        settings=SETTINGS,
        left_sql=LEFT,
        note="finished jobs are kept; bulk: enqueue_many, one COPY",
    )


def worker_environment(url: str, *, jobs: int, small: bool = False) -> dict[str, str]:
    """The environment of a worker process."""
    return (SMALL_SETTINGS if small else SETTINGS) | {
        "JOBSWORTH_DATABASE_URL": url,
        "JOBSWORTH_HANDLERS": "bench.handlers",
        "BENCH_JOBS": str(jobs),
    }


def main() -> None:
    """Run the command of the protocol."""
    match sys.argv[1:]:
        case ["setup", url]:
            migrate(url, "jobsworth")
        case ["bulk", url, jobs]:
            _say_seconds(asyncio.run(bulk(url, int(jobs))))
        case ["single", url, jobs]:
            _say_seconds(single(url, int(jobs)))
        case ["trickle", url, jobs, every_ms]:
            trickle(url, int(jobs), int(every_ms) / 1000)
        case ["work", url, jobs]:
            work(url, int(jobs), small=False)
        case ["work", url, jobs, "--small"]:
            work(url, int(jobs), small=True)
        case words:
            raise SystemExit(f"not a word of the protocol: {words}")


async def bulk(url: str, jobs: int) -> float:
    """Enqueue by COPY, in one commit; return the seconds it took."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        begun = time.perf_counter()
        await enqueue_many(connection, (NewJob("noop") for _ in range(jobs)))
        return time.perf_counter() - begun


def single(url: str, jobs: int) -> float:
    """Enqueue with one commit for each job; return the seconds they took."""
    with psycopg.connect(url, autocommit=True) as connection:
        begun = time.perf_counter()
        for _ in range(jobs):
            enqueue_sync(connection, "noop")
        return time.perf_counter() - begun


def trickle(url: str, jobs: int, every_seconds: float) -> None:
    """Enqueue at a pace that leaves the worker idle in between."""
    with psycopg.connect(url, autocommit=True) as connection:
        begun = time.monotonic()
        for number in range(jobs):
            due = begun + (number + random.uniform(-0.2, 0.2)) * every_seconds
            time.sleep(max(0.0, due - time.monotonic()))
            enqueue_sync(connection, "pickup", {"t": time.monotonic_ns()})


def work(url: str, jobs: int, *, small: bool) -> None:
    """Become the worker."""
    own = {k: v for k, v in os.environ.items() if k.startswith("JOBSWORTH_")}
    environment = clean_environment() | worker_environment(url, jobs=jobs, small=small) | own
    command = [sys.executable, "-m", "worker.cli", "worker"]
    os.execve(sys.executable, command, environment)


def _say_seconds(seconds: float) -> None:
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
