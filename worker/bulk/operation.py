"""`bulk_operation`: cancel, retry, run now, move or reprioritize many jobs, in batches.

In: an operation and a filter (`db/bulk`). Out: with how many jobs it was done, with how many not
and why. A batch and how far it got are one commit, so a worker's death repeats and skips nothing,
and a cancel of this job ends it between two batches. A batch takes about `BATCH_SECONDS`, and a
tenth of that is left to the claims after it. A job that somebody else holds at that moment is tried
again at the end.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any
from uuid import UUID

import anyio
from pydantic import AwareDatetime, BaseModel

from db.bulk import batches
from db.bulk.batches import Applied, Change, Operation
from db.bulk.filters import MODE, PROGRESS, JobFilter
from db.errors import InvalidInput
from db.fence import PINNED
from db.pool import Connection
from db.queue import jobs
from db.queue.finish import uuid_array
from db.steps import checkpoints
from worker import crash_points
from worker.attempt_state import AttemptState
from worker.handlers import handler
from worker.job import Job
from worker.outcomes import Fail
from worker.plain_job import state_of

# By `python -m bench.bulk 200000`, 0.05 s with a pause of a third canceled 10,500 jobs/s, these do
# 20,400, and claims waited as long.
BATCH_SECONDS = 0.2
PAUSE_SHARE = 0.1
# How many jobs a batch looks at. On a busy machine the statements of a batch take so long, however
# small it is, that fewer would come to nothing.
PAGE_FIRST, PAGE_MIN, PAGE_MAX = 500, 500, 10_000
GROWTH_MAX = 2.0
# So many jobs that others hold are tried again before the walk goes on; at the end so often, each
# time a little later.
HELD_MAX = 1_000
HELD_ROUNDS = 20
HELD_PAUSE_SECONDS_MAX = 1.0
HELD = "is held by another transaction"


class Progress(BaseModel):
    """How far an operation is: the jobs it looked at, up to the id `after`."""

    up_to: AwareDatetime
    expected: int | None = None
    looked: int = 0
    applied: int = 0
    refused: dict[str, int] = {}
    held: list[UUID] = []
    after: UUID | None = None
    walked: bool = False

    def told(self, done: Applied, **more: Any) -> "Progress":
        """The progress after a batch, with what else has changed."""
        refused = Counter(self.refused) + Counter(done.refused)
        changed = {"applied": self.applied + done.applied, "refused": dict(refused), **more}
        return self.model_copy(update=changed)


@handler(MODE, timeout_seconds=86_400, shipped=True)
async def bulk_operation(
    job: Job,
    operation: Operation,
    filter: JobFilter,
    reason: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    expected: int | None = None,
) -> dict[str, Any]:
    """Do `operation` with the jobs of `filter` that were there when this one was enqueued."""
    try:
        change = Change(operation, reason or "canceled by a bulk operation", queue, priority)
        change.check()
    except InvalidInput as error:
        raise Fail(f"{error.message}; {error.remedy}") from error
    async with job.database.connection() as connection:
        up_to = (await jobs.get_by_id(connection, job.id)).created_at
    begun = Progress(up_to=up_to, expected=expected)
    saved = await job.checkpoint(PROGRESS, begun.model_dump(mode="json"))
    progress = Progress.model_validate(saved)
    progress = await _Walk(state_of(job), change, filter).go(progress)
    return {"applied": progress.applied, "refused": progress.refused, "looked": progress.looked}


Batch = Callable[[Connection, Progress], Awaitable[Progress]]


class _Walk:
    """Goes through the jobs, batch by batch."""

    def __init__(self, state: AttemptState, change: Change, which: JobFilter) -> None:
        self._state = state
        self._change = change
        self._which = which
        self._most = PAGE_FIRST

    async def go(self, progress: Progress) -> Progress:
        """The progress at the end."""
        while not progress.walked:
            progress = await self._paced(progress, self._page)
            if len(progress.held) >= HELD_MAX:
                progress = await self._held(progress)
        return await self._held(progress)

    async def _held(self, progress: Progress) -> Progress:
        pause = BATCH_SECONDS
        for _ in range(HELD_ROUNDS):
            if not progress.held:
                return progress
            await anyio.sleep(pause)
            pause = min(HELD_PAUSE_SECONDS_MAX, 2 * pause)
            progress = await self._paced(progress, self._again)
        given_up = Applied(applied=0, refused={HELD: len(progress.held)}, held=[])
        return progress.told(given_up, held=[]) if progress.held else progress

    async def _paced(self, progress: Progress, batch: Batch) -> Progress:
        began = monotonic()
        async with self._state.own_sql.transaction(PINNED) as connection:
            progress = await batch(connection, progress)
            crash_points.reach("bulk.applied")
            # Under the fence: without the lease nothing of the batch is committed.
            await checkpoints.replace(
                connection,
                self._state.lease,
                PROGRESS,
                progress.model_dump_json(),
                self._state.job.attempt,
            )
        crash_points.reach("bulk.committed")
        took = monotonic() - began
        growth = min(GROWTH_MAX, BATCH_SECONDS / max(took, 0.001))
        self._most = round(max(PAGE_MIN, min(PAGE_MAX, self._most * growth)))
        await anyio.sleep(took * PAUSE_SHARE)
        return progress

    async def _page(self, connection: Connection, progress: Progress) -> Progress:
        page = await batches.page(
            connection, self._change, self._which, progress.after, progress.up_to, self._most
        )
        done = await batches.apply(connection, self._change, self._which, page.ids)
        return progress.told(
            done,
            looked=progress.looked + page.looked,
            held=progress.held + done.held,
            after=page.next,
            walked=page.next is None,
        )

    async def _again(self, connection: Connection, progress: Progress) -> Progress:
        done = await batches.apply(connection, self._change, self._which, uuid_array(progress.held))
        return progress.told(done, held=done.held)
