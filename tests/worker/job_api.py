"""A worker inside the test's own loop, to see what handlers do on real PostgreSQL.

In: handlers registered within `registered()`, and jobs. Out: their rows once nothing moves any
more. It is the daemon itself (its claimer, attempts, finisher, promoter, upkeep, embedder and
heartbeat, put together by itself), without signals and the health endpoint; nothing is faked.

    async with JobApi.open(url) as api:
        job = await api.run("greet", {"name": "Ada"})   # enqueue, work until idle, the job's row
        assert job.result == "Hello, Ada!"

Each `work()` is the life of a new worker, so what a job waits for may happen between two of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, LiteralString, Unpack, cast
from uuid import UUID, uuid4

import anyio

from db.approvals import approvals
from db.approvals.approvals import Approval
from db.conversations import threads
from db.diagnosis import violations
from db.pool import Database
from db.queue import enqueue_middleware, jobs
from db.queue import rescue as rescuing
from db.queue.claim import Claimed
from db.queue.enqueue import enqueue
from db.queue.jobs import Job
from db.queue.new_job import EnqueueOptions
from tests.support import until
from worker import handlers
from worker.attempt_state import PriceSource
from worker.daemon.daemon import Daemon
from worker.daemon.parts import make_parts
from worker.extensions import middleware, resources
from worker.handlers import Handler
from worker.memory.embedders import Embedder, HashingEmbedder
from worker.outcomes import Lost
from worker.settings import Settings

# A timer that is due within this time is worked on; a later one is left waiting.
SOON_SECONDS = 0.5
QUICK: dict[str, Any] = {
    "http_port": None,
    "slots": 10,
    "threads": 4,
    "pool_min": 1,
    "pool_max": 6,
    "poll_seconds": 0.05,
    "retry_base_seconds": 0.01,
    "retry_max_seconds": 0.05,
    "drain_seconds": 5.0,
}

MOVING: LiteralString = """
select j.id, j.mode, j.status::text, j.waiting_for::text, j.error
from jobsworth.reactive_jobs j
where j.mode = any(%(modes)s) and (
  j.status in ('queued', 'running')
  or j.status = 'waiting' and (
    jobsworth.reason_gone(j)
    -- An upkeep may have looked before this worker told what it knows.
    or j.waiting_for = 'handler' and j.run_at is null
    or j.waiting_for not in ('lane', 'parents', 'handler')
      and j.run_at < clock_timestamp() + %(soon)s * interval '1 second'
    or j.waiting_for = 'approval' and exists (
      select 1 from jobsworth.approvals a
      where a.job_id = j.id and a.status = 'pending' and a.deadline <= clock_timestamp())))
