"""Upkeep: everything that happens to jobs without a claim of ours.

One look, every other second, says what there is to do: jobs of dead workers, expired approvals,
deployments without their job, and waiting jobs for the sweep that finds what a crash or a late
commit left. Only that is done then. Beside it run what is due to the instant (timers, cancel
requests) and what has to look for itself (unknown modes, strays, abandoned calls, days of the
ledger to close). All of it runs in every daemon, in bounded batches, skips what others hold, and
goes on after an error. None of it rides on the claim path.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import random
from time import monotonic
from typing import TypeVar
from uuid import UUID

import anyio

from db.approvals import approvals
from db.errors import JobsworthError
from db.money import budgets, settlements
from db.pool import Database
from db.queue import promote, upkeep, workers
from db.queue import rescue as rescuing
from db.queue.upkeep import DueWork
from worker import crash_points, events
from worker.daemon.heartbeat import Heartbeat
from worker.deployments.record import close_abandoned, close_idle
from worker.log import get_logger
from worker.memory.embed import Wake
from worker.money import days

TIMER_BATCH = 500
RESCUE_BATCH = 500
EXPIRE_BATCH = 100
SWEEP_BATCH = 200
ORPHANS_BATCH = 100
SHELVE_BATCH = 1000
STRAYS_BATCH = 500
ABANDONED_BATCH = 200
WINDOWS_BATCH = 500
CHORES_PERIOD_SECONDS = 2.0
SHELVE_PERIOD_SECONDS = 5.0
CANCEL_PERIOD_SECONDS = 5.0
STRAYS_PERIOD_SECONDS = 10.0
ABANDONED_PERIOD_SECONDS = 10.0
# Costs a listing of a folder, and no statement while it is empty.
SPOOL_PERIOD_SECONDS = 2.0
ENVIRONMENTS_PERIOD_SECONDS = 30.0
WINDOWS_PERIOD_SECONDS = 60.0
WINDOWS_PAUSE_SECONDS = 0.2
# A job under our name without an attempt is looked at again after this before it is given back.
SUSPECTS_PERIOD_SECONDS = 1.0
# While somebody holds a snapshot, a look walks ever more dead index entries. It is then made so
# much more rarely that it costs a hundredth of the time.
COST_FACTOR = 99
COST_PAUSE_SECONDS_MAX = 60.0
# An insert that is due sooner than this notifies (`arrive` in the migration); looking this often,
# however seldom the worker polls, finds all others before their time.
TIMER_LOOK_SECONDS = 1.0
# Timers fire this early at most never, this late when idle: the sleep is cut a little short.
TIMER_SLACK_SECONDS = 0.002
# What is due and held by somebody is looked at again after this.
HELD_PAUSE_SECONDS = 0.05
FIRST_ID = UUID(int=0)

T = TypeVar("T")
# Returns how soon to work again, in seconds; None leaves it to the part's period.
Work = Callable[[], Awaitable[float | None]]

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
        windows_days: int,
        known: Callable[[], list[UUID]],
        drain_spool: Callable[[], Awaitable[int]],
        turn_seconds: Callable[[], float | None],
        ended: Callable[[list[UUID]], None],
        moved: Callable[[], None],
        rescued: Callable[[int], None],
        cancel: Callable[[UUID, int, str], None],
    ) -> None:
        """`known` are the jobs with an attempt here; `turn_seconds` is the time since the claim
        loop began its turn.
        """
        self._database = database
        self._heartbeat = heartbeat
        self._rescue = rescue
        self._poll_seconds = poll_seconds
        self._windows_days = windows_days
        self._known = known
        self._drain_spool = drain_spool
        self._turn_seconds = turn_seconds
        self._ended = ended
        self._moved = moved
        self._rescued = rescued
        self._cancel = cancel
        self._timer_set = Wake()
        self._cancel_asked = Wake()
        self._claim_unanswered = Wake()
        self._swept: defaultdict[str, UUID] = defaultdict(lambda: FIRST_ID)
        self._closer = days.Closer(database)
        self._turn = 0
        self._suspects: set[int] = set()
        self._suspected_at = monotonic()

    def timer_set(self) -> None:
        """A timer that may be due within a second was set."""
        self._timer_set.set()

    def cancel_asked(self) -> None:
        """Somebody asked to cancel a running job, perhaps one of ours."""
        self._cancel_asked.set()

    def claim_unanswered(self) -> None:
        """A claim of ours may have been committed without an answer."""
        self._claim_unanswered.set()

    async def run(self) -> None:
        """All parts, until cancelled."""
        async with anyio.create_task_group() as parts:
            for part, period_seconds, work, wake in (
                ("timers", TIMER_LOOK_SECONDS, self._promote_due, self._timer_set),
                ("cancel", CANCEL_PERIOD_SECONDS, self._look_for_cancels, self._cancel_asked),
                ("strays", STRAYS_PERIOD_SECONDS, self._give_strays_back, self._claim_unanswered),
                ("chores", CHORES_PERIOD_SECONDS, self._do_chores, Wake()),
                ("shelve", SHELVE_PERIOD_SECONDS, self._shelve, Wake()),
                ("spool", SPOOL_PERIOD_SECONDS, self._settle_spooled, Wake()),
                ("calls", ABANDONED_PERIOD_SECONDS, self._settle_abandoned, Wake()),
                ("environments", ENVIRONMENTS_PERIOD_SECONDS, self._free_environments, Wake()),
                ("windows", WINDOWS_PERIOD_SECONDS, self._forget_windows, Wake()),
                ("ledger", days.PERIOD_SECONDS, self._closer.work, Wake()),
            ):
                parts.start_soon(self._every, part, period_seconds, work, wake)

    async def _every(self, part: str, period_seconds: float, work: Work, wake: Wake) -> None:
        while True:
            pause = await self._guarded(part, work)
            await wake.wait(period_seconds * (0.8 + 0.4 * random()) if pause is None else pause)

    async def _guarded(self, part: str, work: Callable[[], Awaitable[T]]) -> T | None:
        try:
            return await work()
        except JobsworthError as error:
            log.warning(events.UPKEEP_FAILED, part=part, error=str(error))
            return None

    async def _promote_due(self) -> float:
        """Move on what is due; returns how long to wait before looking again."""
        async with self._database.connection() as connection:
            due_in = await promote.next_due_seconds(connection)
            if due_in is None or due_in > 0:
                look = min(TIMER_LOOK_SECONDS, self._poll_seconds) * (0.9 + 0.1 * random())
                return look if due_in is None else min(look, due_in + TIMER_SLACK_SECONDS)
            promoted = await promote.promote_due(connection, TIMER_BATCH)
        log.debug(events.TIMERS_PROMOTED, jobs=promoted)
        self._moved()
        return 0.0 if promoted else HELD_PAUSE_SECONDS

    async def _look_for_cancels(self) -> None:
        worker_id, known = self._heartbeat.pulse.worker_id, self._known()
        if worker_id is None or not known:
            return
        async with self._database.connection() as connection:
            for asked in await rescuing.cancel_requests(connection, worker_id, known):
                self._cancel(asked["id"], asked["lease_no"], asked["error"] or "canceled")

    async def _give_strays_back(self) -> float | None:
        """Queue again what runs under our name without an attempt, found so by two looks.

        One look does not tell: it may show a claim that is not answered yet. Between the two the
        claim loop must have begun a turn, so whatever it had claimed is known by the second.
        """
        worker_id = self._heartbeat.pulse.worker_id
        if worker_id is None or not self._heartbeat.alive():
            self._suspects = set()
            return None
        began, turn_seconds = monotonic(), self._turn_seconds()
        turned = turn_seconds is not None and began - turn_seconds > self._suspected_at
        async with self._database.connection() as connection:
            strays = await rescuing.find_strays(connection, worker_id, self._known(), STRAYS_BATCH)
            looked_seconds = monotonic() - began
            sure: set[int] = strays & self._suspects if turned else set()
            released = await rescuing.release_strays(connection, worker_id, sure) if sure else []
        self._suspects, self._suspected_at = strays, monotonic()
        if released:
            log.warning(events.JOBS_RELEASED, jobs=len(released), reason="no attempt of ours")
            self._moved()
        if self._suspects:
            return SUSPECTS_PERIOD_SECONDS
        return seldom(looked_seconds, STRAYS_PERIOD_SECONDS)

    async def _shelve(self) -> float | None:
        async with self._database.connection() as connection:
            began = monotonic()
            modes = await promote.shelve_unknown(connection, SHELVE_BATCH)
            looked_seconds = monotonic() - began
        if modes:
            log.warning(events.HANDLER_MISSING, modes=modes)
        return seldom(looked_seconds, SHELVE_PERIOD_SECONDS)

    async def _settle_spooled(self) -> None:
        await self._drain_spool()

    async def _settle_abandoned(self) -> None:
        async with self._database.connection() as connection:
            settled = await settlements.settle_abandoned(connection, ABANDONED_BATCH)
            if settled.freed_budgets:
                await budgets.wake(connection, settled.freed_budgets)
        if settled.calls:
            log.warning(events.CALLS_ABANDONED, calls=settled.calls)

    async def _forget_windows(self) -> float | None:
        """Returns how soon to go on: at once, but for a breath, while there is more to forget."""
        async with self._database.connection() as connection:
            forgotten, stopped = await budgets.forget_windows(
                connection,
                self._swept["window"],
                days=self._windows_days,
                most=WINDOWS_BATCH,
            )
        self._swept["window"] = stopped or FIRST_ID
        return WINDOWS_PAUSE_SECONDS if forgotten == WINDOWS_BATCH else None

    async def _free_environments(self) -> None:
        if await close_idle(self._database):
            self._moved()

    async def _do_chores(self) -> float | None:
        async with self._database.connection() as connection:
            found = await upkeep.due_work(connection, self._rescue.after_seconds)
        for part, work in self._to_do(found):
            await self._guarded(part, work)
        return seldom(found.looked_seconds, CHORES_PERIOD_SECONDS)

    def _to_do(self, found: DueWork) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        return [
            (part, work)
            for part, work, is_due in (
                ("rescue", self._rescue_dead, found.rescue and self._may_judge()),
                ("expire", self._expire, found.expire),
                ("deployments", self._close_deployments, found.deployments),
                ("sweep", lambda: self._sweep(found.sweep), bool(found.sweep)),
            )
            if is_due
        ]

    def _may_judge(self) -> bool:
        # After an outage every heartbeat is old; only one that went on beating may judge others.
        return self._heartbeat.unbroken_seconds() >= self._rescue.after_seconds

    async def _rescue_dead(self) -> None:
        async with self._database.connection() as connection:
            rescued = await rescuing.rescue(
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
            expired = await approvals.expire(connection, EXPIRE_BATCH)
        if expired:
            log.info(events.APPROVALS_EXPIRED, approvals=expired)
            self._moved()

    async def _close_deployments(self) -> None:
        if await close_abandoned(self._database):
            self._moved()

    async def _sweep(self, reasons: list[str]) -> None:
        """Lanes, which stall on a late commit most easily, at every look; the others in turn."""
        lanes = [reason for reason in reasons if reason == "lane"]
        others = [reason for reason in reasons if reason != "lane"]
        self._turn += 1
        in_turn = [others[self._turn % len(others)]] if others else []
        for reason in lanes + in_turn:
            self._swept[reason] = await self._sweep_slice(reason) or FIRST_ID

    async def _sweep_slice(self, reason: str) -> UUID | None:
        async with self._database.connection() as connection:
            if reason == "run":
                return await promote.sweep_runs(connection, self._swept[reason], SWEEP_BATCH)
            if reason != "orphan":
                return await promote.sweep(connection, reason, self._swept[reason], SWEEP_BATCH)
            after = self._swept[reason]
            closed, stopped = await promote.close_orphans(connection, after, ORPHANS_BATCH)
        if closed:
            self._moved()
        return stopped


def seldom(looked_seconds: float, period_seconds: float) -> float | None:
    """A pause in proportion to what a look cost; None if the period is longer."""
    pause = min(looked_seconds * COST_FACTOR, COST_PAUSE_SECONDS_MAX)
    return pause if pause > period_seconds else None
