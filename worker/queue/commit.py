"""The commit of ended attempts: their transitions and effects, in one transaction.

In: a batch. Out: committed rows, freed slots, ids for `promote` to look at, and those of the batch
whose rows somebody holds. Invariants: a slot is free only after its commit; effects commit with
their transition; no commit waits long for a lock.

Rejected: finding locked rows again by `ctid` (1 µs a job less, but blind to a row that changed
between the statement's snapshot and its lock); deleting finished jobs, which makes Graphile
Worker's finish half as dear as this one.
"""

from contextlib import AbstractAsyncContextManager
from math import isfinite
from typing import LiteralString, Protocol
from uuid import UUID

from db.errors import InvalidInput, JobsworthError
from db.fence import PINNED
from db.memory.remembered import MemoryEffect
from db.pool import Connection, Database, bounded, fetch_val
from db.queue import attempts, effects, finish
from db.queue.attempts import BadEnding
from db.queue.claim import Claimed
from db.queue.effects import Effect, JobEffect, Origin
from db.queue.finish import Finish, Finished, lease_states
from db.steps import failed
from db.steps.failed import FailedStep
from worker import crash_points
from worker.masking import mask
from worker.queue.ended import EndedAttempt
from worker.queue.promote import Promoter
from worker.queue.wake import Wakes

# A connection that dies without a word is replaced after this. A batch that needs longer has longer
# in its next try, and for each MiB that it writes.
ANSWER_SECONDS = 8.0
ANSWER_SECONDS_MAX = 60.0
BYTES_PER_SECOND_MIN = 2**20
# What is written in so little time that no time limit for statements is in its way.
QUICK_BYTES = 2**20
PROBE_SECONDS = 3.0
# Effects wait for locks that other transactions hold: of a unique key, of a thread's row. All of a
# batch wait with the one whose effect waits, so not for long; alone it comes again. A time limit of
# the role or the database for statements would be met by the largest batch again and again.
TOGETHER: LiteralString = (
    PINNED + "; set local lock_timeout = '200ms'; set local statement_timeout = 0"
)
ALONE: LiteralString = PINNED + "; set local lock_timeout = '20ms'; set local statement_timeout = 0"


def is_passing(error: Exception) -> bool:
    """Whether the same commit may succeed later."""
    return isinstance(error, JobsworthError) and error.retriable


class Slots(Protocol):
    """Where the slot of a committed attempt is given back: `Running`."""

    def finished(self, ended: EndedAttempt, status: str | None) -> None: ...


