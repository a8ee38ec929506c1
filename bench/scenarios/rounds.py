"""Rounds of 10,000 jobs, with and without a snapshot that keeps dead rows."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

from bench.contender import (
    Contender,
    bulk,
    drain_seconds,
    setup,
    vacuum_analyze,
    working,
)
from bench.lab import OURS, Lab
from bench.results import Figure
from bench.server import pinned_snapshot

NAME = "rounds"
TITLE = "Rounds of 10,000 jobs, with and without a pinned snapshot"
METHOD = """
Twenty rounds of 10,000 no-op jobs through one queue: enqueued in bulk, analyzed, then drained by a
worker process that is started afresh for each round; the clock is the drain's. "pinned": another
session holds a snapshot all the while, as a long report or a forgotten transaction does, so that no
dead row of the queue can be removed; "control": nobody does. A contender stops after 20 s
(procrastinate after 2 rounds), ours after 60 s. Ours also with one worker process that lives
through all rounds, as in production: it remembers how far it has claimed. Then a round's jobs
become visible to the idle worker in one commit, and nothing is analyzed but by autovacuum.
"""

SERIES_SECONDS_MAX = 20.0
OUR_SECONDS_MAX = 60.0
PEERS = ("graphile-worker", "pgqueuer", "pg-boss", "awa", "procrastinate")
QUICK_PEERS = PEERS[:2]
ROUNDS_MAX = {"procrastinate": 2}

Series = Callable[[Contender, str, int, int], Iterator[float]]


def run(lab: Lab) -> Iterator[Figure]:
    """Measure a series of rounds for each contender, with and without a pinned snapshot."""
    peers = QUICK_PEERS if lab.quick else PEERS
    for contender in lab.queues:
        if contender.name not in (OURS, *peers):
            continue
        for variant in ("pinned", "control"):
            yield from _figure(lab, contender, variant, worker_for_each_round)
            if contender.name == OURS:
                yield from _figure(lab, contender, f"{variant}, one process", one_worker)


def worker_for_each_round(
    contender: Contender, url: str, rounds: int, jobs: int
) -> Iterator[float]:
    """Jobs per second of each round; the worker starts after the jobs are enqueued."""
    for _ in range(rounds):
        bulk(contender, url, jobs)
        vacuum_analyze(url)
        with working(contender, url, jobs=jobs) as work:
            yield jobs / drain_seconds(work, contender, url, jobs)


def one_worker(contender: Contender, url: str, rounds: int, jobs: int) -> Iterator[float]:
    """Jobs per second of each round; one worker runs during all rounds."""
    with working(contender, url, jobs=jobs) as work:
        for _ in range(rounds):
            bulk(contender, url, jobs)
            yield jobs / drain_seconds(work, contender, url, jobs)


def _figure(lab: Lab, contender: Contender, variant: str, series: Series) -> Iterator[Figure]:
    rounds = min(lab.size(20, 3), ROUNDS_MAX.get(contender.name, 20))
    lab.say(f"{NAME}: {contender.name}, {variant}, {rounds} rounds")
    seconds_max = OUR_SECONDS_MAX if contender.name == OURS else SERIES_SECONDS_MAX
    rates: list[float] = []
    try:
        url = lab.server.database("rounds")
        setup(contender, url)
        pinned = pinned_snapshot(url) if variant.startswith("pinned") else nullcontext()
        with pinned:
            begun = time.monotonic()
            for rate in series(contender, url, rounds, lab.size(10_000, 2_000)):
                rates.append(rate)
                if time.monotonic() - begun > seconds_max:
                    break
    except Exception as error:
        lab.failed(f"{NAME}, {variant}", contender.name, error)
    if rates:
        yield Figure(NAME, contender.name, "jobs/s", variant, tuple(rates))
