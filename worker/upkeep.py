"""Upkeep: everything that happens to jobs without a claim of ours.

Timers, rescue, cancel requests, expired approvals, abandoned calls and deployments, unknown modes,
and the sweep that finds what a crash or a late commit left waiting. Each part runs in every daemon,
in bounded batches, skips what others hold, and goes on after an error. None of it rides on the
claim path.
"""

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import random
from uuid import UUID

import anyio

from db import approvals, queue, tokens, workers
from db.errors import JobsworthError
from db.pool import Database
from worker import crash_points, events
from worker.deployer import close_abandoned
from worker.heartbeat import Heartbeat
from worker.log import get_logger

TIMER_BATCH = 500
RESCUE_BATCH = 500
SWEEP_BATCH = 200
SHELVE_BATCH = 1000
ABANDONED_BATCH = 200
RESCUE_PERIOD_SECONDS = 1.5
SWEEP_PERIOD_SECONDS = 1.0
EXPIRE_PERIOD_SECONDS = 2.0
SHELVE_PERIOD_SECONDS = 3.0
ABANDONED_PERIOD_SECONDS = 10.0
DEPLOYMENTS_PERIOD_SECONDS = 2.0
CANCEL_PERIOD_SECONDS = 5.0
ORPHANS_PERIOD_SECONDS = 5.0
ORPHANS_BATCH = 100
# An insert that is due sooner than this notifies (`arrive` in the migration); looking this often,
# however seldom the worker polls, finds all others before their time.
TIMER_LOOK_SECONDS = 1.0
# Timers fire this early at most never, this late when idle: the sleep is cut a little short.
TIMER_SLACK_SECONDS = 0.002
# What is due and held by somebody is looked at again after this.
HELD_PAUSE_SECONDS = 0.05
FIRST_ID = UUID(int=0)
# Lanes stall on a late commit most easily, so every other look is theirs.
SWEEP_ORDER = (
    "lane",
    "children",
    "lane",
    "approval",
    "lane",
    "signal",
    "lane",
    "parents",
    "handler",
)

log = get_logger()


@dataclass(frozen=True, slots=True)
class Rescue:
    """The bounds of rescue; seconds."""

    after_seconds: float
    crashes_max: int
    retry_base_seconds: float
    retry_max_seconds: float