union all
select m.job_id, m.source_kind, 'to embed', null, o.last_error
from jobsworth.embedding_outbox o
join jobsworth.memories m on m.id = o.memory_id
where o.dead_at is null and (o.last_error is null or o.next_try_at <= clock_timestamp())
"""

WORKERS: LiteralString = "select w.id, w.beats from jobsworth.workers w"


@contextmanager
def registered() -> Generator[dict[str, Handler]]:
    """An empty registry of handlers; the one before is back afterwards.

    What surrounds handlers (middleware, resources) is empty too.
    """
    before, lifespans = dict(handlers.registry), dict(resources.declared)
    lists = [(one, list(one)) for one in (middleware.declared, enqueue_middleware.declared)]
    for one in (handlers.registry, resources.declared, *(each for each, _ in lists)):
        one.clear()
    try:
        yield handlers.registry
    finally:
        handlers.registry.clear()
        handlers.registry.update(before)
        resources.declared.clear()
        resources.declared.update(lifespans)
        for each, there in lists:
            cast(list[Any], each)[:] = there


class JobApi:
    """A database, and workers that come and go."""

    def __init__(self, url: str, database: Database, embedder: Embedder, **settings: Any) -> None:
        self.url = url
        self.database = database
        self.pricing: PriceSource | None = None
        """The prices of workers that begin from now on, in place of their own."""
        self._embedder = embedder
        self._settings = Settings.model_validate({**QUICK, "database_url": url, **settings})

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, embedder: Embedder | None = None, **settings: Any
    ) -> AsyncGenerator[JobApi]:
        """`settings` are those of the workers, by the names of `Settings`."""
        async with Database(url, pool_min=1, pool_max=3) as database:
            yield cls(url, database, embedder or HashingEmbedder(64), **settings)

    async def enqueue(
        self,
        mode: str,
        payload: Mapping[str, Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> UUID:
        async with self.database.connection() as connection:
            return (await enqueue(connection, mode, payload, **options)).job_id

    async def run(
        self,
        mode: str,
        payload: Mapping[str, Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> Job:
        """Enqueue a job, work until nothing moves, and return how it stands."""
        job_id = await self.enqueue(mode, payload, **options)
        await self.work()
        return await self.job(job_id)

    async def work(self, seconds: float = 120) -> None:
        """A worker's life: until nothing is ready, running or due soon. Then it drains."""
        async with self.working():
            await self.idle(seconds)

    async def idle(self, seconds: float = 120) -> None:
        """Until nothing moves that a worker could move."""
        await until(partial(self._is_idle), seconds, "the worker is idle")

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        """A worker beside the test; at the end it drains, after an error it is just gone."""
        async with InlineWorker(self._settings, self.url, self._embedder, self.pricing) as worker:
            yield
            await worker.stop()

    @asynccontextmanager
    async def dying(self) -> AsyncGenerator[InlineWorker]:
        """A worker that is gone at the end, or when it is killed, in the middle of whatever it
        does: between two statements, its attempts not ended, its row there. Others take its jobs.
        """
        async with InlineWorker(self._settings, self.url, self._embedder, self.pricing) as worker:
            yield worker
        await self.rescue()

    async def rescue(self) -> None:
        """Every worker so far counts as dead; its jobs are given back."""
        dead = {row["id"]: row["beats"] for row in await self.rows(WORKERS)}
        async with self.database.connection() as connection:
            await rescuing.rescue(
                connection,
                dead,
                rowless=True,
                crashes_max=self._settings.crashes_max,
                retry_base_seconds=self._settings.retry_base_seconds,
                retry_max_seconds=self._settings.retry_max_seconds,
                most=100,
            )

    async def job(self, job_id: UUID) -> Job:
        async with self.database.connection() as connection:
            return await jobs.get_by_id(connection, job_id)

    async def approval(self, job_id: UUID) -> Approval:
        """What this job asks at the moment."""
        async with self.database.connection() as connection:
            pending = await approvals.get_pending(connection)
        [approval] = [one for one in pending if one.job_id == job_id]
        return approval

    async def decide(self, job_id: UUID, option: str, comment: str | None = None) -> None:
        """Decide what this job asks, as the person "Ann"."""
        approval = await self.approval(job_id)
        async with self.database.connection() as connection:
            resolution = await approvals.resolve(
                connection, approval.id, option, decided_by="Ann", channel="test", comment=comment
            )
        resolution.require_accepted()

    async def rows(self, query: LiteralString, **values: Any) -> list[dict[str, Any]]:
        """The rows of any query."""
        return await self.database.fetch_all(query, values)

    async def value(self, query: LiteralString, **values: Any) -> Any:
        """The first column of the first row of any query."""
        return await self.database.fetch_val(query, values)

    async def violations(self) -> list[str]:
        """The invariants that are broken."""
        async with self.database.connection() as connection:
            return [one.invariant for one in await violations.list_violations(connection)]

    async def _is_idle(self) -> bool:
        moving = await self.rows(MOVING, modes=sorted(handlers.registry), soon=SOON_SECONDS)
        return not moving


class InlineWorker:
    """The daemon's working part as a context, in the caller's loop."""

    def __init__(
        self, settings: Settings, url: str, embedder: Embedder, pricing: PriceSource | None = None
    ) -> None:
        self.parts = make_parts(settings, url, dict(handlers.registry), embedder, pricing)
        self._daemon = Daemon(settings, self.parts)
        self._ended = anyio.Event()

    async def __aenter__(self) -> InlineWorker:
        await self.parts.database.open()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._live)
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(*error)
        finally:
            await self.parts.database.close()

    async def stop(self) -> None:
        """Let what runs finish, and leave."""
        self.parts.stop.ask()
        await self._ended.wait()

    def kill(self) -> None:
        """Let nothing of it go on beyond the statement that it is in."""
        # Attempts run in no task group: its end would reach them only some statements later.
        self.parts.running.stop_all(Lost("the worker dies"))
        self._tasks.cancel_scope.cancel()

    async def _live(self) -> None:
        await self._daemon.work(self._tasks)
        self._ended.set()


async def new_thread(api: JobApi) -> UUID:
    async with api.database.connection() as connection:
        return (await threads.get_or_create(connection, "test", "chat")).id


def claimed_job(
    mode: str = "work", payload: Mapping[str, Any] | None = None, **known: Any
) -> Claimed:
    """A job as a claim hands it over, for tests that need no database."""
    columns: dict[str, Any] = dict.fromkeys(Claimed._fields)
    first: dict[str, Any] = {
        "id": uuid4(),
        "lease_no": 1,
        "queue": "default",
        "priority": 3,
        "position": 1,
        "mode": mode,
        "payload": dict(payload or {}),
        "attempt": 1,
        "failures": 0,
        "is_child": False,
        "run_id": None,
        "node": None,
        "agent_id": None,
        "waited_seconds": 0.0,
        "suspect": False,
        "alone_seconds": None,
    }
    return Claimed(**{**columns, **first, **known})
