"""Everything that hangs on a job, for a person who wants to see it whole.

In: a job's id. Out: what it said (messages), asked (approvals), started (children, follow-ups) and
shipped (deployments), each in the order of its making. Its steps, calls and artifacts are in
`db.steps.steps`, `db.money.calls` and `db.steps.artifacts`.
"""

from typing import Any, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.approvals.approvals import Approval
from db.deployments.deployments import Deployment
from db.pool import Connection, fetch_all


class JobMessage(BaseModel):
    """A message that the job wrote into its thread."""

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
    """A job that this one started: a child, which it may gather, or a follow-up."""

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
    """What the job said."""
    return await fetch_all(conn, MESSAGES, {"job_id": job_id}, JobMessage)


OFFSPRING: LiteralString = """
select j.id, j.is_child, j.effect_key, j.mode, j.status, j.waiting_for, j.result, j.error,
  j.created_at
from jobsworth.reactive_jobs j
where j.parent_id = %(job_id)s
order by j.id
"""


async def offspring(conn: Connection, job_id: UUID) -> list[Offspring]:
    """The jobs that it started."""
    return await fetch_all(conn, OFFSPRING, {"job_id": job_id}, Offspring)


APPROVALS: LiteralString = """
select a.id, a.team_id, a.thread_id, a.job_id, a.effect_key, a.proposal_text, a.options, a.shown,
  a.shown_hash, a.status, a.deadline, a.on_timeout, a.chosen_option, a.superseded_by, a.created_at,
  a.closed_at, a.decided_by, a.channel, a.comment, a.decided_at, a.votes_needed, a.asked_by,
  a.self_approval, a.editable, a.edited, a.edited_hash, a.escalated_at, a.asked_hash, a.supersedes,
  a.difference, a.for_step, a.consumed_at, a.consumed_by
from jobsworth.approvals_decided a
where a.job_id = %(job_id)s
order by a.id
"""


async def approvals(conn: Connection, job_id: UUID) -> list[Approval]:
    """What the job asked, decided or not."""
    return await fetch_all(conn, APPROVALS, {"job_id": job_id}, Approval)


DEPLOYMENTS: LiteralString = """
select d.id, d.team_id, d.job_id, d.step_name, d.environment, d.repository, d.sha, d.branch,
  d.status, d.release, d.report_text, d.probe, d.created_at, d.updated_at, d.finished_at, d.host,
  d.rollback_of, d.rollback_to
from jobsworth.deployments d
where d.job_id = %(job_id)s
order by d.id
"""


async def deployments(conn: Connection, job_id: UUID) -> list[Deployment]:
    """What the job shipped."""
    return await fetch_all(conn, DEPLOYMENTS, {"job_id": job_id}, Deployment)


LATEST_APPROVALS: LiteralString = """
select a.id, a.team_id, a.thread_id, a.job_id, a.effect_key, a.proposal_text, a.options, a.shown,
  a.shown_hash, a.status, a.deadline, a.on_timeout, a.chosen_option, a.superseded_by, a.created_at,
  a.closed_at, a.decided_by, a.channel, a.comment, a.decided_at, a.votes_needed, a.asked_by,
  a.self_approval, a.editable, a.edited, a.edited_hash, a.escalated_at, a.asked_hash, a.supersedes,
  a.difference, a.for_step, a.consumed_at, a.consumed_by
from jobsworth.approvals_decided a
order by a.id desc
limit %(limit)s
"""


async def latest_approvals(conn: Connection, limit: int) -> list[Approval]:
    """The newest approvals of all jobs, decided or not, newest first."""
    return await fetch_all(conn, LATEST_APPROVALS, {"limit": limit}, Approval)
