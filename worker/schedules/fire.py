"""Fires schedules: whichever daemon comes first enqueues what is due, once.

In: a schedule whose time has come, or that has no next time yet. Out: its job or run, and what
became of each of its times, in one transaction that holds the schedule's row. Another daemon skips
that row; a daemon that dies, or loses the answer to its commit, has fired it wholly or not at all.
"""

from datetime import datetime
from random import uniform
from time import monotonic
from uuid import UUID

from db.errors import Contended, InvalidInput, JobsworthError
from db.ids import uuidv7
from db.pool import Connection, Database
from db.queue.upkeep import DueWork
from db.schedules import firing
from db.schedules.firing import Due, Unended
from db.schedules.schedules import Overlap
from worker import events
from worker.daemon.upkeep import Did, DuePart, Part
from worker.log import get_logger
from worker.queue.wake import Wake, Wakes
from worker.schedules.plan import Plan, plan

# A job that is made up for starts within this time, so that an outage does not end in a crowd.
MADE_UP_SECONDS = 60.0
# Somebody holds a job that is to be replaced: the schedule waits so long, the others do not.
LOCK_SECONDS = 2.0
ASIDE_SECONDS = 5.0
# The common look says when the next one is due; until then nothing is asked.
SLEEP_SECONDS = 60.0
SLACK_SECONDS = 0.002

log = get_logger()


class Schedules:
    """The upkeep's part that fires schedules."""

    def __init__(self, database: Database, wakes: Wakes) -> None:
        self._database = database
        self._wakes = wakes
        self._wake = Wake()
        self._due_at: float | None = None
        self._aside: dict[UUID, float] = {}

    def part(self) -> Part:
        """Works when the next one is due."""
        return Part(
            "schedules", SLEEP_SECONDS, self.work, wakes=self._wakes.work, woken_by=self._wake
        )

    def due_part(self) -> DuePart:
        """Hears from the common look when the next one is due."""
        return DuePart("schedules", lambda found: found.schedule_in is not None, self._hear)

    async def _hear(self, found: DueWork) -> bool:
        due_at = monotonic() + max(found.schedule_in or 0.0, 0.0)
        if self._due_at is None or due_at < self._due_at:
            self._due_at = due_at
            self._wake.set()
        return False

    async def work(self) -> Did:
        """Fire all that are due; sleeps until the next one."""
        if self._due_at is None or monotonic() < self._due_at:
            return Did(pause_seconds=self._pause())
        fired = False
        while (one := await self.fire_one()) is not None:
            fired = fired or one
        async with self._database.connection() as connection:
            next_in = await firing.next_in_seconds(connection, list(self._aside))
        waits = [until - monotonic() for until in self._aside.values()]
        waits += [] if next_in is None else [next_in + SLACK_SECONDS]
        self._due_at = monotonic() + max(min(waits), 0.0) if waits else None
        return Did(fired, self._pause())

    def _pause(self) -> float:
        if self._due_at is None:
            return SLEEP_SECONDS
        return min(max(self._due_at - monotonic(), 0.0), SLEEP_SECONDS)

    async def fire_one(self) -> bool | None:
        """Fire or plan one schedule; whether it enqueued anything, None if none is due."""
        now = monotonic()
        self._aside = {each: until for each, until in self._aside.items() if until > now}
        due = None
        try:
            async with self._database.transaction() as connection:
                due = await firing.take(connection, list(self._aside))
                return None if due is None else await _fire(connection, due)
        except Contended:
            if due is None:
                raise
            self._aside[due.id] = now + ASIDE_SECONDS
        except JobsworthError as error:
            if due is None or error.retriable:
                raise
            await self._refuse(due, error)
        return False

    async def _refuse(self, due: Due, error: JobsworthError) -> None:
        """Note why, and go on with the next time; one that can never fire waits for a change."""
        log.error(
            events.SCHEDULE_REFUSED, schedule=due.name, error=error.message, remedy=error.remedy
        )
        self._aside[due.id] = monotonic() + ASIDE_SECONDS
        async with self._database.transaction() as connection:
            if await firing.is_handled(connection, due.id, due.handled_to):
                return
            try:
                times = due.timetable()
            except InvalidInput as never:
                await firing.handle(connection, due.id, due.handled_to, None, str(never))
                return
            at = (times.newest(due.handled_to, due.now, 1) or [due.now])[-1]
            await firing.record(connection, due.id, at, "refused", reason=str(error))
            handled_to = max(due.now, due.handled_to)
            await firing.handle(connection, due.id, handled_to, times.next_after(handled_to))


async def _fire(connection: Connection, due: Due) -> bool:
    """Do what is due, in the transaction that has locked the schedule."""
    times = due.timetable()
    planned = plan(times, due.handled_to, due.now, due.missed, due.missed_max)
    fired = await _enqueue_all(connection, due, planned) if planned.times else False
    if planned.last_missed is not None:
        await firing.record(
            connection,
            due.id,
            planned.last_missed,
            "missed",
            missed=planned.missed - 1,
            reason="no worker was there",
        )
        log.warning(
            events.SCHEDULE_SKIPPED,
            schedule=due.name,
            times=planned.missed,
            reason="no worker was there",
        )
    handled_to = max(due.now, due.handled_to)
    await firing.handle(connection, due.id, handled_to, times.next_after(handled_to))
    if planned.times or planned.last_missed:
        await firing.forget_old(connection, due.id)
    return fired


async def _enqueue_all(connection: Connection, due: Due, planned: Plan) -> bool:
    earlier = await firing.unended(connection, due.id)
    if earlier and due.overlap == Overlap.SKIP:
        reason = f"{_words(earlier[0])} has not ended"
        await firing.record(
            connection, due.id, planned.times[-1], "skipped", missed=planned.missed, reason=reason
        )
        log.info(events.SCHEDULE_SKIPPED, schedule=due.name, times=1, reason=reason)
        return False
    if earlier and due.overlap == Overlap.REPLACE:
        await firing.wait_at_most(connection, LOCK_SECONDS)
        for one in earlier:
            await firing.cancel(connection, one, f"replaced by the next of schedule {due.name}")
    fired = False
    for at in planned.times:
        missed = 0 if fired else planned.missed
        fired = await _enqueue(connection, due, at, missed, late=planned.late) or fired
    return fired


async def _enqueue(
    connection: Connection, due: Due, at: datetime, missed: int, *, late: bool
) -> bool:
    """Enqueue the job, or start the run, of this time; False if that was done before."""
    new_id = uuidv7()
    job_id, run_id = (None, new_id) if due.is_run else (new_id, None)
    if not await firing.record(
        connection, due.id, at, "fired", job_id=job_id, run_id=run_id, missed=missed
    ):
        return False
    if due.is_run:
        await firing.start_run(connection, due.id, at, new_id)
    else:
        jitter = due.jitter_seconds
        if jitter is None:
            jitter = MADE_UP_SECONDS if late else 0.0
        delay_seconds = uniform(0.0, jitter) if jitter else None
        await firing.enqueue(connection, due.id, at, new_id, delay_seconds)
    log.info(
        events.SCHEDULE_FIRED,
        schedule=due.name,
        at=at.isoformat(),
        job_id=str(job_id) if job_id else None,
        run_id=str(run_id) if run_id else None,
        missed=missed,
    )
    return True


def _words(one: Unended) -> str:
    return f"job {one.job_id}" if one.job_id else f"run {one.run_id}"
