"""Upkeep: what a worker does beside its claims, as parts that the chapters bring.

In: parts (`worker/<chapter>/upkeep.py`). Out: their work, each at its period or when it is woken.
Every daemon runs all of it; the work comes in bounded batches, skips rows that others hold, and
goes on after an error. None of it rides on the claim path.

A `Part` looks for itself. A `DuePart` is told: one statement, every other second, says which of
them have something to do, so a worker without work asks once for all. One worker of all asks so
often: 24 idle workers took a sixth of two processors.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import random
from typing import NamedTuple

import anyio

from db.errors import JobsworthError
from db.pool import Database
from db.queue import upkeep
from db.queue.upkeep import DueWork
from worker import events
from worker.log import get_logger
from worker.queue.wake import Wake
from worker.repeats import Repeats

DUE_PERIOD_SECONDS = 2.0
DUE_PERIOD_SECONDS_OTHERS = 5.0
# While somebody holds a snapshot, a look walks ever more dead index entries. It is then made so
# much more rarely that it takes a hundredth of the time, but never so rarely that what it finds
# waits for ten seconds.
COST_FACTOR = 99
COST_PAUSE_SECONDS_MAX = 5.0
# One look may have waited for a lock, a connection or the processor. What the last few looks all
# took is what a look costs.
COST_LOOKS = 3
# What a part was to do when the database went away is due when it is back, however long its period.
FAILED_PAUSE_SECONDS_MAX = 5.0

log = get_logger()


class Did(NamedTuple):
    """What a part's work came to: whether jobs moved on, and when to work again.

    `pause_seconds` None leaves that to the part's period.
    """

    moved: bool = False
    pause_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Work that is done at each period, and at once when `woken_by` is set.

    `wakes` is set when the work moved jobs on.
    """

    name: str
    period_seconds: float
    work: Callable[[], Awaitable[Did]]
    wakes: Wake | None = None
    woken_by: Wake = field(default_factory=Wake)


@dataclass(frozen=True, slots=True)
class DuePart:
    """Work that is done when the common look says that it is due; returns whether jobs moved on."""

    name: str
    is_due: Callable[[DueWork], bool]
    work: Callable[[DueWork], Awaitable[bool]]
    wakes: Wake | None = None


async def run(parts: Sequence[Part]) -> None:
    """Run the parts side by side until cancelled."""
    async with anyio.create_task_group() as tasks:
        for part in parts:
            tasks.start_soon(_repeat, part)


async def _repeat(part: Part) -> None:
    while True:
        did = await _work(part)
        pause = did.pause_seconds
        await part.woken_by.wait(_varied(part.period_seconds) if pause is None else pause)


def _varied(seconds: float) -> float:
    """About so long, so that workers do not all look at once."""
    return seconds * (0.8 + 0.4 * random())


async def _work(part: Part) -> Did:
    try:
        did = await part.work()
    except JobsworthError as error:
        _say_failed(part.name, error)
        return Did(pause_seconds=_varied(min(part.period_seconds, FAILED_PAUSE_SECONDS_MAX)))
    if did.moved and part.wakes is not None:
        part.wakes.set()
    return did


def look_for_due_parts(
    database: Database, due_parts: Sequence[DuePart], is_first: Callable[[], bool]
) -> Part:
    """The part that asks once what is due, and then runs only the parts that are.

    `is_first` says whether this is the one worker of all that looks often.
    """
    cost = LookCost(DUE_PERIOD_SECONDS)

    async def work() -> Did:
        async with database.connection() as connection:
            found = await upkeep.due_work(connection)
        for part in due_parts:
            if part.is_due(found):
                await _do(part, found)
        pause = cost.pause_seconds(found.looked_seconds)
        if not is_first():
            pause = max(pause or 0.0, DUE_PERIOD_SECONDS_OTHERS * (0.9 + 0.1 * random()))
        return Did(pause_seconds=pause)

    return Part("due work", DUE_PERIOD_SECONDS, work)


async def _do(part: DuePart, found: DueWork) -> None:
    try:
        moved = await part.work(found)
    except JobsworthError as error:
        _say_failed(part.name, error)
        return
    if moved and part.wakes is not None:
        part.wakes.set()


class LookCost:
    """How long to pause after a look, so that looks take a hundredth of the time."""

    def __init__(self, period_seconds: float) -> None:
        """`period_seconds` is the pause after a cheap look."""
        self._period_seconds = period_seconds
        self._looks: deque[float] = deque(maxlen=COST_LOOKS)

    def pause_seconds(self, looked_seconds: float) -> float | None:
        """The pause after a look that took so long; None if the period is longer."""
        self._looks.append(looked_seconds)
        cost = min(self._looks) if len(self._looks) == COST_LOOKS else 0.0
        pause = min(cost * COST_FACTOR, COST_PAUSE_SECONDS_MAX)
        return pause if pause > self._period_seconds else None


def _say_failed(part: str, error: JobsworthError) -> None:
    if _repeats.due(f"{part}: {error}"):
        log.warning(events.UPKEEP_FAILED, part=part, error=error)


_repeats = Repeats()
