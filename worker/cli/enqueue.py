"""`jobsworth enqueue`, and how `jobsworth deploy` enqueues.

In: a mode, a payload and options as text. Out: a job, its id on stdout. Invariant: what can be
found wrong without the database is said before it is asked.
"""

import difflib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from db.pool import Connection
from db.queue import jobs, workers
from db.queue.jobs import Enqueued, EnqueueOptions, Job, NewJob
from worker.cli import follow, ids, times
from worker.cli.database import run_in_database
from worker.cli.exit_codes import ExitCode
from worker.cli.output import clean, compact_json, emit, emit_facts, emit_json, say, styled
from worker.cli.payload import read_payload
from worker.settings import load_settings

# Reasons that only a person ends, worth a word to somebody who has just enqueued.
NEEDS_HANDLER = ("no handler", "handler")
NEEDS_SOMEBODY = ("no worker", "paused", *NEEDS_HANDLER)


def enqueue(
    mode: str,
    payload: str | None,
    *,
    queue: str,
    priority: int,
    run_at: str | None,
    delay: str | None,
    thread: str | None,
    lane: str | None,
    unique_key: str | None,
    failures_max: int | None,
    timeout: str | None,
    after: Sequence[str],
    wait: bool,
    as_json: bool,
) -> ExitCode:
    options: EnqueueOptions = {
        "queue": queue,
        "priority": priority,
        "run_at": None if run_at is None else times.parse_instant(run_at, "--run-at"),
        "delay": None if delay is None else times.parse_duration(delay, "--delay"),
        "thread_id": None if thread is None else ids.whole_id(thread, "--thread"),
        "lane": lane,
        "unique_key": unique_key,
        "failures_max": failures_max,
        "timeout_seconds": None if timeout is None else times.parse_duration(timeout, "--timeout"),
    }
    return enqueue_document(
        mode, read_payload(payload), options, after=after, wait=wait, as_json=as_json
    )


def enqueue_document(
    mode: str,
    document: dict[str, Any],
    options: EnqueueOptions,
    *,
    after: Sequence[str] = (),
    wait: bool,
    as_json: bool,
) -> ExitCode:
    """Enqueue a job, say so, and with `wait` follow it to its end."""
    settings = load_settings()
    needed = [ids.typed_job(text) for text in after]
    NewJob(mode, document, **options).payload_json(settings.payload_bytes_max)

    async def work(conn: Connection) -> ExitCode:
        options["after"] = [await ids.find_job(conn, typed) for typed in needed]
        enqueued = await jobs.enqueue(
            conn, mode, document, payload_bytes_max=settings.payload_bytes_max, **options
        )
        if not enqueued.created:
            say(f"an open job has the unique key {options.get('unique_key')!r} already: that one")
        if not as_json:
            emit(str(enqueued.job_id))
        if wait:
            job = await follow.follow(conn, enqueued.job_id)
        else:
            job = await jobs.get_by_id(conn, enqueued.job_id)
            await _warn(conn, enqueued.job_id, mode)
        _tell(job, enqueued, wait=wait, as_json=as_json)
        return follow.exit_code_for(job) if wait else ExitCode.OK

    return run_in_database(settings, work)


def _tell(job: Job, enqueued: Enqueued, *, wait: bool, as_json: bool) -> None:
    document: dict[str, object] = {
        "id": job.id,
        "created": enqueued.created,
        "status": job.status,
        "waiting_for": job.waiting_for,
    }
    if wait:
        document |= {"result": job.result, "error": job.error}
    if as_json:
        emit_json(document)
    elif wait:
        tell_end(job)


def tell_end(job: Job) -> None:
    """How a followed job ended."""
    emit_facts(
        [
            ("status", styled(job.status)),
            ("result", None if job.result is None else clean(compact_json(job.result))),
            ("error", job.error),
        ]
    )


async def _warn(conn: Connection, job_id: UUID, mode: str) -> None:
    reason = await jobs.why(conn, job_id)
    if reason.reason in NEEDS_SOMEBODY:
        likely = await _likely(conn, mode) if reason.reason in NEEDS_HANDLER else ""
        say(f"note: {reason.detail}{likely}\n  → {reason.remedy}")


async def _likely(conn: Connection, mode: str) -> str:
    known = {mode for worker in await workers.list_workers(conn) for mode in worker.modes}
    near = difflib.get_close_matches(mode, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
