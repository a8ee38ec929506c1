"""The attempts of this worker, and its slots.

In: claimed jobs. Out: ended attempts for the finisher. A job holds its slot from its claim until
its transition is committed; a thread that does not return keeps its slot.

A runner is a task that takes one attempt after the other, within one cancel scope, while none of
them waits. As soon as one waits, a follower takes over. A handler that leaves context variables,
cancel scopes or a cancellation behind, or that was stopped, ends its runner, so no other attempt
sees them. Runners are tasks of no task group: one that ends in disorder would cancel the group.

A task for each attempt took 48 µs a job in the worker, a scope for each attempt 16 µs, this takes
10 µs. What is made for each job is made cheaply: named tuples instead of frozen dataclasses, one
context variable for the log instead of structlog's four, array literals instead of the driver's
lists (12 → 4 µs a job), `gc.freeze()` at the start (22 → 18 µs).
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import Context, copy_context
from functools import cache
from random import random
from time import monotonic
from typing import Any, Protocol
from uuid import UUID

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from db.fence import Lease
from db.queue.attempts import BadEnding
from db.queue.claim import Claimed
from worker import events
from worker.attempt_state import Tools
from worker.handlers import Handler
from worker.log import get_logger
from worker.outcomes import Lost, Outcome, Parked
from worker.queue import left_behind
from worker.queue.attempt import Attempt, run_attempt
from worker.queue.attempt_log import AttemptLog
from worker.queue.decide import Tries, decide
from worker.queue.ended import EndedAttempt, EndedAttempts
from worker.queue.interpret import CANCELED_FROM_WITHIN
from worker.queue.leftovers import watch_loop
from worker.queue.wake import Wake
from worker.steps.steps import failures_of

ATTEMPTS_AT_A_STRETCH = 100
# A handler that goes on for so long after it was told to end takes no notice of it.
DEAF_SECONDS = 5.0

log = get_logger()


class Proof(Protocol):
    """What proves that this worker lives; in a daemon, `Heartbeat`."""

    def proven_id(self) -> UUID | None: ...


class Running:
    """Starts attempts in its task group and accounts for their slots."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        tools: Tools,
        attempt_log: AttemptLog,
        ended: EndedAttempts,
        work: Wake,
        proof: Proof,
        *,
        slots: int,
        modules: tuple[str, ...],
        failures_max: int,
        retry_base_seconds: float,
        retry_max_seconds: float,
    ) -> None:
        """`modules` are those that a handler's own process imports; `work` is set when a slot
        becomes free and none was, or a suspect has ended.
        """
        self._handlers = handlers
        self._tools = tools
        self._log = attempt_log
        self._ended = ended
        self._work = work
        self._proof = proof
        self._slots = slots
        self._modules = modules
        self._failures_max = failures_max
        self._retry_base_seconds = retry_base_seconds
        self._retry_max_seconds = retry_max_seconds
        self._attempts: dict[int, Attempt] = {}
        self._suspects = 0
        self._alone_until = -math.inf
        self._waiting: deque[Attempt] = deque()
        self._runner_starts = False
        self._runners: dict[asyncio.Task[None], anyio.CancelScope] = {}
        self._context = Context()
        self._all_free = anyio.Event()
        self.ended = 0
        """How many attempts have ended."""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Run attempts until cancelled; then stop them, wherever they are."""
        watch_loop(asyncio.get_running_loop())
        self._context = copy_context()
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self._end_runners()

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._attempts.values()))

    def is_busy(self) -> bool:
        """Whether any slot is taken."""
        return bool(self._attempts)

    def free_slots(self) -> int:
        """How many more jobs may be claimed."""
        if self._attempts and monotonic() < self._alone_until:
            return 0
        return self._slots - len(self._attempts)

    def has_suspect(self) -> bool:
        """Whether a job runs that one more death of its worker fails: it runs apart from others
        like it.
        """
        return self._suspects > 0

    def job_ids(self) -> list[UUID]:
        """The jobs that have an attempt here; an ended one counts until its commit."""
        return [attempt.job.id for attempt in self._attempts.values()]

    def start(self, job: Claimed, worker_id: UUID) -> None:
        """Run a claimed job."""
        lease = Lease(job.id, job.lease_no, worker_id)
        attempt = Attempt(job, lease, self._handlers[job.mode])
        self._attempts[job.lease_no] = attempt
        self._suspects += job.suspect
        if job.alone_seconds is not None:
            self._alone_until = monotonic() + job.alone_seconds
        self._log.claimed(job.queue, job.mode)
        self._waiting.append(attempt)
        if not self._runner_starts:
            self._have_runner()

    def stop(self, job_id: UUID, lease_no: int | None, cause: Outcome) -> None:
        """Stop the attempt of this job and lease (None: of any), if it is still here."""
        found = list(self) if lease_no is None else [self._attempts.get(lease_no)]
        for attempt in found:
            if attempt is not None and attempt.job.id == job_id:
                attempt.stop(cause)

    def stop_all(self, cause: Outcome) -> int:
        """Stop every attempt at once; returns how many there are."""
        for attempt in self._attempts.values():
            attempt.stop(cause)
        return len(self._attempts)

    def lose_all(self, cause: Lost) -> int:
        """Stop every attempt that was not told to stop before; returns how many there were.

        Paid calls that were sent may end first.
        """
        begun = [attempt for attempt in self if attempt.cause is None]
        for attempt in begun:
            attempt.stop(cause, spare_calls=True)
        return len(begun)

    def stop_those_of_others(self, worker_id: UUID | None) -> int:
        """Stop attempts whose lease names another worker id: this process was declared dead."""
        strangers = [a for a in self if a.lease.worker_id != worker_id and a.cause is None]
        for attempt in strangers:
            attempt.stop(Lost("this worker was declared dead and has a new id"))
        return len(strangers)

    def deaf(self, at: float) -> list[Attempt]:
        """The attempts that go on although they were told to end: by a stop, or a deadline.

        Also those whose handler has ended and left something running that was told to end. `at` is
        the monotonic time. A thread is among them at once, a coroutine after some seconds.
        """
        found: list[Attempt] = []
        for attempt in self._attempts.values():
            told = attempt.stopping or attempt.told_at is not None
            if attempt.scope is not None and told and not attempt.spared:
                attempt.told_at = attempt.told_at or at
                if attempt.in_thread or at - attempt.told_at >= DEAF_SECONDS:
                    found.append(attempt)
        return found

    async def wait_empty(self) -> None:
        """Wait until every slot is free."""
        while self._attempts:
            self._all_free = anyio.Event()
            await self._all_free.wait()

    def finished(self, ended: EndedAttempt, status: str | None) -> None:
        """Free the slot of a committed attempt; status None says that its lease was lost."""
        attempt = self._attempts.get(ended.lease.lease_no)
        if attempt is not None:
            transition = ended.transition
            self._release(attempt, status, transition.history or _well(transition.status))

    # A task costs more than a short job (48 µs a job with a task for each, 17 µs like this). So a
    # runner takes the next attempt, has another runner started for the rest, and runs its own.
    # While handlers wait, every attempt has its own task; while they do not, one task and one
    # cancel scope run a whole batch.
    def _have_runner(self) -> None:
        if self._waiting and not self._runner_starts:
            self._runner_starts = True
            # Made without the loop's task factory, which a handler may have changed.
            scope = anyio.CancelScope()
            runner = left_behind.Runner(
                left_behind.Unclosed(self._runner(scope)), context=self._context.copy()
            )
            left_behind.hide(runner)
            self._runners[runner] = scope
            runner.add_done_callback(self._runner_ended)

    async def _runner(self, scope: anyio.CancelScope) -> None:
        self._runner_starts = False
        task: Any = asyncio.current_task()
        size, ran = len(copy_context()), 0
        with scope:
            place = left_behind.place_of(task)
            # After a handler that left something behind, this task runs no other: handlers must not
            # see each other's.
            while self._waiting and not scope.cancel_called and len(copy_context()) == size:
                attempt = self._waiting.popleft()
                if not self._runner_starts:
                    self._have_runner()
                await self._run(attempt, scope, first=not ran)
                if place.cancel_scope is not scope or task.cancelling():
                    left_behind.clean_up(task, scope)
                    break
                ran += 1
                if ran % ATTEMPTS_AT_A_STRETCH == 0:
                    # Handlers that never wait would keep the ended attempts from their commit.
                    await anyio.lowlevel.cancel_shielded_checkpoint()

    def _runner_ended(self, runner: "asyncio.Task[None]") -> None:
        """Go on without a runner that has ended: in order, canceled by a handler, or broken."""
        del self._runners[runner]
        error = None if runner.cancelled() else runner.exception()
        if error is not None:
            log.warning(events.RUNNER_BROKEN, error=f"{type(error).__name__}: {error}")
        self._have_runner()

    async def _end_runners(self) -> None:
        self.stop_all(Lost("the worker ends"))
        for scope in self._runners.values():
            scope.cancel()
        if self._runners:
            await asyncio.wait(self._runners, timeout=DEAF_SECONDS)

    async def _run(self, attempt: Attempt, scope: anyio.CancelScope, *, first: bool) -> None:
        proven_id, worker_id = self._proof.proven_id(), attempt.lease.worker_id
        # Nearly always it is the same object, and to compare two costs more.
        if proven_id is not worker_id and proven_id != worker_id:
            # A handler may have blocked the loop since the claim, and others have taken the job.
            attempt.stop(Lost("no heartbeat proves the lease"))
        outcome = await run_attempt(scope, attempt, self._tools, self._modules)
        if attempt.canceled_from_within and not first:
            # By a timer that an earlier handler in this task has left, perhaps: no failure counts.
            interrupted = BadEnding("interrupted", CANCELED_FROM_WITHIN)
            outcome = Parked("timer", CANCELED_FROM_WITHIN, 0.0, interrupted=interrupted)
        transition = decide(outcome, self._tries(attempt), random())
        if transition is None:
            reason = outcome.reason if isinstance(outcome, Lost) else None
            self._release(attempt, None, BadEnding("lost", reason))
        else:
            if attempt.state is not None and attempt.state.failed_steps:
                transition = transition._replace(failed_steps=failures_of(attempt.state))
            # Traces make what the attempt enqueues part of its span.
            job = attempt.job if attempt.state is None else attempt.state.job
            self._ended.put(EndedAttempt(job, attempt.lease, transition))

    def _tries(self, attempt: Attempt) -> Tries:
        return Tries(
            failures=attempt.job.failures,
            failures_max=attempt.job.failures_max
            or attempt.handler.failures_max
            or self._failures_max,
            base_seconds=self._retry_base_seconds,
            max_seconds=self._retry_max_seconds,
        )

    def _release(self, attempt: Attempt, status: str | None, ending: BadEnding) -> None:
        # While slots are left, the claimer has found everything that there was; but it takes only
        # one suspect at a time.
        if self.free_slots() <= 0 or attempt.job.suspect:
            self._work.set()
        del self._attempts[attempt.lease.lease_no]
        self.ended += 1
        self._suspects -= attempt.job.suspect
        if attempt.job.alone_seconds is not None:
            self._alone_until = -math.inf
        if not self._attempts:
            self._all_free.set()
        self._log.ended(attempt, status or "lost", ending)


@cache
def _well(status: str) -> BadEnding:
    """How an attempt ended that has no history; one for all, because one for each job costs."""
    return BadEnding(status, None)
