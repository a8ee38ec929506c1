"""Whether other rows of the table slow down a drain.

Each variant has a database of its own, which is filled once; the measured drains then happen in it
one after the other, in turns with the same drain in a database that holds nothing else.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

import psycopg

from bench.lab import OURS, Lab
from bench.our_workers import Stretch, connect, drain, enqueue
from bench.results import Figure
from db.migrate import migrate
from db.queue.new_job import NewJob

NAME = "flat"
TITLE = "The same drain, whatever else is in the table"
METHOD = """
One worker process drains 10,000 no-op jobs of priority 3. The table holds nothing else ("empty"),
or a million more jobs in the same queue (less urgent ones; or equally urgent ones, of which the
first 10,000 are timed), a million jobs scheduled for next year, ten million finished jobs, or
100,000 jobs that wait for an approval. In a lane, where one job runs after the other, 500 jobs are
timed: all that the lane holds, or the first of 100,000. Each variant has its own database, filled
once; before each run the jobs are enqueued and the table is vacuumed and analyzed. The worker is
stopped once the timed jobs are done, so each run also takes some thousands of jobs out of a
backlog. Run n of each variant is paired with run n of "empty" (of "lane short" for the lane). Rates
are on PostgreSQL's clock, from the first claim to the last finish.
"""

# A finished job takes about 250 bytes, with its key; the write-ahead log takes 4 GB at most.
FINISHED_BYTES = 300
SPARE_BYTES = 6_000_000_000


def run(lab: Lab) -> Iterator[Figure]:
    """Fill all databases, then drain in turns."""
    if lab.contender(OURS) is None:
        return
    cases = list(_cases(lab))
    urls = {case.variant: _prepare(lab, case, f"flat_{n}") for n, case in enumerate(cases)}
    rates: dict[str, list[float]] = {case.variant: [] for case in cases}
    out: set[str] = set()
    for _ in range(lab.runs):
        for case in cases:
            if case.variant in out:
                continue
            url = urls[case.variant]
            try:
                rates[case.variant].append(drain(url, case.jobs(url)))
            except (psycopg.Error, OSError, RuntimeError) as error:
                # Dropped for good: its later runs would be paired with the wrong ones.
                lab.failed(f"{NAME}, {case.variant}", OURS, error)
                out.add(case.variant)
            else:
                lab.say(f"{NAME}: {case.variant}: {rates[case.variant][-1]:,.0f} jobs/s")
    for number in range(len(cases)):
        lab.server.database(f"flat_{number}")  # gives the space back
    for variant, values in rates.items():
        if values:
            yield Figure(NAME, OURS, "jobs/s", variant, tuple(values))


@dataclass(frozen=True, slots=True)
class Case:
    """A variant: what its table is filled with, and which jobs each run times."""

    variant: str
    jobs: Callable[[str], Stretch]
    fill: LiteralString | None = None
    rows: int = 0


def _cases(lab: Lab) -> Iterator[Case]:
    count = lab.size(10_000, 2_000)
    many, some = lab.size(1_000_000, 50_000), lab.size(100_000, 10_000)
    lane_count = lab.size(500, 100)

    def fresh(url: str) -> Stretch:
        return enqueue(url, (NewJob("nothing") for _ in range(count)))

    def fresh_lane(url: str) -> Stretch:
        return enqueue(url, (NewJob("nothing", lane="short") for _ in range(lane_count)))

    finished = lab.size(_finished_rows(lab, 10_000_000), 200_000)
    yield Case("empty", fresh)
    yield Case(f"{many:,} queued", fresh, FILL_LESS_URGENT, many)
    yield Case(
        f"{many:,} queued, same priority",
        lambda url: _first(url, FIRST_QUEUED, count),
        FILL_AS_URGENT,
        many,
    )
    yield Case(f"{many:,} scheduled", fresh, FILL_SCHEDULED, many)
    yield Case(f"{finished:,} finished", fresh, FILL_FINISHED, finished)
    yield Case(f"{some:,} approvals", fresh, FILL_APPROVALS, some)
    yield Case("lane short", fresh_lane)
    yield Case(
        f"lane {some:,} deep",
        lambda url: _first(url, FIRST_IN_LANE, lane_count),
        FILL_LANE,
        some,
    )


def _finished_rows(lab: Lab, wanted: int) -> int:
    """`wanted`, or a tenth of it if the disk is too small."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free > wanted * FINISHED_BYTES + SPARE_BYTES:
        return wanted
    lab.say(f"only {free / 1e9:.0f} GB of disk are free: {wanted // 10:,} finished jobs instead")
    return wanted // 10


