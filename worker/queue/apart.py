"""Ended attempts that cannot be committed together with others: each has its own transaction.

In: the jobs of a batch that was refused, and jobs whose rows somebody holds. Out: their commits,
one by one; for a job whose own fault it is, its failure. Nothing here keeps the next batches
waiting.

Whose fault an error is: an error of the SQLSTATE classes in `OWN_FAULT`, and one that is not
PostgreSQL's, is the job's, which fails at once. A lock, a deadlock, a full disk, a database that
does not answer are never. Anything else (a right that is missing, a table that is gone, a statement
that is always canceled for its size) may be either: the job fails when the error has come again for
half a minute, if the database answers meanwhile. If not even its failure can be written, the job
keeps its slot and is tried again, ever more rarely, and an error is logged once a minute.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import random
from time import monotonic

import anyio

from db.documents import to_text
from db.errors import DatabaseError
from worker import events
from worker.log import get_logger
from worker.masking import mask
from worker.queue.commit import Committer, is_passing
from worker.queue.ended import EndedAttempt
from worker.queue.transition import Transition
from worker.repeats import Repeats

LOCK_TIMEOUT = "55P03"
# Bad values, constraints, exceptions that triggers raise, limits of the server.
OWN_FAULT = ("21", "22", "23", "27", "44", "54", "P0")
# Locks and deadlocks, a server that is going away, without room or read-only, mixed-up statements.
NEVER_OWN_FAULT = (LOCK_TIMEOUT, "40", "57P", "25006", "53100", "53300", "58", "26", "42P05")
SUSPECT_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.01
PAUSE_SECONDS_MAX = 2.0
# However many wait, they take no more than a part of the database's time.
TRIES_PER_SECOND_MAX = 50.0
LOUD_AFTER_SECONDS = 5.0

log = get_logger()


@dataclass(order=True, slots=True)
class _Lone:
    """One attempt, when it is tried next, and since when it has failed for which error."""

    due: float
    number: int
    attempt: EndedAttempt = field(compare=False)
    since: float = field(compare=False)
    tries: int = field(default=0, compare=False)
    unanswered: int = field(default=0, compare=False)
    suspected_since: float | None = field(default=None, compare=False)


class Apart:
    """The ended attempts that are tried one by one, and what tries them."""

    def __init__(self, committer: Committer, retried: Callable[[], None]) -> None:
        """`retried` counts the commits that are tried again."""
        self._committer = committer
        self._retried = retried
        self._heap: list[_Lone] = []
        self._numbers = count()
        self._arrived = anyio.Event()
        self._repeats = Repeats()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, attempts: Sequence[EndedAttempt], *, held: bool) -> None:
        """Have these tried alone: when their rows may be free if they are `held`, else at once."""
        now = monotonic()
        due = now + FIRST_PAUSE_SECONDS if held else now
        for attempt in attempts:
            self._push(_Lone(due, next(self._numbers), attempt, since=now))

    async def run(self) -> None:
        """Try them when they are due, until cancelled. Several may run beside each other."""
        while True:
            await self._try(await self._next())

    def _push(self, lone: _Lone) -> None:
        heappush(self._heap, lone)
        arrived, self._arrived = self._arrived, anyio.Event()
        arrived.set()

    async def _next(self) -> _Lone:
        while True:
            pause = self._heap[0].due - monotonic() if self._heap else None
            if pause is not None and pause <= 0:
                return heappop(self._heap)
            with anyio.move_on_after(pause):
                await self._arrived.wait()

    async def _try(self, lone: _Lone) -> None:
        try:
            held = await self._committer.commit([lone.attempt], lone.unanswered, alone=True)
        except Exception as error:
            if is_passing(error):
                self._retried()
                lone.unanswered += getattr(error, "sqlstate", None) is None
            if not (await self._is_guilty(lone, error) and await self._fail(lone, error)):
                self._again(lone, error)
        else:
            if held:
                self._again(lone, None)

    async def _is_guilty(self, lone: _Lone, error: Exception) -> bool:
        if not isinstance(error, DatabaseError):
            return True
        code = error.sqlstate or ""
        if code.startswith(OWN_FAULT):
            return True
        if code.startswith(NEVER_OWN_FAULT) or not await self._committer.database_answers():
            lone.suspected_since = None
            return False
        if not error.retriable and not code:
            return True  # the driver's own refusal
        lone.suspected_since = lone.suspected_since or monotonic()
        return monotonic() - lone.suspected_since >= SUSPECT_SECONDS

    async def _fail(self, lone: _Lone, error: Exception) -> bool:
        """Whether the job's failure was written in place of what it wanted written."""
        reason = to_text(mask(f"what the job wrote was refused: {error}")[:4000])
        failed = Transition.failed(reason)
        # The second without its row of history, in case that is what cannot be written.
        for transition in (failed, failed._replace(history=None)):
            ending = lone.attempt._replace(transition=transition)
            with suppress(Exception):
                return not await self._committer.commit([ending], lone.unanswered, alone=True)
        return False  # the next try begins with what the job wanted written

    def _again(self, lone: _Lone, error: Exception | None) -> None:
        lone.tries += 1
        most = max(PAUSE_SECONDS_MAX, len(self._heap) / TRIES_PER_SECOND_MAX)
        pause = min(most, FIRST_PAUSE_SECONDS * 2 ** min(lone.tries, 20)) * (0.5 + random())
        lone.due = monotonic() + pause
        self._push(lone)
        self._say(lone, error)

    def _say(self, lone: _Lone, error: Exception | None) -> None:
        seconds = monotonic() - lone.since
        if seconds < LOUD_AFTER_SECONDS or not self._repeats.due(events.ENDINGS_DELAYED):
            return
        log.error(
            events.ENDINGS_DELAYED,
            jobs=len(self._heap),
            job_id=str(lone.attempt.job.id),
            seconds=round(seconds, 1),
            error=error or "another transaction holds the job's row",
        )
