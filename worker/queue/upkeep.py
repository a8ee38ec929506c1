"""The queue's upkeep: due timers, cancel requests, lost claims, unknown modes, rescue, the sweep.

In: rows that nobody here has claimed. Out: jobs that go on, and attempts that are told to stop.
Invariant: whether a worker is dead is the judge's verdict (`worker/daemon/judge.py`); nothing here
looks at a clock.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import random
from time import monotonic
from typing import Protocol
from uuid import UUID

from db.pool import Database
from db.queue import promote, rescue, windows, workers
from db.queue.upkeep import DueWork
from worker import crash_points, events
from worker.daemon.heartbeat import Heartbeat
from worker.daemon.upkeep import Did, DuePart, LookCost, Part
from worker.daemon.vitals import Vitals
from worker.log import get_logger
from worker.outcomes import Canceled, Lost, Outcome
from worker.queue.promote import Promoter
from worker.queue.wake import Wakes

TIMER_BATCH = 500
RESCUE_BATCH = 500
JOB_IDS_LOGGED_MAX = 20
# One worker of all sweeps slice after slice, to the end of what waits for a reason or for two
# seconds. At 7 us a job it finds what was lost among 200,000 that wait within ten seconds. The
# others sweep a little, for the case that it does not.
SWEEP_BATCH_FIRST = 5000
SWEEP_BATCH = 200
SWEEP_SECONDS_MAX = 2.0
# It rests nine times as long as it has swept, but never for long.
SWEEP_COST_FACTOR = 9
SWEEP_PAUSE_SECONDS_MAX = 4.0
RUNS_BATCH = 200
ORPHANS_BATCH = 100
SHELVE_BATCH = 1000
WINDOWS_BATCH = 1000
STRAYS_BATCH = 500
SHELVE_PERIOD_SECONDS = 5.0
WINDOWS_PERIOD_SECONDS = 60.0
WINDOWS_PAUSE_SECONDS = 0.2
CANCEL_PERIOD_SECONDS = 5.0
STRAYS_PERIOD_SECONDS = 5.0
# How often to ask the judge, which asks nobody.
VERDICTS_PERIOD_SECONDS = 0.25
# A job under our name without an attempt is looked at again after this, then given back.
SUSPECTS_PERIOD_SECONDS = 1.0
# An insert that is due sooner than this notifies (`arrive` in the schema). A look this often,
# however rarely the worker polls, finds every other timer before its time. One worker of all makes
# it; the others look now and then, for the case that it does not.
TIMER_LOOK_SECONDS = 1.0
TIMER_LOOK_SECONDS_OTHERS = 5.0
# Sleep 2 ms past the due time, so a timer never fires early.
TIMER_SLACK_SECONDS = 0.002
# A due timer whose row somebody holds is looked at again after this.
HELD_PAUSE_SECONDS = 0.05
FIRST_ID = UUID(int=0)
FIRST_LANE = ""

log = get_logger()


@dataclass(frozen=True, slots=True)
class RescueBounds:
    """When a worker counts as dead, and what its jobs may cost; seconds."""

    after_seconds: float
    crashes_max: int
    retry_base_seconds: float
    retry_max_seconds: float


class Attempts(Protocol):
    """The attempts of this worker: `Running`."""

    def job_ids(self) -> list[UUID]: ...

    def stop(self, job_id: UUID, lease_no: int | None, cause: Outcome) -> None: ...


def parts(
    database: Database,
    heartbeat: Heartbeat,
    vitals: Vitals,
    attempts: Attempts,
    rescuer: "Rescuer",
    wakes: Wakes,
    *,
    poll_seconds: float,
) -> list[Part]:
    """What has to look for itself."""
    strays = Strays(database, heartbeat, vitals, attempts)
    return [
        Part(
            "timers",
            TIMER_LOOK_SECONDS,
            partial(_promote_due, database, heartbeat, poll_seconds),
            wakes=wakes.work,
            woken_by=wakes.timers,
        ),
        Part(
            "cancel",
            CANCEL_PERIOD_SECONDS,
            partial(_stop_canceled, database, heartbeat, attempts),
            woken_by=wakes.cancels,
        ),
        Part(
            "strays",
            STRAYS_PERIOD_SECONDS,
            strays.give_back,
            wakes=wakes.work,
            woken_by=wakes.lost_claims,
        ),
        Part("unique windows", WINDOWS_PERIOD_SECONDS, partial(_forget_windows, database)),
        Part("shelve", SHELVE_PERIOD_SECONDS, Shelf(database).work),
        Part("rescue", VERDICTS_PERIOD_SECONDS, rescuer.work, wakes=wakes.work),
    ]


def due_parts(
    database: Database, heartbeat: Heartbeat, rescuer: "Rescuer", wakes: Wakes
) -> list[DuePart]:
    """What the common look finds."""
    return [
        DuePart(
            "rescue",
            lambda found: found.rescue and rescuer.may_take_rowless(),
            lambda _: rescuer.rescue(),
            wakes=wakes.work,
        ),
        DuePart(
            "sweep",
            lambda found: bool(found.sweep),
            Sweep(database, heartbeat).work,
            wakes=wakes.work,
        ),
    ]


async def _promote_due(database: Database, heartbeat: Heartbeat, poll_seconds: float) -> Did:
    async with database.connection() as connection:
        due_in = await promote.next_due_seconds(connection)
        if due_in is None or due_in > 0:
            first = heartbeat.is_first()
            look = min(TIMER_LOOK_SECONDS, poll_seconds) if first else TIMER_LOOK_SECONDS_OTHERS
            look *= 0.9 + 0.1 * random()
            pause = look if due_in is None else min(look, due_in + TIMER_SLACK_SECONDS)
            return Did(pause_seconds=pause)
        promoted = await promote.promote_due(connection, TIMER_BATCH)
    log.debug(events.TIMERS_PROMOTED, jobs=promoted)
    return Did(moved=True, pause_seconds=0.0 if promoted else HELD_PAUSE_SECONDS)


async def _forget_windows(database: Database) -> Did:
    async with database.connection() as connection:
        forgotten = await windows.forget(connection, WINDOWS_BATCH)
    return Did(pause_seconds=WINDOWS_PAUSE_SECONDS if forgotten == WINDOWS_BATCH else None)


async def _stop_canceled(database: Database, heartbeat: Heartbeat, attempts: Attempts) -> Did:
    worker_id, job_ids = heartbeat.pulse.worker_id, attempts.job_ids()
    if worker_id is not None and job_ids:
        async with database.connection() as connection:
            for asked in await rescue.cancel_requests(connection, worker_id, job_ids):
                cause = Canceled(asked["error"] or "canceled")
                if asked["lease_no"] is None:
                    cause = Lost("the job was deleted")
                attempts.stop(asked["id"], asked["lease_no"], cause)
    return Did()


class Strays:
    """Queues again the jobs that run under our name without an attempt: lost answers to claims.

    A job is given back when two looks find it so. One look may see a claim that is not answered
    yet. Between the two the claim loop must have begun another turn: then every job that it had
    claimed by the first look has its attempt by the second.
    """

    def __init__(
        self, database: Database, heartbeat: Heartbeat, vitals: Vitals, attempts: Attempts
    ) -> None:
        self._database = database
        self._heartbeat = heartbeat
        self._vitals = vitals
        self._attempts = attempts
        self._suspects: set[int] = set()
        self._suspected_at = monotonic()
        self._cost = LookCost(STRAYS_PERIOD_SECONDS)

    async def give_back(self) -> Did:
        """Look once; looks again soon while there are suspects."""
        worker_id = self._heartbeat.proven_id()
        if worker_id is None:
            self._suspects = set()
            return Did()
        turn_seconds = self._vitals.claim_loop_age_seconds
        turned = turn_seconds is not None and monotonic() - turn_seconds > self._suspected_at
        async with self._database.connection() as connection:
            began = monotonic()
            found = await rescue.find_strays(
                connection, worker_id, self._attempts.job_ids(), STRAYS_BATCH
            )
            looked_seconds = monotonic() - began
            sure: set[int] = found & self._suspects if turned else set()
            released = await rescue.release_strays(connection, worker_id, sure) if sure else []
        self._suspects, self._suspected_at = found, monotonic()
        if released:
            log.warning(events.JOBS_RELEASED, jobs=len(released), reason="no attempt of ours")
        if self._suspects:
            return Did(bool(released), SUSPECTS_PERIOD_SECONDS)
        return Did(bool(released), self._cost.pause_seconds(looked_seconds))


class Shelf:
    """Has queued jobs of modes that no living worker knows wait for a handler."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cost = LookCost(SHELVE_PERIOD_SECONDS)

    async def work(self) -> Did:
        """Look once."""
        async with self._database.connection() as connection:
            began = monotonic()
            modes = await promote.shelve_unknown(connection, SHELVE_BATCH)
            looked_seconds = monotonic() - began
        if modes:
            log.warning(events.HANDLER_MISSING, modes=modes)
        return Did(pause_seconds=self._cost.pause_seconds(looked_seconds))


