"""Promotion: after a commit that may unblock jobs, look again with a fresh snapshot.

In: ids of jobs that ended or parked, and lanes whose members a claim put off. Out: waiting jobs
that go on. It never waits for a row: one that somebody holds is looked at again shortly, a bounded
number of times. After that, and after a crash before the look, the sweep in `upkeep` finds it.
"""

from typing import Protocol
from uuid import UUID

import anyio

from db.errors import JobsworthError
from db.pool import Connection, Database
from db.queue import promote
from db.queue.promote import NOBODY, Claimant
from worker import crash_points, events
from worker.daemon.patience import Patience
from worker.daemon.vitals import Vitals
from worker.log import get_logger
from worker.queue.wake import Wake
from worker.repeats import Repeats

AGAIN_SECONDS = 0.02
AGAIN_TIMES = 50
ERROR_PAUSE_SECONDS = 0.5

log = get_logger()


class Slots(Protocol):
    """Where this worker runs what it claims: `Running`."""

    def free_slots(self) -> int: ...


class Promoter:
    """Collects jobs that ended and lanes that were put off, and moves on what they unblock."""

    def __init__(
        self,
        database: Database,
        work: Wake,
        vitals: Vitals | None = None,
        slots: Slots | None = None,
    ) -> None:
        """`work` is set after each look: jobs may have become ready.

        With `vitals` and `slots`, the worker claims what it has room for, and no other is woken for
        that.
        """
        self._work = work
        self._ended: set[UUID] = set()
        self._lanes: set[str] = set()
        self._held: dict[UUID, int] = {}
        self._looking = False
        self._vitals = vitals
        self._slots = slots
        self._patience = Patience(database)
        self._arrived = anyio.Event()
        self._repeats = Repeats()

    def ended(self, ids: list[UUID]) -> None:
        """Have the jobs that these may have unblocked looked at."""
        if ids:
            self._ended.update(ids)
            self._arrived.set()

    def deferred(self, lanes: list[str]) -> None:
        """Have these lanes looked at again."""
        if lanes:
            self._lanes.update(lanes)
            self._arrived.set()

    async def wait_idle(self) -> None:
        """Wait until everything has been looked at once."""
        while self._ended or self._lanes or self._looking:
            await anyio.sleep(AGAIN_SECONDS)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            with anyio.move_on_after(AGAIN_SECONDS if self._held else None):
                await self._arrived.wait()
            self._arrived = anyio.Event()
            try:
                await self._look()
            except JobsworthError as error:
                if self._repeats.due(str(error)):
                    log.warning(events.UPKEEP_FAILED, part="promote", error=error)
                await anyio.sleep(ERROR_PAUSE_SECONDS)
                self._arrived.set()

    async def _look(self) -> None:
        # Taken out before the look: its snapshot may not show what arrives meanwhile.
        ended, self._ended = self._ended, set[UUID]()
        lanes, self._lanes = self._lanes, set[str]()
        crash_points.reach("promote.before")
        self._looking = True
        try:
            async with self._patience.connection() as connection:
                held = await _look_at(
                    connection, ended | self._held.keys(), lanes, self._claimant()
                )
        except JobsworthError:
            self._ended |= ended
            self._lanes |= lanes
            raise
        finally:
            self._looking = False
        tries = self._held
        self._held = {
            job_id: tries.get(job_id, 0) + 1
            for job_id in held
            if tries.get(job_id, 0) < AGAIN_TIMES
        }
        self._work.set()

    def _claimant(self) -> Claimant:
        if self._vitals is None or self._slots is None:
            return NOBODY
        if self._vitals.draining or self._vitals.database_state == "lost":
            return NOBODY  # it claims nothing
        return Claimant(self._vitals.worker_id, max(0, self._slots.free_slots()))


async def _look_at(
    connection: Connection, ids: set[UUID], lanes: set[str], claimant: Claimant
) -> set[UUID]:
    held: set[UUID] = set()
    if ids:
        held.update(await promote.unblock(connection, list(ids), claimant))
    if lanes:
        held.update(await promote.promote_lanes(connection, list(lanes), claimant))
    return held
