"""Enqueue a job from a command, and follow it to its end with `--wait`.

In: a mode, a payload and options. Out: a job, its id on stdout; meanwhile, on stderr, what keeps it
from running. Invariant: a mistake that can be found without the database is told before the
database is asked.
"""

import difflib
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import anyio
from psycopg import AsyncConnection

from db.errors import InvalidInput
from db.pool import Connection, Database
from db.queue import jobs, workers
from db.queue.jobs import Enqueued, EnqueueOptions, Job, JobStatus, NewJob, Why
from db.safe_write import write_safely
from worker.cli.terminal import ids
from worker.cli.terminal.database import write_in_database
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import clean, compact_json, emit, emit_facts, emit_json, say, styled
from worker.settings import load_settings

POLL_SECONDS_MIN, POLL_SECONDS_MAX = 0.05, 1.0
BACKOFF = 1.5
# A reason that lasts less is not worth a line.
TELL_SECONDS = 0.4
# Reasons that only a person can end: worth a note right after enqueueing.
NEEDS_HANDLER = ("no handler", "handler")
NEEDS_PERSON = ("no worker", "paused", *NEEDS_HANDLER)

# What the options of `enqueue` are on the command line, where another word is typed for them.
TYPED = {
    "run_at": "--run-at",
    "expires_in": "--expires-in",
    "unique_key": "--unique-key",
    "unique_until": "--unique-until",
    "unique_seconds": "--unique-for",
    "on_conflict": "--on-conflict",
    "debounce_seconds": "--debounce",
    "debounce_max_seconds": "--debounce-max",
    "failures_max": "--failures-max",
    "timeout_seconds": "--timeout",
    "request_id": "--request-id",
    "limit_key": "--limit-key",
    "limit_weight": "--limit-weight",
}
_NAMED = re.compile(rf"\b({'|'.join(TYPED)})\b")


def enqueue_job(
    mode: str,
    payload: dict[str, Any],
    options: EnqueueOptions,
    *,
    after: Sequence[str] = (),
    wait: bool,
    as_json: bool,
    readable: Callable[[Any], str | None] | None = None,
) -> ExitCode:
    """Enqueue a job after those named in `after`, print its id, and with `wait` follow it.

    `readable` makes a text for people of the result; without it they get the result as JSON.
    """
    settings = load_settings()
    needed = [ids.typed_job(text) for text in after]
    try:
        NewJob(mode, payload, **options).payload_json(settings.payload_bytes_max)
    except InvalidInput as error:
        raise InvalidInput(_as_typed(error.message), _as_typed(error.remedy)) from None

    async def work(database: Database) -> ExitCode:
        async with database.connection() as conn:
            options["after"] = [await ids.find_job(conn, typed) for typed in needed]
        enqueued = await jobs.enqueue(
            database, mode, payload, payload_bytes_max=settings.payload_bytes_max, **options
        )
        if enqueued.replaced:
            say(f"the job that holds the unique key {options.get('unique_key')!r} does this now")
        elif not enqueued.created:
            say(f"a job holds the unique key {options.get('unique_key')!r} already; this is it")
        if not as_json:
            emit(str(enqueued.job_id))
        if wait:
            job = await follow(database, enqueued.job_id)
        else:
            async with database.connection() as conn:
                job = await jobs.get_by_id(conn, enqueued.job_id)
                await warn(conn, enqueued.job_id, mode)
        _tell(job, enqueued, readable or _json, wait=wait, as_json=as_json)
        return ExitCode.NO if wait and job.status is not JobStatus.DONE else ExitCode.OK

    return write_in_database(work)


async def follow(
    target: Connection | Database,
    job_id: UUID,
    progress: Callable[[], Awaitable[str | None]] | None = None,
) -> Job:
    """The job once it is done, failed or canceled; says on stderr what it waits for meanwhile, and
    its `progress`. A connection of a pool that is lost meanwhile is replaced.
    """

    async def look(conn: AsyncConnection[Any]) -> tuple[Job, Why]:
        return await jobs.get_by_id(conn, job_id), await jobs.why(conn, job_id)

    last: str | None = None
    reason: Why | None = None
    since, told = 0.0, False
    pause = POLL_SECONDS_MIN
    while True:
        job, current = await write_safely(target, look)  # a look is harmless twice, too
        if job.finished_at is not None:
            return job
        if current != reason:
            reason, since, told = current, time.monotonic(), False
            pause = POLL_SECONDS_MIN
        if not told and time.monotonic() - since > TELL_SECONDS:
            say(f"{current.reason}: {current.detail}\n  → {current.remedy}")
            told = True
        if progress is not None and (now := await progress()) not in (last, None):
            say(str(now))
            last = now
        await anyio.sleep(pause)
        pause = min(POLL_SECONDS_MAX, pause * BACKOFF)


def _json(result: Any) -> str:
    return clean(compact_json(result))


def _tell(
    job: Job,
    enqueued: Enqueued,
    readable: Callable[[Any], str | None],
    *,
    wait: bool,
    as_json: bool,
) -> None:
    document: dict[str, object] = {
        "id": job.id,
        "created": enqueued.created,
        "replaced": enqueued.replaced,
        "status": job.status,
        "waiting_for": job.waiting_for,
    }
    if wait:
        document |= {"result": job.result, "error": job.error}
    if as_json:
        emit_json(document)
    elif wait:
        emit_facts(
            [
                ("status", styled(job.status)),
                ("result", None if job.result is None else readable(job.result)),
                ("error", job.error),
            ]
        )


async def warn(conn: Connection, job_id: UUID, mode: str) -> None:
    """Say so if only a person can let the job run: no worker, no handler, a paused queue."""
    why = await jobs.why(conn, job_id)
    if why.reason in NEEDS_PERSON:
        likely = await likely_mode(conn, mode) if why.reason in NEEDS_HANDLER else ""
        say(f"note: {why.detail}{likely}\n  → {why.remedy}")


async def likely_mode(conn: Connection, mode: str) -> str:
    """Which mode of a worker was meant, as the end of a sentence; empty if none is near."""
    known = {mode for worker in await workers.list_workers(conn) for mode in worker.modes}
    near = difflib.get_close_matches(mode, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _as_typed(text: str) -> str:
    return _NAMED.sub(lambda found: TYPED[found[1]], text)
