"""The attempts of this worker, and its slots.

In: claimed jobs. Out: endings for the finisher. A slot is taken from the claim until the commit of
what its attempt led to; a thread that will not end keeps it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from random import random
from uuid import UUID

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from db.fence import Lease
from db.queue.claim import Claimed
from worker.attempt_state import Tools
from worker.handlers import Handler
from worker.outcomes import Lost, Outcome
from worker.queue.attempt import Attempt, run_attempt
from worker.queue.attempt_log import AttemptLog
from worker.queue.decide import Tries, decide
from worker.queue.finish import Ending

ATTEMPTS_AT_A_STRETCH = 100


class Running:
    """Starts attempts in the daemon's task group and accounts for their slots."""

    def __init__(
        self,
        tasks: TaskGroup,
        handlers: Mapping[str, Handler],
        tools: Tools,
        attempt_log: AttemptLog,
        *,
        slots: int,
        modules: tuple[str, ...],
        failures_max: int,
        retry_base_seconds: float,
        retry_max_seconds: float,
        ended: Callable[[Ending], None],
        freed: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._handlers = handlers
        self._tools = tools
        self._log = attempt_log
        self._slots = slots
        self._modules = modules
        self._failures_max = failures_max
        self._retry_base_seconds = retry_base_seconds
        self._retry_max_seconds = retry_max_seconds
        self._ended = ended
        self._freed = freed
        self._attempts: dict[int, Attempt] = {}
        self._waiting: deque[Attempt] = deque()
        self._runner_starts = False
        self._all_free = anyio.Event()

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._attempts.values()))

    def free_slots(self) -> int:
        """How many more jobs may be claimed."""
        return self._slots - len(self._attempts)

    def job_ids(self) -> list[UUID]:
        """The jobs that have an attempt here, finished ones included until their commit."""
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
        """Stop one attempt, if it is still this one."""
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
        """Until every slot is free."""
        while self._attempts:
            self._all_free = anyio.Event()
            await self._all_free.wait()

    def finished(self, ending: Ending, status: str | None) -> None:
        """The ending is committed (None: the lease was lost); its slot is free."""
        attempt = self._attempts.get(ending.lease.lease_no)
        if attempt is not None:
            self._release(attempt, status, ending.transition.error)

    # A task costs more than a short job (48 µs a job with a task for each, 17 µs like this). So a
    # runner takes the next attempt, has a follower started for the rest, and runs it: while
    # handlers wait, every attempt has a task of its own; when they do not, one task and one cancel
    # scope run a whole batch.
    def _have_runner(self) -> None:
        if self._waiting and not self._runner_starts:
            self._runner_starts = True
            self._tasks.start_soon(self._runner)

    async def _runner(self) -> None:
        self._runner_starts = False
        size, ran = len(copy_context()), 0
        with anyio.CancelScope() as scope:
            # What a handler left behind is this task's last: context variables, which none may see
            # of another, and a cancellation.
            while self._waiting and not scope.cancel_called and len(copy_context()) == size:
                attempt = self._waiting.popleft()
                self._have_runner()
                await self._run(attempt, scope)
                ran += 1
                if ran % ATTEMPTS_AT_A_STRETCH == 0:
                    # Handlers that never wait: let those that ended be committed meanwhile.
                    await anyio.lowlevel.cancel_shielded_checkpoint()
        self._have_runner()

    async def _run(self, attempt: Attempt, scope: anyio.CancelScope) -> None:
        outcome = await run_attempt(scope, attempt, self._tools, self._modules)
        transition = decide(outcome, self._tries(attempt), random())
        if transition is None:
            reason = outcome.reason if isinstance(outcome, Lost) else None
            self._release(attempt, None, reason)
        else:
            self._ended(Ending(attempt.job, attempt.lease, transition))

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
        self._freed()
        if not self._attempts:
            self._all_free.set()
        self._log.ended(attempt, status or "lost", error)
