"""Jobs that last: whether the slots stay busy, and what a blocking job does to the others."""

import random
from collections.abc import Iterator, Sequence
from typing import LiteralString

from bench.lab import OURS, Lab
from bench.our_workers import (
    connect,
    enqueue,
    our_worker,
    settle_statistics,
    wait_finished,
    wait_registered,
)
from bench.results import Figure
from db.migrate import migrate
from db.queue.new_job import NewJob

NAME = "shape"
TITLE = "Jobs that take time"
METHOD = """
20,000 jobs that wait 5 to 50 ms (uniform, from a fixed seed) run in the 200 slots of one worker
process. "slots busy %": a slot is taken from the claim of a job until the commit of its end, by
PostgreSQL's clock. From the moment when 200 jobs had been claimed to the last claim, when the slots
begin to run out of jobs: the sum of `finished_at - started_at` in that span, as a share of 200
slots times the span. "handlers busy %": the same with the time from the first line of each handler
to its last, by the worker's clock; the rest is the way from the claim to the handler and from its
end to the commit. "leases lost": in a worker with default settings one handler blocks the event
loop for 15 s, while its neighbours wait 20 s; a second worker process, which serves another queue,
is there to rescue them if their worker looks dead. How many of the neighbours were attempted more
than once.
"""

SLOTS = 200
MS_MIN, MS_MAX = 5, 50
SEED = 20
BLOCK_SECONDS = 15
NAP_MS = 20_000


def run(lab: Lab) -> Iterator[Figure]:
    """Measure the shares in each run, and the blocked loop once."""
    if lab.contender(OURS) is None:
        return
    shares: list[tuple[float, float]] = []
    for _ in range(lab.runs):
        shares.append(_busy_percent(lab, lab.size(20_000, 4_000)))
        slots, handlers = shares[-1]
        lab.say(f"{NAME}: {slots:.1f} % of the slots busy, {handlers:.1f} % with handlers")
    yield Figure(NAME, OURS, "slots busy %", "", tuple(slots for slots, _ in shares))
    yield Figure(NAME, OURS, "handlers busy %", "", tuple(handlers for _, handlers in shares))
    lost = _leases_lost(lab, lab.size(40, 10))
    lab.say(f"{NAME}: {lost} leases lost")
    yield Figure(NAME, OURS, "leases lost", "", (lost,))


SLOTS_TAKEN: LiteralString = """
select extract(epoch from j.started_at)::float8, extract(epoch from j.finished_at)::float8
from jobsworth.reactive_jobs j
where j.mode = 'timed_nap' and j.status = 'done'
"""

HANDLERS_RAN: LiteralString = """
select (j.result ->> 0)::bigint / 1e9::float8, (j.result ->> 1)::bigint / 1e9::float8
from jobsworth.reactive_jobs j
where j.mode = 'timed_nap' and j.status = 'done'
"""


def _busy_percent(lab: Lab, count: int) -> tuple[float, float]:
    url = lab.server.database("shape")
    migrate(url, "jobsworth")
    chance = random.Random(SEED)
    jobs = enqueue(
        url,
        (NewJob("timed_nap", {"ms": chance.uniform(MS_MIN, MS_MAX)}) for _ in range(count)),
    )
    with connect(url) as connection:
        settle_statistics(connection)
        with our_worker(url, slots=SLOTS) as worker:
            wait_finished(connection, [worker], jobs)
        slots = connection.execute(SLOTS_TAKEN).fetchall()
        handlers = connection.execute(HANDLERS_RAN).fetchall()
    return 100 * share_busy(slots, SLOTS), 100 * share_busy(handlers, SLOTS)


def share_busy(spans: Sequence[tuple[float, float]], slots: int) -> float:
    """The share of the slots' time that the spans (begin, end) fill while all slots could be."""
    begins = sorted(begin for begin, _ in spans)
    full, running_out = begins[slots - 1], begins[-1]
    busy = sum(max(0.0, min(end, running_out) - max(begin, full)) for begin, end in spans)
    return busy / (slots * (running_out - full))


ATTEMPTED_AGAIN: LiteralString = """
select count(*) from jobsworth.reactive_jobs j
where j.id between %s and %s and j.mode = 'nap' and j.attempt > 1
"""


def _leases_lost(lab: Lab, neighbours: int) -> int:
    url = lab.server.database("shape")
    migrate(url, "jobsworth")
    with (
        connect(url) as connection,
        our_worker(url, slots=neighbours + 1) as worker,
        our_worker(url, queues="other") as rescuer,
    ):
        wait_registered(connection, [worker, rescuer])
        jobs = enqueue(url, _neighbours_and_one_that_blocks(neighbours))
        wait_finished(connection, [worker, rescuer], jobs)
        row = connection.execute(ATTEMPTED_AGAIN, (jobs.first, jobs.last)).fetchone()
        return row[0] if row else 0


def _neighbours_and_one_that_blocks(neighbours: int) -> Iterator[NewJob]:
    for _ in range(neighbours):
        yield NewJob("nap", {"ms": NAP_MS})
    yield NewJob("block", {"seconds": BLOCK_SECONDS})
