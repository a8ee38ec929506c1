"""Claiming: from free slots to running attempts.

In: free slots, wake-ups and the poll interval. Out: attempts. The claimer remembers one position
per queue and priority and looks only beyond it, so the dead entries at the head of the index are
not walked again. A job that was committed late lies behind that position; a rescan, a look from the
start of the index at most twice a second, finds it. While somebody holds a snapshot, a rescan walks
every dead entry. It is then made so much more rarely that it takes a hundredth of the time, but
every three seconds at least. NOTIFY is a hint: the poll is the truth.

A claim whose answer was lost leaves jobs that run under our name without an attempt. Upkeep queues
them again, once two looks have found them and a turn of the claim loop came in between. An answer
may also come late, when others have taken us for dead and run the jobs: without a living heartbeat
nothing starts, and what came is given back.

Rejected: two claims at a time, which walk over each other's locked rows and are slower; an
asynchronous commit of the claim, after which a crash of the server could draw the same lease number
again.
"""

import math
from collections.abc import Sequence
from random import random
from time import monotonic as now
from typing import Protocol
from uuid import UUID

import anyio.lowlevel

from db.errors import JobsworthError
from db.limits import fairness
from db.pool import Connection, Database
from db.queue import claim as claiming
from db.queue import rescue, workers
from db.queue.claim import FIRST, Claim, Claimed
from worker import crash_points, events
from worker.daemon.heartbeat import Heartbeat
from worker.daemon.patience import Patience
from worker.daemon.vitals import Vitals
from worker.limits.fair_queues import FairQueues
from worker.log import get_logger
from worker.queue.promote import Promoter
from worker.queue.wake import Wakes
from worker.repeats import Repeats
from worker.rescans import Rescans

PRIORITIES = (1, 2, 3, 4)
# Large enough that one batch is claimed while another runs and a third is committed.
CLAIM_MAX = 1000
IDLE_CHANGE_SECONDS = 1.0
ERROR_PAUSE_SECONDS = 0.5
UNREGISTERED_SECONDS = 0.05
# A worker that has claimed all there was, and is not woken for so long, has little to do.
QUIET_SECONDS = 0.002
# Another claim held the gate of a limit that the next jobs have to pass; it takes milliseconds.
HELD_GATE_SECONDS = 0.02
# Until the idle flag is set again after a busy time, no insert notifies: look more often.
UNFLAGGED_SECONDS = 0.1
LANE_COLLISION = "23505"

log = get_logger()


