"""The attempts of this worker, and its slots.

In: claimed jobs. Out: ended attempts for the finisher. A job holds its slot from its claim until
its transition is committed; a thread that does not return keeps its slot.

A runner is a task that takes one attempt after the other, within one cancel scope, while none of
them waits. As soon as one waits, a follower takes over. A handler that leaves context variables
behind, or that was stopped, ends its runner, so no other attempt sees them. A task for each attempt
took 48 µs a job in the worker, a scope for each attempt 16 µs, this takes 10 µs. What is made for
each job is made cheaply: named tuples instead of frozen dataclasses, one context variable for the
log instead of structlog's four, array literals instead of the driver's lists (12 → 4 µs a job),
`gc.freeze()` at the start (22 → 18 µs).
"""

from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import copy_context
from random import random
from uuid import UUID

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from db.fence import Lease
from db.queue.claim import Claimed
from worker.attempt_state import Tools
from worker.handlers import Handler
from worker.outcomes import Lost, Outcome
from worker.queue.attempt import Attempt, run_attempt
from worker.queue.attempt_log import AttemptLog
from worker.queue.decide import Tries, decide
from worker.queue.ended import EndedAttempt, EndedAttempts
from worker.queue.wake import Wake

ATTEMPTS_AT_A_STRETCH = 100


class Running:
    """Starts attempts in its task group and accounts for their slots."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        tools: Tools,
        attempt_log: AttemptLog,
        ended: EndedAttempts,
        work: Wake,
        *,
        slots: int,
        modules: tuple[str, ...],
        failures_max: int,
        retry_base_seconds: float,
        retry_max_seconds: float,
    ) -> None:
        """`modules` are those that a handler's own process imports; `work` is set at each free
        slot.
        """
        self._handlers = handlers
        self._tools = tools
        self._log = attempt_log
        self._ended = ended
        self._work = work
        self._slots = slots
        self._modules = modules
        self._failures_max = failures_max
        self._retry_base_seconds = retry_base_seconds
        self._retry_max_seconds = retry_max_seconds
        self._attempts: dict[int, Attempt] = {}
        self._waiting: deque[Attempt] = deque()
        self._runner_starts = False
        self._all_free = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Hold the task group of the attempts until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep_forever()

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._attempts.values()))

    def is_busy(self) -> bool:
        """Whether any slot is taken."""
        return bool(self._attempts)

    def free_slots(self) -> int:
        """How many more jobs may be claimed."""
        return self._slots - len(self._attempts)

    def job_ids(self) -> list[UUID]:
        """The jobs that have an attempt here; an ended one counts until its commit."""
        return [attempt.job.id for attempt in self._attempts.values()]

    def start(self, job: Claimed, worker_id: UUID) -> None:
        """Run a claimed job."""
        lease = Lease(job.id, job.lease_no, worker_id)
        attempt = Attempt(job, lease, self._handlers[job.mode])
        self._attempts[job.lease_no] = attempt
        self._log.claimed(job.mode)
        self._waiting.append(attempt)
        self._have_runner()

    def stop(self, job_id: UUID, lease_no: int, cause: Outcome) -> None:
        """Stop the attempt of this job and lease, if it is still here."""
        attempt = self._attempts.get(lease_no)
        if attempt is not None and attempt.job.id == job_id:
            attempt.stop(cause)

    def stop_all(self, cause: Outcome, *, spare_calls: bool = False) -> int:
        """Stop every attempt (`Attempt.stop`); returns how many there are."""
        for attempt in self._attempts.values():
            attempt.stop(cause, spare_calls=spare_calls)
        return len(self._attempts)

    def stop_those_of_others(self, worker_id: UUID | None) -> int:
        """Stop attempts whose lease names another worker id: this process was declared dead."""
        strangers = [a for a in self if a.lease.worker_id != worker_id and a.cause is None]
        for attempt in strangers:
            attempt.stop(Lost("this worker was declared dead and has a new id"))
        return len(strangers)

    def stuck(self) -> int:
        """How many slots are held by threads that should have ended."""
        return sum(a.in_thread and a.stopping for a in self._attempts.values())

    async def wait_empty(self) -> None:
        """Wait until every slot is free."""
        while self._attempts:
            self._all_free = anyio.Event()
            await self._all_free.wait()

    def finished(self, ended: EndedAttempt, status: str | None) -> None:
        """Free the slot of a committed attempt; status None says that its lease was lost."""
        attempt = self._attempts.get(ended.lease.lease_no)
        if attempt is not None:
            self._release(attempt, status, ended.transition.error)

    # A task costs more than a short job (48 µs a job with a task for each, 17 µs like this). So a
    # runner takes the next attempt, has another runner started for the rest, and runs its own.
    # While handlers wait, every attempt has its own task; while they do not, one task and one
    # cancel scope run a whole batch.
    def _have_runner(self) -> None:
        if self._waiting and not self._runner_starts:
            self._runner_starts = True
            self._tasks.start_soon(self._runner)

    async def _runner(self) -> None:
        self._runner_starts = False
        size, ran = len(copy_context()), 0
        with anyio.CancelScope() as scope:
            # After a handler that left context variables or a cancellation behind, this task runs
            # no other: handlers must not see each other's.
            while self._waiting and not scope.cancel_called and len(copy_context()) == size:
                attempt = self._waiting.popleft()
                self._have_runner()
                await self._run(attempt, scope)
                ran += 1
                if ran % ATTEMPTS_AT_A_STRETCH == 0:
                    # Handlers that never wait would keep the ended attempts from their commit.
                    await anyio.lowlevel.cancel_shielded_checkpoint()
        self._have_runner()

    async def _run(self, attempt: Attempt, scope: anyio.CancelScope) -> None:
        outcome = await run_attempt(scope, attempt, self._tools, self._modules)
        transition = decide(outcome, self._tries(attempt), random())
        if transition is None:
            reason = outcome.reason if isinstance(outcome, Lost) else None
            self._release(attempt, None, reason)
        else:
            self._ended.put(EndedAttempt(attempt.job, attempt.lease, transition))

    def _tries(self, attempt: Attempt) -> Tries:
        return Tries(
            failures=attempt.job.failures,
            failures_max=attempt.job.failures_max
            or attempt.handler.failures_max
            or self._failures_max,
            base_seconds=self._retry_base_seconds,
            max_seconds=self._retry_max_seconds,
        )

    def _release(self, attempt: Attempt, status: str | None, error: str | None) -> None:
        del self._attempts[attempt.lease.lease_no]
        self._work.set()
        if not self._attempts:
            self._all_free.set()
        self._log.ended(attempt, status or "lost", error)
