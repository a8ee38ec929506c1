"""Several worker processes on one queue: their rate together, and whether they collide."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import LiteralString

from bench.lab import OURS, Lab
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
from bench.results import Figure
from db.migrate import migrate
from db.queue.new_job import NewJob

NAME = "daemons"
TITLE = "More worker processes on one queue"
METHOD = """
1, 2, 4, 8 and 16 worker processes drain 20,000 no-op jobs of one queue together. The queue is
paused until all of them have registered, so that they start as one. Jobs/s of all together, on
PostgreSQL's clock. "log problems" is how many lines of the server's log said "deadlock detected" or
"could not serialize" meanwhile, in all runs, three at most. Where the machine has fewer cores than
there are processes (and PostgreSQL wants one, too), more of them cannot be faster; what is asked is
that they do not get in each other's way.
"""

RUNS_MAX = 3
# Sixteen workers share the server's 200 connections.
POOL_MAX = 6
PROBLEMS = ("deadlock detected", "could not serialize")


def run(lab: Lab) -> Iterator[Figure]:
    """Measure each number of workers in turn, in every run."""
    if lab.contender(OURS) is None:
        return
    numbers = (1, 2, 4) if lab.quick else (1, 2, 4, 8, 16)
    rates: dict[int, list[float]] = {number: [] for number in numbers}
    problems = dict.fromkeys(numbers, 0)
    for _ in range(min(lab.runs, RUNS_MAX)):
        for number in numbers:
            before = _problems(lab)
            rates[number].append(_drain(lab, number, lab.size(20_000, 2_000)))
            problems[number] += _problems(lab) - before
            lab.say(f"{NAME}: {number}: {rates[number][-1]:,.0f} jobs/s")
    for number in numbers:
        yield Figure(NAME, OURS, "jobs/s", str(number), tuple(rates[number]))
        yield Figure(NAME, OURS, "log problems", str(number), (problems[number],))


def _problems(lab: Lab) -> int:
    return sum(len(lab.server.log_lines(problem)) for problem in PROBLEMS)


SET_PAUSED: LiteralString = """
insert into jobsworth.queues (name, paused) values ('default', %s)
on conflict (name) do update set paused = excluded.paused
"""


def _drain(lab: Lab, workers: int, count: int) -> float:
    url = lab.server.database("daemons")
    migrate(url, "jobsworth")
    with connect(url) as connection, ExitStack() as started:
        connection.execute(SET_PAUSED, (True,))
        jobs = enqueue(url, (NewJob("nothing") for _ in range(count)))
        settle_statistics(connection)
        together = [
            started.enter_context(our_worker(url, pool_max=POOL_MAX)) for _ in range(workers)
        ]
        wait_registered(connection, together)
        _resume(connection)
        wait_finished(connection, together, jobs)
        return rate(connection, jobs)


def _resume(connection: Connection) -> None:
    connection.execute(SET_PAUSED, (False,))
    connection.execute("select jobsworth.wake()")