class Positions:
    """Where to look for the next jobs: beyond the last claimed one, per queue and priority."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._places = [(queue_name, priority) for priority in PRIORITIES for queue_name in queues]
        self._beyond: dict[tuple[str, int], int] = {}
        self._rescans = Rescans()

    def probes(self, at: float) -> list[tuple[str, int, int]]:
        """(queue, priority, position) in the order to look; `FIRST` when a rescan is due."""
        rescan = self._rescans.is_due(at)
        return [
            (name, priority, FIRST if rescan else self._beyond.get((name, priority), FIRST))
            for name, priority in self._places
        ]

    def claimed_up_to(self, positions: dict[tuple[str, int], int]) -> None:
        """Remember the last position that was claimed, which never moves back."""
        for place, position in positions.items():
            self._beyond[place] = max(position, self._beyond.get(place, FIRST))
            self._rescans.moved()

    def look_took(self, seconds: float) -> None:
        """Account for the duration of the last look."""
        self._rescans.look_took(seconds)

    def next_rescan_in_seconds(self, at: float) -> float:
        """When to rescan: something may lie behind the claimed jobs. Infinite without a claim."""
        return self._rescans.next_in_seconds(at)


class Slots(Protocol):
    """What runs the claimed jobs; in a daemon, `Running`."""

    def free_slots(self) -> int: ...

    def is_busy(self) -> bool: ...

    def has_suspect(self) -> bool: ...

    def start(self, job: Claimed, worker_id: UUID) -> None: ...


class Claimer:
    """The claim loop of a daemon."""

    def __init__(
        self,
        database: Database,
        heartbeat: Heartbeat,
        slots: Slots,
        promoter: Promoter,
        vitals: Vitals,
        wakes: Wakes,
        *,
        queues: Sequence[str],
        modes: Sequence[str],
        poll_seconds: float,
        crashes_max: int,
        fair: FairQueues | None = None,
    ) -> None:
        self._heartbeat = heartbeat
        self._slots = slots
        self._promoter = promoter
        self._vitals = vitals
        self._wakes = wakes
        self._positions = Positions(queues)
        self._fair = fair or FairQueues(queues)
        self._modes = list(modes)
        self._repeats = Repeats()
        self._poll_seconds = poll_seconds
        self._crashes_max = crashes_max
        self._patience = Patience(database)
        self._flag: tuple[UUID, bool] | None = None
        self._flag_changed_at = -IDLE_CHANGE_SECONDS
        self._found_nothing_at = now()
        self._found_all_at = math.inf
        self._full_since: float | None = None

    async def run(self) -> None:
        """Claim until cancelled."""
        while True:
            self._vitals.claim_loop_progress()
            self._wakes.work.clear()
            try:
                pause = await self._round()
            except JobsworthError as error:
                pause = self._pause_after(error)
            if pause > 0:
                await self._wakes.work.wait(pause)

    async def _round(self) -> float:
        """One claim; returns how long to wait for a wake-up before the next."""
        poll_seconds = self._poll_seconds * (0.9 + 0.2 * random())
        worker_id = self._heartbeat.proven_id()
        if worker_id is None:
            return min(poll_seconds, UNREGISTERED_SECONDS)
        wanted = min(CLAIM_MAX, self._slots.free_slots())
        if wanted == 0:
            await self._full(worker_id)
            return poll_seconds
        self._full_since = None
        if now() - self._found_all_at > QUIET_SECONDS:
            self._found_nothing_at, self._found_all_at = now(), math.inf
        claim = await self._claim(worker_id, wanted)
        self._worked()
        at = now()
        pause = min(
            poll_seconds,
            self._positions.next_rescan_in_seconds(at),
            self._fair.next_rescan_in_seconds(at),
        )
        if claim.jobs or claim.deferred_lanes or claim.held_up:
            if len(claim.jobs) < wanted:
                # Slots are left, so the next look can wait until these jobs have begun.
                await anyio.lowlevel.checkpoint()
            await self._busy(worker_id)
            if not claim.all_found or self._flag != (worker_id, True):
                return 0
            # Whatever becomes ready from now on wakes an idle worker. Another look after each job
            # of a lane made 1.8 claims a job.
            self._found_all_at = now()
            return pause
        if not claim.all_found:
            return HELD_GATE_SECONDS
        return await self._idle(worker_id, pause)

    def _worked(self) -> None:
        if self._vitals.database_trouble is not None:
            self._vitals.database_trouble = None
            self._repeats.forget()

    def _pause_after(self, error: JobsworthError) -> float:
        if getattr(error, "sqlstate", None) == LANE_COLLISION:
            return 0
        if error.retriable:
            self._wakes.lost_claims.set()  # the claim may have been committed
        if self._repeats.due(str(error)):
            log.warning(events.CLAIM_FAILED, error=error)
        self._vitals.database_trouble = str(error)
        return ERROR_PAUSE_SECONDS * (0.5 + random())

    async def _claim(self, worker_id: UUID, wanted: int) -> Claim:
        """Claim from the first of the queues in turn that has a job."""
        first, *others = self._fair.turns()
        claim = await self._claim_from(first, worker_id, wanted)
        for queue in others:
            if not (claim.jobs or claim.deferred_lanes or claim.held_up):
                claim = await self._claim_from(queue, worker_id, wanted)
        return claim

    async def _claim_from(self, queue: str | None, worker_id: UUID, wanted: int) -> Claim:
        async with self._patience.connection() as connection:
            if queue is None:
                claim = await self._claim_plain(connection, worker_id, wanted)
            else:
                claim = await self._claim_fair(connection, queue, worker_id, wanted)
        crash_points.reach("claim.committed")
        self._promoter.deferred(claim.deferred_lanes)
        if claim.held_up:
            crash_points.reach("claim.held_up")
            self._promoter.ended(claim.held_up)
            self._wakes.rates.set()
        if claim.jobs and self._heartbeat.proven_id() != worker_id:
            await self._give_back(worker_id, claim.jobs)
            return claim
        for job in claim.jobs:
            self._slots.start(job, worker_id)
        return claim

    async def _claim_plain(self, connection: Connection, worker_id: UUID, wanted: int) -> Claim:
        began = now()
        claim = await claiming.claim(
            connection,
            worker_id=worker_id,
            probes=self._positions.probes(began),
            modes=self._modes,
            wanted=wanted,
            crashes_max=self._crashes_max,
            suspect_wanted=not self._slots.has_suspect(),
            alone=not self._slots.is_busy(),
        )
        self._positions.look_took(now() - began)
        self._positions.claimed_up_to(claim.positions)
        return claim

    async def _claim_fair(
        self, connection: Connection, queue: str, worker_id: UUID, wanted: int
    ) -> Claim:
        began, rescans = now(), self._fair.rescans.get(queue, Rescans())
        claim = await fairness.claim_fair(
            connection,
            worker_id=worker_id,
            queue=queue,
            modes=self._modes,
            wanted=wanted,
            crashes_max=self._crashes_max,
            suspect_wanted=not self._slots.has_suspect(),
            alone=not self._slots.is_busy(),
            rescan=rescans.is_due(began),
        )
        rescans.look_took(now() - began)
        if claim.jobs:
            rescans.moved()
        return claim

    async def _give_back(self, worker_id: UUID, jobs: Sequence[Claimed]) -> None:
        async with self._patience.connection() as connection:
            leases = [job.lease_no for job in jobs]
            released = await rescue.release_strays(connection, worker_id, leases)
        log.warning(events.JOBS_RELEASED, jobs=len(released), reason="claimed without a heartbeat")

    async def _busy(self, worker_id: UUID) -> None:
        """Stop notifications once every claim of the last second has found something."""
        if now() - self._found_nothing_at > IDLE_CHANGE_SECONDS:
            await self._set_idle(worker_id, idle=False)

    async def _full(self, worker_id: UUID) -> None:
        """Stop notifications once every slot has been taken for a while."""
        self._full_since = self._full_since or now()
        if now() - self._full_since >= IDLE_CHANGE_SECONDS:
            await self._set_idle(worker_id, idle=False)

    async def _idle(self, worker_id: UUID, pause: float) -> float:
        """Ask for notifications; returns how long to wait for one."""
        self._found_nothing_at = self._found_all_at = now()
        if self._flag == (worker_id, True):
            return pause
        allowed_in = self._flag_changed_at + IDLE_CHANGE_SECONDS - now()
        if allowed_in > 0:
            return min(pause, allowed_in, UNFLAGGED_SECONDS)
        # Set the flag, then look once more: a job enqueued meanwhile either notifies or is found.
        await self._set_idle(worker_id, idle=True)
        return 0

    async def _set_idle(self, worker_id: UUID, *, idle: bool) -> None:
        if self._flag == (worker_id, idle):
            return
        self._flag = None  # unknown until the answer is here
        async with self._patience.connection() as connection:
            await workers.set_idle(connection, worker_id, idle)
        self._flag = (worker_id, idle)
        self._flag_changed_at = now()
