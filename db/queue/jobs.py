"""Jobs as people and programs use them: enqueue, list, cancel, retry, and why one does not run.

In: ids, filters and options. Out: rows, counts and reasons. The status of a job changes only
through the functions of the schema (cancel, retry), which every SQL client can call, or through a
worker's fenced transition (`db.queue.finish`).
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit
from db.documents import to_payload
from db.errors import Conflict, NotFound
from db.pool import execute, fetch_all, fetch_one, fetch_val
from db.queue.enqueue import Enqueued, enqueue, enqueue_sync
from db.queue.enqueue_many import enqueue_many
from db.queue.new_job import PAYLOAD_BYTES_MAX, EnqueueOptions, JobOptions, NewJob
from db.queue.unique_options import UniqueUntil
from db.transactions import transaction

__all__ = [
    "LIMIT_MAX",
    "PAYLOAD_BYTES_MAX",
    "Counts",
    "EnqueueOptions",
    "Enqueued",
    "Job",
    "JobOptions",
    "JobStatus",
    "NewJob",
    "WaitReason",
    "Why",
    "cancel",
    "counts",
    "enqueue",
    "enqueue_many",
    "enqueue_sync",
    "get_by_id",
    "list_jobs",
    "retry",
    "retry_with",
    "run_now",
    "why",
    "whys",
]

LIMIT_MAX = 1_000


class JobStatus(StrEnum):
    QUEUED = "queued"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"


class WaitReason(StrEnum):
    TIMER = "timer"
    LANE = "lane"
    PARENTS = "parents"
    CHILDREN = "children"
    APPROVAL = "approval"
    SIGNAL = "signal"
    LIMIT = "limit"
    BUDGET = "budget"
    HANDLER = "handler"
    PERSON = "person"


class Job(BaseModel):
    """A row of `reactive_jobs`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    thread_id: UUID | None
    trigger_message_id: UUID | None
    parent_id: UUID | None
    is_child: bool
    mode: str
    payload: dict[str, Any]
    queue: str
    priority: int
    lane: str | None
    holds_lane: bool
    unique_key: str | None
    unique_until: UniqueUntil | None
    status: JobStatus
    waiting_for: WaitReason | None
    waiting_detail: str | None
    run_at: AwareDatetime | None
    attempt: int
    failures: int
    failures_max: int | None
    crashes: int
    crashes_max: int | None
    timeout_seconds: float | None
    cancel_requested: bool
    trace_parent: str | None
    superseded_by: UUID | None
    fair_key: str | None
    session_id: UUID | None
    limit_key: str | None
    limit_weight: int | None
    request_id: str | None
    run_id: UUID | None
    node: str | None
    agent_id: UUID | None
    worker_id: UUID | None
    lease_no: int | None
    result: Any
    error: str | None
    expires_at: AwareDatetime | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None


class Why(BaseModel):
    """Why a job is not running (or what it is doing), and the one thing that would unblock it."""

    model_config = ConfigDict(frozen=True)

    status: JobStatus
    reason: str
    detail: str
    remedy: str


class Counts(BaseModel):
    """The unfinished jobs; `oldest_queued_seconds` is the longest wait of a job at a queue's
    head.
    """

    model_config = ConfigDict(frozen=True)

    queued: int
    running: int
    waiting: dict[WaitReason, int]
    oldest_queued_seconds: float | None


JOB_COLUMNS: LiteralString = """
  j.id, j.team_id, j.thread_id, j.trigger_message_id, j.parent_id, j.is_child, j.mode,
  j.payload, j.queue, j.priority, j.lane, j.holds_lane, j.unique_key, j.unique_until,
  j.status, j.waiting_for, j.waiting_detail, j.run_at, j.attempt, j.failures, j.failures_max,
  j.crashes, j.crashes_max, j.timeout_seconds, j.cancel_requested, j.trace_parent, j.superseded_by,
  j.request_id, j.run_id, j.node, j.agent_id, j.worker_id, j.lease_no, j.result, j.error,
  j.fair_key, j.session_id, j.limit_key, j.limit_weight,
  j.expires_at, j.created_at, j.started_at, j.finished_at
"""

GET_BY_ID: LiteralString = (
    "select "
    + JOB_COLUMNS
    + """
from jobsworth.reactive_jobs j
where j.id = %(id)s
"""
)


