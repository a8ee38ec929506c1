"""Group commit: everything that ended meanwhile is finished by one transaction.

In: ended attempts with their transitions. Out: committed rows, freed slots, and ids for `promote`
to look at. Invariants: a slot is free only after its commit; effects commit with their transition;
a batch that fails because of the server is kept and tried again; a batch that fails because of one
of its jobs is taken apart, and that job fails alone.

A slot is free only after its commit. Errors of the SQLSTATE classes 08, 40, 53 and 57 keep the
batch, and it is tried again. An error that is the fault of one job takes the batch apart, and that
job fails alone.

Rejected: finding locked rows again by `ctid` (1 µs a job less, but blind to a row that changed
between the statement's snapshot and its lock); deleting finished jobs, which makes Graphile
Worker's finish half as dear as this one.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from math import isfinite
from random import random
from typing import Protocol
from uuid import UUID

import anyio

from db.documents import to_text
from db.errors import InvalidInput, JobsworthError
from db.fence import PINNED
from db.masking import mask
from db.pool import Connection, Database, bounded
from db.queue import effects, finish
from db.queue.claim import Claimed
from db.queue.effects import Effect, JobEffect, MemoryEffect, Origin
from db.queue.finish import Finish, Finished, lease_states
from worker import crash_points, events
from worker.log import get_logger
from worker.queue.ended import EndedAttempt, EndedAttempts
from worker.queue.promote import Promoter
from worker.queue.transition import Transition
from worker.queue.wake import Wakes

COMMIT_SECONDS = 30.0
HELD_PAUSE_SECONDS = 0.01
RETRY_SECONDS_MAX = 2.0

log = get_logger()


class Slots(Protocol):
    """Where the slot of a committed attempt is given back: `Running`."""

    def finished(self, ended: EndedAttempt, status: str | None) -> None: ...


class Finisher:
    """Commits ended attempts in batches, one at a time, two when there are many."""

    def __init__(
        self,
        database: Database,
        ended: EndedAttempts,
        slots: Slots,
        promoter: Promoter,
        wakes: Wakes,
        *,
        retried: Callable[[], None],
    ) -> None:
        """`retried` counts the batches that are tried again."""
        self._database = database
        self._ended = ended
        self._slots = slots
        self._promoter = promoter
        self._wakes = wakes
        self._retried = retried

    async def run(self) -> None:
        """Commit batches until cancelled: whatever is there, and full ones beside that."""
        async with anyio.create_task_group() as committers:
            committers.start_soon(self._commit_any)
            committers.start_soon(self._commit_full)

    async def _commit_any(self) -> None:
        while True:
            await self._ended.wait_for_any()
            while self._ended:
                await self._commit_next()

    async def _commit_full(self) -> None:
        while True:
            await self._ended.wait_for_a_batch()
            while self._ended.fill_a_batch:
                await self._commit_next()

    async def _commit_next(self) -> None:
        held = await self._settle(self._ended.take())
        if held:
            self._ended.put_back(held)
            if len(self._ended) == len(held):
                await anyio.sleep(HELD_PAUSE_SECONDS)

    async def _settle(self, batch: list[EndedAttempt]) -> list[EndedAttempt]:
        """Commit a batch, however many tries it takes; returns those whose rows somebody holds."""
        tries = 0
        while True:
            try:
                return await self._commit(batch)
            except Exception as error:
                # Any exception: what a job wants written may also break the driver.
                if not (isinstance(error, JobsworthError) and error.retriable):
                    return await self._take_apart(batch, error)
                tries += 1
                self._retried()
                log.warning(events.BATCH_RETRIED, jobs=len(batch), tries=tries, error=str(error))
                await anyio.sleep(min(RETRY_SECONDS_MAX, 0.05 * 2**tries) * (0.5 + random()))

    async def _take_apart(self, batch: list[EndedAttempt], error: Exception) -> list[EndedAttempt]:
        if len(batch) == 1:
            guilty = batch[0]
            log.warning(events.BATCH_SPLIT, job_id=str(guilty.job.id), error=str(error))
            blamed = _blame(guilty, error)
            if blamed.transition == guilty.transition:
                raise error  # our own defect: even the plain failure cannot be written
            return await self._settle([blamed])
        held: list[EndedAttempt] = []
        for ending in batch:
            held += await self._settle([ending])
        return held

    async def _commit(self, batch: list[EndedAttempt]) -> list[EndedAttempt]:
        async with bounded(COMMIT_SECONDS), self._writer(batch) as connection:
            applied = await finish.finish(connection, [_finish(ending) for ending in batch])
            _reach_inside(batch)
            statuses = {one.id: one.status for one in applied}
            made = _effects_of(batch, statuses)
            await effects.write(connection, made)
        crash_points.reach("finish.committed")
        self._look_at_what_follows(_with_parents(applied, made), remembered=_has_memory(made))
        missing = [ending for ending in batch if ending.job.id not in statuses]
        held = await self._look_up(missing, statuses) if missing else []
        for ending in batch:
            if ending not in held:
                self._slots.finished(ending, statuses.get(ending.job.id))
        return held

    def _look_at_what_follows(self, finished: list[Finished], *, remembered: bool) -> None:
        self._promoter.ended([one.id for one in finished if one.unblocks])
        if any(one.status == "waiting" for one in finished):
            self._wakes.timers.set()
        if remembered:
            self._wakes.memories.set()

    def _writer(self, batch: list[EndedAttempt]) -> AbstractAsyncContextManager[Connection]:
        """A transaction if the batch has effects; without any, the one statement is enough."""
        if any(ending.transition.effects for ending in batch):
            return self._database.transaction(PINNED)
        return self._database.connection()

    async def _look_up(
        self, missing: list[EndedAttempt], statuses: dict[UUID, str]
    ) -> list[EndedAttempt]:
        async with bounded(COMMIT_SECONDS), self._database.connection() as connection:
            states = await lease_states(connection, [ending.lease for ending in missing])
        for ending in missing:
            # Our own commit, whose answer was lost: look at what it may have unblocked.
            if states.get(ending.job.id) == "ended":
                statuses[ending.job.id] = ending.transition.status
                ours = Finished(ending.job.id, ending.transition.status, unblocks=True)
                self._look_at_what_follows([ours], remembered=True)
        return [ending for ending in missing if states.get(ending.job.id) == "held"]


def _finish(ending: EndedAttempt) -> Finish:
    _, lease, (status, reason, detail, delay, failed, result, error, _) = ending
    # PostgreSQL 17 stores an infinite time, which clients cannot read back.
    if delay is not None and not isfinite(delay):
        raise InvalidInput(f"a job cannot wait {delay} seconds", "pass a finite number")
    return Finish(
        lease, status, reason, detail and mask(detail), delay, failed, result, error and mask(error)
    )


def _effects_of(
    batch: list[EndedAttempt], statuses: dict[UUID, str]
) -> list[tuple[Origin, Effect]]:
    """The effects of the jobs whose transition was applied: a cancel in between drops them."""
    return [
        (origin_of(ending.job), effect)
        for ending in batch
        if statuses.get(ending.job.id) == ending.transition.status
        for effect in ending.transition.effects
    ]


def origin_of(job: Claimed) -> Origin:
    """The values that a job's effects inherit from it."""
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
    """The finished jobs; those that have just spawned children must be looked at as well."""
    parents = {o.job_id for o, e in made if isinstance(e, JobEffect) and e.is_child}
    if not parents:
        return applied
    return [one._replace(unblocks=one.unblocks or one.id in parents) for one in applied]


def _has_memory(made: list[tuple[Origin, Effect]]) -> bool:
    return any(isinstance(effect, MemoryEffect) for _, effect in made)


def _blame(ending: EndedAttempt, error: Exception) -> EndedAttempt:
    """The same attempt, failed because what it wanted written was refused."""
    reason = to_text(mask(f"what the job wrote was refused: {error}")[:4000])
    return ending._replace(transition=Transition.failed(reason))


def _reach_inside(batch: list[EndedAttempt]) -> None:
    crash_points.reach("finish.updated")
    statuses = {ending.transition.status for ending in batch}
    if "waiting" in statuses:
        crash_points.reach("park.updated")
    if "queued" in statuses:
        crash_points.reach("release.updated")
