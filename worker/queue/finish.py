"""Group commit: everything that ended meanwhile is finished by one transaction.

In: endings (an attempt and its transition). Out: committed rows, freed slots, and ids for `promote`
to look at again. Invariants: a slot is free only after its commit; effects commit with the
transition they belong to; a batch that fails for the server's sake is kept and tried again; one
that fails for a job's own sake is taken apart, and the guilty job fails alone.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from math import isfinite
from random import random
from typing import NamedTuple
from uuid import UUID

import anyio

from db.documents import to_text
from db.errors import InvalidInput, JobsworthError
from db.fence import PINNED, Lease
from db.pool import Connection, Database, bounded
from db.queue import effects, finish
from db.queue.claim import Claimed
from db.queue.effects import Effect, JobEffect, MemoryEffect, Origin
from db.queue.finish import Finish, Finished, lease_states
from worker import crash_points, events
from worker.log import get_logger
from worker.outcomes import Transition

BATCH_MAX = 500
COMMIT_SECONDS = 30.0
HELD_PAUSE_SECONDS = 0.01
RETRY_SECONDS_MAX = 2.0

log = get_logger()


class Ending(NamedTuple):
    """An attempt that ended, and what is to be written because of it."""

    job: Claimed
    lease: Lease
    transition: Transition


class Finisher:
    """Collects endings and commits them in batches, one at a time, two when there are many."""

    def __init__(
        self,
        database: Database,
        finished: Callable[[Ending, str | None], None],
        committed: Callable[[list[Finished], bool], None],
        retried: Callable[[], None],
    ) -> None:
        self._database = database
        self._finished = finished
        self._committed = committed
        self._retried = retried
        self._endings: list[Ending] = []
        self._arrived = anyio.Event()
        self._filled = anyio.Event()

    def put(self, ending: Ending) -> None:
        """Have an ending committed soon.

        Then `finished` is called with the status that was written, None if the lease was lost.
        """
        self._endings.append(ending)
        self._arrived.set()
        if len(self._endings) >= BATCH_MAX:
            self._filled.set()

    async def run(self) -> None:
        """Commit batches until cancelled: whatever is there, and full ones beside that."""
        async with anyio.create_task_group() as committers:
            committers.start_soon(self._commit_any)
            committers.start_soon(self._commit_full)

    async def _commit_any(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived = anyio.Event()
            while self._endings:
                await self._commit_next()

    async def _commit_full(self) -> None:
        while True:
            await self._filled.wait()
            self._filled = anyio.Event()
            while len(self._endings) >= BATCH_MAX:
                await self._commit_next()

    async def _commit_next(self) -> None:
        batch, self._endings = self._endings[:BATCH_MAX], self._endings[BATCH_MAX:]
        held = await self._settle(batch)
        if held:
            self._endings.extend(held)
            self._arrived.set()
            if len(self._endings) == len(held):
                await anyio.sleep(HELD_PAUSE_SECONDS)

    async def _settle(self, batch: list[Ending]) -> list[Ending]:
        """Commit a batch however often it takes; returns what somebody else holds right now."""
        tries = 0
        while True:
            try:
                return await self._commit(batch)
            except Exception as error:
                # Not only our own errors: what a job wants written may break the driver as well.
                if not (isinstance(error, JobsworthError) and error.retriable):
                    return await self._take_apart(batch, error)
                tries += 1
                self._retried()
                log.warning(events.BATCH_RETRIED, jobs=len(batch), tries=tries, error=str(error))
                await anyio.sleep(min(RETRY_SECONDS_MAX, 0.05 * 2**tries) * (0.5 + random()))

    async def _take_apart(self, batch: list[Ending], error: Exception) -> list[Ending]:
        if len(batch) == 1:
            guilty = batch[0]
            log.warning(events.BATCH_SPLIT, job_id=str(guilty.job.id), error=str(error))
            blamed = _blame(guilty, error)
            if blamed.transition == guilty.transition:
                raise error  # not the job's fault after all: a defect of ours
            return await self._settle([blamed])
        held: list[Ending] = []
        for ending in batch:
            held += await self._settle([ending])
        return held

    async def _commit(self, batch: list[Ending]) -> list[Ending]:
        async with bounded(COMMIT_SECONDS), self._writer(batch) as connection:
            applied = await finish.finish(connection, [_finish(ending) for ending in batch])
            _reach_inside(batch)
            statuses = {one.id: one.status for one in applied}
            made = _effects_of(batch, statuses)
            await effects.write(connection, made)
        crash_points.reach("finish.committed")
        self._committed(_with_parents(applied, made), _has_memory(made))
        missing = [ending for ending in batch if ending.job.id not in statuses]
        held = await self._look_up(missing, statuses) if missing else []
        for ending in batch:
            if ending not in held:
                self._finished(ending, statuses.get(ending.job.id))
        return held

    def _writer(self, batch: list[Ending]) -> AbstractAsyncContextManager[Connection]:
        """Effects commit together with the rows; without any, the one statement is enough."""
        if any(ending.transition.effects for ending in batch):
            return self._database.transaction(PINNED)
        return self._database.connection()

    async def _look_up(self, missing: list[Ending], statuses: dict[UUID, str]) -> list[Ending]:
        async with bounded(COMMIT_SECONDS), self._database.connection() as connection:
            states = await lease_states(connection, [ending.lease for ending in missing])
        for ending in missing:
            # Our own commit, whose answer was lost; what it unblocks is looked at (again).
            if states.get(ending.job.id) == "ended":
                statuses[ending.job.id] = ending.transition.status
                ours = Finished(ending.job.id, ending.transition.status, unblocks=True)
                self._committed([ours], True)
        return [ending for ending in missing if states.get(ending.job.id) == "held"]


def _finish(ending: Ending) -> Finish:
    _, lease, (status, reason, detail, delay, failed, result, error, _) = ending
    # PostgreSQL 17 knows an infinite time, which no client can read back.
    if delay is not None and not isfinite(delay):
        raise InvalidInput(f"{delay} seconds are no time to wait", "pass a finite number")
    return Finish(lease, status, reason, detail, delay, failed, result, error)


def _effects_of(batch: list[Ending], statuses: dict[UUID, str]) -> list[tuple[Origin, Effect]]:
    """The effects of the jobs that ended as they meant to: a cancel in between drops them."""
    return [
        (origin_of(ending.job), effect)
        for ending in batch
        if statuses.get(ending.job.id) == ending.transition.status
        for effect in ending.transition.effects
    ]


def origin_of(job: Claimed) -> Origin:
    """What a job's effects inherit from it."""
    return Origin(
        job_id=job.id,
        team_id=job.team_id,
        thread_id=job.thread_id,
        trigger_message_id=job.trigger_message_id,
        trace_parent=job.trace_parent,
        run_id=job.run_id,
        node=job.node,
        agent_id=job.agent_id,
    )


def _with_parents(applied: list[Finished], made: list[tuple[Origin, Effect]]) -> list[Finished]:
    """The finished; on those that have just spawned children, something hangs."""
    parents = {o.job_id for o, e in made if isinstance(e, JobEffect) and e.is_child}
    if not parents:
        return applied
    return [one._replace(unblocks=one.unblocks or one.id in parents) for one in applied]


def _has_memory(made: list[tuple[Origin, Effect]]) -> bool:
    return any(isinstance(effect, MemoryEffect) for _, effect in made)


def _blame(ending: Ending, error: Exception) -> Ending:
    """The same attempt, failed by what it tried to write."""
    failed = Transition(
        "failed", failed=True, error=to_text(f"what the job wrote was refused: {error}"[:4000])
    )
    return ending._replace(transition=failed)


def _reach_inside(batch: list[Ending]) -> None:
    crash_points.reach("finish.updated")
    statuses = {ending.transition.status for ending in batch}
    if "waiting" in statuses:
        crash_points.reach("park.updated")
    if "queued" in statuses:
        crash_points.reach("release.updated")