async def get_by_id(conn: AsyncConnection[Any], job_id: UUID) -> Job:
    """One job. Raises `NotFound`."""
    job = await fetch_one(conn, GET_BY_ID, {"id": job_id}, Job)
    if job is None:
        raise _not_found(job_id)
    return job


LIST_JOBS: LiteralString = (
    "select "
    + JOB_COLUMNS
    + """
from jobsworth.reactive_jobs j
where (%(status)s::jobsworth.job_status is null or j.status = %(status)s::jobsworth.job_status)
  and (%(waiting_for)s::jobsworth.wait_reason is null
    or j.status = 'waiting' and j.waiting_for = %(waiting_for)s::jobsworth.wait_reason)
  and (%(mode)s::text is null or j.mode = %(mode)s::text)
  and (%(queue)s::text is null or j.queue = %(queue)s::text)
  and (%(thread_id)s::uuid is null or j.thread_id = %(thread_id)s::uuid)
  and (%(payload)s::jsonb is null or j.payload @> %(payload)s::jsonb)
  and (%(before_id)s::uuid is null or j.id < %(before_id)s::uuid)
  and (%(after_id)s::uuid is null or j.id > %(after_id)s::uuid)
"""
)
NEWEST: LiteralString = "order by j.id desc limit %(limit)s"
OLDEST: LiteralString = "order by j.id limit %(limit)s"
# In the order of its index: in that of the ids alone, all jobs were read until enough were found.
NEWEST_OF_REQUEST: LiteralString = """
  and j.request_id = %(request_id)s
order by j.request_id desc, j.id desc
limit %(limit)s
"""
OLDEST_OF_REQUEST: LiteralString = """
  and j.request_id = %(request_id)s
order by j.request_id, j.id
limit %(limit)s
"""


async def list_jobs(
    conn: AsyncConnection[Any],
    *,
    status: JobStatus | None = None,
    mode: str | None = None,
    queue: str | None = None,
    thread_id: UUID | None = None,
    waiting_for: WaitReason | None = None,
    request_id: str | None = None,
    payload: Mapping[str, Any] | None = None,
    limit: int = 100,
    before_id: UUID | None = None,
    after_id: UUID | None = None,
) -> list[Job]:
    """The newest jobs that match all filters, newest first, at most `limit` (1 to 1,000).

    For the next page, pass the last id of this one as `before_id`; for the page before, the first
    one as `after_id`. `payload` is contained in the job's payload (`@>`).
    """
    check_limit(limit, LIMIT_MAX)
    values = {
        "status": status,
        "mode": mode,
        "queue": queue,
        "thread_id": thread_id,
        "waiting_for": waiting_for,
        "request_id": request_id,
        "payload": None if payload is None else to_payload(payload, "the payload to look for"),
        "before_id": before_id,
        "after_id": after_id,
        "limit": limit,
    }
    if after_id is None:
        order = NEWEST if request_id is None else NEWEST_OF_REQUEST
        return await fetch_all(conn, LIST_JOBS + order, values, Job)
    order = OLDEST if request_id is None else OLDEST_OF_REQUEST
    return (await fetch_all(conn, LIST_JOBS + order, values, Job))[::-1]


CANCEL: LiteralString = "select jobsworth.cancel(%(id)s, %(reason)s)"


async def cancel(
    conn: AsyncConnection[Any], job_id: UUID, reason: str = "canceled by a person"
) -> JobStatus:
    """Cancel a job: at once, or when its attempt ends if it is running. Returns its status.

    A job that has ended keeps its status. Raises `NotFound`.
    """
    return JobStatus(await fetch_val(conn, CANCEL, {"id": job_id, "reason": reason}))


RETRY: LiteralString = "select jobsworth.retry(%(id)s)"


async def retry(conn: AsyncConnection[Any], job_id: UUID) -> JobStatus:
    """Start a failed or canceled job afresh, or let a job that waits for its time run now.

    Returns its status. Raises `NotFound`; `Conflict` in any other state, or when another open job
    has its unique key.
    """
    return JobStatus(await fetch_val(conn, RETRY, {"id": job_id}))


CHANGE_PAYLOAD: LiteralString = """
update jobsworth.reactive_jobs j
set payload = %(payload)s::jsonb
where j.id = %(id)s
  and (j.status in ('failed', 'canceled') or j.status = 'waiting' and j.waiting_for = 'timer')
"""


