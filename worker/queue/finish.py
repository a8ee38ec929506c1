"""Group commit: everything that ended meanwhile is finished by one transaction.

In: ended attempts with their transitions. Out: batches for `commit`; what it cannot commit together
goes to `apart`. Invariant: no ended attempt keeps others from their commit for long. A batch whose
commit fails for the database's sake is kept, and tried again until the database answers. One that
fails while the database answers fails because of one of its jobs: for what that job wrote, for its
size, for a lock that it waits for. It is taken apart, and the next batch follows.
"""

from collections.abc import Callable
from random import random

import anyio

from db.pool import Database
from worker import events
from worker.log import get_logger
from worker.queue.apart import LOCK_TIMEOUT, Apart
from worker.queue.commit import Committer, Slots, is_passing
from worker.queue.ended import EndedAttempt, EndedAttempts
from worker.queue.promote import Promoter
from worker.queue.wake import Wakes

RETRY_SECONDS_MAX = 2.0
ALONE_AT_ONCE = 2

log = get_logger()


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
        """`retried` counts the commits that are tried again."""
        self._ended = ended
        self._committer = Committer(database, slots, promoter, wakes)
        self._retried = retried
        self._apart = Apart(self._committer, retried)

    async def run(self) -> None:
        """Commit batches until cancelled: whatever is there, and full ones beside that."""
        async with anyio.create_task_group() as committers:
            committers.start_soon(self._commit_any)
            committers.start_soon(self._commit_full)
            for _ in range(ALONE_AT_ONCE):
                committers.start_soon(self._apart.run)

    async def _commit_any(self) -> None:
        while True:
            await self._ended.wait_for_any()
            while self._ended:
                await self._settle(self._ended.take())

    async def _commit_full(self) -> None:
        while True:
            await self._ended.wait_for_a_batch()
            while self._ended.fill_a_batch:
                await self._settle(self._ended.take())

    async def _settle(self, batch: list[EndedAttempt]) -> None:
        """Commit a batch, or find out that its jobs have to be tried one by one."""
        tries = 0
        while True:
            try:
                self._apart.add(await self._committer.commit(batch, tries), held=True)
                return
            except Exception as error:
                # Any exception: what a job wants written may also break the driver.
                split = not is_passing(error)
                if not split:
                    self._retried()
                    log.warning(events.BATCH_RETRIED, jobs=len(batch), tries=tries + 1, error=error)
                    split = await self._not_for_the_databases_sake(error, tries)
                if split:
                    log.warning(events.BATCH_SPLIT, jobs=len(batch), error=error)
                    self._apart.add(batch, held=False)
                    return
                tries += 1
                await anyio.sleep(min(RETRY_SECONDS_MAX, 0.05 * 2**tries) * (0.5 + random()))

    async def _not_for_the_databases_sake(self, error: Exception, tries: int) -> bool:
        if getattr(error, "sqlstate", None) == LOCK_TIMEOUT:
            return True
        return tries > 0 and await self._committer.database_answers()
