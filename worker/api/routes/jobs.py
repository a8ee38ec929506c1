"""`/jobs`: enqueue, list and show jobs; cancel, retry and run them now.

In: what a client wants done. Out: jobs, and why one does not run. Invariant: a request that is
repeated with the same Idempotency-Key within a day enqueues nothing more.
"""

from typing import Annotated, Any, cast
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from db.conversations import threads
from db.documents import parse_payload
from db.errors import Conflict, InvalidInput
from db.people import agents
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import EnqueueOptions, Job, JobStatus, WaitReason, Why
from worker.api.access import Access, Seen, may
from worker.api.modes import check_mode
from worker.api.paging import At, Page
from worker.api.problems import documented

router = APIRouter(prefix="/jobs", tags=["jobs"])
Read = Annotated[Access, may("jobs:read")]
Write = Annotated[Access, may("jobs:write")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="a repeated request with this key does nothing more, for a day",
    ),
]
KEY_SECONDS = 86_400.0


class NewJob(BaseModel):
    """A job to enqueue."""

    model_config = ConfigDict(extra="forbid")

    mode: str = Field(description="which handler runs it", examples=["summarise"])
    payload: dict[str, Any] = {}
    queue: str = "default"
    priority: int = Field(3, ge=1, le=4, description="1 is urgent")
    run_at: AwareDatetime | None = None
    delay_seconds: float | None = Field(None, ge=0, le=3e9)
    expires_at: AwareDatetime | None = None
    unique_key: str | None = None
    lane: str | None = None
    limit_key: str | None = None
    fair_key: str | None = None
    thread_id: UUID | None = None
    agent_id: UUID | None = None
    failures_max: int | None = None
    timeout_seconds: float | None = None
    after: list[UUID] = Field([], max_length=1_000, description="jobs that must end first")


class Enqueued(BaseModel):
    """The job; `created` is false if it was there already."""

    id: UUID
    created: bool


class JobShown(BaseModel):
    """A job, and why it is not running or what it does."""

    job: Job
    why: Why


class Reason(BaseModel):
    reason: str = Field(default="canceled through the API", max_length=1_000)


class StatusOf(BaseModel):
    """How it stands after the order."""

    id: UUID
    status: JobStatus


@router.get("", summary="List jobs, newest first", responses=documented())
async def list_jobs(
    access: Read,
    at: At,
    status: JobStatus | None = None,
    waiting_for: WaitReason | None = None,
    mode: str | None = None,
    queue: str | None = None,
    thread_id: UUID | None = None,
    request_id: str | None = None,
    payload: Annotated[
        str | None, Query(description="JSON that the payload contains", examples=['{"user": 7}'])
    ] = None,
) -> Page[Job]:
    wanted = None if payload is None else parse_payload(payload, "payload")
    async with access.reading() as conn:
        found = await jobs.list_jobs(
            conn,
            status=status,
            waiting_for=waiting_for,
            mode=mode,
            queue=queue,
            thread_id=thread_id,
            request_id=request_id,
            payload=wanted,
            limit=at.limit,
            before_id=at.before,
            after_id=at.after,
        )
    return at.page(found)


@router.post("", summary="Enqueue a job", status_code=201, responses=documented(404, 409))
async def enqueue(access: Write, new: NewJob, response: Response, key: Key = None) -> Enqueued:
    """201 for a new job; 200 for the one of an earlier request with this key, or that holds the
    unique key.
    """
    check_mode(access.caller, new.mode)
    options = _options(access, new)
    if key is not None:
        if new.unique_key is not None:
            raise InvalidInput(
                "unique_key and the header Idempotency-Key are both given", "give one of them"
            )
        options |= {"unique_key": f"request:{key}", "unique_seconds": KEY_SECONDS}
    async with access.acting(*_seen(new)) as conn:
        done = await jobs.enqueue(conn, new.mode, new.payload, **options)
        if not done.created:
            response.status_code = 200
            if key is not None:
                await _check_same(conn, done.job_id, new)
    return Enqueued(id=done.job_id, created=done.created)


@router.get("/{job_id}", summary="Show a job, and why it does not run", responses=documented(404))
async def show_job(access: Read, job_id: UUID) -> JobShown:
    async with access.reading() as conn:
        job = await jobs.get_by_id(conn, job_id)
        return JobShown(job=job, why=await jobs.why(conn, job_id))


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=documented(404, 409))
async def cancel(access: Write, job_id: UUID, why: Reason | None = None) -> StatusOf:
    """At once, or when its attempt ends. A job that has ended keeps its status."""
    async with access.acting(_job(job_id)) as conn:
        status = await jobs.cancel(conn, job_id, (why or Reason()).reason)
    return StatusOf(id=job_id, status=status)


@router.post("/{job_id}/retry", summary="Start an ended job afresh", responses=documented(404, 409))
async def retry(access: Write, job_id: UUID) -> StatusOf:
    async with access.acting(_job(job_id)) as conn:
        return StatusOf(id=job_id, status=await jobs.retry(conn, job_id))


@router.post(
    "/{job_id}/run-now", summary="End a job's wait for its time", responses=documented(404, 409)
)
async def run_now(access: Write, job_id: UUID) -> StatusOf:
    async with access.acting(_job(job_id)) as conn:
        return StatusOf(id=job_id, status=await jobs.run_now(conn, job_id))


def _job(job_id: UUID) -> Seen:
    return lambda conn: jobs.get_by_id(conn, job_id)


def _options(access: Access, new: NewJob) -> EnqueueOptions:
    given = new.model_dump(exclude={"mode", "payload", "delay_seconds"}, exclude_none=True)
    if new.delay_seconds is not None:
        given["delay"] = new.delay_seconds
    given |= {"team_id": access.caller.team_id, "request_id": access.request_id}
    return cast(EnqueueOptions, given)


def _seen(new: NewJob) -> list[Seen]:
    """What the job names must be the caller's to name."""
    seen: list[Seen] = [_job(each) for each in new.after]
    if (thread_id := new.thread_id) is not None:
        seen.append(lambda conn: threads.get_by_id(conn, thread_id))
    if (agent_id := new.agent_id) is not None:
        seen.append(lambda conn: agents.get(conn, agent_id))
    return seen


async def _check_same(conn: Connection, job_id: UUID, new: NewJob) -> None:
    job = await jobs.get_by_id(conn, job_id)
    if (job.mode, job.queue, job.payload) != (new.mode, new.queue, new.payload):
        raise Conflict(
            f"this Idempotency-Key was used for another request, which enqueued job {job_id}",
            "use a key once: for one request and its repetitions",
        )
