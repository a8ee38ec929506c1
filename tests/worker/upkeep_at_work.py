"""The daemon's upkeep at work beside a test, in quick rounds, with a record of whom it woke."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import pytest

from db.fence import Lease
from db.pool import Database
from db.queue.jobs import JobStatus
from tests.db.rows import take
from tests.support import until
from tests.worker.job_api import JobApi
from tests.worker.queue.standins import CountedWake, RecordedPromoter, SteeredJudge, beat, heartbeat
from worker.daemon import upkeep as runner
from worker.daemon.heartbeat import Heartbeat
from worker.daemon.parts import upkeep_parts
from worker.daemon.upkeep import Part
from worker.daemon.vitals import Vitals
from worker.limits.fair_queues import FairQueues
from worker.money.recording import Recorder
from worker.money.spool import Spool
from worker.money.spool_folder import SpoolFolder
from worker.outcomes import Canceled, Outcome
from worker.queue import upkeep as queue_upkeep
from worker.queue.upkeep import RescueBounds
from worker.queue.wake import Wakes

RESCUE_SECONDS = 10.0
ROUND_SECONDS = 0.02


class SteeredVitals(Vitals):
    """Vitals whose claim loop began its turn when the test says."""

    turn_seconds: float | None = 0.0

    @property
    def claim_loop_age_seconds(self) -> float | None:
        return self.turn_seconds


@dataclass
class Attempts:
    """The attempts of this worker, as the test says, and those that were told to stop."""

    ids: list[UUID] = field(default_factory=list[UUID])
    canceled: list[tuple[UUID, int | None, str]] = field(
        default_factory=list[tuple[UUID, int | None, str]]
    )

    def job_ids(self) -> list[UUID]:
        return self.ids

    def stop(self, job_id: UUID, lease_no: int | None, cause: Outcome) -> None:
        assert isinstance(cause, Canceled)
        self.canceled.append((job_id, lease_no, cause.reason))


class Kept:
    """A running upkeep, and what it told the rest of the daemon."""

    def __init__(self, database: Database, heart: Heartbeat, judge: SteeredJudge) -> None:
        self._heart = heart
        self.judge = judge
        self.vitals = SteeredVitals(uuid4(), 1)
        self.attempts = Attempts()
        self.promoter = RecordedPromoter(database)
        self.work = CountedWake()
        self.wakes = Wakes(work=self.work)
        self.rescued: list[int] = []
        # Never written to, so it is never made.
        nowhere = SpoolFolder(Path("/nonexistent/jobsworth-spool"), 0)
        self.parts = upkeep_parts(
            database,
            heart,
            self.vitals,
            self.attempts,
            self.promoter,
            Spool(database, nowhere),
            Recorder(database, 7),
            self.wakes,
            RescueBounds(
                RESCUE_SECONDS, crashes_max=3, retry_base_seconds=60, retry_max_seconds=3600
            ),
            poll_seconds=0.05,
            windows_days=90,
            rescued=self.rescued.append,
            registry={},
            fair=FairQueues([]),
        )

    @property
    def moves(self) -> int:
        """How often the claimer was woken."""
        return self.work.times

    def beat(self, unbroken_seconds: float) -> None:
        """As if the heart had beaten just now, and without a gap for so long."""
        beat(self._heart, self._heart.pulse.worker_id, unbroken_seconds=unbroken_seconds)

    def fall_silent(self) -> None:
        """As if no beat had succeeded for long."""
        self._heart.pulse = replace(self._heart.pulse, beaten_at=float("-inf"))


@asynccontextmanager
async def upkeep(
    api: JobApi,
    *,
    unbroken_seconds: float = 0,
    worker_id: UUID | None = None,
    database: Database | None = None,
    periods: Mapping[str, float] | None = None,
) -> AsyncGenerator[Kept]:
    """Upkeep at work, of a worker whose heart has beaten so long without a gap.

    `periods` are those of parts that shall not have the short one of all others, in seconds.
    """
    judge = SteeredJudge()
    heart = heartbeat(api.url, worker_id or uuid4(), unbroken_seconds=unbroken_seconds, judge=judge)
    kept = Kept(database or api.database, heart, judge)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "COST_FACTOR", 0)
        patch.setattr(queue_upkeep, "SUSPECTS_PERIOD_SECONDS", ROUND_SECONDS)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, [_brisk(part, periods or {}) for part in kept.parts])
            yield kept
            tasks.cancel_scope.cancel()


def _brisk(part: Part, periods: Mapping[str, float]) -> Part:
    return replace(part, period_seconds=periods.get(part.name, ROUND_SECONDS))


async def running_job(api: JobApi, mode: str = "answer") -> Lease:
    """A job that a living worker of its own runs."""
    job_id = await api.enqueue(mode)
    async with api.database.connection() as connection:
        return await take(connection, job_id)


def status_is(api: JobApi, job_id: UUID, status: JobStatus) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return (await api.job(job_id)).status is status

    return check


async def a_few_rounds(api: JobApi) -> None:
    """Every part of the running upkeep has had its turn, some of them often."""
    for _ in range(3):
        job_id = await api.enqueue("answer", delay=3600)
        await api.database.execute(
            "update jobsworth.reactive_jobs set run_at = now() where id = %(id)s", {"id": job_id}
        )
        await until(status_is(api, job_id, JobStatus.QUEUED))


async def woken(kept: Kept) -> None:
    """Until the claimer was woken."""

    async def moved() -> bool:
        return kept.moves > 0

    await until(moved)
