"""The cost of an idle worker."""

import time
from collections.abc import Iterator
from typing import LiteralString

import psutil

from bench.lab import OURS, Lab
from bench.our_workers import Connection, connect, our_worker, wait_registered
from bench.results import Figure
from bench.server import tree_cpu_seconds
from db.migrate import migrate

NAME = "idle"
TITLE = "A worker without work"
METHOD = """
One worker process with default settings, without its health endpoint, on an empty queue for 30 s,
after 5 s to settle. "CPU %" of one core is its process's, PostgreSQL's is not in it; "queries/s"
are transactions of its database (each of its statements is one, but for a few small transactions)
as PostgreSQL counts them, read from another database; "RSS MB" is at the end.
"""

DATABASE = "idle"
SETTLE_SECONDS = 5.0


def run(lab: Lab) -> Iterator[Figure]:
    """One daemon, watched once."""
    if lab.contender(OURS) is None:
        return
    url = lab.server.database(DATABASE)
    migrate(url, "jobsworth")
    with our_worker(url, slots=50, handlers="") as started:
        with connect(url) as connection:
            wait_registered(connection, [started])
        time.sleep(SETTLE_SECONDS)
        worker = psutil.Process(started.pid)
        with connect(lab.server.url) as outside:
            seconds = float(lab.size(30, 10))
            cpu, queries = tree_cpu_seconds(worker), _transactions(outside)
            time.sleep(seconds)
            cpu, queries = tree_cpu_seconds(worker) - cpu, _transactions(outside) - queries
        memory = worker.memory_info().rss / 1e6
    yield Figure(NAME, OURS, "CPU %", "", (100 * cpu / seconds,))
    yield Figure(NAME, OURS, "queries/s", "", (queries / seconds,))
    yield Figure(NAME, OURS, "RSS MB", "", (memory,))


TRANSACTIONS: LiteralString = """
select xact_commit + xact_rollback from pg_catalog.pg_stat_database where datname = %s
"""


def _transactions(outside: Connection) -> int:
    row = outside.execute(TRANSACTIONS, (DATABASE,)).fetchone()
    assert row is not None
    return row[0]
