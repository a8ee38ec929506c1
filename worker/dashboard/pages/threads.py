"""Threads: conversations, the last to speak first; and one of them with the jobs of its messages.

In: filters, or a thread's id. Out: threads and messages, read as `jobsworth thread` reads them.
"""

from collections import defaultdict
from uuid import UUID

from fastapi import Response

from db.conversations import messages, recent_threads, threads
from db.conversations.threads import ThreadStatus
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import Job
from worker.cli.terminal.ids import whole_id
from worker.dashboard.frame import Frame, answer
from worker.dashboard.pages.choices import chosen

LIMIT = 50
MESSAGES_MAX = 100
JOBS_MAX = 500


async def page(conn: Connection, frame: Frame) -> Response:
    before = frame.query.get("before")
    found = await recent_threads.list_recent(
        conn,
        status=chosen(ThreadStatus, frame.query.get("status")),
        platform=frame.query.get("platform"),
        limit=LIMIT,
        before_id=None if before is None else whole_id(before, "the page's id"),
    )
    return answer(
        frame,
        "threads.html",
        page="threads",
        asking=0,
        rows=found,
        limit=LIMIT,
        statuses=list(ThreadStatus),
    )


async def one(conn: Connection, frame: Frame, thread: str) -> Response:
    thread_id = whole_id(thread, "thread")
    caused: defaultdict[UUID, list[Job]] = defaultdict(list)
    for job in await jobs.list_jobs(conn, thread_id=thread_id, limit=JOBS_MAX):
        if job.trigger_message_id is not None:
            caused[job.trigger_message_id].append(job)
    return answer(
        frame,
        "thread.html",
        page="threads",
        asking=0,
        thread=await threads.get_by_id(conn, thread_id),
        rows=await messages.fetch_recent(conn, thread_id, MESSAGES_MAX),
        caused=caused,
        most=MESSAGES_MAX,
    )
