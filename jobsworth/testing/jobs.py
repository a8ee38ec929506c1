"""What a test does with jobs: enqueue, run, look, answer, let time pass, kill.

In: a database of the test's own. Out: jobs that the real parts of a worker ran, in the test's
process: what a test patches is patched for its handlers, and a debugger stops in them.
"""

import difflib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar, Unpack, cast
from uuid import UUID, uuid4

import anyio
from anyio.from_thread import BlockingPortal

from db import testing
from db.approvals import approvals
from db.approvals.approvals import Approval
from db.approvals.voting import resolve
from db.arguments import check_options
from db.diagnosis.violations import list_violations
from db.pool import Connection, Database
from db.queue import jobs as stored
from db.queue import promote, signals
from db.queue.enqueue import enqueue
from db.queue.jobs import Job
from db.queue.new_job import EnqueueOptions
from jobsworth.testing import engine
from jobsworth.testing.model import MODEL, ScriptedModel
from worker import crash_points, handler_modules
from worker.daemon.loop import WorkerLoop
from worker.handlers import Handler
from worker.settings import Settings, load_settings

T = TypeVar("T")

RUN_SECONDS_MAX = 30.0
TIMERS_MAX = 1_000
SHOWN_MAX = 10
SHELVED_MAX = 1_000
TESTER = "a tester"
# A test waits for none of these; all else is as in production.
QUICK: Mapping[str, Any] = {
    "heartbeat_seconds": 0.2,
    "poll_seconds": 0.05,
    "slots": 10,
    "pool_min": 1,
    "http_port": None,
    "drain_seconds": 5.0,
}


