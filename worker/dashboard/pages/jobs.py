"""Jobs: all that match the filters of the address, with what each waits for.

In: filters. Out: a page of jobs, newest first; each open one with its `why`, from the function that
`jobsworth why` calls.
"""

from dataclasses import dataclass
from datetime import datetime

from fastapi import Response

from db.bulk import matching
from db.bulk.matching import Page
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import Job, JobStatus, WaitReason, Why
from worker.cli.terminal.ids import whole_id
from worker.dashboard.frame import Frame, answer
from worker.dashboard.pages.bulk import VERBS
from worker.dashboard.pages.choices import chosen
from worker.dashboard.pages.filters import MORE_TEXTS, NAMES, TEXTS, filter_of

LIMIT = 50
# What an index serves alone; everything else goes by `db.bulk.matching`.
PLAIN = {"status", "reason", "mode", "queue", "thread", "request"}
INDEXED = {"thread", "request"}


@dataclass(frozen=True, slots=True)
class Row:
    """A job, why it does not run, and until when it waits."""

    job: Job
    why: Why | None
    until: datetime | None


async def page(conn: Connection, frame: Frame) -> Response:
    found = await _found(conn, frame)
    open_ids = [job.id for job in found.jobs if job.finished_at is None]
    whys = await jobs.whys(conn, open_ids)
    return answer(
        frame,
        "jobs.html",
        page="jobs",
        asking=0,
        rows=[Row(job, whys.get(job.id), _until(job)) for job in found.jobs],
        looked=found.looked,
        further=found.looked_to,
        statuses=list(JobStatus),
        reasons=list(WaitReason),
        texts=TEXTS,
        more_texts=MORE_TEXTS,
        kept={name: value for name, value in frame.query.items() if name in NAMES},
        verbs=VERBS,
        limit=LIMIT,
    )


async def _found(conn: Connection, frame: Frame) -> Page:
    asked = {name: value for name, value in frame.query.items() if name in NAMES}
    before = frame.query.get("before")
    before_id = None if before is None else whole_id(before, "the page's id")
    if not asked or (set(asked) <= PLAIN and set(asked) & INDEXED):
        thread = asked.get("thread")
        rows = await jobs.list_jobs(
            conn,
            status=chosen(JobStatus, asked.get("status")),
            waiting_for=chosen(WaitReason, asked.get("reason")),
            mode=asked.get("mode"),
            queue=asked.get("queue"),
            thread_id=None if thread is None else whole_id(thread, "thread"),
            request_id=asked.get("request"),
            limit=LIMIT,
            before_id=before_id,
        )
        return Page(rows, len(rows), rows[-1].id if len(rows) == LIMIT else None)
    which = await filter_of(conn, asked, frame.now)
    return await matching.list_matching(conn, which, limit=LIMIT, before_id=before_id)


def _until(job: Job) -> datetime | None:
    return job.run_at if job.status is JobStatus.WAITING else None
