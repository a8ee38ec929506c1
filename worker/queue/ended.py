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
        self._arrived.set()
        if len(self._attempts) >= BATCH_MAX:
            self._filled.set()

    def put_back(self, held: list[EndedAttempt]) -> None:
        """Return those whose rows another transaction holds."""
        self._attempts.extend(held)
        self._arrived.set()

    def take(self) -> list[EndedAttempt]:
        """Remove and return the next batch, oldest first."""
        batch, self._attempts = self._attempts[:BATCH_MAX], self._attempts[BATCH_MAX:]
        return batch

    async def wait_for_any(self) -> None:
        """Wait until one has arrived since the last call."""
        await self._arrived.wait()
        self._arrived = anyio.Event()

    async def wait_for_a_batch(self) -> None:
        """Wait until a whole batch has gathered since the last call."""
        await self._filled.wait()
        self._filled = anyio.Event()
