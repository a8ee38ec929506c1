"""Rows that tests of the paperwork need: jobs in a state, and their leases."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import LiteralString
from uuid import UUID, uuid4

from db.fence import Lease
from db.pool import Connection, Database, execute, fetch_one, fetch_val

ADD_WORKER: LiteralString = """
insert into jobsworth.workers (id, host, pid, version, modes, queues, slots)
values (%(id)s, 'here', 1, '0', '{answer}', '{default}', 1)
"""

ADD_JOB: LiteralString = "select jobsworth.enqueue('answer', lane => %(lane)s)"

TAKE: LiteralString = """
update jobsworth.reactive_jobs
set status = 'running', waiting_for = null, attempt = attempt + 1,
  lease_no = nextval('jobsworth.lease_no'), worker_id = %(worker_id)s, started_at = now()
where id = %(job_id)s
returning lease_no
"""

PARK: LiteralString = """
update jobsworth.reactive_jobs set status = 'waiting', waiting_for = 'approval'
where id = %(job_id)s
"""

END: LiteralString = """
update jobsworth.reactive_jobs set status = 'done', result = 'null', finished_at = now()
where id = %(job_id)s
"""

STATUS: LiteralString = """
select status::text as status, waiting_for::text as waiting_for
from jobsworth.reactive_jobs
where id = %(job_id)s
"""


@asynccontextmanager
async def past_the_guards(conn: Connection) -> AsyncGenerator[None]:
    """Plain SQL in here meets no trigger: it can arrange what the guards refuse."""
    await execute(conn, "set session_replication_role = replica")
    yield
    await execute(conn, "reset session_replication_role")


async def new_job(conn: Connection, lane: str | None = None) -> UUID:
    """A queued job."""
    return await fetch_val(conn, ADD_JOB, {"lane": lane})


async def take(conn: Connection, job_id: UUID) -> Lease:
    """Claim the job as a new worker would; an earlier lease of it is lost."""
    worker_id = uuid4()
    await execute(conn, ADD_WORKER, {"id": worker_id})
    lease_no = await fetch_val(conn, TAKE, {"job_id": job_id, "worker_id": worker_id})
    return Lease(job_id, lease_no, worker_id)


async def running_job(conn: Connection) -> Lease:
    return await take(conn, await new_job(conn))


async def park(conn: Connection, job_id: UUID) -> None:
    """Let it wait for its approvals, as a finish does."""
    await execute(conn, PARK, {"job_id": job_id})


async def parked_job(conn: Connection) -> UUID:
    """A job that waits for its approvals (of which it has none yet)."""
    lease = await running_job(conn)
    await park(conn, lease.job_id)
    return lease.job_id


async def end(conn: Connection, job_id: UUID) -> None:
    await execute(conn, END, {"job_id": job_id})


async def status(conn: Connection, job_id: UUID) -> tuple[str, str | None]:
    """Its status, and what it waits for."""
    row = await fetch_one(conn, STATUS, {"job_id": job_id})
    assert row is not None
    return row["status"], row["waiting_for"]


async def is_blocked(database: Database, conn: Connection) -> bool:
    """Whether the statement that runs on `conn` waits for a lock."""
    return await database.fetch_val(
        "select cardinality(pg_blocking_pids(%(pid)s)) > 0", {"pid": conn.info.backend_pid}
    )
