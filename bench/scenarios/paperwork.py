"""A drain in which every job does its paperwork: a message, a paid call, a memory."""

import time
from collections.abc import Iterator
from typing import LiteralString

from bench.lab import OURS, Lab
from bench.our_workers import (
    Connection,
    Stretch,
    connect,
    enqueue,
    our_worker,
    rate,
    settle_statistics,
    wait_finished,
    wait_until,
)
from bench.results import Figure
from db.migrate import migrate
from db.queue.new_job import NewJob

NAME = "paperwork"
TITLE = "Jobs with their paperwork"
METHOD = """
10,000 jobs, 100 in each of 100 threads. Each job makes one model call (a stub that answers at once:
one commit before it is sent, one that settles it and keeps the answer), says the answer in its
thread, and gives one text to be remembered. The jobs have no lane, so that the paperwork is
measured and not the order within a thread. Jobs/s until the last job is done; "embedded after s" is
how long after that the last text was embedded, by the offline embedder in the same process. After
each run SQL checks that messages, settled calls, settling ledger entries and memories are as many
as the jobs, each of its own job.
"""

THREADS = 100
SLOTS = 500


def run(lab: Lab) -> Iterator[Figure]:
    """Each run in a fresh database."""
    if lab.contender(OURS) is None:
        return
    rates: list[float] = []
    delays: list[float] = []
    for _ in range(lab.runs):
        jobs_per_second, embedded_after = _drain(lab, lab.size(10_000, 1_000))
        lab.say(f"{NAME}: {jobs_per_second:,.0f} jobs/s, embedded after {embedded_after:.1f} s")
        rates.append(jobs_per_second)
        delays.append(embedded_after)
    yield Figure(NAME, OURS, "jobs/s", "", tuple(rates))
    yield Figure(NAME, OURS, "embedded after s", "", tuple(delays))


EMBEDDED: LiteralString = "select not exists (select from jobsworth.embedding_outbox)"


def _drain(lab: Lab, count: int) -> tuple[float, float]:
    url = lab.server.database("paperwork")
    migrate(url, "jobsworth")
    with connect(url) as connection:
        jobs = _enqueue(connection, url, count)
        settle_statistics(connection)
        with our_worker(url, slots=SLOTS) as worker:
            wait_finished(connection, [worker], jobs)
            finished = time.monotonic()
            wait_until(connection, [worker], EMBEDDED)
            embedded_after = time.monotonic() - finished
        _check(connection, count)
        return rate(connection, jobs), embedded_after


MAKE_THREADS: LiteralString = """
insert into jobsworth.chat_threads (platform, chat_id)
select 'bench', g::text from generate_series(1, %s) g
returning id
"""


def _enqueue(connection: Connection, url: str, count: int) -> Stretch:
    threads = [row[0] for row in connection.execute(MAKE_THREADS, (THREADS,)).fetchall()]
    return enqueue(
        url,
        (NewJob("paperwork", thread_id=threads[n % THREADS], lane="") for n in range(count)),
    )


COUNTS: LiteralString = """
select
  (select count(distinct job_id) from jobsworth.chat_messages),
  (select count(*) from jobsworth.chat_messages),
  (select count(distinct job_id) from jobsworth.llm_calls where status = 'ok'),
  (select count(*) from jobsworth.llm_calls),
  (select count(distinct job_id) from jobsworth.token_ledger where entry = 'settle'),
  (select count(*) from jobsworth.token_ledger where entry = 'settle'),
  (select count(distinct m.job_id) from jobsworth.memories m
    join jobsworth.embeddings e on e.memory_id = m.id),
  (select count(*) from jobsworth.embeddings)
"""


def _check(connection: Connection, count: int) -> None:
    counts = connection.execute(COUNTS).fetchone()
    if counts is None or set(counts) != {count}:
        raise RuntimeError(f"{count} jobs left messages, calls, entries and memories: {counts}")
