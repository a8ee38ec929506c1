"""`python -m bench.memory.embedding`: the offline semantic embedder, alone and beside jobs.

Out: texts a second of one thread, by wall clock and by processor time. Then the time from a job's
insert to its start (median and 99th percentile) in one worker process, in rounds that alternate:
with nothing to embed, and with a full outbox. On a temporary server of its own.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

from bench.our_workers import Connection, Process, connect, our_worker, wait_registered, wait_until
from bench.server import running_server
from db.memory import memories
from db.memory.memories import Text
from db.migrate import migrate
from db.pool import Database
from db.schema import DEFAULT_SCHEMA
from worker.memory.semantic.model import Model

TEXTS = 400
OUTBOX = 20_000
ROUNDS = 5
JOBS = 200
PAUSE_SECONDS = 0.02
# A short and a usual sentence: 11 and 19 word pieces.
SHORT = "Deploys to staging need no approval {}."
TEXT = "Note {}: this customer prefers to be called in the morning, not after lunch."

EMBEDDED: LiteralString = "select count(*) from jobsworth.embeddings"
MORE_EMBEDDED: LiteralString = "select count(*) > %s from jobsworth.embeddings"
CLEAR: LiteralString = "delete from jobsworth.embedding_outbox"
INSERT: LiteralString = "insert into jobsworth.reactive_jobs (mode) values ('nothing')"
WAITS: LiteralString = """
select extract(epoch from j.started_at - j.created_at)::float8 * 1000
from jobsworth.reactive_jobs j
where j.created_at >= %s and j.started_at is not null
"""


def main() -> None:
    """Measure and print."""
    _alone()
    with running_server() as server:
        url = server.database("embedding")
        migrate(url, DEFAULT_SCHEMA)
        with our_worker(url, embedder="semantic") as worker, connect(url) as conn:
            wait_registered(conn, [worker])
            _beside_jobs(url, conn, worker)


def _alone() -> None:
    model = Model(1)
    for text in (SHORT, TEXT):
        texts = [text.format(n) for n in range(TEXTS)]
        model.vectors(texts[:16])
        wall, processor = time.monotonic(), time.thread_time()
        for start in range(0, TEXTS, 16):
            model.vectors(texts[start : start + 16])
        wall, processor = time.monotonic() - wall, time.thread_time() - processor
        rates = f"{TEXTS / wall:.0f} texts/s, {TEXTS / processor:.0f} a second of processor time"
        print(f"{rates}: {texts[0]}")


def _beside_jobs(url: str, conn: Connection, worker: Process) -> None:
    resting: list[float] = []
    working: list[float] = []
    rates: list[float] = []
    for _ in range(ROUNDS):
        resting += _waits(conn)
        with _texts_to_embed(url, conn, worker):
            before, began = _count(conn), time.monotonic()
            working += _waits(conn)
            rates.append((_count(conn) - before) / (time.monotonic() - began))
    print(f"nothing to embed  {_words(resting)}")
    print(f"while it embeds   {_words(working)}")
    ratio = _p99(working) / _p99(resting)
    print(f"ratio of the p99: {ratio:.2f}; {statistics.median(rates):.0f} texts/s meanwhile")


@contextmanager
def _texts_to_embed(url: str, conn: Connection, worker: Process) -> Iterator[None]:
    before = _count(conn)
    asyncio.run(_fill(url))
    wait_until(conn, [worker], MORE_EMBEDDED, before)
    yield
    conn.execute(CLEAR)
    time.sleep(2.0)


async def _fill(url: str) -> None:
    async with Database(url) as database, database.connection() as connection:
        await memories.put(connection, [Text(TEXT.format(n)) for n in range(OUTBOX)])


def _waits(conn: Connection) -> list[float]:
    [(since,)] = conn.execute("select clock_timestamp()").fetchall()
    for _ in range(JOBS):
        conn.execute(INSERT)
        time.sleep(PAUSE_SECONDS)
    time.sleep(1.0)
    return [wait for (wait,) in conn.execute(WAITS, [since]).fetchall()]


def _count(conn: Connection) -> int:
    [(count,)] = conn.execute(EMBEDDED).fetchall()
    return count


def _p99(waits: list[float]) -> float:
    return statistics.quantiles(waits, n=100)[98]


def _words(waits: list[float]) -> str:
    return f"p50 {statistics.median(waits):6.1f} ms  p99 {_p99(waits):6.1f} ms  ({len(waits)} jobs)"


if __name__ == "__main__":
    main()
