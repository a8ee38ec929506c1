"""`python -m bench.fairness [KEYS...]`: a claim of one job from a fair queue, beside a plain one.

In: the numbers of keys with a backlog (1, 200 and 5,000 by default). Out: for each, the median
milliseconds of a claim of one job from a plain and from a fair queue, taken in turns by one
connection in one database, and their ratio. Every key has the same backlog, and the plain queue as
many jobs. It runs on a temporary server of its own, with durable commits.
"""

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

from bench.server import CONFIG
from db.limits import fairness
from db.migrate import migrate
from db.pool import Connection, execute
from db.queue import claim as claiming
from db.queue.claim import FIRST, Claim
from db.schema import DEFAULT_SCHEMA
from db.server.embedded import start

KEYS = (1, 200, 5_000)
JOBS = 20_000
CLAIMS = 1_000
REGISTER: LiteralString = """
insert into jobsworth.workers (id, host, pid, version, modes, queues, slots)
values (%(id)s, 'here', 1, '0', '{nothing}', '{plain, fair}', 10)
"""
LOAD: LiteralString = """
insert into jobsworth.reactive_jobs (mode, queue, fair_key)
select 'nothing', q.name, case when q.name = 'fair' then 'key ' || n %% %(keys)s end
from generate_series(1, %(jobs)s) n, unnest('{plain, fair}'::text[]) as q (name)
"""
EMPTY: LiteralString = "truncate jobsworth.reactive_jobs, jobsworth.fair_keys cascade"
SETTLE: LiteralString = "vacuum analyze"


async def main(numbers: tuple[int, ...]) -> None:
    directory = Path(tempfile.mkdtemp(prefix="jobsworth-bench-", dir="/tmp"))
    try:
        with start(directory, 18, CONFIG) as server:
            migrate(server.url, DEFAULT_SCHEMA)
            async with await Connection.connect(server.url, autocommit=True) as conn:
                conn.statement_seconds = 3600
                worker_id = uuid4()
                await execute(conn, REGISTER, {"id": worker_id})
                await fairness.set_fair(conn, "fair")
                for keys in numbers:
                    await _measure(conn, worker_id, keys)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _measure(conn: Connection, worker_id: UUID, keys: int) -> None:
    await execute(conn, EMPTY)
    await execute(conn, LOAD, {"keys": keys, "jobs": JOBS})
    await execute(conn, SETTLE)
    common: dict[str, Any] = {"worker_id": worker_id, "modes": ["nothing"], "wanted": 1}
    common |= {"crashes_max": 5, "suspect_wanted": True, "alone": False}
    for _ in range(1 + keys // 1000):  # a claim places so many keys
        await fairness.claim_fair(conn, queue="fair", rescan=True, **common)
    plain: list[float] = []
    fair: list[float] = []
    beyond = FIRST
    for _ in range(CLAIMS):
        probes = [("plain", priority, beyond) for priority in (1, 2, 3, 4)]
        claim = claiming.claim(conn, probes=probes, **common)
        beyond = (await _timed(claim, plain)).positions["plain", 3]
        claim = fairness.claim_fair(conn, queue="fair", rescan=False, **common)
        await _timed(claim, fair)
    one, other = statistics.median(plain), statistics.median(fair)
    print(f"{keys:6,d} keys: plain {one:.3f} ms, fair {other:.3f} ms, ratio {other / one:.2f}")


async def _timed(claim: Awaitable[Claim], into: list[float]) -> Claim:
    began = time.perf_counter()
    found = await claim
    into.append((time.perf_counter() - began) * 1000)
    assert len(found.jobs) == 1
    return found


if __name__ == "__main__":
    asyncio.run(main(tuple(map(int, sys.argv[1:])) or KEYS))