async def retry_with(
    conn: AsyncConnection[Any], job_id: UUID, payload: Mapping[str, Any]
) -> JobStatus:
    """`retry` with this payload instead; both are done, or neither. Its recorded steps stay."""
    values = {"id": job_id, "payload": to_payload(payload, "the payload")}
    async with transaction(conn):
        await execute(conn, CHANGE_PAYLOAD, values)
        return await retry(conn, job_id)


RUN_NOW: LiteralString = """
with timed as materialized (
  select j.id
  from jobsworth.reactive_jobs j
  where j.id = %(id)s and j.status = 'waiting' and j.waiting_for = 'timer'
  for no key update
)
select jobsworth.retry(t.id) from timed t
"""


async def run_now(conn: AsyncConnection[Any], job_id: UUID) -> JobStatus:
    """Let a job that waits for its time (scheduled, backing off, asleep) run now.

    Returns its status. Raises `NotFound`; `Conflict` when it does not wait for its time.
    """
    status = await fetch_val(conn, RUN_NOW, {"id": job_id})
    if status is not None:
        return JobStatus(status)
    job = await get_by_id(conn, job_id)
    state = f"waiting for {job.waiting_for}" if job.waiting_for else job.status
    raise Conflict(
        f"job {job_id} is {state}: only a job that waits for its time can be run now",
        f"see what it waits for: jobsworth why {job_id}",
    )


WHY: LiteralString = """
select w.status, w.reason, w.detail, w.remedy from jobsworth.why(%(id)s) w
"""


async def why(conn: AsyncConnection[Any], job_id: UUID) -> Why:
    """Why the job is not running: one reason and one remedy. Raises `NotFound`."""
    reason = await fetch_one(conn, WHY, {"id": job_id}, Why)
    if reason is None:
        raise _not_found(job_id)
    return reason


WHYS: LiteralString = """
select o.id, w.status, w.reason, w.detail, w.remedy
from unnest(%(ids)s::uuid[]) as o (id)
cross join lateral jobsworth.why(o.id) w
"""


async def whys(conn: AsyncConnection[Any], job_ids: Sequence[UUID]) -> dict[UUID, Why]:
    """`why` for each of these jobs that is still there, in one statement."""
    rows = await fetch_all(conn, WHYS, {"ids": list(job_ids)}) if job_ids else []
    return {row["id"]: Why.model_validate(row) for row in rows}


# With stale statistics the planner may prefer to read the whole table, ended jobs included.
PIN_COUNTS: LiteralString = "select set_config('enable_seqscan', 'off', true)"

COUNTS: LiteralString = """
with recursive heads as (
  -- The head of each queue and priority, by hops along the claim index: finding the oldest job must
  -- not read a whole backlog.
  (select j.queue, j.priority, coalesce(j.run_at, j.created_at) as ready_at
   from jobsworth.reactive_jobs j
   where j.status = 'queued'
   order by j.queue, j.priority, j.position
   limit 1)
  union all
  select n.queue, n.priority, n.ready_at
  from heads h
  cross join lateral (
    select j.queue, j.priority, coalesce(j.run_at, j.created_at) as ready_at
    from jobsworth.reactive_jobs j
    where j.status = 'queued' and (j.queue, j.priority) > (h.queue, h.priority)
    order by j.queue, j.priority, j.position
    limit 1) n
), waiting as (
  select w.waiting_for, count(*) as jobs
  from jobsworth.reactive_jobs w
  where w.status = 'waiting'
  group by w.waiting_for
)
select
  (select count(*) from jobsworth.reactive_jobs q where q.status = 'queued') as queued,
  (select count(*) from jobsworth.reactive_jobs r
    where r.status = 'running' and r.worker_id is not null) as running,
  (select coalesce(jsonb_object_agg(w.waiting_for, w.jobs), '{}') from waiting w) as waiting,
  (select extract(epoch from clock_timestamp() - min(h.ready_at))::float8
   from heads h) as oldest_queued_seconds
"""


async def counts(conn: AsyncConnection[Any]) -> Counts:
    """How many jobs are unfinished, by status and reason; reads no job that has ended."""
    async with transaction(conn):
        await execute(conn, PIN_COUNTS)
        found = await fetch_one(conn, COUNTS, None, Counts)
    return found or Counts(queued=0, running=0, waiting={}, oldest_queued_seconds=None)


def _not_found(job_id: UUID) -> NotFound:
    return NotFound(f"there is no job {job_id}", "list jobs: jobsworth jobs")
