"""Deployments that nobody goes on with, and how their environments get free.

In: the unfinished deployments and their jobs. Out: those whose job has ended, or has not run for
too long, with their jobs locked; and their end, as failed.

Invariant: a deployment is ended here only while its job's row is locked and not running, so no
attempt is in the middle of it. A job that does not run is first marked, then timed from that mark:
nothing else says how long it has been waiting, and a claim in between (a new lease) makes the mark
worthless.
"""

from typing import LiteralString
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from db.deployments.deployments import DeploymentStatus
from db.documents import to_text
from db.pool import Connection, fetch_all, fetch_val


class Abandoned(BaseModel):
    """An unfinished deployment, and how its job stands."""

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


ENDED: LiteralString = """
select d.id, d.team_id, d.job_id, d.step_name, d.environment, d.sha, d.status,
  j.status::text as job_status, j.waiting_for::text, j.error as job_error
from jobsworth.deployments d
join jobsworth.reactive_jobs j on j.id = d.job_id
where d.finished_at is null and j.finished_at is not null
order by d.id
limit %(most)s
for no key update of j skip locked
"""


async def lock_ended(conn: Connection, most: int) -> list[Abandoned]:
    """Unfinished deployments whose jobs have ended: nobody else will ever end them.

    Their jobs stay locked for the rest of the caller's transaction, so that nobody runs one again
    meanwhile and resumes its deployment.
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
    """Note since when the jobs of unfinished deployments do not run; were some marked before?"""
    return await fetch_val(conn, MARK_IDLE)


IDLE: LiteralString = """
select d.id, d.team_id, d.job_id, d.step_name, d.environment, d.sha, d.status,
  j.status::text as job_status, j.waiting_for::text, j.error as job_error
from jobsworth.deployments d
join jobsworth.reactive_jobs j on j.id = d.job_id
where d.finished_at is null and j.finished_at is null and j.status <> 'running'
  and d.idle_lease_no is not distinct from j.lease_no
  and d.idle_since < now() - %(idle_seconds)s * interval '1 second'
order by d.id
limit %(most)s
for no key update of j skip locked
"""


async def lock_idle(conn: Connection, idle_seconds: float, most: int) -> list[Abandoned]:
    """Unfinished deployments whose jobs have not run for that long, since a look marked them.

    Their jobs stay locked, as with `lock_ended`: none can be claimed meanwhile.
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
    """End it as failed, unless it has ended meanwhile (it may have, before its job was locked)."""
    values = {"deployment_id": deployment_id, "report_text": to_text(report_text)}
    return await fetch_val(conn, CLOSE, values) is not None