class Rescuer:
    """Takes back the jobs of dead workers, and of workers without a row."""

    def __init__(
        self,
        database: Database,
        heartbeat: Heartbeat,
        promoter: Promoter,
        bounds: RescueBounds,
        rescued: Callable[[int], None],
    ) -> None:
        """`rescued` counts jobs."""
        self._database = database
        self._heartbeat = heartbeat
        self._promoter = promoter
        self._bounds = bounds
        self._rescued = rescued

    def may_take_rowless(self) -> bool:
        """Whether jobs of a worker without a row may be taken.

        It may live, and find out at its next heartbeat that its row is gone.
        """
        return self._heartbeat.unbroken_seconds() >= self._bounds.after_seconds

    async def work(self) -> Did:
        """Rescue if anybody is dead; asks the database only then."""
        moved = bool(self._heartbeat.dead_workers()) and await self.rescue()
        return Did(moved, 0.0 if moved else None)  # there may be another batch

    async def rescue(self) -> bool:
        """Take back a batch of jobs; bury the dead once they have none. Whether there were any."""
        bounds, dead = self._bounds, self._heartbeat.dead_workers()
        async with self._database.connection() as connection:
            jobs = await rescue.rescue(
                connection,
                dead,
                rowless=self.may_take_rowless(),
                crashes_max=bounds.crashes_max,
                retry_base_seconds=bounds.retry_base_seconds,
                retry_max_seconds=bounds.retry_max_seconds,
                most=RESCUE_BATCH,
            )
            if not jobs:
                await workers.bury(connection, dead)
                return False
        crash_points.reach("rescue.committed")
        failed = sum(job["status"] == "failed" for job in jobs)
        job_ids = [str(job["id"]) for job in jobs[:JOB_IDS_LOGGED_MAX]]
        log.warning(events.JOBS_RESCUED, jobs=len(jobs), failed=failed, job_ids=job_ids)
        self._rescued(len(jobs))
        self._promoter.ended([job["id"] for job in jobs])
        return True


