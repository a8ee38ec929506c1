"""The garbage collector of a process in which thousands of attempts wait.

In: how many attempts run and have ended. Out: collections that stop the loop briefly. Invariant:
garbage is bounded: what the collector leaves out is looked through again once ten times as many
attempts have ended as ran at most, for a hundredth of the time at most, or when few have been left
for a minute.

An agent that waits for its model is a thousand objects. Python's full collections look through all
of them, again and again: they held the loop for up to 4.4 s and freed next to nothing. So while
many attempts run, Python collects young objects only, and once a second all others are frozen, that
is, left out of later collections. A look through what has become old since, before it is frozen,
held the loop for 0.4 s when 1,500 agents had begun together.

Why a minute: a look when few were left of 3,000 agents held the loop for 1.1 s. It went through
what their connections still held, and found 354 objects.
"""

import gc
from time import monotonic
from typing import Protocol

import anyio

# Below as many attempts a full collection takes a tenth of a second, and Python's way is best.
MANY = 500
FEW = 250
FEW_SECONDS = 60.0
LOOK_SECONDS = 1.0
YOUNG_OBJECTS = 5_000
YOUNG_COLLECTIONS = 10
NEVER = 1_000_000_000
ENDED_PER_RUNNING = 10
# Short jobs end so fast that looking through everything would be due each second: 7 % of the CPU.
PAUSE_FACTOR = 99


class Attempts(Protocol):
    """The attempts of this worker; `ended` counts those that have ended."""

    ended: int

    def __len__(self) -> int: ...


def clean_up() -> None:
    """Collect what importing has left. It holds the loop: call it before anybody watches that."""
    gc.collect()
    gc.freeze()


def begin() -> None:
    """Leave what lives as long as the process out of collections: 22 us of CPU a job became 18."""
    gc.freeze()


async def run(attempts: Attempts) -> None:
    """Collect as the number of attempts asks for, until cancelled."""
    collector = Collector(attempts)
    try:
        while True:
            await anyio.sleep(LOOK_SECONDS)
            collector.look()
    finally:
        collector.leave()


class Collector:
    """Python's own way while few attempts run; old objects frozen while many do."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._usual = gc.get_threshold()
        self._ended = 0
        self._most = 0
        self._rests_until = 0.0
        self._many_at = 0.0
        self.freezing = False

    def look(self) -> None:
        """Go over to the way that the number of attempts asks for, and collect what is due."""
        running, now = len(self._attempts), monotonic()
        if not self.freezing and running >= MANY:
            self.freezing = True
            self._ended = self._attempts.ended
            gc.set_threshold(YOUNG_OBJECTS, YOUNG_COLLECTIONS, NEVER)
        if not self.freezing:
            return
        self._most = max(self._most, running)
        if running >= FEW:
            self._many_at = now
        if now - self._many_at >= FEW_SECONDS:
            self.leave()
        elif self._is_due(now):
            self._collect_all()
        else:
            gc.collect(1)
            gc.freeze()

    def leave(self) -> None:
        """Go back to Python's way."""
        if self.freezing:
            self.freezing = False
            self._collect_all()
            gc.set_threshold(*self._usual)

    def _is_due(self, now: float) -> bool:
        ended = self._attempts.ended - self._ended
        return ended >= ENDED_PER_RUNNING * self._most and now > self._rests_until

    def _collect_all(self) -> None:
        self._ended, self._most = self._attempts.ended, 0
        began = monotonic()
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._rests_until = monotonic() + PAUSE_FACTOR * (monotonic() - began)
