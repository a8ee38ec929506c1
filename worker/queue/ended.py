"""Ended attempts on their way from `running` to `finish`.

In: attempts with their transitions. Out: batches for the finisher. It stands between the two
because each needs the other: the finisher gives back the slots of what it has committed.
"""

from typing import NamedTuple

import anyio

from db.fence import Lease
from db.queue.claim import Claimed
from worker.queue.transition import Transition

BATCH_MAX = 500
# A larger one goes alone. Eighteen results of 62 MB are more than the server takes in one message.
BATCH_BYTES_MAX = 8 * 2**20


class EndedAttempt(NamedTuple):
    """An attempt that ended, and what is to be written because of it."""

    job: Claimed
    lease: Lease
    transition: Transition


class EndedAttempts:
    """The ended attempts whose commit has not begun."""

    def __init__(self) -> None:
        self._attempts: list[EndedAttempt] = []
        self._arrived = anyio.Event()
        self._filled = anyio.Event()

    def __len__(self) -> int:
        return len(self._attempts)

    @property
    def fill_a_batch(self) -> bool:
        """Whether there are as many as one transaction finishes."""
        return len(self._attempts) >= BATCH_MAX

    def put(self, ended: EndedAttempt) -> None:
        """Have an ended attempt committed soon; then its slot is given back."""
        self._attempts.append(ended)
        # Those that wait for one take until none is left, so only the first has to be told.
        count = len(self._attempts)
        if count == 1:
            self._arrived.set()
        if count == BATCH_MAX:
            self._filled.set()

    def take(self) -> list[EndedAttempt]:
        """Remove and return the next batch, oldest first."""
        count = size = 0
        for attempt in self._attempts[:BATCH_MAX]:
            size += attempt.transition.size
            if count and size > BATCH_BYTES_MAX:
                break
            count += 1
        batch, self._attempts = self._attempts[:count], self._attempts[count:]
        return batch

    async def wait_for_any(self) -> None:
        """Wait until one has arrived since the last call."""
        await self._arrived.wait()
        self._arrived = anyio.Event()

    async def wait_for_a_batch(self) -> None:
        """Wait until a whole batch has gathered since the last call."""
        await self._filled.wait()
        self._filled = anyio.Event()
