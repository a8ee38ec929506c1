"""`python -m bench.one_lane [WORKERS...]`: one lane, and ever more workers that could take it.

In: the numbers of worker processes (1, 2, 12 and 24 by default). Out: for each, the jobs per second
of one lane of no-op jobs, and for each job the claims that were made and the transactions that were
committed. A lane runs one job at a time, so more workers cannot be faster; they should not be
slower. What they cost without the lane is measured beside it: the same number, of which all but one
serve another queue. It runs on a temporary server of its own, with durable commits.
"""

import sys
import time
from contextlib import ExitStack
from typing import LiteralString

from bench.our_workers import (
    Connection,
    connect,
    enqueue,
    our_worker,
    rate,
    settle_statistics,
    wait_finished,
    wait_registered,
)
from bench.server import Server, running_server
from db.migrate import migrate
from db.queue.new_job import NewJob

JOBS = 400
# Each worker is idle, and has said so, before the lane's jobs come.
IDLE_SECONDS = 3.0
WORKERS = (1, 2, 12, 24)
COUNTS: LiteralString = """
select d.xact_commit, (
  select coalesce(sum(f.calls), 0)::bigint from pg_stat_user_functions f
  where f.schemaname = 'jobsworth' and f.funcname = 'claim')
from pg_stat_database d where d.datname = current_database()
"""


def main(numbers: tuple[int, ...]) -> None:
    with running_server() as server:
        for number in numbers:
            print(f"{number:3d} workers {_measure(server, number, apart=0)}", flush=True)
            if number > 1:
                print(f"{number:3d}, 1 for it {_measure(server, number, apart=number - 1)}")


def _measure(server: Server, workers: int, *, apart: int) -> str:
    url = server.database("one_lane")
    migrate(url, "jobsworth")
    with connect(url) as connection, ExitStack() as started:
        # Before the workers connect: a session reads it when it begins.
        connection.execute("alter database one_lane set track_functions = 'pl'")
        settle_statistics(connection)
        together = [
            started.enter_context(
                our_worker(url, pool_max=4, slots=10, queues="other" if n < apart else "default")
            )
            for n in range(workers)
        ]
        wait_registered(connection, together)
        time.sleep(IDLE_SECONDS)
        before = _counts(connection)
        jobs = enqueue(url, (NewJob("nothing", lane="the one") for _ in range(JOBS)))
        wait_finished(connection, together, jobs)
        time.sleep(1.0)  # the server's counters come late
        transactions, claims = (
            (after - first) / JOBS for first, after in zip(before, _counts(connection), strict=True)
        )
        speed = rate(connection, jobs)
    return f"{speed:7.1f} jobs/s {claims:6.1f} claims/job {transactions:6.1f} tx/job"


def _counts(connection: Connection) -> tuple[int, int]:
    row = connection.execute(COUNTS).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or WORKERS)
