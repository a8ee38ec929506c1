"""`python -m bench.bulk [JOBS] [OPERATION …]`: operations on many jobs, beside claims.

In: the number of jobs (a million by default) and the operations, one after the other (cancel,
retry, move). Out: how long each takes, and the median and 95th percentile of a claim of
one job from the same queue before it and meanwhile. It runs on a temporary server of its own.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median, quantiles
from typing import LiteralString
from uuid import UUID, uuid4

from bench.server import running_server
from db.migrate import migrate
from db.pool import Connection, Database, execute
from db.queue import claim, jobs
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import NewJob
from db.schema import DEFAULT_SCHEMA

REGISTER: LiteralString = """
insert into jobsworth.workers (id, host, pid, version, modes, queues, slots)
values (%(id)s, 'bench', 1, '0', '{probe,old}', '{default}', 1)
"""
# The claims are measured, not the judge: its worker does not beat.
KEEP: LiteralString = (
    "update jobsworth.workers set beats = beats + 1, beaten_at = now() where id = %(id)s"
)
BEFORE_SECONDS = 5.0
PAUSE_SECONDS = 0.01


async def main(count: int, operations: list[str]) -> None:
    with running_server() as server:
        url = server.database("bulk")
        migrate(url, DEFAULT_SCHEMA)
        async with Database(url, pool_min=2, pool_max=4) as database:
            await measure(database, url, count, operations)


async def measure(database: Database, url: str, count: int, operations: list[str]) -> None:
    prober = uuid4()
    async with database.connection() as conn:
        await execute(conn, REGISTER, {"id": prober})
        await enqueue_many(conn, (NewJob("old", {"n": n}) for n in range(count)))
        await execute(conn, "vacuum analyze jobsworth.reactive_jobs")
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.cli", "worker"),
        env={**os.environ, "JOBSWORTH_DATABASE_URL": url, "JOBSWORTH_HTTP_PORT": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with database.connection() as conn, database.connection() as asking:
            for operation in operations:
                until = time.monotonic() + BEFORE_SECONDS
                before = await probe(conn, prober, partial(_is_past, until))
                payload = {"operation": operation, "filter": {"mode": "old"}}
                more = {"queue": "other"} if operation == "move" else {}
                began = time.monotonic()
                job_id = (
                    await jobs.enqueue(asking, "bulk_operation", payload | more, priority=1)
                ).job_id
                ended = asyncio.create_task(_ended(asking, job_id))
                during = await probe(conn, prober, ended.done)
                took = time.monotonic() - began
                job = ended.result()
                say(
                    f"{operation}: {job.status} {job.result or job.error} in {took:.1f} s, "
                    f"{count / took:,.0f} jobs/s"
                )
                tell("before", before)
                tell("during", during)
                say(f"  median during / before: {median(during) / median(before):.2f}")
    finally:
        worker.kill()
        await worker.wait()


def _is_past(instant: float) -> bool:
    return time.monotonic() > instant


async def _ended(conn: Connection, job_id: UUID) -> jobs.Job:
    while (job := await jobs.get_by_id(conn, job_id)).finished_at is None:
        await asyncio.sleep(0.2)
    return job


async def probe(conn: Connection, worker_id: UUID, over: Callable[[], bool]) -> list[float]:
    """Milliseconds of claims of one urgent job each, until it is over."""
    took: list[float] = []
    while not over():
        await execute(conn, KEEP, {"id": worker_id})
        await jobs.enqueue(conn, "probe", priority=1)
        began = time.perf_counter()
        claimed = await claim.claim(
            conn,
            worker_id=worker_id,
            probes=[("default", priority, claim.FIRST) for priority in (1, 2, 3, 4)],
            modes=["probe"],
            wanted=1,
            crashes_max=5,
            suspect_wanted=True,
            alone=True,
        )
        took.append((time.perf_counter() - began) * 1000)
        assert claimed.jobs
        await asyncio.sleep(PAUSE_SECONDS)
    return took


def tell(when: str, took: list[float]) -> None:
    say(
        f"  claims {when}: {len(took)}, median {median(took):.2f} ms, "
        f"95th percentile {quantiles(took, n=20)[-1]:.2f} ms"
    )


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    asyncio.run(main(int(words[0]) if words else 1_000_000, words[1:] or ["cancel", "retry"]))
