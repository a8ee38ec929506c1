"""Jobs claimed one at a time, after very many jobs have passed through the queue.

A claim that walks over the dead entries of an index pays for all of them with each job; a batch
hides that, one job at a time shows it. A snapshot that is held elsewhere (a backup, a report, a
forgotten session) keeps the dead entries from being removed.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext

import psycopg

from bench.contender import Contender, ContenderError, bulk, setup, vacuum_analyze, working
from bench.lab import OURS, Lab
from bench.results import Figure
from bench.server import pinned_snapshot

NAME = "one at a time"
TITLE = "One job at a time, after 200,000 jobs"
METHOD = """
A round is 500 no-op jobs that a worker with room for one job takes one by one. First come three
rounds; then one worker with its usual settings runs 200,000 jobs; then come more rounds. "pinned":
another session holds a snapshot all the while, so that nothing dead can be removed; "control": the
same without it (ours only). The values are jobs/s of each round in order, so last / first is what
passing the 200,000 has cost; they are timed by the worker's own clock, from its first handler to
its last. Before each round the jobs are enqueued and the database is vacuumed and analyzed. A
contender is stopped after 60 s of the variant; its rounds until then count, if some came after the
200,000.
"""

SMALL = ("graphile-worker", "pgqueuer", "awa")
QUICK_SMALL = SMALL[:1]
SECONDS_MAX = 60.0
# As many rounds as "last / first" takes the median of.
ROUNDS_BEFORE = 3


def run(lab: Lab) -> Iterator[Figure]:
    """Measure each contender that can take one job at a time, in each variant."""
    peers = QUICK_SMALL if lab.quick else SMALL
    for contender in lab.contenders:
        if contender.name not in (OURS, *peers):
            continue
        for variant in ("pinned", "control") if contender.name == OURS else ("pinned",):
            rates: list[float] = []
            try:
                for rate in _rounds(lab, contender, pinned=variant == "pinned"):
                    rates.append(rate)
                    lab.say(f"{NAME}: {contender.name}, {variant}: {rate:,.0f} jobs/s")
            except (ContenderError, OSError, psycopg.Error) as error:
                lab.failed(f"{NAME}, {variant}", contender.name, error)
            if len(rates) > ROUNDS_BEFORE:
                yield Figure(NAME, contender.name, "jobs/s", variant, tuple(rates))


def _rounds(lab: Lab, contender: Contender, *, pinned: bool) -> Iterator[float]:
    url = lab.server.database("one_at_a_time")
    setup(contender, url)
    many, few = lab.size(200_000, 10_000), lab.size(500, 100)
    give_up = time.monotonic() + SECONDS_MAX
    with pinned_snapshot(url) if pinned else nullcontext():
        for _ in range(ROUNDS_BEFORE):
            yield _drain(contender, url, few, give_up, small=True)
        _drain(contender, url, many, give_up, small=False)
        for _ in range(lab.runs):
            yield _drain(contender, url, few, give_up, small=True)


def _drain(contender: Contender, url: str, jobs: int, give_up: float, *, small: bool) -> float:
    """Jobs per second of one worker that runs `jobs` jobs, from the first to the last handler."""
    bulk(contender, url, jobs)
    vacuum_analyze(url)
    with working(contender, url, jobs=jobs, small=small) as work:
        try:
            first, last = work.wait_ran(jobs, max(0.0, give_up - time.monotonic()))
        except ContenderError as error:
            if time.monotonic() >= give_up:
                raise ContenderError(f"stopped after {SECONDS_MAX:g} s") from error
            raise
    return jobs / (last - first) * 1e9
