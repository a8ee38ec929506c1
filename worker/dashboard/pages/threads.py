"""Threads: conversations, the last to speak first; and one of them with the jobs of its messages.

In: filters, or a thread's id; what a person says. Out: threads and messages, read as `jobsworth
thread` reads them; a message with its job, in one commit. Invariant: a form that is sent twice says
it once.
"""

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

from fastapi import Response

from db.conversations import messages, recent_threads, threads
from db.conversations.messages import Received
from db.conversations.threads import ThreadStatus
from db.errors import InvalidInput
from db.pool import Connection
from db.queue import jobs, workers
from db.queue.jobs import Job
from db.transactions import transaction
from worker.api.modes import check_mode
from worker.cli.terminal.ids import whole_id
from worker.dashboard.door import Visitor
from worker.dashboard.frame import Frame, Said, answer
from worker.dashboard.pages.choices import chosen

LIMIT = 50
MESSAGES_MAX = 100
JOBS_MAX = 500
PLATFORM = "dashboard"
USUAL_MODES = ("classify", "answer")


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
        modes=await _modes(conn, []),
        key=secrets.token_urlsafe(12),
    )


async def one(conn: Connection, frame: Frame, thread: str) -> Response:
    thread_id = whole_id(thread, "thread")
    caused: defaultdict[UUID, list[Job]] = defaultdict(list)
    thread_found = await threads.get_by_id(conn, thread_id)
    found = await jobs.list_jobs(conn, thread_id=thread_id, limit=JOBS_MAX)
    for job in found:
        if job.trigger_message_id is not None:
            caused[job.trigger_message_id].append(job)
    return answer(
        frame,
        "thread.html",
        page="threads",
        asking=0,
        thread=thread_found,
        rows=await messages.fetch_recent(conn, thread_id, MESSAGES_MAX),
        caused=caused,
        modes=await _modes(conn, found),
        key=secrets.token_urlsafe(12),
        is_closed=thread_found.status is ThreadStatus.DELETED,
        most=MESSAGES_MAX,
    )


async def say(visitor: Visitor, frame: Frame, thread: str, fields: Mapping[str, str]) -> Said:
    """Store what the visitor says, and enqueue the job that handles it."""
    received = await _receive(visitor, whole_id(thread, "thread"), fields)
    return Said("" if not received.duplicate else "That was said already.")


async def begin(visitor: Visitor, frame: Frame, fields: Mapping[str, str]) -> Said:
    """Open a thread with its first message."""
    title = fields.get("title", "").strip() or None
    async with transaction(visitor.conn):
        thread = await threads.get_or_create(
            visitor.conn, PLATFORM, _key(fields), team_id=visitor.team_id, title=title
        )
        await _receive(visitor, thread.id, fields)
    return Said("", to=frame.url("threads", thread.id))


async def _receive(visitor: Visitor, thread_id: UUID, fields: Mapping[str, str]) -> Received:
    text, mode = fields.get("text", "").strip(), fields.get("mode", "").strip()
    if not text or not mode:
        raise InvalidInput("there is no message, or no mode to handle it", "write both")
    check_mode(visitor.caller, mode)
    return await messages.receive(
        visitor.conn,
        thread_id,
        text,
        mode,
        platform_message_id=f"{PLATFORM}-{_key(fields)}",
        author_user_id=visitor.caller.user_id,
    )


def _key(fields: Mapping[str, str]) -> str:
    key = fields.get("key", "")
    if not 8 <= len(key) <= 64:
        raise InvalidInput("the form is not one of ours", "load the page again")
    return key


async def _modes(conn: Connection, found: Sequence[Job]) -> list[str]:
    """Modes that may handle a message: the one that did so last, then what living workers know."""
    last = [job.mode for job in found if job.trigger_message_id is not None][:1]
    known = sorted({mode for worker in await workers.list_workers(conn) for mode in worker.modes})
    usual = [mode for mode in USUAL_MODES if mode in known or not known]
    return list(dict.fromkeys([*last, *usual, *known]))
