"""What the tests of jobs share: jobs in a state, workers and approvals as rows."""

from typing import Any
from uuid import UUID

from db.pool import Connection, execute, fetch_val
from db.queue import jobs
from db.queue.jobs import enqueue

FINAL = ("done", "failed", "canceled")


async def added(conn: Connection, mode: str = "answer", **options: Any) -> UUID:
    return (await enqueue(conn, mode, **options)).job_id


async def put(conn: Connection, job_id: UUID, status: str, error: str | None = None) -> None:
    """Bring a job into a status as a worker's transition would."""
    await execute(
        conn,
        """
        update jobsworth.reactive_jobs
        set status = %(status)s::jobsworth.job_status, waiting_for = null, run_at = null,
          error = %(error)s,
          finished_at = case when %(status)s::text in ('done', 'failed', 'canceled') then now() end,
          lease_no = coalesce(lease_no, 0) + 1, worker_id = coalesce(worker_id, jobsworth.uuidv7())
        where id = %(id)s
        """,
        {"id": job_id, "status": status, "error": error},
    )


async def park(
    conn: Connection,
    job_id: UUID,
    reason: str,
    detail: str | None = None,
    seconds: float | None = None,
) -> None:
    await execute(
        conn,
        """
        update jobsworth.reactive_jobs
        set status = 'waiting', waiting_for = %(reason)s, waiting_detail = %(detail)s,
          run_at = now() + %(seconds)s::float8 * interval '1 second'
        where id = %(id)s
        """,
        {"id": job_id, "reason": reason, "detail": detail, "seconds": seconds},
    )


async def add_approval(conn: Connection, job_id: UUID) -> UUID:
    return await fetch_val(
        conn,
        """
        insert into jobsworth.approvals (job_id, proposal_text, shown_hash)
        values (%s, 'Ship it?', 'hash') returning id
        """,
        [job_id],
    )


async def state(conn: Connection, job_id: UUID) -> tuple[str, str | None]:
    job = await jobs.get_by_id(conn, job_id)
    return job.status, job.waiting_for
