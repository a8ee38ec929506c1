"""Approvals: what a person was asked, what was shown to them, and what was decided.

In: proposals of jobs and of people. Out: rows of `approvals`, each with the decision that closed
it. `db.approvals.questions` writes the questions of jobs, `db.approvals.voting` counts votes (its
functions can be imported from here too), and `db.approvals.consumption` spends a yes.

Invariant: an approval is for exactly what its hash covers. Of the approvals of one question, only
one is current: the one without a successor.
"""

from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.approvals.questions import APPROVE, REJECT, check_question, difference, shown_hash
from db.approvals.voting import (
    HOW_TO_LIST,
    ApprovalStatus,
    Resolution,
    Vote,
    expire,
    resolve,
    resolve_sync,
    votes,
)
from db.arguments import check_limit
from db.documents import to_document, to_text
from db.errors import Conflict, NotFound
from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val

# Names of `questions` and `voting` that other modules import from here.
__all__ = [
    "APPROVE",
    "REJECT",
    "ApprovalStatus",
    "Resolution",
    "Vote",
    "check_question",
    "expire",
    "resolve",
    "resolve_sync",
    "shown_hash",
    "votes",
]


LIMIT_MAX = 1_000


class Approval(BaseModel):
    """A row of `approvals` with its decision, if there is one (`decided_by` to `decided_at`)."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    thread_id: UUID | None
    job_id: UUID | None
    effect_key: str | None
    proposal_text: str
    options: tuple[str, ...]
    shown: Any
    shown_hash: str
    status: ApprovalStatus
    deadline: AwareDatetime | None
    on_timeout: str
    chosen_option: str | None
    superseded_by: UUID | None
    created_at: AwareDatetime
    closed_at: AwareDatetime | None
    decided_by: str | None
    channel: str | None
    comment: str | None
    decided_at: AwareDatetime | None
    votes_needed: int = 1
    asked_by: str | None = None
    self_approval: bool = False
    editable: bool = False
    edited: Any = None
    edited_hash: str | None = None
    escalated_at: AwareDatetime | None = None
    asked_hash: str | None = None
    supersedes: UUID | None = None
    difference: str | None = None
    for_step: str | None = None
    consumed_at: AwareDatetime | None = None
    consumed_by: str | None = None

    @property
    def document(self) -> Any:
        """The document that a yes is for: the one shown, or its edited version."""
        return self.shown if self.edited_hash is None else self.edited

    @property
    def document_hash(self) -> str:
        """The hash of `document` with its question."""
        return self.edited_hash or self.shown_hash

    @property
    def answers(self) -> str:
        """The hash of the question that this approval answers."""
        return self.asked_hash or self.shown_hash

    @property
    def approved(self) -> bool:
        """Whether the answer is yes; whether it is consumed already is not considered."""
        return (
            self.status in (ApprovalStatus.APPROVED, ApprovalStatus.EXPIRED)
            and self.chosen_option != REJECT
            and self.superseded_by is None
        )


CREATE: LiteralString = """
with job as materialized (
  -- Locked, so that the job cannot end before the insert.
  select j.id, j.team_id, j.thread_id, j.run_id
  from jobsworth.reactive_jobs j
  where j.id = %(job_id)s and j.finished_at is null
  for no key update
)
insert into jobsworth.approvals (
  team_id, thread_id, job_id, proposal_text, options, shown, shown_hash, deadline, on_timeout,
  votes_needed, asked_by, self_approval, editable)
select coalesce(%(team_id)s::uuid, j.team_id), coalesce(%(thread_id)s::uuid, j.thread_id), j.id,
  %(proposal_text)s, %(options)s::text[], %(shown)s::jsonb, %(shown_hash)s,
  now() + %(deadline_seconds)s::float8 * interval '1 second', %(on_timeout)s,
  %(votes_needed)s,
  coalesce(%(asked_by)s, (select r.actor from jobsworth.runs r where r.id = j.run_id)),
  %(self_approval)s, %(editable)s