# The rows are inserted in their final state, without the insert trigger, which decides whether a
# new job waits.
FILL_LESS_URGENT: LiteralString = """
insert into jobsworth.reactive_jobs (mode, priority)
select 'nothing', 4 from generate_series(1, %s)
"""

FILL_AS_URGENT: LiteralString = """
insert into jobsworth.reactive_jobs (mode) select 'nothing' from generate_series(1, %s)
"""

FILL_SCHEDULED: LiteralString = """
insert into jobsworth.reactive_jobs (mode, status, waiting_for, run_at)
select 'nothing', 'waiting', 'timer', now() + interval '1 year' + g * interval '1 second'
from generate_series(1, %s) g
"""

FILL_FINISHED: LiteralString = """
insert into jobsworth.reactive_jobs (
  mode, status, attempt, worker_id, lease_no, started_at, finished_at, result)
select 'nothing', 'done', 1, w.id, nextval('jobsworth.lease_no'), now(), now(), 'null'
from gen_random_uuid() w (id), generate_series(1, %s)
"""

FILL_APPROVALS: LiteralString = """
with parked as (
  insert into jobsworth.reactive_jobs (
    mode, status, waiting_for, waiting_detail, attempt, worker_id, lease_no, started_at, run_at)
  select 'nothing', 'waiting', 'approval', 'May I?', 1, w.id, nextval('jobsworth.lease_no'),
    now(), now()
  from gen_random_uuid() w (id), generate_series(1, %s)
  returning id
)
insert into jobsworth.approvals (job_id, effect_key, proposal_text, shown_hash)
select p.id, 'approval:1', 'May I?', '' from parked p
"""

FILL_LANE: LiteralString = """
insert into jobsworth.reactive_jobs (mode, status, waiting_for, lane, lane_position)
select 'nothing', case when g = 1 then 'queued' else 'waiting' end::jobsworth.job_status,
  case when g > 1 then 'lane' end::jobsworth.wait_reason, 'deep',
  nextval('jobsworth.lane_position')
from generate_series(1, %s) g
"""


def _prepare(lab: Lab, case: Case, database: str) -> str:
    url = lab.server.database(database)
    migrate(url, "jobsworth")
    if case.fill is None:
        return url
    with connect(url) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(case.fill, (case.rows,))
        connection.execute("reset session_replication_role")
        connection.execute("vacuum (analyze)")
        row = connection.execute("select pg_database_size(current_database())").fetchone()
    lab.say(f"{case.variant}: {row[0] / 1e6 if row else 0:,.0f} MB")
    return url


FIRST_QUEUED: LiteralString = """
select j.id from jobsworth.reactive_jobs j
where j.status = 'queued' and j.queue = 'default' and j.priority = 3
order by j.position limit %s
"""

FIRST_IN_LANE: LiteralString = """
select j.id from jobsworth.reactive_jobs j
where j.lane = 'deep' and j.finished_at is null
order by j.lane_position, j.id limit %s
"""


def _first(url: str, query: LiteralString, count: int) -> Stretch:
    """The next jobs of a backlog, which was written in the order of its ids."""
    with connect(url) as connection:
        ids: list[UUID] = [row[0] for row in connection.execute(query, (count,)).fetchall()]
    return Stretch(min(ids), max(ids), len(ids))
