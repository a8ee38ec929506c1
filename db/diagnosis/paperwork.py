"""The rows that belong to a job, for a person who wants to see all of them.

In: a job's id. Out: its messages, its approvals, the jobs it started (children, follow-ups) and its
deployments, each oldest first. Its steps, calls and artifacts are in `db.steps.steps`,
`db.money.calls` and `db.steps.artifacts`.
"""

from typing import Any, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.approvals.approvals import APPROVAL_COLUMNS, Approval
from db.deployments.deployments import DEPLOYMENT_COLUMNS, Deployment
from db.pool import Connection, fetch_all


class JobMessage(BaseModel):
    """A message that the job wrote."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    thread_id: UUID
    role: str
    text: str
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    created_at: AwareDatetime


class Offspring(BaseModel):
    """A job that this job started: a child, which it may gather, or a follow-up."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    is_child: bool
    effect_key: str | None
    mode: str
    status: str
    waiting_for: str | None
    result: Any
    error: str | None
    created_at: AwareDatetime


MESSAGES: LiteralString = """
select m.id, m.thread_id, m.role, m.text, m.model, m.input_tokens, m.output_tokens, m.created_at
from jobsworth.chat_messages m
where m.job_id = %(job_id)s
order by m.id
"""


async def messages(conn: Connection, job_id: UUID) -> list[JobMessage]:
    """The messages that the job wrote."""
    return await fetch_all(conn, MESSAGES, {"job_id": job_id}, JobMessage)


OFFSPRING: LiteralString = """
select j.id, j.is_child, j.effect_key, j.mode, j.status, j.waiting_for, j.result, j.error,
  j.created_at
from jobsworth.reactive_jobs j
where j.parent_id = %(job_id)s
order by j.id
"""


async def offspring(conn: Connection, job_id: UUID) -> list[Offspring]:
    """The jobs that the job started."""
    return await fetch_all(conn, OFFSPRING, {"job_id": job_id}, Offspring)


APPROVALS: LiteralString = (
    "select "
    + APPROVAL_COLUMNS
    + """
from jobsworth.approvals_decided a
where a.job_id = %(job_id)s
order by a.id
"""
)


async def approvals(conn: Connection, job_id: UUID) -> list[Approval]:
    """The approvals that the job asked for, decided or not."""
    return await fetch_all(conn, APPROVALS, {"job_id": job_id}, Approval)


DEPLOYMENTS: LiteralString = (
    "select "
    + DEPLOYMENT_COLUMNS
    + """
from jobsworth.deployments d
where d.job_id = %(job_id)s
order by d.id
"""
)


async def deployments(conn: Connection, job_id: UUID) -> list[Deployment]:
    """The deployments that the job made."""
    return await fetch_all(conn, DEPLOYMENTS, {"job_id": job_id}, Deployment)


LATEST_APPROVALS: LiteralString = (
    "select "
    + APPROVAL_COLUMNS
    + """
from jobsworth.approvals_decided a
order by a.id desc
limit %(limit)s
"""
)


async def latest_approvals(conn: Connection, limit: int) -> list[Approval]:
    """The newest approvals, of all jobs and of none, decided or not, newest first."""
    return await fetch_all(conn, LATEST_APPROVALS, {"limit": limit}, Approval)
