"""A job and all its paperwork; and what a person does with it.

In: a job's id, or the end of it. Out: what `jobsworth job show` and `jobsworth job calls` read, as
a page; a canceled, retried or hurried job.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import Response

from db.bulk.filters import MODE
from db.documents import parse_payload
from db.errors import NotFound
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import Job, JobStatus, WaitReason
from db.steps import artifacts
from worker.cli.terminal.ids import find_job, typed_job
from worker.cli.views import call_view, job_view
from worker.cli.views.call_view import Exchange
from worker.cli.views.job_view import JobFile
from worker.dashboard.frame import Frame, answer, headers
from worker.dashboard.pages import bulk

DONE = {
    "cancel": "The job is canceled, or will be when its attempt ends.",
    "retry": "The job starts afresh.",
    "run-now": "The job no longer waits for its time.",
}
HELD = (JobStatus.FAILED, JobStatus.CANCELED)


async def page(conn: Connection, frame: Frame, job: str) -> Response:
    job_id = await find_job(conn, typed_job(job))
    file = await job_view.read(conn, job_id)
    return answer(
        frame,
        "job.html",
        page="jobs",
        asking=0,
        file=file,
        job=file.job,
        calls=[_call(each) for each in await call_view.read(conn, job_id)],
        actions=_actions(file.job),
        is_held=file.job.status in HELD and file.job.mode != MODE,
        facts=_facts(frame, file),
        course=await bulk.course(conn, frame, file.job),
    )


async def act(
    conn: Connection, frame: Frame, job: str, action: str, fields: Mapping[str, str]
) -> str:
    """Do it; returns what to say. Raises `Conflict` where it cannot be done (any more)."""
    job_id = await find_job(conn, typed_job(job))
    match action:
        case "cancel":
            await jobs.cancel(conn, job_id, f"canceled by {frame.who}")
        case "retry":
            if "payload" in fields:
                payload = parse_payload(fields["payload"], "the payload")
                await jobs.retry_with(conn, job_id, payload)
            else:
                await jobs.retry(conn, job_id)
        case "run-now":
            await jobs.run_now(conn, job_id)
        case "undo":
            return await bulk.undo(conn, frame, job)
        case _:
            raise NotFound(f"there is no action {action!r}", "choose one of the page's buttons")
    return DONE[action]


async def artifact(conn: Connection, frame: Frame, id: UUID) -> Response:
    """A file, always as a download: it may hold anything."""
    found = await artifacts.get(conn, id)
    content = await artifacts.content(conn, id)
    if content is None:
        raise NotFound(f"artifact {id} is only an address", found.uri or "")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in found.name)
    return Response(
        content,
        headers=headers(frame.nonce)
        | {
            "content-disposition": f'attachment; filename="{name[-100:] or "file"}"',
            "content-security-policy": "default-src 'none'; sandbox",
        },
        media_type="application/octet-stream",
    )


def _actions(job: Job) -> list[tuple[str, str, str]]:
    """The buttons that this job may be sent: path, word, kind."""
    if job.status in HELD:
        return [("retry", "Retry", "yes")]
    if job.finished_at is not None or job.cancel_requested:
        return []
    if job.mode == MODE:
        return [("undo", "Undo" if job.started_at is None else "Stop", "no")]
    timed = job.status is JobStatus.WAITING and job.waiting_for is WaitReason.TIMER
    return [*([("run-now", "Run now", "yes")] if timed else []), ("cancel", "Cancel", "no")]


def _facts(frame: Frame, file: JobFile) -> list[tuple[str, Any, str | None]]:
    """What the row says: a word, a value, and the page behind it."""
    job = file.job
    own_lane = job.lane != (job.thread_id and str(job.thread_id))
    return [
        (word, value, href)
        for word, value, href in [
            ("Queue", f"{job.queue}, priority {job.priority}", frame.url("jobs", queue=job.queue)),
            ("Thread", job.thread_id, frame.url("threads", job.thread_id)),
            ("Run", job.run_id, frame.url("runs", job.run_id)),
            ("Node", job.node, None),
            ("Parent", job.parent_id, frame.url("jobs", job.parent_id)),
            ("Lane", job.lane if own_lane else None, None),
            ("Unique key", job.unique_key, frame.url("jobs", key=job.unique_key)),
            ("Fair key", job.fair_key, None),
            ("Limit key", job.limit_key, None),
            ("Request", job.request_id, frame.url("jobs", request=job.request_id)),
            ("Trace", job.trace_parent, None),
            ("Timeout", job.timeout_seconds and f"{job.timeout_seconds:g} s", None),
        ]
        if value is not None
    ]


def _call(exchange: Exchange) -> dict[str, Any]:
    asked = exchange.asked
    return {
        "call": exchange.call,
        "asked": None if asked is None else [call_view.asked_words(text) for text in asked],
        "said": call_view.said(exchange),
    }