from (select 1) as one
left join job j on true
where j.id is not null or %(job_id)s::uuid is null
returning id
"""

JOB_STATUS: LiteralString = """
select j.status::text from jobsworth.reactive_jobs j where j.id = %(job_id)s
"""


async def create(
    conn: Connection,
    proposal_text: str,
    *,
    job_id: UUID | None = None,
    thread_id: UUID | None = None,
    team_id: UUID | None = None,
    options: Sequence[str] = (APPROVE, REJECT),
    shown: object = None,
    deadline_seconds: float | None = None,
    on_timeout: str = REJECT,
    votes: int = 1,
    asked_by: str | None = None,
    self_approval: bool = False,
    editable: bool = False,
) -> Approval:
    """Ask for an approval. `shown` is any JSON value: exactly what the person sees beside the
    proposal.

    `votes` people must say yes; `asked_by` (default: the actor of the job's run) counts only with
    `self_approval`. `on_timeout` is an option, or "escalate": the same time again, once. With
    `job_id`, a job that waits for approval waits for this one too; thread and team default to the
    job's. Raises `InvalidInput`, `NotFound` (no such job), `Conflict` (the job has ended).
    """
    check_question(proposal_text, options, deadline_seconds, on_timeout, votes)
    approval_id = await fetch_val(
        conn,
        CREATE,
        {
            "job_id": job_id,
            "thread_id": thread_id,
            "team_id": team_id,
            "proposal_text": to_text(proposal_text),
            "options": list(options),
            "shown": None if shown is None else to_document(shown, "what is shown"),
            "shown_hash": shown_hash(proposal_text, options, shown),
            "deadline_seconds": deadline_seconds,
            "on_timeout": on_timeout,
            "votes_needed": votes,
            "asked_by": asked_by and to_text(asked_by),
            "self_approval": self_approval,
            "editable": editable,
        },
    )
    if approval_id is not None:
        return await get_by_id(conn, approval_id)
    status = await fetch_val(conn, JOB_STATUS, {"job_id": job_id})
    if status is None:
        raise NotFound(f"there is no job {job_id}", "list jobs: jobsworth jobs")
    raise Conflict(
        f"job {job_id} is {status}: nothing waits for an approval", "retry the job first"
    )


async def check_status(conn: Connection, approval_id: UUID) -> ApprovalStatus:
    """The status of an approval. Raises `NotFound`."""
    return (await get_by_id(conn, approval_id)).status


APPROVAL_COLUMNS: LiteralString = """
  a.id, a.team_id, a.thread_id, a.job_id, a.effect_key, a.proposal_text, a.options, a.shown,
  a.shown_hash, a.status, a.deadline, a.on_timeout, a.chosen_option, a.superseded_by, a.created_at,
  a.closed_at, a.decided_by, a.channel, a.comment, a.decided_at, a.votes_needed, a.asked_by,
  a.self_approval, a.editable, a.edited, a.edited_hash, a.escalated_at, a.asked_hash, a.supersedes,
  a.difference, a.for_step, a.consumed_at, a.consumed_by
"""

BY_ID: LiteralString = (
    "select "
    + APPROVAL_COLUMNS
    + """
from jobsworth.approvals_decided a
where a.id = %(approval_id)s
"""
)


async def get_by_id(conn: Connection, approval_id: UUID) -> Approval:
    """One approval. Raises `NotFound`."""
    found = await fetch_one(conn, BY_ID, {"approval_id": approval_id}, Approval)
    if found is None:
        raise NotFound(f"there is no approval {approval_id}", HOW_TO_LIST)
    return found


OF_JOB: LiteralString = (
    "select "
    + APPROVAL_COLUMNS
    + """
from jobsworth.approvals_decided a
where a.job_id = %(job_id)s and a.effect_key = %(effect_key)s and a.superseded_by is null
"""
)


async def get_by_effect(conn: Connection, job_id: UUID, effect_key: str) -> Approval | None:
    """The current approval that this job asked for under this effect key, in any of its attempts;
    superseded ones are not current.
    """
    return await fetch_one(conn, OF_JOB, {"job_id": job_id, "effect_key": effect_key}, Approval)


PENDING: LiteralString = (
    "select "
    + APPROVAL_COLUMNS
    + """
from jobsworth.approvals_decided a
where a.status = 'pending'
  and (%(team_id)s::uuid is null or a.team_id = %(team_id)s)
  and (%(thread_id)s::uuid is null or a.thread_id = %(thread_id)s)
  and (%(before_id)s::uuid is null or a.id < %(before_id)s)
  and (%(after_id)s::uuid is null or a.id > %(after_id)s)
"""
)
OLDEST: LiteralString = "order by a.id limit %(limit)s"
NEWEST: LiteralString = "order by a.id desc limit %(limit)s"


async def get_pending(
    conn: Connection,
    limit: int = 100,
    *,
    team_id: UUID | None = None,
    thread_id: UUID | None = None,
    before_id: UUID | None = None,
    after_id: UUID | None = None,
) -> list[Approval]:
    """Open approvals, oldest first, of one team and thread, or of all; at most `limit`, which is 1
    to 1,000. With `before_id`, the last ones before it.
    """
    check_limit(limit, LIMIT_MAX, "decide some of them first")
    values = {
        "limit": limit,
        "team_id": team_id,
        "thread_id": thread_id,
        "before_id": before_id,
        "after_id": after_id,
    }
    if before_id is None:
        return await fetch_all(conn, PENDING + OLDEST, values, Approval)
    return (await fetch_all(conn, PENDING + NEWEST, values, Approval))[::-1]


SUPERSEDE: LiteralString = """
select jobsworth.supersede(%(approval_id)s, %(by)s, %(difference)s)
"""


async def supersede(conn: Connection, approval_id: UUID, by: UUID) -> None:
    """Close an open approval because approval `by` replaces it; its job then waits for that one.

    A job's question can be replaced only if it asked with `editable`; its `Decision` then shows
    what was approved. Raises `NotFound`, `Conflict` (it is closed), `InvalidInput`.
    """
    old, new = await get_by_id(conn, approval_id), await get_by_id(conn, by)
    changed = difference((old.proposal_text, old.document), (new.proposal_text, new.document))
    values = {"approval_id": approval_id, "by": by, "difference": changed or None}
    await execute(conn, SUPERSEDE, values)
