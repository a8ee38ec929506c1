"""Consent: what a person was asked, what was shown to them, and what they decided.

In: proposals, and decisions from SQL, Python, the command line or a clock. Out: one decision per
approval, with who, when and by which channel; the job that waits for it resumes in the same
transaction.

Invariant: an approval is closed once, but for the last word: a no counts until what was approved is
consumed, by the one step that it names. `jobsworth.resolve` checks the deadline itself, so a
decision that comes too late records the expiry (with its default) and is not accepted. Because a
raised error would roll that record back, `resolve` returns what happened;
`Resolution.require_accepted` raises it, once you have committed.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.documents import to_document, to_text
from db.errors import Conflict, InvalidInput, NotFound, translated
from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val
from db.questions import APPROVE, REJECT, check_question, difference, shown_hash
from db.schema import DEFAULT_SCHEMA, render

# What others read here, with the rest of consent.
__all__ = ["APPROVE", "REJECT", "check_question", "shown_hash"]

HOW_TO_LIST = "list the open ones: jobsworth approvals"


class ApprovalStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"


class Approval(BaseModel):
    """A row of `approvals` with its decision, if there is one (`decided_by` and so on)."""

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
        """What a yes is for: what was shown, or what somebody made of it."""
        return self.shown if self.edited_hash is None else self.edited

    @property
    def document_hash(self) -> str:
        return self.edited_hash or self.shown_hash

    @property
    def answers(self) -> str:
        """The hash of the question that it answers."""
        return self.asked_hash or self.shown_hash

    @property
    def approved(self) -> bool:
        """Whether what was asked may be done (if it is not consumed)."""
        return (
            self.status in (ApprovalStatus.APPROVED, ApprovalStatus.EXPIRED)
            and self.chosen_option != REJECT
            and self.superseded_by is None
        )


class Vote(BaseModel):
    """What one person said, to the version (hash) that they saw."""

    model_config = ConfigDict(frozen=True)

    option: str
    decided_by: str
    channel: str
    comment: str | None
    voted_hash: str | None
    decided_at: AwareDatetime


class Resolution(BaseModel):
    """What became of a decision: `accepted`, or how the approval stands without it.

    Accepted and still pending: more votes are needed.
    """

    model_config = ConfigDict(frozen=True)

    approval_id: UUID
    accepted: bool
    status: ApprovalStatus
    chosen_option: str | None

    def require_accepted(self) -> None:
        """Raise `Conflict` if the decision came too late. Commit first, or the expiry that it may
        have recorded is rolled back.
        """
        if self.accepted:
            return
        if self.status is ApprovalStatus.PENDING:
            reason = "you have said yes already, and somebody else must as well"
        elif self.status is ApprovalStatus.EXPIRED:
            reason = f"its deadline has passed, and {self.chosen_option} was taken"
        elif self.status is ApprovalStatus.SUPERSEDED:
            reason = "it is superseded: a newer proposal replaced it, or its job has ended"
        else:
            reason = f"it is already {self.status} ({self.chosen_option})"
        raise Conflict(f"approval {self.approval_id} cannot be decided: {reason}", HOW_TO_LIST)


CREATE: LiteralString = """
with job as materialized (
  -- Locked, so that it cannot end between this look and the insert.
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
    """Ask. `shown` is any JSON value: exactly what the person gets to see beside the proposal.

    `votes` people must say yes, `asked_by` (the actor of the job's run, if not given) not among
    them unless `self_approval`. `on_timeout` is an option, or "escalate": as much time again, once.
    With `job_id`, a wait of that job for approval ends only when this one is closed; thread and
    team are the job's unless given. Raises `InvalidInput`, `NotFound` (no such job), `Conflict`
    (the job has ended).
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


RESOLVE: LiteralString = """
select %(approval_id)s::uuid as approval_id, r.accepted, r.status, r.chosen_option
from jobsworth.resolve(
  %(approval_id)s, %(option)s, %(decided_by)s, %(channel)s, %(comment)s, %(edited)s::jsonb,
  %(seen_hash)s) r
"""


async def resolve(
    conn: psycopg.AsyncConnection[Any],
    approval_id: UUID,
    option: str,
    decided_by: str,
    channel: str = "python",
    comment: str | None = None,
    *,
    edited: object = None,
    seen_hash: str | None = None,
    schema: str | None = None,
) -> Resolution:
    """Decide an approval, in the transaction of `conn`, which may be any psycopg connection.

    The job that waits for it resumes in that same transaction. `edited` approves this document
    instead of the one that was shown; `seen_hash` is the `document_hash` of what the person saw.
    Without `schema`, it is that of a connection of `db.pool`, else "jobsworth". Raises `NotFound`,
    `InvalidInput` (not an option of this approval; it is not editable), `Conflict` (who asked
    cannot say yes; it has changed since it was seen); a decision that came too late is returned,
    not raised: see `Resolution`.
    """
    values = _decision(approval_id, option, decided_by, channel, comment, edited, seen_hash)
    text = render(RESOLVE, schema or getattr(conn, "schema", DEFAULT_SCHEMA))
    return _only(await fetch_one(conn, text, values, Resolution))


def resolve_sync(
    conn: psycopg.Connection[Any],
    approval_id: UUID,
    option: str,
    decided_by: str,
    channel: str = "python",
    comment: str | None = None,
    *,
    edited: object = None,
    seen_hash: str | None = None,
    schema: str = DEFAULT_SCHEMA,
) -> Resolution:
    """`resolve` for a plain, blocking psycopg connection."""
    values = _decision(approval_id, option, decided_by, channel, comment, edited, seen_hash)
    with translated(), conn.cursor(row_factory=class_row(Resolution)) as cursor:
        return _only(cursor.execute(render(RESOLVE, schema), values).fetchone())


def _decision(
    approval_id: UUID,
    option: str,
    decided_by: str,
    channel: str,
    comment: str | None,
    edited: object,
    seen_hash: str | None,
) -> dict[str, Any]:
    if not decided_by.strip():
        raise InvalidInput("nobody is named as deciding", "say who: decided_by")
    return {
        "approval_id": approval_id,
        "option": option,
        "decided_by": to_text(decided_by),
        "channel": channel,
        "comment": comment and to_text(comment),
        "edited": None if edited is None else to_document(edited, "the edited document"),
        "seen_hash": seen_hash,
    }


def _only(resolution: Resolution | None) -> Resolution:
    assert resolution is not None  # a function with out parameters returns one row
    return resolution


async def check_status(conn: Connection, approval_id: UUID) -> ApprovalStatus:
    """How an approval stands. Raises `NotFound`."""
    return (await get_by_id(conn, approval_id)).status


BY_ID: LiteralString = """
select a.id, a.team_id, a.thread_id, a.job_id, a.effect_key, a.proposal_text, a.options, a.shown,
  a.shown_hash, a.status, a.deadline, a.on_timeout, a.chosen_option, a.superseded_by, a.created_at,
  a.closed_at, a.decided_by, a.channel, a.comment, a.decided_at, a.votes_needed, a.asked_by,
  a.self_approval, a.editable, a.edited, a.edited_hash, a.escalated_at, a.asked_hash, a.supersedes,
  a.difference, a.for_step, a.consumed_at, a.consumed_by
from jobsworth.approvals_decided a
where a.id = %(approval_id)s
"""


async def get_by_id(conn: Connection, approval_id: UUID) -> Approval:
    """Raises `NotFound`."""
    found = await fetch_one(conn, BY_ID, {"approval_id": approval_id}, Approval)
    if found is None:
        raise NotFound(f"there is no approval {approval_id}", HOW_TO_LIST)
    return found


OF_JOB: LiteralString = """
select a.id, a.team_id, a.thread_id, a.job_id, a.effect_key, a.proposal_text, a.options, a.shown,
  a.shown_hash, a.status, a.deadline, a.on_timeout, a.chosen_option, a.superseded_by, a.created_at,
  a.closed_at, a.decided_by, a.channel, a.comment, a.decided_at, a.votes_needed, a.asked_by,
  a.self_approval, a.editable, a.edited, a.edited_hash, a.escalated_at, a.asked_hash, a.supersedes,
  a.difference, a.for_step, a.consumed_at, a.consumed_by
from jobsworth.approvals_decided a
where a.job_id = %(job_id)s and a.effect_key = %(effect_key)s and a.superseded_by is null
"""


async def get_by_effect(conn: Connection, job_id: UUID, effect_key: str) -> Approval | None:
    """The current approval that this job asked for under this effect key, in whichever attempt:
    one that was superseded has made way for its successor.
    """
    return await fetch_one(conn, OF_JOB, {"job_id": job_id, "effect_key": effect_key}, Approval)


PENDING: LiteralString = """
select a.id, a.team_id, a.thread_id, a.job_id, a.effect_key, a.proposal_text, a.options, a.shown,
  a.shown_hash, a.status, a.deadline, a.on_timeout, a.chosen_option, a.superseded_by, a.created_at,
  a.closed_at, a.decided_by, a.channel, a.comment, a.decided_at, a.votes_needed, a.asked_by,
  a.self_approval, a.editable, a.edited, a.edited_hash, a.escalated_at, a.asked_hash, a.supersedes,
  a.difference, a.for_step, a.consumed_at, a.consumed_by
from jobsworth.approvals_decided a
where a.status = 'pending'
  and (%(team_id)s::uuid is null or a.team_id = %(team_id)s)
  and (%(thread_id)s::uuid is null or a.thread_id = %(thread_id)s)
order by a.id
limit %(limit)s
"""


async def get_pending(
    conn: Connection,
    limit: int = 100,
    *,
    team_id: UUID | None = None,
    thread_id: UUID | None = None,
) -> list[Approval]:
    """Open approvals, oldest first, of every team and thread unless one is named."""
    values = {"limit": limit, "team_id": team_id, "thread_id": thread_id}
    return await fetch_all(conn, PENDING, values, Approval)


VOTES: LiteralString = """
select v.option, v.decided_by, v.channel, v.comment, v.voted_hash, v.decided_at
from jobsworth.approval_decisions v
where v.approval_id = %(approval_id)s
order by v.id
"""


async def votes(conn: Connection, approval_id: UUID) -> list[Vote]:
    """What has been said about an approval so far, in that order."""
    return await fetch_all(conn, VOTES, {"approval_id": approval_id}, Vote)


SUPERSEDE: LiteralString = """
select jobsworth.supersede(%(approval_id)s, %(by)s, %(difference)s)
"""


async def supersede(conn: Connection, approval_id: UUID, by: UUID) -> None:
    """Close an open approval because approval `by` replaced it; its job waits for that one then.

    What a job asks is replaced by something else only if it asked with `editable`: its `Decision`
    shows then what was approved. Raises `NotFound`, `Conflict` (it is closed), `InvalidInput`.
    """
    old, new = await get_by_id(conn, approval_id), await get_by_id(conn, by)
    changed = difference((old.proposal_text, old.document), (new.proposal_text, new.document))
    values = {"approval_id": approval_id, "by": by, "difference": changed or None}
    await execute(conn, SUPERSEDE, values)


EXPIRE: LiteralString = "select jobsworth.expire_approvals(%(most)s)"


async def expire(conn: Connection, most: int) -> int:
    """Close up to `most` approvals past their deadline with their default, or escalate them;
    returns how many.
    """
    return await fetch_val(conn, EXPIRE, {"most": most})
