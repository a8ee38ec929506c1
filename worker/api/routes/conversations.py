"""`/threads` and `/messages`: what was said, and what is to be said.

In: a message. Out: the message and its job, which are in one commit. Invariant: a message with the
same Idempotency-Key is in its thread once.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from db.conversations import messages, recent_threads, threads
from db.conversations.messages import Message
from db.conversations.recent_threads import RecentThread
from db.conversations.threads import Thread, ThreadStatus
from worker.api.access import Access, may
from worker.api.modes import check_mode
from worker.api.paging import LIMIT, At, Limit
from worker.api.problems import documented
from worker.api.routes.jobs import Key

router = APIRouter(tags=["conversations"])
Read = Annotated[Access, may("threads:read")]
Write = Annotated[Access, may("threads:write")]


class NewThread(BaseModel):
    """A chat of a platform; the thread that it has already is returned unchanged."""

    model_config = ConfigDict(extra="forbid")

    platform: str = Field(examples=["api"])
    chat_id: str
    title: str | None = None


class NewMessage(BaseModel):
    """What a user says, and the mode of the job that handles it."""

    model_config = ConfigDict(extra="forbid")

    thread_id: UUID
    text: str
    mode: str = "classify"
    payload: dict[str, Any] = {}
    metadata: dict[str, Any] | None = None


class Posted(BaseModel):
    """The message and its job; `duplicate` if both were there already."""

    message: Message
    job_id: UUID | None
    duplicate: bool


@router.get("/threads", summary="List threads by their last message", responses=documented())
async def list_threads(
    access: Read,
    status: ThreadStatus | None = None,
    platform: str | None = None,
    agent_id: UUID | None = None,
    limit: Limit = LIMIT,
    before: Annotated[UUID | None, Query(description="last_id of the thread before")] = None,
) -> list[RecentThread]:
    async with access.reading() as conn:
        return await recent_threads.list_recent(
            conn,
            status=status,
            platform=platform,
            agent_id=agent_id,
            team_id=access.caller.team_id,
            limit=limit,
            before_id=before,
        )


@router.post("/threads", summary="Find or open a thread", responses=documented(409))
async def open_thread(access: Write, new: NewThread) -> Thread:
    async with access.acting() as conn:
        return await threads.get_or_create(
            conn, new.platform, new.chat_id, team_id=access.caller.team_id, title=new.title
        )


@router.get("/threads/{thread_id}", summary="Show a thread", responses=documented(404))
async def show_thread(access: Read, thread_id: UUID) -> Thread:
    async with access.reading() as conn:
        return await threads.get_by_id(conn, thread_id)


@router.get("/messages", summary="List the last messages of a thread", responses=documented(404))
async def list_messages(access: Read, thread_id: UUID, at: At) -> list[Message]:
    """Oldest first; `before` and `after` are ids of messages."""
    async with access.reading() as conn:
        await threads.get_by_id(conn, thread_id)
        return await messages.list_page(
            conn, thread_id, before_id=at.before, after_id=at.after, limit=at.limit
        )


@router.post("/messages", summary="Post a message", status_code=201, responses=documented(404, 409))
async def post_message(
    access: Write, new: NewMessage, response: Response, key: Key = None
) -> Posted:
    """The message and the job that handles it, in one commit; 200 for one that was there."""
    check_mode(access.caller, new.mode)
    async with access.acting(lambda conn: threads.get_by_id(conn, new.thread_id)) as conn:
        done = await messages.receive(
            conn,
            new.thread_id,
            new.text,
            new.mode,
            new.payload,
            platform_message_id=key,
            author_user_id=access.caller.user_id,
            request_id=access.request_id,
            metadata=new.metadata,
        )
    if done.duplicate:
        response.status_code = 200
    job_id = None if done.job is None else done.job.id
    return Posted(message=done.message, job_id=job_id, duplicate=done.duplicate)
