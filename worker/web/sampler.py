"""Reads what the gauges show, every few seconds, away from the claim loop and from any probe.

In: the pool. Out: `Samples`, the last reading of each part with its time. Invariant: one statement
at a time, and at most a two-hundredth of the time spent in any part, so that a database in trouble
is not asked more; a part that cannot be read keeps its last value, and its age says so.
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
from db.pool import Connection, Database
from worker import events
from worker.log import get_logger

SAMPLE_EVERY_SECONDS = 15.0
VIOLATIONS_EVERY_SECONDS = 60.0
# The first reading comes after so much of its period.
FIRST_AFTER = (0.05, 0.25)
# Pause after a reading, at least this many times as long as it took.
PAUSE_FACTOR = 199

T = TypeVar("T")

logger = get_logger()


class Reading(Generic[T]):
    """The last value that could be read, and how old it is (before the first: this object)."""

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
    """What `keep_sampling` has read so far."""

    def __init__(self) -> None:
        self.jobs = Reading[JobSample]()
        self.outbox = Reading[OutboxSample]()
        self.snapshots = Reading[SnapshotSample]()
        self.violations = Reading[dict[str, int]]()


async def keep_sampling(
    database: Database,
    samples: Samples,
    *,
    every_seconds: float = SAMPLE_EVERY_SECONDS,
    violations_every_seconds: float = VIOLATIONS_EVERY_SECONDS,
) -> None:
    """Keep `samples` fresh until cancelled; a database that does not answer is tried again."""
    turn = anyio.Lock()

    async def keep(reading: Reading[T], sample: Sample[T], seconds: float) -> None:
        # Not all at once, at the start of a worker or of a fleet.
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
        parts.start_soon(keep, samples.violations, _violations, violations_every_seconds)


Sample = Callable[[Connection], Awaitable[T]]


# Errors are not logged here: the claim loop meets the same database and says so once.
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
