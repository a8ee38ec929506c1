"""The time until an urgent job starts, behind a million others."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import LiteralString
from uuid import UUID

from bench.lab import OURS, Lab
from bench.our_workers import (
    Connection,
    Process,
    connect,
    our_worker,
    settle_statistics,
    wait_until,
)
from bench.results import Figure
from bench.server import pinned_snapshot
from db.migrate import migrate

NAME = "priority"
TITLE = "An urgent job among a million others"
METHOD = """
1,000,000 jobs of priority 4 are queued, each of which waits 5 ms; one worker process with 50 slots
is busy with them. Then 50 jobs of priority 1 are enqueued, one each 100 ms. "start ms" is
`started_at - created_at` of each of them, PostgreSQL's clock; both are the beginnings of
transactions, so a claim that is slow itself hides there, and one that had just begun counts as less
than nothing. "handler ms" has no such gap: from `created_at` to the first line of the handler, on
the same machine's clock. "pinned": another session holds a snapshot all the while, so that the dead
index entries of the jobs that have run pile up before those still queued.
"""

SLOTS = 50
NAP_MS = 5
EVERY_SECONDS = 0.1
WARM_JOBS = 2_000

FILL: LiteralString = """
insert into jobsworth.reactive_jobs (mode, payload, priority)
select 'nap', jsonb_build_object('ms', %s::int), 4 from generate_series(1, %s)
"""


def run(lab: Lab) -> Iterator[Figure]:
    """Measure the delays without and with a pinned snapshot, each in a fresh database."""
    if lab.contender(OURS) is None:
        return
    for variant in ("", "pinned"):
        delays = _delays(lab, lab.size(50, 10), pinned=variant == "pinned")
        lab.say(f"{NAME} {variant}: at most {max(handler for _, handler in delays):.1f} ms")
        yield Figure(NAME, OURS, "start ms", variant, tuple(start for start, _ in delays))
        yield Figure(NAME, OURS, "handler ms", variant, tuple(handler for _, handler in delays))


def _delays(lab: Lab, count: int, *, pinned: bool) -> list[tuple[float, float]]:
    url = lab.server.database("priority")
    migrate(url, "jobsworth")
    with connect(url) as connection:
        connection.execute(FILL, (NAP_MS, lab.size(1_000_000, 50_000)))
        settle_statistics(connection)
        with (
            pinned_snapshot(url) if pinned else nullcontext(),
            our_worker(url, slots=SLOTS) as worker,
        ):
            wait_until(connection, [worker], WARM, WARM_JOBS)
            return _measure(connection, worker, count)


WARM: LiteralString = "select last_value >= %s from jobsworth.lease_no"

ENDED: LiteralString = """
select bool_and(finished_at is not null) from jobsworth.reactive_jobs where id = any(%s)
"""

DELAYS: LiteralString = """
select extract(epoch from j.started_at - j.created_at)::float8 * 1000,
  (j.result::float8 - extract(epoch from j.created_at)::float8) * 1000
from jobsworth.reactive_jobs j
where j.id = any(%s)
order by j.id
"""


def _measure(connection: Connection, worker: Process, count: int) -> list[tuple[float, float]]:
    ids = list(_enqueue_urgent(connection, count))
    wait_until(connection, [worker], ENDED, ids)
    return [(row[0], row[1]) for row in connection.execute(DELAYS, (ids,)).fetchall()]


def _enqueue_urgent(connection: Connection, count: int) -> Iterator[UUID]:
    began = time.monotonic()
    for number in range(count):
        # On a fixed schedule, however long the inserts take.
        time.sleep(max(0.0, began + number * EVERY_SECONDS - time.monotonic()))
        row = connection.execute(
            "insert into jobsworth.reactive_jobs (mode, priority) values ('tell_time', 1)"
            " returning id"
        ).fetchone()
        assert row is not None
        yield row[0]
