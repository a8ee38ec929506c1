"""Abandoned deployments: found and ended as failed, so that their environments become free.

In: the unfinished deployments and their jobs. Out: those whose job has ended, or has not run for
too long, with their jobs locked; and their end, as failed.

Invariant: a deployment is ended here only while its job's row is locked and not running, so no
attempt is working on it. A job that does not run is first marked, then timed from that mark, since
no column says how long it has waited. A claim in between (a new lease) voids the mark.
"""

from typing import LiteralString
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from db.deployments.deployments import DeploymentStatus
from db.documents import to_text
from db.pool import Connection, fetch_all, fetch_val


class Abandoned(BaseModel):
    """An unfinished deployment, and the state of its job."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    job_id: UUID
    step_name: str | None
    environment: str
    sha: str
    status: DeploymentStatus
    job_status: str
    waiting_for: str | None
    job_error: str | None


ABANDONED_COLUMNS: LiteralString = """
  d.id, d.team_id, d.job_id, d.step_name, d.environment, d.sha, d.status,
  j.status::text as job_status, j.waiting_for::text, j.error as job_error
"""

ENDED: LiteralString = (
    "select "
    + ABANDONED_COLUMNS
    + """
from jobsworth.deployments d
join jobsworth.reactive_jobs j on j.id = d.job_id
where d.finished_at is null and j.finished_at is not null
order by d.id
limit %(most)s
for no key update of j skip locked
"""
)


async def lock_ended(conn: Connection, most: int) -> list[Abandoned]:
    """Up to `most` unfinished deployments whose jobs have ended: no attempt will end them.

    Their jobs stay locked for the rest of the caller's transaction, so no retry can resume one of
    the deployments meanwhile.
    """
    return await fetch_all(conn, ENDED, {"most": most}, Abandoned)


MARK_IDLE: LiteralString = """
with idle as materialized (
  select d.id, j.lease_no,
    d.idle_since is null or d.idle_lease_no is distinct from j.lease_no as is_new
  from jobsworth.deployments d
  join jobsworth.reactive_jobs j on j.id = d.job_id
  where d.finished_at is null and j.finished_at is null and j.status <> 'running'
), marked as (
  update jobsworth.deployments d
  set idle_since = now(), idle_lease_no = i.lease_no
  from idle i
  where d.id = i.id and i.is_new
)
select exists (select 1 from idle i where not i.is_new)
"""


async def mark_idle(conn: Connection) -> bool:
    """Mark unfinished deployments whose jobs do not run; true if some were marked before."""
    return await fetch_val(conn, MARK_IDLE)


IDLE: LiteralString = (
    "select "
    + ABANDONED_COLUMNS
    + """
from jobsworth.deployments d
join jobsworth.reactive_jobs j on j.id = d.job_id
where d.finished_at is null and j.finished_at is null and j.status <> 'running'
  and d.idle_lease_no is not distinct from j.lease_no
  and d.idle_since < now() - %(idle_seconds)s * interval '1 second'
order by d.id
limit %(most)s
for no key update of j skip locked
"""
)


async def lock_idle(conn: Connection, idle_seconds: float, most: int) -> list[Abandoned]:
    """Up to `most` unfinished deployments whose jobs have not run for that long since `mark_idle`.

    Their jobs stay locked, as with `lock_ended`, so none can be claimed meanwhile.
    """
    values = {"idle_seconds": idle_seconds, "most": most}
    return await fetch_all(conn, IDLE, values, Abandoned)


CLOSE: LiteralString = """
update jobsworth.deployments d
set status = 'failed', finished_at = now(), report_text = %(report_text)s
where d.id = %(deployment_id)s and d.finished_at is null
returning d.id
"""


async def close(conn: Connection, deployment_id: UUID, report_text: str) -> bool:
    """End a deployment as failed; false if it had ended already, before its job was locked."""
    values = {"deployment_id": deployment_id, "report_text": to_text(report_text)}
    return await fetch_val(conn, CLOSE, values) is not None
