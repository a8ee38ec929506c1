"""The rate of enqueueing: in bulk, one by one, and from eight connections beside a daemon."""

import statistics
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import LiteralString

from bench import raw
from bench.contender import JOBS_MAX, Contender, bulk, setup, single
from bench.lab import OURS, Lab, Measured
from bench.our_workers import Connection, Process, connect, our_worker, wait_until
from bench.results import Figure
from db.migrate import migrate

NAME = "enqueue"
TITLE = "Enqueue: in bulk, one by one, and from eight connections"
METHOD = """
Bulk: 20,000 no-op jobs by the bulk API (1,000 a call where it takes lists), into an empty queue
(slow contenders get fewer, as noted below). Single: 1,000 jobs, one call and one commit each, over
one connection, in the contender's own language. No worker runs. At most three runs. Ours once more
by pgbench, eight connections with one job for each commit: the SQL function, a plain insert, and
the same plain insert into a copy of the table (all its columns, indexes and constraints) that has
no triggers; in turns, six times 4,000 inserts of each in a run (400 beside the idle daemon), of
which the median counts. "daemon busy": beside a worker whose slots are all taken by jobs that
sleep, so that nobody has to be woken. "daemon idle": beside one that has nothing to do because its
queue is paused, so that every commit notifies it: the worst case, which lasts a second at most
where the queue is not paused.
"""

RUNS_MAX = 3
CONNECTIONS = 8
BUSY, IDLE = "daemon busy", "daemon idle"
INSERTS = {BUSY: 4_000, IDLE: 400}
SLOTS = 2
SLEEP_MS = 3_600_000

# `including all` leaves the storage parameters out.
COPY_TABLE: LiteralString = """
do $$
begin
  execute format(
    'create table bare_jobs (like jobsworth.reactive_jobs including all) with (%s)',
    (select array_to_string(c.reloptions, ', ')
     from pg_catalog.pg_class c where c.oid = 'jobsworth.reactive_jobs'::regclass));
end $$
"""
EMPTY: LiteralString = "truncate jobsworth.reactive_jobs, bare_jobs cascade"

SCRIPTS = {
    "enqueue()": "select jobsworth.enqueue('nothing');",
    "insert": "insert into jobsworth.reactive_jobs (mode) values ('nothing');",
    "insert, no triggers": "insert into bare_jobs (mode) values ('nothing');",
}


def run(lab: Lab) -> Iterator[Figure]:
    """Measure bulk and single of all queues, then Jobsworth from eight connections."""
    yield from lab.interleaved(
        NAME, lab.queues, lambda contender: enqueue(lab, contender), runs_max=RUNS_MAX
    )
    jobsworth = lab.contender(OURS)
    if jobsworth is not None:
        yield from many_connections(lab, jobsworth)


def enqueue(lab: Lab, contender: Contender) -> Measured:
    """Measure bulk and single, each into an empty queue."""
    many, few = min(lab.size(JOBS_MAX, 2_000), contender.jobs_max), lab.size(1_000, 200)
    url = lab.server.database("enqueue")
    setup(contender, url)
    bulk_seconds = bulk(contender, url, many)
    url = lab.server.database("enqueue")
    setup(contender, url)
    single_seconds = single(contender, url, few)
    return {
        ("bulk jobs/s", ""): many / bulk_seconds,
        ("single jobs/s", ""): few / single_seconds,
    }


def many_connections(lab: Lab, jobsworth: Contender) -> Iterator[Figure]:
    """Measure eight connections beside a busy daemon and beside an idle one."""
    with ExitStack() as started:
        url = {BUSY: lab.server.database("enqueue"), IDLE: lab.server.database("enqueue_idle")}
        connections = {each: started.enter_context(connect(url[each])) for each in (BUSY, IDLE)}
        for each, connection in connections.items():
            migrate(url[each], "jobsworth")
            connection.execute(COPY_TABLE)
        _sleep_in_all_slots(connections[BUSY], started.enter_context(_worker(url[BUSY])))
        _idle_on_a_paused_queue(connections[IDLE], started.enter_context(_worker(url[IDLE])))

        def of_both(_: Contender) -> Measured:
            return {
                ("8 connections jobs/s", f"{script}, {each}"): rate
                for each, connection in connections.items()
                for script, rate in _in_turns(lab, connection, url[each], INSERTS[each]).items()
            }

        yield from lab.interleaved(NAME, [jobsworth], of_both)


SLEEP: LiteralString = """
insert into jobsworth.reactive_jobs (mode, payload)
select 'nap', jsonb_build_object('ms', %s::int) from generate_series(1, %s)
"""

ALL_SLEEP: LiteralString = """
select exists (select 1 from jobsworth.workers w where w.running = w.slots and not w.idle)
"""

PAUSE: LiteralString = "insert into jobsworth.queues (name, paused) values ('default', true)"

IS_IDLE: LiteralString = "select exists (select 1 from jobsworth.workers w where w.idle)"


def _worker(url: str) -> AbstractContextManager[Process]:
    return our_worker(url, slots=SLOTS, drain_seconds=0)


def _sleep_in_all_slots(connection: Connection, worker: Process) -> None:
    connection.execute(SLEEP, (SLEEP_MS, SLOTS))
    wait_until(connection, [worker], ALL_SLEEP)


def _idle_on_a_paused_queue(connection: Connection, worker: Process) -> None:
    connection.execute(PAUSE)
    wait_until(connection, [worker], IS_IDLE)


def _in_turns(lab: Lab, connection: Connection, url: str, inserts: int) -> Mapping[str, float]:
    """Inserts per second of each script: the median of short slices, in turns."""
    rates: dict[str, list[float]] = {script: [] for script in SCRIPTS}
    for number in range(lab.size(6, 2)):
        for script in list(SCRIPTS)[:: -1 if number % 2 else 1]:
            # The rows of the jobs that sleep go as well; the slots they take stay taken.
            connection.execute(EMPTY)
            each = f"--transactions={inserts // CONNECTIONS}"
            options = (f"--client={CONNECTIONS}", "--jobs=2", each)
            rates[script].append(raw.pgbench(lab.server, url, SCRIPTS[script], *options))
    return {script: statistics.median(values) for script, values in rates.items()}
