"""20,000 queued jobs, one worker process: how fast they run and are settled, and at what cost."""

from collections.abc import Iterator

from bench import raw
from bench.contender import JOBS_MAX, Contender, bulk, drain_seconds, setup, vacuum_analyze, working
from bench.lab import PGBENCH, Lab, Measured
from bench.results import Figure

NAME = "drain"
TITLE = "Drain: 20,000 queued no-op jobs, one worker process"
METHOD = """
Each contender's jobs are enqueued by its bulk API into a fresh database, which is then analyzed
(slow contenders get fewer, as noted below); then one worker process starts, at its best documented
settings. The clock runs from the start of the first handler until the database says that nothing is
queued, running or unacknowledged (asked every 2 ms once all handlers ran). CPU is counted from the
moment the worker is about to fetch; memory is the worker's peak. pgbench claims and finishes 100
jobs for each commit in a minimal table, with one client: the raw limit of this server for one
connection.
"""


def run(lab: Lab) -> Iterator[Figure]:
    """Jobs per second, CPU and memory of every contender."""
    yield from lab.interleaved(NAME, lab.contenders, lambda contender: drain(lab, contender))


def drain(lab: Lab, contender: Contender) -> Measured:
    """One drain in a fresh database."""
    jobs = min(lab.size(JOBS_MAX, 2_000), contender.jobs_max)
    url = lab.server.database("drain")
    if contender.name == PGBENCH:
        return {("jobs/s", ""): raw.drain(lab.server, url, jobs)}
    setup(contender, url)
    bulk(contender, url, jobs)
    vacuum_analyze(url)
    server_before = lab.server.cpu_seconds()
    with working(contender, url, jobs=jobs) as work:
        worker_before = work.cpu_seconds()
        seconds = drain_seconds(work, contender, url, jobs)
        worker_cpu = work.cpu_seconds() - worker_before
        server_cpu = lab.server.cpu_seconds() - server_before
        memory = work.rss_peak_mb()
    return {
        ("jobs/s", ""): jobs / seconds,
        ("worker CPU s/1,000 jobs", ""): worker_cpu / jobs * 1000,
        ("PostgreSQL CPU s/1,000 jobs", ""): server_cpu / jobs * 1000,
        ("worker RSS peak MB", ""): memory,
    }
