"""`jobsworth jobs, why, cancel, retry, signal`: the queue as an operator sees and steers it.

In: filters and ids. Out: rows, one reason, or a changed status.
"""

from datetime import UTC, datetime
from textwrap import indent
from uuid import UUID

from rich.text import Text

from db.errors import Conflict
from db.pool import Connection
from db.queue import jobs, signals
from db.queue.jobs import Job, JobStatus, WaitReason
from worker.cli import ids
from worker.cli.database import run_in_database
from worker.cli.output import (
    Column,
    emit,
    emit_json,
    emit_table,
    one_line,
    say,
    styled,
)
from worker.cli.payload import read_document
from worker.cli.times import age, ago
from worker.settings import load_settings

COLUMNS = [
    Column("ID"),
    Column("MODE", flexible=True),
    Column("STATUS"),
    Column("AGE", right=True),
    Column("DETAIL", flexible=True),
]


def list_jobs(
    *,
    status: str | None,
    mode: str | None,
    queue: str | None,
    waiting_for: str | None,
    thread: str | None,
    limit: int,
    as_json: bool,
) -> None:
    thread_id = None if thread is None else ids.whole_id(thread, "--thread")

    async def work(conn: Connection) -> list[Job]:
        return await jobs.list_jobs(
            conn,
            status=JobStatus(status) if status else None,
            mode=mode,
            queue=queue,
            thread_id=thread_id,
            waiting_for=WaitReason(waiting_for) if waiting_for else None,
            limit=limit,
        )

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    short = ids.short_ids(job.id for job in found)
    filtered = any((status, mode, queue, waiting_for, thread))
    none = "no such jobs" if filtered else "no jobs yet\n  → jobsworth enqueue MODE '{…}'"
    emit_table(COLUMNS, [_row(job, short(job.id), now) for job in found], none)
    if len(found) == limit:
        say(f"the newest {limit}; there may be more: --limit")


def status_words(job: Job) -> Text:
    """A job's status, and what it waits for."""
    more = f": {job.waiting_for}" if job.waiting_for else ""
    if job.status is JobStatus.RUNNING and job.cancel_requested:
        more = ", canceling"
    return styled(job.status, more)


def why(text: str, *, as_json: bool) -> None:
    typed = ids.typed_job(text)

    async def work(conn: Connection) -> tuple[UUID, jobs.Why]:
        job_id = await ids.find_job(conn, typed)
        return job_id, await jobs.why(conn, job_id)

    job_id, reason = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": job_id, **reason.model_dump()})
        return
    more = f": {reason.reason}" if reason.reason != reason.status else ""
    emit(Text.assemble(f"job {job_id} is ", styled(reason.status, more)))
    emit(indent(reason.detail, "  "))
    emit(f"  → {reason.remedy}")


def cancel(text: str, *, reason: str, as_json: bool) -> None:
    typed = ids.typed_job(text)

    async def work(conn: Connection) -> Job:
        job_id = await ids.find_job(conn, typed)
        before = await jobs.get_by_id(conn, job_id)
        if before.finished_at is not None:
            raise _has_ended(before)
        after = await jobs.cancel(conn, job_id, reason)
        job = await jobs.get_by_id(conn, job_id)
        if after in (JobStatus.DONE, JobStatus.FAILED):
            raise _has_ended(job)
        return job

    job = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": job.id, "status": job.status, "cancel_requested": job.cancel_requested})
    elif job.status is JobStatus.CANCELED:
        emit(Text.assemble(f"job {job.id} is ", styled("canceled")))
    else:
        emit(f"job {job.id} is {job.status}: it is told to stop, and canceled when it has")


def retry(text: str, *, as_json: bool) -> None:
    typed = ids.typed_job(text)

    async def work(conn: Connection) -> Job:
        job_id = await ids.find_job(conn, typed)
        await jobs.retry(conn, job_id)
        return await jobs.get_by_id(conn, job_id)

    job = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": job.id, "status": job.status, "waiting_for": job.waiting_for})
    else:
        emit(Text.assemble(f"job {job.id} is ", status_words(job)))


def signal(text: str, name: str, payload: str | None, *, as_json: bool) -> None:
    typed = ids.typed_job(text)
    document = read_document(payload, "the payload")

    async def work(conn: Connection) -> Job:
        job_id = await ids.find_job(conn, typed)
        await signals.send(conn, job_id, name, document)
        return await jobs.get_by_id(conn, job_id)

    job = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": job.id, "status": job.status, "waiting_for": job.waiting_for})
    else:
        emit(Text.assemble(f"signal {name} is sent; job {job.id} is ", status_words(job)))


def _row(job: Job, shown_id: str, now: datetime) -> list[str | Text | None]:
    return [shown_id, job.mode, status_words(job), age(job.created_at, now), _detail(job, now)]


def _detail(job: Job, now: datetime) -> str:
    if job.status in (JobStatus.FAILED, JobStatus.CANCELED):
        return one_line(job.error or "")
    if job.status is JobStatus.WAITING and job.waiting_for is WaitReason.TIMER:
        failed = f", failed {job.failures}×" if job.failures else ""
        return f"due {ago(job.run_at, now)}{failed}"
    if job.status is JobStatus.WAITING and job.waiting_for is WaitReason.HANDLER:
        return "no living worker knows this mode"
    if job.status is JobStatus.WAITING:
        return one_line(job.waiting_detail or "")
    if job.status is JobStatus.RUNNING:
        return f"attempt {job.attempt}, since {ago(job.started_at, now)}"
    return "" if job.queue == "default" else f"queue {job.queue}"


def _has_ended(job: Job) -> Conflict:
    return Conflict(
        f"job {job.id} is {job.status} already: there is nothing to cancel",
        f"see what it did: jobsworth job {job.id}",
    )