class Upkeep:
    """The parts of upkeep, as coroutines for the daemon's task group."""

    def __init__(
        self,
        database: Database,
        heartbeat: Heartbeat,
        rescue: Rescue,
        *,
        poll_seconds: float,
        ended: Callable[[list[UUID]], None],
        moved: Callable[[], None],
        rescued: Callable[[int], None],
        cancel: Callable[[UUID, int, str], None],
    ) -> None:
        self._database = database
        self._heartbeat = heartbeat
        self._rescue = rescue
        self._poll_seconds = poll_seconds
        self._ended = ended
        self._moved = moved
        self._rescued = rescued
        self._cancel = cancel
        self._timer_set = anyio.Event()
        self._cancel_asked = anyio.Event()

    def timer_set(self) -> None:
        """A timer that may be due within a second was set."""
        self._timer_set.set()

    def cancel_asked(self) -> None:
        """Somebody asked to cancel a running job, perhaps one of ours."""
        self._cancel_asked.set()

    async def run(self) -> None:
        """All parts, until cancelled."""
        async with anyio.create_task_group() as parts:
            parts.start_soon(self._timers)
            parts.start_soon(self._cancels)
            parts.start_soon(self._every, "rescue", RESCUE_PERIOD_SECONDS, self._rescue_dead)
            parts.start_soon(self._every, "expire", EXPIRE_PERIOD_SECONDS, self._expire)
            parts.start_soon(self._every, "shelve", SHELVE_PERIOD_SECONDS, self._shelve)
            parts.start_soon(self._every, "calls", ABANDONED_PERIOD_SECONDS, self._abandoned)
            parts.start_soon(
                self._every, "deployments", DEPLOYMENTS_PERIOD_SECONDS, self._close_deployments
            )
            parts.start_soon(self._every, "orphans", ORPHANS_PERIOD_SECONDS, self._close_orphans)
            parts.start_soon(self._every, "sweep", SWEEP_PERIOD_SECONDS, self._sweeper())

    async def _every(
        self, part: str, period_seconds: float, work: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            await self._guarded(part, work)
            await anyio.sleep(period_seconds * (0.8 + 0.4 * random()))

    async def _guarded(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except JobsworthError as error:
            log.warning(events.UPKEEP_FAILED, part=part, error=str(error))

    async def _timers(self) -> None:
        while True:
            self._timer_set = anyio.Event()
            pause = TIMER_LOOK_SECONDS
            try:
                pause = await self._promote_due()
            except JobsworthError as error:
                log.warning(events.UPKEEP_FAILED, part="timers", error=str(error))
            with anyio.move_on_after(pause):
                await self._timer_set.wait()

    async def _promote_due(self) -> float:
        """Move on what is due; returns how long to wait before looking again."""
        async with self._database.connection() as connection:
            due_in = await queue.next_due_seconds(connection)
            if due_in is None or due_in > 0:
                look = min(TIMER_LOOK_SECONDS, self._poll_seconds) * (0.9 + 0.1 * random())
                return look if due_in is None else min(look, due_in + TIMER_SLACK_SECONDS)
            promoted = await queue.promote_due(connection, TIMER_BATCH)
        log.debug(events.TIMERS_PROMOTED, jobs=promoted)
        self._moved()
        return 0.0 if promoted else HELD_PAUSE_SECONDS

    async def _cancels(self) -> None:
        while True:
            self._cancel_asked = anyio.Event()
            await self._guarded("cancel", self._look_for_cancels)
            with anyio.move_on_after(CANCEL_PERIOD_SECONDS):
                await self._cancel_asked.wait()

    async def _look_for_cancels(self) -> None:
        worker_id = self._heartbeat.pulse.worker_id
        if worker_id is None:
            return
        async with self._database.connection() as connection:
            for asked in await queue.cancel_requests(connection, worker_id):
                self._cancel(asked["id"], asked["lease_no"], asked["error"] or "canceled")

    async def _rescue_dead(self) -> None:
        # After an outage every heartbeat is old; only one that went on beating may judge others.
        if self._heartbeat.unbroken_seconds() < self._rescue.after_seconds:
            return
        async with self._database.connection() as connection:
            rescued = await queue.rescue(
                connection,
                rescue_seconds=self._rescue.after_seconds,
                crashes_max=self._rescue.crashes_max,
                retry_base_seconds=self._rescue.retry_base_seconds,
                retry_max_seconds=self._rescue.retry_max_seconds,
                most=RESCUE_BATCH,
            )
            if not rescued:
                await workers.bury(connection, self._rescue.after_seconds)
                return
        crash_points.reach("rescue.committed")
        log.warning(
            events.JOBS_RESCUED,
            jobs=len(rescued),
            failed=sum(job["status"] == "failed" for job in rescued),
        )
        self._rescued(len(rescued))
        self._ended([job["id"] for job in rescued])
        self._moved()

    async def _expire(self) -> None:
        async with self._database.connection() as connection:
            expired = await approvals.expire(connection, 100)
        if expired:
            log.info(events.APPROVALS_EXPIRED, approvals=expired)
            self._moved()

    async def _shelve(self) -> None:
        async with self._database.connection() as connection:
            modes = await queue.shelve_unknown(connection, SHELVE_BATCH)
        if modes:
            log.warning(events.HANDLER_MISSING, modes=modes)

    async def _close_orphans(self) -> None:
        async with self._database.connection() as connection:
            if await queue.close_orphans(connection, ORPHANS_BATCH):
                self._moved()

    async def _abandoned(self) -> None:
        async with self._database.connection() as connection:
            settled = await tokens.settle_abandoned(connection, ABANDONED_BATCH)
        if settled:
            log.warning(events.CALLS_ABANDONED, calls=settled)

    async def _close_deployments(self) -> None:
        if await close_abandoned(self._database):
            self._moved()

    def _sweeper(self) -> Callable[[], Awaitable[None]]:
        order = itertools.cycle(SWEEP_ORDER)
        after = dict.fromkeys(SWEEP_ORDER, FIRST_ID)

        async def sweep_one() -> None:
            reason = next(order)
            async with self._database.connection() as connection:
                stopped = await queue.sweep(connection, reason, after[reason], SWEEP_BATCH)
            after[reason] = stopped or FIRST_ID

        return sweep_one
