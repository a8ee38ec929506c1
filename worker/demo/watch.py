"""Watch the jobs, and remember what only shows for a moment.

In: all jobs, read a few times a second. Out: snapshots, and which jobs were seen waiting for what.
Invariant: every wait has a bound, and its error says which jobs hang and why.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import anyio

from db.errors import JobsworthError
from db.pool import Connection, Database
from db.queue import jobs
from db.queue.jobs import Job, JobStatus
from worker.demo.daemons import Daemons
from worker.demo.show import Show

LOOK_SECONDS = 0.2
STALL_SECONDS = 60.0
HANGING_SHOWN = 5

UNFINISHED = (JobStatus.QUEUED, JobStatus.WAITING, JobStatus.RUNNING)


class Stalled(JobsworthError):
    """Nothing has changed for too long."""


class Watch:
    """`jobs` is the latest snapshot, oldest first; `waits` the jobs seen waiting, by reason.

    Each function in `on_snapshot` is called with every snapshot.
    """

    def __init__(
        self, database: Database, daemons: Daemons, show: Show, stall_seconds: float
    ) -> None:
        self.jobs: list[Job] = []
        self.waits: dict[str, set[UUID]] = defaultdict(set)
        self.on_snapshot: list[Callable[[Sequence[Job]], None]] = []
        self._database = database
        self._daemons = daemons
        self._show = show
        self._stall_seconds = stall_seconds

    async def look(self) -> None:
        """Take a snapshot. Raises `DaemonEnded`."""
        async with self._database.connection() as connection:
            self.jobs = await _all_jobs(connection)
        for job in self.jobs:
            self.note_wait(job)
        for call in self.on_snapshot:
            call(self.jobs)
        self._show.snapshot(self.jobs)
        self._daemons.require_alive()

    def note_wait(self, job: Job) -> None:
        """Remember what a job waits for, if it waits."""
        if job.waiting_for is not None:
            self.waits[job.waiting_for].add(job.id)

    async def until(self, what: str, reached: Callable[[], Awaitable[bool]]) -> None:
        """Take snapshots until `reached`. Raises `Stalled` if nothing changes for too long."""
        state, changed_at = self._state(), time.monotonic()
        while True:
            await self.look()
            if await reached():
                return
            if (now_state := self._state()) != state:
                state, changed_at = now_state, time.monotonic()
            if time.monotonic() - changed_at > self._stall_seconds:
                raise await self._stalled(what)
            await anyio.sleep(LOOK_SECONDS)

    def unfinished(self) -> list[Job]:
        return [job for job in self.jobs if job.status in UNFINISHED]

    def of_message(self, message_id: UUID) -> list[Job]:
        """The jobs that a message led to, oldest first."""
        return [job for job in self.jobs if job.trigger_message_id == message_id]

    def by_mode(self) -> dict[str, Counter[str]]:
        """For each mode, the number of jobs in each status."""
        counted: dict[str, Counter[str]] = defaultdict(Counter)
        for job in self.jobs:
            counted[job.mode][job.status] += 1
        return counted

    def _state(self) -> object:
        return [(job.id, job.status, job.waiting_for, job.attempt) for job in self.jobs]

    async def _stalled(self, what: str) -> Stalled:
        hanging = self.unfinished()
        lines = [f"{what}: nothing has changed for {self._stall_seconds:.0f} s"]
        remedy = "run it again with --keep, and look at the logs of its daemons"
        async with self._database.connection() as connection:
            for job in hanging[:HANGING_SHOWN]:
                why = await jobs.why(connection, job.id)
                lines.append(
                    f"  {job.mode} job {job.id} is {why.status}: {why.reason}, {why.detail}"
                )
                remedy = why.remedy
        return Stalled("\n".join(lines), remedy)


async def _all_jobs(connection: Connection) -> list[Job]:
    found: list[Job] = []
    page: list[Job] = []
    while not found or len(page) == jobs.LIMIT_MAX:
        before = found[-1].id if found else None
        page = await jobs.list_jobs(connection, limit=jobs.LIMIT_MAX, before_id=before)
        found += page
        if not page:
            break
    return found[::-1]