class Committer:
    """Commits a batch and tells whoever has to know."""

    def __init__(self, database: Database, slots: Slots, promoter: Promoter, wakes: Wakes) -> None:
        self._database = database
        self._slots = slots
        self._promoter = promoter
        self._wakes = wakes

    async def commit(
        self, batch: list[EndedAttempt], tries: int = 0, *, alone: bool = False
    ) -> list[EndedAttempt]:
        """Commit a batch and free its slots; returns those whose rows another transaction holds.

        `tries` is how often it had no answer. Any exception may come of what a job wants
        written. None of the batch is committed then, unless the answer was lost, which the next try
        finds out.
        """
        size = sum(ending.transition.size for ending in batch)
        begin = _begin(batch, size, alone)
        async with bounded(_seconds(size, tries)), self._writer(begin) as connection:
            applied = await finish.finish(connection, [_finish(ending) for ending in batch])
            _reach_inside(batch)
            statuses = {one.id: one.status for one in applied}
            made: list[tuple[Origin, Effect]] = []
            if begin is not None:
                made = _effects_of(batch, statuses)
                await effects.write(connection, made)
                await attempts.tell(connection, _histories(batch, statuses))
                await failed.leave(connection, _failed_steps(batch, statuses))
        crash_points.reach("finish.committed")
        self._look_at_what_follows(_with_parents(applied, made), remembered=_has_memory(made))
        held: list[EndedAttempt] = []
        if len(statuses) < len(batch):
            missing = [ending for ending in batch if ending.job.id not in statuses]
            held = await self._look_up(missing, statuses)
        for ending in batch:
            if ending not in held:
                self._slots.finished(ending, statuses.get(ending.job.id))
        return held

    async def database_answers(self) -> bool:
        """Whether the database takes a statement now: what fails is then not for its sake."""
        try:
            async with bounded(PROBE_SECONDS), self._database.connection() as connection:
                await fetch_val(connection, "select 1")
        except JobsworthError:
            return False
        return True

    def _look_at_what_follows(self, finished: list[Finished], *, remembered: bool) -> None:
        self._promoter.ended([one.id for one in finished if one.unblocks])
        if any(one.status == "waiting" for one in finished):
            self._wakes.timers.set()
        if remembered:
            self._wakes.memories.set()

    def _writer(self, begin: LiteralString | None) -> AbstractAsyncContextManager[Connection]:
        return self._database.connection() if begin is None else self._database.transaction(begin)

    async def _look_up(
        self, missing: list[EndedAttempt], statuses: dict[UUID, str]
    ) -> list[EndedAttempt]:
        async with bounded(ANSWER_SECONDS), self._database.connection() as connection:
            states = await lease_states(connection, [ending.lease for ending in missing])
        for ending in missing:
            # Our own commit, whose answer was lost: look at what it may have unblocked.
            if states.get(ending.job.id) == "ended":
                statuses[ending.job.id] = ending.transition.status
                ours = Finished(ending.job.id, ending.transition.status, unblocks=True)
                self._look_at_what_follows([ours], remembered=True)
        return [ending for ending in missing if states.get(ending.job.id) == "held"]


def _begin(batch: list[EndedAttempt], size: int, alone: bool) -> LiteralString | None:
    """How the transaction begins; None if the one statement is enough: all ended well, without
    effects.
    """
    if size <= QUICK_BYTES and not any(
        ending.transition.effects or ending.transition.history or ending.transition.failed_steps
        for ending in batch
    ):
        return None
    return ALONE if alone else TOGETHER


def _seconds(size: int, tries: int) -> float:
    return min(ANSWER_SECONDS_MAX, ANSWER_SECONDS * 2**tries) + size / BYTES_PER_SECOND_MIN


def _finish(ending: EndedAttempt) -> Finish:
    _, lease, (status, reason, detail, delay, failed, result, error, *_) = ending
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


def _histories(
    batch: list[EndedAttempt], statuses: dict[UUID, str]
) -> list[tuple[UUID, BadEnding]]:
    """The attempts that did not end well, of the jobs whose transition was applied."""
    return [
        (ending.job.id, history._replace(error=history.error and mask(history.error)))
        for ending in batch
        if (history := ending.transition.history) is not None and ending.job.id in statuses
    ]


def _failed_steps(
    batch: list[EndedAttempt], statuses: dict[UUID, str]
) -> list[tuple[UUID, FailedStep]]:
    """The steps that failed in attempts whose transition was applied."""
    return [
        (ending.job.id, step)
        for ending in batch
        if ending.transition.failed_steps and ending.job.id in statuses
        for step in ending.transition.failed_steps
    ]


def origin_of(job: Claimed) -> Origin:
    """The values that a job's effects inherit from it."""
    return Origin(
        job_id=job.id,
        team_id=job.team_id,
        thread_id=job.thread_id,
        trigger_message_id=job.trigger_message_id,
        trace_parent=job.trace_parent,
        request_id=job.request_id,
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


def _reach_inside(batch: list[EndedAttempt]) -> None:
    crash_points.reach("finish.updated")
    statuses = {ending.transition.status for ending in batch}
    if "waiting" in statuses:
        crash_points.reach("park.updated")
    if "queued" in statuses:
        crash_points.reach("release.updated")
