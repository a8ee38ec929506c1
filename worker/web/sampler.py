"""Samples the database every few seconds for the gauges, apart from the claim loop and from probes.

In: the pool. Out: `Samples`, the last reading of each part with its time. Invariant: one statement
at a time, and each part takes at most a two-hundredth of the time, so that a slow database is
sampled less; a part that cannot be read keeps its last value, whose age grows.
"""

import random
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

from db.diagnosis.health import (
    JobSample,
    OutboxSample,
    SnapshotSample,
    count_violations,
    sample_jobs,
    sample_outbox,
    sample_snapshots,
)
from db.errors import JobsworthError
from db.limits import job_limits
from db.limits.job_limits import LimitUse
from db.memory import index_recall
from db.memory.index_recall import IndexRecall
from db.pool import Connection, Database
from worker import events
from worker.log import get_logger

SAMPLE_EVERY_SECONDS = 15.0
VIOLATIONS_EVERY_SECONDS = 60.0
RECALL_EVERY_SECONDS = 600.0
# The first reading comes after a part of the period between these two.
FIRST_AFTER = (0.05, 0.25)
# The pause after a reading is at least this many times as long as the reading took.
PAUSE_FACTOR = 199

T = TypeVar("T")

logger = get_logger()


class Reading(Generic[T]):
    """The last value that could be read, and its age; before the first, the age of this object."""

    def __init__(self) -> None:
        self.value: T | None = None
        self._at = time.monotonic()

    def store(self, value: T) -> None:
        self.value = value
        self._at = time.monotonic()

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._at


class Samples:
    """The last readings of `keep_sampling`."""

    def __init__(self) -> None:
        self.jobs = Reading[JobSample]()
        self.outbox = Reading[OutboxSample]()
        self.snapshots = Reading[SnapshotSample]()
        self.violations = Reading[dict[str, int]]()
        self.index_recall = Reading[list[IndexRecall]]()
        self.job_limits = Reading[list[LimitUse]]()


async def keep_sampling(
    database: Database,
    samples: Samples,
    *,
    every_seconds: float = SAMPLE_EVERY_SECONDS,
    violations_every_seconds: float = VIOLATIONS_EVERY_SECONDS,
) -> None:
    """Sample until cancelled; a part that cannot be read is tried again in its next period."""
    turn = anyio.Lock()

    async def keep(reading: Reading[T], sample: Sample[T], seconds: float) -> None:
        # Not all parts at once, nor all workers of a fleet.
        await anyio.sleep(seconds * random.uniform(*FIRST_AFTER))
        while True:
            async with turn:
                began = time.monotonic()
                await _read(database, reading, sample)
                took = time.monotonic() - began
            await anyio.sleep(max(seconds, took * PAUSE_FACTOR) * random.uniform(0.9, 1.1))

    async with anyio.create_task_group() as parts:
        parts.start_soon(keep, samples.jobs, sample_jobs, every_seconds)
        parts.start_soon(keep, samples.outbox, sample_outbox, every_seconds)
        parts.start_soon(keep, samples.snapshots, sample_snapshots, every_seconds)
        parts.start_soon(keep, samples.job_limits, job_limits.list_all, every_seconds)
        parts.start_soon(keep, samples.violations, _violations, violations_every_seconds)
        parts.start_soon(keep, samples.index_recall, index_recall.sample, RECALL_EVERY_SECONDS)


Sample = Callable[[Connection], Awaitable[T]]


# Errors are not logged here: the claim loop uses the same database and logs them once.
async def _read(database: Database, reading: Reading[T], sample: Sample[T]) -> None:
    try:
        async with database.connection() as conn:
            reading.store(await sample(conn))
    except JobsworthError:
        return


async def _violations(conn: Connection) -> dict[str, int]:
    found = await count_violations(conn)
    if found:
        logger.error(events.VIOLATIONS_FOUND, violations=found)
    return found