class Jobs:
    """A queue for one test. Its methods block; they may be called from an async test too.

    `settings` are fields of `worker.settings.Settings`, as `failures_max=2`.
    """

    def __init__(
        self, portal: BlockingPortal, url: str, model: ScriptedModel, **settings: Any
    ) -> None:
        self.url = url
        """The libpq URL of the test's database."""
        self.model = model
        """The model of agents that have none of their own."""
        self._portal = portal
        self._database = Database(url, pool_min=0, pool_max=2, application_name="jobsworth tests")
        self._settings = settings
        portal.call(self._database.open)

    def close(self) -> None:
        """Close its connections."""
        self._portal.call(self._database.close)

    def call(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What `work` returns: any function of Jobsworth that takes a connection; committed."""

        async def within() -> T:
            async with self._database.transaction() as connection:
                return await work(connection)

        return self._portal.call(within)

    def enqueue(
        self,
        mode: str,
        payload: Mapping[str, Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> UUID:
        """Enqueue a job, as `jobsworth.enqueue` does; returns its id. Nothing runs yet."""
        return self.call(lambda conn: enqueue(conn, mode, payload, **options)).job_id

    def get(self, job_id: UUID) -> Job:
        """The job as it stands. Raises `NotFound`."""
        return self.call(lambda conn: stored.get_by_id(conn, job_id))

    def run(
        self,
        mode: str,
        payload: Mapping[str, Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> Job:
        """Enqueue a job, run it and nothing else, and return it as it then stands.

        It ran once: it is done, or it failed and waits for its next try, or waits for something
        else. What it enqueued is there and has not run (`enqueued`, `drain`). It has a queue of its
        own, unless `queue` names one: then the jobs of that queue run too. Raises `AssertionError`
        if no handler is declared for it.
        """
        declared = handler_modules.load(self._loaded().handlers)
        if mode not in declared:
            near = difflib.get_close_matches(mode, declared, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            raise AssertionError(
                f"no handler is declared for {mode!r}{meant} Import its module in the test, or name"
                " it in pytest's option jobsworth_handlers."
            )
        queue = options.get("queue") or f"test {uuid4().hex[:8]}"
        job_id = self.enqueue(mode, payload, **(options | {"queue": queue}))
        self._work([queue])
        return self.get(job_id)

    def drain(
        self, *queues: str, timers: bool = False, seconds_max: float = RUN_SECONDS_MAX
    ) -> list[Job]:
        """Run all that is ready, and what becomes ready by it; returns the jobs that ended.

        Of these queues, else of all. With `timers`, time moves on to each timer in turn, so that
        retries, sleeps and scheduled jobs run as well. What waits for a person or a signal stays.
        Raises `AssertionError` if that takes longer than `seconds_max`.
        """
        before = self._ended()
        self._work(queues, seconds_max)
        for _ in range(TIMERS_MAX if timers else 0):
            ahead = self.call(lambda conn: testing.next_timer_seconds(conn, queues))
            if ahead is None:
                break
            if ahead > 0:
                self.move_time(ahead)
            self._work(queues, seconds_max)
        ended = [job for job in self._all() if job.id not in before and job.finished_at is not None]
        return sorted(ended, key=lambda job: (job.finished_at, job.id))

    def enqueued(
        self, mode: str | None = None, payload: Mapping[str, Any] | None = None, **fields: Any
    ) -> list[Job]:
        """The unfinished jobs of this mode, whose payload has these fields, and that are so.

        `fields` are those of `Job`, as `queue="mail"` or `waiting_for="timer"`. Oldest first.
        """
        check_options("enqueued", fields, Job.model_fields)
        return [
            job
            for job in self._all()
            if job.finished_at is None
            and mode in (None, job.mode)
            and _contains(job.payload, payload or {})
            and all(getattr(job, name) == value for name, value in fields.items())
        ]

    def assert_enqueued(
        self, mode: str, payload: Mapping[str, Any] | None = None, **fields: Any
    ) -> Job:
        """The one unfinished job that `enqueued` finds; `AssertionError` shows what there is."""
        found = self.enqueued(mode, payload, **fields)
        if len(found) != 1:
            raise AssertionError(
                f"{len(found) or 'no'} jobs are enqueued with {_wanted(mode, payload, fields)}"
                f"{self._shown()}"
            )
        return found[0]

    def refute_enqueued(
        self, mode: str | None = None, payload: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        """`AssertionError` if `enqueued` finds any job."""
        found = self.enqueued(mode, payload, **fields)
        if found:
            raise AssertionError(f"{len(found)} jobs are enqueued{_lines(found)}")

    def pending(self) -> list[Approval]:
        """The open approvals, oldest first."""
        return self.call(approvals.get_pending)

    def approve(self, text: str = "", *, by: str = TESTER, comment: str | None = None) -> Approval:
        """Approve the one open approval whose text contains this; its job is ready again."""
        return self.decide("approve", text, by=by, comment=comment)

    def reject(self, text: str = "", *, by: str = TESTER, comment: str | None = None) -> Approval:
        """Reject the one open approval whose text contains this; its job is ready again."""
        return self.decide("reject", text, by=by, comment=comment)

    def decide(
        self, option: str, text: str = "", *, by: str = TESTER, comment: str | None = None
    ) -> Approval:
        """Choose an option of the one open approval whose text contains this."""
        pending = self.pending()
        found = [each for each in pending if text in each.proposal_text]
        if len(found) != 1:
            texts = "".join(f"\n  {each.proposal_text}" for each in pending) or " nothing"
            raise AssertionError(f"{len(found)} open approvals contain {text!r}; open:{texts}")

        async def vote(conn: Connection) -> Approval:
            decision = await resolve(conn, found[0].id, option, by, "test", comment)
            decision.require_accepted()
            return await approvals.get_by_id(conn, found[0].id)

        return self.call(vote)

    def signal(self, job_id: UUID, name: str, payload: Any = None) -> None:
        """Send a signal to a job."""
        self.call(lambda conn: signals.send(conn, job_id, name, payload))

    def move_time(self, by: timedelta | float) -> None:
        """Let time pass for everything that is stored: timers, deadlines, schedules, paces.

        All stored times move into the past by this, in seconds or a timedelta. Between calls
        nothing works, so time stands still. What counts calendar days stays: budgets' windows.
        Needs a superuser. Clocks that your own code reads are yours to move.
        """
        span = by if isinstance(by, timedelta) else timedelta(seconds=by)
        if span <= timedelta(0):
            raise AssertionError(f"time moves on, not by {span}")

        self.call(lambda conn: testing.let_time_pass(conn, span))

    def crash(self, point: str, *queues: str, seconds_max: float = RUN_SECONDS_MAX) -> None:
        """Work in a process of its own that is killed (`kill -9`) when it reaches this point.

        `point` is one of `worker.crash_points.CRASH_POINTS`; with `:3`, at the third time. What
        your handlers changed in memory is lost with it. The next `drain` finds what a restarted
        worker finds. Raises `AssertionError` if the work ended before the point was reached.
        """
        crash_points.check(point)
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                crash_points.arm(point)
                anyio.run(
                    self._settle, queues, seconds_max, backend_options={"loop_factory": WorkerLoop}
                )
            os._exit(1)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            raise AssertionError(f"the work ended and {point} was not reached{self._shown()}")

    def paid(self) -> tuple[int, int]:
        """Input and output tokens in the books; equal to `model.tokens`, or the books are wrong."""
        return self.call(testing.settled_tokens)

    def violations(self) -> list[str]:
        """Breaches of Jobsworth's own invariants; empty, always."""
        return [str(each) for each in self.call(list_violations)]

    def _work(self, queues: Sequence[str], seconds_max: float = RUN_SECONDS_MAX) -> None:
        if not self._portal.call(self._settle, queues, seconds_max):
            raise AssertionError(f"not settled after {seconds_max:g} s{self._shown()}")

    async def _settle(self, queues: Sequence[str], seconds_max: float) -> bool:
        settings = self._loaded()
        registry = handler_modules.load(settings.handlers)
        async with Database(self.url, pool_min=0, pool_max=1) as database:
            async with database.connection() as connection:
                served = list(queues) or await _served(connection, registry)
            settings = settings.model_copy(update={"queues": tuple(served)})

            async def is_settled() -> bool:
                async with database.connection() as connection:
                    if await testing.is_settled(connection, served, list(registry)):
                        return True
                    # Else one that no handler is for would be looked for in a while only.
                    await promote.shelve_unknown(connection, SHELVED_MAX)
                    return False

            return await engine.work(settings, self.url, registry, is_settled, seconds_max)

    def _loaded(self) -> Settings:
        chosen = {"model": MODEL, "model_url": self.model.url, "model_key": "test"}
        return load_settings(**{**QUICK, **chosen, **self._settings, "database_url": self.url})

    def _all(self) -> list[Job]:
        return self.call(testing.every_job)

    def _ended(self) -> set[UUID]:
        return {job.id for job in self._all() if job.finished_at is not None}

    def _shown(self) -> str:
        return _lines([job for job in self._all() if job.finished_at is None])


async def _served(conn: Connection, registry: Mapping[str, Handler]) -> list[str]:
    declared = {handler.queue for handler in registry.values()}
    return sorted({"default", *declared, *await testing.queues_in_use(conn)})


def _contains(whole: Any, part: Any) -> bool:
    """As `@>` of jsonb, but a list must be equal: an object may have more fields."""
    if isinstance(whole, dict) and isinstance(part, Mapping):
        known = cast(dict[str, Any], whole)
        wanted = cast(Mapping[str, Any], part)
        return all(key in known and _contains(known[key], value) for key, value in wanted.items())
    return whole == part


def _wanted(mode: str, payload: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> str:
    given = [f"payload={dict(payload)!r}"] if payload else []
    return ", ".join([repr(mode), *given, *(f"{name}={value!r}" for name, value in fields.items())])


def _lines(jobs: Sequence[Job]) -> str:
    lines = [f"\n  {_line(job)}" for job in jobs[:SHOWN_MAX]]
    more = len(jobs) - SHOWN_MAX
    return ":" + "".join(lines) + (f"\n  and {more} more" if more > 0 else "") if lines else ""


def _line(job: Job) -> str:
    waits = f" for {job.waiting_for} {job.waiting_detail or ''}".rstrip() if job.waiting_for else ""
    error = f", last error: {job.error}" if job.error else ""
    return f"{job.mode} {job.payload} in queue {job.queue}: {job.status}{waits}{error}"
