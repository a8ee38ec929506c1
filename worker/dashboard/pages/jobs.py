"""Jobs: all that match the filters of the address, with what each waits for.

In: filters. Out: a page of jobs, newest first; each open one with its `why`, from the function that
`jobsworth why` calls.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import Response
from pydantic import ValidationError

from db.bulk import matching
from db.bulk.filters import JobFilter
from db.documents import parse_payload
from db.errors import InvalidInput
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import Job, JobStatus, WaitReason, Why
from worker.cli.terminal.ids import whole_id
from worker.cli.terminal.times import parse_since
from worker.dashboard.frame import Frame, answer
from worker.dashboard.pages.choices import chosen

LIMIT = 50
# The filters that are typed: name, label, an example.
TEXTS = (
    ("mode", "Mode", "answer"),
    ("queue", "Queue", "default"),
    ("error", "Error has", "rate limit"),
    ("payload", "Payload has", '{"name": "Ada"}'),
    ("key", "Unique key", "order-17"),
    ("request", "Request", "id"),
    ("thread", "Thread", "UUID"),
    ("since", "Since", "2h, today"),
)
# What an index serves; everything else goes by `db.bulk.matching`.
PLAIN = {"status", "reason", "mode", "queue", "thread", "request", "before"}


@dataclass(frozen=True, slots=True)
class Row:
    """A job, why it does not run, and until when it waits."""

    job: Job
    why: Why | None
    until: datetime | None


async def page(conn: Connection, frame: Frame) -> Response:
    found = await _found(conn, frame)
    open_ids = [job.id for job in found if job.finished_at is None]
    whys = await jobs.whys(conn, open_ids)
    return answer(
        frame,
        "jobs.html",
        page="jobs",
        asking=0,
        rows=[Row(job, whys.get(job.id), _until(job)) for job in found],
        statuses=list(JobStatus),
        reasons=list(WaitReason),
        texts=TEXTS,
        limit=LIMIT,
    )


async def _found(conn: Connection, frame: Frame) -> list[Job]:
    asked = {name: value for name, value in frame.query.items() if name in _NAMES}
    before = asked.pop("before", None)
    before_id = None if before is None else whole_id(before, "the page's id")
    if set(asked) <= PLAIN:
        return await jobs.list_jobs(
            conn,
            status=chosen(JobStatus, asked.get("status")),
            waiting_for=chosen(WaitReason, asked.get("reason")),
            mode=asked.get("mode"),
            queue=asked.get("queue"),
            thread_id=_id(asked.get("thread")),
            request_id=asked.get("request"),
            limit=LIMIT,
            before_id=before_id,
        )
    which = filter_of(asked, frame.now)
    return await matching.list_matching(conn, which, limit=LIMIT, before_id=before_id)


def filter_of(asked: dict[str, str], now: datetime) -> JobFilter:
    """The filter that an address says. Raises `InvalidInput`."""
    since, payload = asked.get("since"), asked.get("payload")
    values: dict[str, Any] = {
        "status": chosen(JobStatus, asked.get("status")),
        "waiting_for": chosen(WaitReason, asked.get("reason")),
        "mode": asked.get("mode"),
        "queue": asked.get("queue"),
        "thread_id": _id(asked.get("thread")),
        "unique_key": asked.get("key"),
        "request_id": asked.get("request"),
        "error": asked.get("error"),
        "since": None if since is None else parse_since(since, "since", now),
        "payload": None if payload is None else parse_payload(payload, "the payload"),
    }
    try:
        return JobFilter.model_validate(values)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"the filter cannot be used: {reason}", "change it") from error


_NAMES = PLAIN | {name for name, _, _ in TEXTS}


def _until(job: Job) -> datetime | None:
    return job.run_at if job.status is JobStatus.WAITING else None


def _id(text: str | None) -> UUID | None:
    return None if text is None else whole_id(text, "thread")