class Sweep:
    """Moves on waiting jobs that a crash or a late commit left behind, slice by slice."""

    def __init__(self, database: Database, heartbeat: Heartbeat) -> None:
        self._database = database
        self._heartbeat = heartbeat
        self._swept_to: defaultdict[str, UUID] = defaultdict(lambda: FIRST_ID)
        self._lanes_to = FIRST_LANE
        self._rests_until = -math.inf

    async def work(self, found: DueWork) -> bool:
        """Sweep each reason; returns whether something that was left open is closed."""
        began, moved = monotonic(), False
        if began < self._rests_until:
            return False
        for reason in found.sweep:
            moved = await self._reason(reason) or moved
        pause = SWEEP_COST_FACTOR * (monotonic() - began)
        self._rests_until = monotonic() + min(pause, SWEEP_PAUSE_SECONDS_MAX)
        return moved

    async def _reason(self, reason: str) -> bool:
        # Runs and what is left open on ended jobs may be locked: a slice of them at each look.
        goes_on = self._heartbeat.is_first() and reason not in ("run", "orphan")
        most = SWEEP_BATCH_FIRST if goes_on else SWEEP_BATCH
        give_up, moved = monotonic() + SWEEP_SECONDS_MAX, False
        while True:
            if reason == "lane":
                at_end = await self._lanes(most)
            else:
                closed, stopped = await self._slice(reason, self._swept_to[reason], most)
                self._swept_to[reason], at_end = stopped, stopped == FIRST_ID
                moved = moved or closed > 0
            if at_end or not goes_on or monotonic() > give_up:
                return moved

    async def _lanes(self, most: int) -> bool:
        async with self._database.connection() as connection:
            stopped = await promote.sweep_lanes(connection, self._lanes_to, most)
        self._lanes_to = stopped or FIRST_LANE
        return stopped is None

    async def _slice(self, reason: str, after: UUID, most: int) -> tuple[int, UUID]:
        """The number of orphans closed, and the id to go on after."""
        closed = 0
        async with self._database.connection() as connection:
            if reason == "run":
                stopped = await promote.sweep_runs(connection, after, RUNS_BATCH)
            elif reason == "orphan":
                closed, stopped = await promote.close_orphans(connection, after, ORPHANS_BATCH)
            else:
                stopped = await promote.sweep(connection, reason, after, most)
        return closed, stopped or FIRST_ID
