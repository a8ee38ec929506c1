"""What runs beside each other in one attempt, and when a wait takes effect.

In: pieces of work that begin and end, and branches that want the job to wait. Out: a branch that
wants it goes on only when all others have come to a halt. Invariants: what has begun is recorded
before the job waits, so the next attempt reads it; once the job waits, or its handler has ended,
nothing begins any more.

A wait ends its branch by an exception, and a task group then cancels its other branches: in the
middle of a paid call, which the next attempt would pay for again. `asyncio.gather` lets them run on
beside the next attempt. So the branch is held back where it waits, while its neighbours work. Work
inside which a branch waits is not waited for: it is its own branch that waits there. Such work may
begin other work even after that: to refuse it would break off a step that is unsafe to repeat.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakSet

import anyio
import anyio.lowlevel

from worker.outcomes import Parked, ParkSignal

if TYPE_CHECKING:
    from asyncio import Task
    from concurrent.futures import Future
    from types import CodeType

R = TypeVar("R")

# A piece of work that holds up a wait for longer than this is stopped. A handler that is to be
# stopped earlier has a timeout.
HELD_SECONDS_MAX = 3600.0
# A branch may take so long from one piece of work to the next; then it is stopped.
PAUSE_SECONDS_MAX = 1.0
# A branch that fails gets its error to the handler before another one says that the job waits.
ROUNDS = 10


class Work:
    """A piece of work that is under way; `waits` counts the branches inside it that wait."""

    __slots__ = ("begins_nothing", "waits")

    def __init__(self, *, begins_nothing: bool) -> None:
        """`begins_nothing`: it is a method of `Job` that runs, which is no step or call."""
        self.begins_nothing = begins_nothing
        self.waits = 0


class Place(NamedTuple):
    """Where code runs: in which attempt, and inside which work, the outermost first."""

    beside: "Beside"
    inside: tuple[Work, ...] = ()


class Wait(NamedTuple):
    """What a branch waits for, and when it came to that (monotonic)."""

    parked: Parked
    since: float


HERE: ContextVar[Place] = ContextVar("jobsworth_place")


class Beside:
    """The work, the waits and the tasks of one attempt."""

    # One is made for each attempt, and most need none of this: defaults of the class cost nothing.
    _main: "Task[Any] | None" = None
    _open: "set[Work] | None" = None
    _waits: "tuple[Wait, ...]" = ()
    _waiting: "frozenset[Task[Any]]" = frozenset()
    _tasks: "WeakSet[Task[Any]] | None" = None
    _threads: "tuple[tuple[Future[Any], CodeType | None], ...]" = ()
    _changed: anyio.Event | None = None
    # The job waits: a branch has been told so, whatever the handler makes of it.
    parked = False
    on_parked: Callable[[], object] = bool
    # A branch was stopped before it has done what it would have done.
    cut_short = False
    # The handler has ended.
    over = False

    def enter(self) -> Token[Place]:
        """Begin the attempt in this task; `HERE.reset` with what this returns ends it."""
        self._main = asyncio.current_task()
        return HERE.set(Place(self))

    def leave(self) -> None:
        """Let go of the attempt and its task, which hold this: no cycle is left behind."""
        self._main, self.on_parked = None, bool

    def runs_in(self, task: "Task[Any]") -> bool:
        """Whether the handler runs in this task, and has not ended."""
        return task is self._main

    def in_branch(self) -> bool:
        """Whether this code runs in another task than the handler: in any order with others."""
        return asyncio.current_task() is not self._main

    # Work.

    def begin(self, *, begins_nothing: bool = False) -> Work:
        """Take down a piece of work that begins here. Raises `ParkSignal` if the job waits."""
        inside = self._inside()
        if not begins_nothing and self.parked and all(work.begins_nothing for work in inside):
            self.cut_short = True
            raise ParkSignal(self._waits[0].parked)
        work = Work(begins_nothing=begins_nothing)
        if self._open is None:
            self._open = set()
        self._open.add(work)
        self._look_again()
        HERE.set(Place(self, (*inside, work)))
        return work

    def end(self, work: Work) -> None:
        """The work has ended, and is recorded if it is to be; perhaps in another task."""
        if self._open is not None:
            self._open.discard(work)
        HERE.set(Place(self, tuple(one for one in self._inside() if one is not work)))
        self._look_again()

    @contextmanager
    def working(self, *, begins_nothing: bool = False) -> Generator[None]:
        """A piece of work, as long as the block runs."""
        work = self.begin(begins_nothing=begins_nothing)
        try:
            yield
        finally:
            self.end(work)

    def is_inside_work(self) -> bool:
        """Whether this code runs inside a step or a call."""
        return any(not work.begins_nothing for work in self._inside())

    async def ended(self) -> None:
        """Return when no work is under way but such as waits itself, or after a long time."""
        while self._at_work() and await self._changes_within(HELD_SECONDS_MAX):
            pass

    # Waits.

    async def held(self, call: Awaitable[R]) -> R:
        """Await `call`; if it raises that the job is to wait, raise that when nothing else runs."""
        try:
            return await call
        except ParkSignal as signal:
            await self.hold(signal)
            raise

    async def hold(self, signal: ParkSignal) -> None:
        """Return when the job can wait for this; a branch that is stopped here waits no more."""
        wait, inside = Wait(signal.parked, time.monotonic()), self._inside()
        task: Any = asyncio.current_task()
        self._waits += (wait,)
        self._waiting |= {task}
        for work in inside:
            work.waits += 1
        self._look_again()
        try:
            await self._halted()
        except BaseException:
            # After the first has been told, a task group cancels the others, which wait as well.
            self._waiting -= {task}
            if not self.parked:
                self._waits = tuple(one for one in self._waits if one is not wait)
                for work in inside:
                    work.waits -= 1
                self._look_again()
            raise
        if not self.parked:
            self.parked = True
            self.on_parked()

    def merged(self, signal: ParkSignal | None = None) -> Parked:
        """What the job waits for: the first that is not a time, until the earliest time."""
        waits = self._waits
        if signal is not None and not waits:
            waits = (Wait(signal.parked, time.monotonic()),)
        now = time.monotonic()
        times = [
            max(0.0, parked.after_seconds - (now - since))
            for parked, since in waits
            if parked.after_seconds is not None
        ]
        first = waits[0].parked
        if first.reason == "timer":
            first = next((one.parked for one in waits if one.parked.reason != "timer"), first)
        return Parked(first.reason, first.detail, min(times, default=None))

    def waits_for_several(self) -> bool:
        """Whether the job waits for more than one thing that is not a time."""
        # A question inside a step is told twice: by itself, and by the step that it ends.
        return len({id(one.parked) for one in self._waits if one.parked.reason != "timer"}) > 1

    # Tasks and threads that the handler has started.

    def started(self, task: "Task[Any]") -> None:
        """Take down a task that the attempt has started."""
        if self._tasks is None:
            self._tasks = WeakSet()
        self._tasks.add(task)
        task.add_done_callback(self._look_again)

    def started_thread(self, future: "Future[Any]", code: "CodeType | None") -> None:
        """Take down what the attempt runs in a thread of the loop's executor."""
        self._threads = (*self.threads(), (future, code))

    def tasks(self) -> "list[Task[Any]]":
        """The tasks that have not ended."""
        return [task for task in self._tasks or () if not task.done()]

    def threads(self) -> "list[tuple[Future[Any], CodeType | None]]":
        """What runs in a thread of the loop's executor, or waits for one; and its code."""
        return [one for one in self._threads if not one[0].done()]

    def has_leftovers(self) -> bool:
        """Whether anything that the handler has started may still run."""
        return bool(self._open or self._tasks or self._threads)

    def _inside(self) -> tuple[Work, ...]:
        place = HERE.get(None)
        return place.inside if place is not None and place.beside is self else ()

    def _at_work(self) -> bool:
        return any(not work.waits for work in self._open or ())

    async def _halted(self) -> None:
        """Return when every branch has ended, or waits, or has not begun any work for a while."""
        rounds = 0
        while rounds < ROUNDS and (self._at_work() or self._tasks):
            if self._at_work():
                if not await self._changes_within(HELD_SECONDS_MAX):
                    return
                rounds = 0
            elif any(task not in self._waiting for task in self.tasks()):
                if not await self._changes_within(PAUSE_SECONDS_MAX):
                    self.cut_short = True
                    return
                rounds = 0
            else:
                await anyio.lowlevel.checkpoint()
                rounds += 1

    async def _changes_within(self, seconds: float) -> bool:
        """Whether a piece of work ends or begins, a branch comes to a wait, or a task ends."""
        if self._changed is None:
            self._changed = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._changed.wait()
            return True
        return False

    def _look_again(self, _: object = None) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
