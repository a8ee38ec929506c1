"""Consent: what a person was asked, what was shown to them, and what they decided.

In: proposals, and decisions from SQL, Python, the command line or a clock. Out: one decision per
approval, with who, when and by which channel; the job that waits for it resumes in the same
transaction.

Invariant: an approval is closed once. `jobsworth.resolve` checks the deadline itself, so a decision
that comes too late records the expiry (with its default) and is not accepted. Because a raised
error would roll that record back, `resolve` returns what happened; `Resolution.require_accepted`
raises it, once you have committed.
"""

import hashlib
import json
from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, LiteralString, cast
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.documents import to_document, to_text
from db.errors import Conflict, InvalidInput, NotFound, translated
from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val
from db.schema import DEFAULT_SCHEMA, render

APPROVE = "approve"
REJECT = "reject"
DEADLINE_SECONDS_MAX = 10 * 365 * 86_400.0

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


class Resolution(BaseModel):
    """What became of a decision: `accepted`, or how the approval stands without it."""

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
        if self.status is ApprovalStatus.EXPIRED:
            reason = f"its deadline has passed, and {self.chosen_option} was taken"
        elif self.status is ApprovalStatus.SUPERSEDED:
            reason = "it is superseded: a newer proposal replaced it, or its job has ended"
        else:
            reason = f"it is already {self.status} ({self.chosen_option})"
        raise Conflict(f"approval {self.approval_id} cannot be decided: {reason}", HOW_TO_LIST)


CREATE: LiteralString = """
with job as materialized (
  -- Locked, so that it cannot end between this look and the insert.
  select j.id, j.team_id, j.thread_id
  from jobsworth.reactive_jobs j
  where j.id = %(job_id)s and j.finished_at is null
  for no key update
), asked as (
  insert into jobsworth.approvals (
    team_id, thread_id, job_id, proposal_text, options, shown, shown_hash, deadline, on_timeout)
  select coalesce(%(team_id)s::uuid, j.team_id), coalesce(%(thread_id)s::uuid, j.thread_id), j.id,
    %(proposal_text)s, %(options)s::text[], %(shown)s::jsonb, %(shown_hash)s,
    clock_timestamp() + %(deadline_seconds)s::float8 * interval '1 second', %(on_timeout)s
  from (select 1) as one
  left join job j on true
  where j.id is not null or %(job_id)s::uuid is null
  returning id, team_id, thread_id, job_id, effect_key, proposal_text, options, shown, shown_hash,
    status, deadline, on_timeout, chosen_option, superseded_by, created_at, closed_at
)
select a.id, a.team_id, a.thread_id, a.job_id, a.effect_key, a.proposal_text, a.options, a.shown,
  a.shown_hash, a.status, a.deadline, a.on_timeout, a.chosen_option, a.superseded_by, a.created_at,
  a.closed_at, null as decided_by, null as channel, null as comment, null as decided_at
from asked a
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
) -> Approval:
    """Ask. `shown` is any JSON value: exactly what the person gets to see beside the proposal.

    With `job_id`, a wait of that job for approval ends only when this one is closed; thread and
    team are the job's unless given. Raises `InvalidInput`, `NotFound` (no such job), `Conflict`
    (the job has ended).
    """
    check_question(proposal_text, options, deadline_seconds, on_timeout)
    asked = await fetch_one(
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
        },
        Approval,
    )
    if asked is not None:
        return asked
    status = await fetch_val(conn, JOB_STATUS, {"job_id": job_id})
    if status is None:
        raise NotFound(f"there is no job {job_id}", "list jobs: jobsworth jobs")
    raise Conflict(
        f"job {job_id} is {status}: nothing waits for an approval", "retry the job first"
    )


def check_question(
    proposal_text: str,
    options: Sequence[str],
    deadline_seconds: float | None,
    on_timeout: str,
) -> None:
    """Raise `InvalidInput` if this cannot be asked."""
    if not proposal_text.strip():
        raise InvalidInput("the proposal is empty", "say what is to be approved")
    if isinstance(options, str) or len(set(options)) != len(options) or not all(options):
        raise InvalidInput(
            f"the options {options!r} are not distinct names", "give each option its own name"
        )
    if REJECT not in options:
        raise InvalidInput(
            f"{REJECT!r} is not among the options {', '.join(options)}",
            "a no is always possible: add it",
        )
    if on_timeout not in options:
        raise InvalidInput(
            f"on_timeout is {on_timeout!r}, which is not an option",
            f"choose one of {', '.join(options)}",
        )
    if deadline_seconds is not None and not 0 < deadline_seconds <= DEADLINE_SECONDS_MAX:
        raise InvalidInput(
            f"a deadline in {deadline_seconds} seconds",
            f"give a number above 0 and at most {DEADLINE_SECONDS_MAX:.0f}, or none",
        )


def shown_hash(proposal_text: str, options: Sequence[str], shown: object) -> str:
    """SHA-256 (hex) over the canonical JSON of what is asked and shown.

    Canonical: keys sorted, no spaces, and numbers as `jsonb` gives them back (1e3 is 1000), so that
    the hash of the stored row is the same.
    """
    asked = {
        "options": list(options),
        "proposal_text": to_text(proposal_text),
        "shown": _canonical(json.loads(to_document(shown, "what is shown"), parse_float=Decimal)),
    }
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


RESOLVE: LiteralString = """
select %(approval_id)s::uuid as approval_id, r.accepted, r.status, r.chosen_option
from jobsworth.resolve(
  %(approval_id)s, %(option)s, %(decided_by)s, %(channel)s, %(comment)s) r
"""


async def resolve(
    conn: psycopg.AsyncConnection[Any],
    approval_id: UUID,
    option: str,
    decided_by: str,
    channel: str = "python",
    comment: str | None = None,
    *,
    schema: str | None = None,
) -> Resolution:
    """Decide an approval, in the transaction of `conn`, which may be any psycopg connection.

    The job that waits for it resumes in that same transaction. Without `schema`, it is that of a
    connection of `db.pool`, else "jobsworth". Raises `NotFound`, `InvalidInput` (not an option of
    this approval); a decision that came too late is returned, not raised: see `Resolution`.
    """
    values = _decision(approval_id, option, decided_by, channel, comment)
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
    schema: str = DEFAULT_SCHEMA,
) -> Resolution:
    """`resolve` for a plain, blocking psycopg connection."""
    values = _decision(approval_id, option, decided_by, channel, comment)
    with translated(), conn.cursor(row_factory=class_row(Resolution)) as cursor:
        return _only(cursor.execute(render(RESOLVE, schema), values).fetchone())


def _decision(
    approval_id: UUID, option: str, decided_by: str, channel: str, comment: str | None
) -> dict[str, Any]:
    if not decided_by.strip():
        raise InvalidInput("nobody is named as deciding", "say who: decided_by")
    return {
        "approval_id": approval_id,
        "option": option,
        "decided_by": to_text(decided_by),
        "channel": channel,
        "comment": comment and to_text(comment),
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
  a.closed_at, d.decided_by, d.channel, d.comment, d.decided_at
from jobsworth.approvals a
left join jobsworth.approval_decisions d on d.approval_id = a.id
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
  a.closed_at, d.decided_by, d.channel, d.comment, d.decided_at
from jobsworth.approvals a
left join jobsworth.approval_decisions d on d.approval_id = a.id
where a.job_id = %(job_id)s and a.effect_key = %(effect_key)s
"""


async def get_by_effect(conn: Connection, job_id: UUID, effect_key: str) -> Approval | None:
    """The approval that this job asked for under this effect key, in whichever attempt."""
    return await fetch_one(conn, OF_JOB, {"job_id": job_id, "effect_key": effect_key}, Approval)


PENDING: LiteralString = """
select a.id, a.team_id, a.thread_id, a.job_id, a.effect_key, a.proposal_text, a.options, a.shown,
  a.shown_hash, a.status, a.deadline, a.on_timeout, a.chosen_option, a.superseded_by, a.created_at,
  a.closed_at, null as decided_by, null as channel, null as comment, null as decided_at
from jobsworth.approvals a
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


LOCK_JOB: LiteralString = """
select j.id
from jobsworth.approvals a
join jobsworth.reactive_jobs j on j.id = a.job_id
where a.id = %(approval_id)s
for no key update of j
"""

SUPERSEDE: LiteralString = """
update jobsworth.approvals a
set status = 'superseded', superseded_by = %(by)s, closed_at = now()
where a.id = %(approval_id)s and a.status = 'pending'
"""

RESUME: LiteralString = "select jobsworth.reconsider(array[%(job_id)s::uuid], patient => true)"


async def supersede(conn: Connection, approval_id: UUID, by: UUID) -> None:
    """Close an open approval because approval `by` replaced it; its job resumes unless it waits
    for another. One transaction. Raises `NotFound`, `Conflict` (it is closed), `InvalidInput`.
    """
    if approval_id == by:
        raise InvalidInput(f"approval {by} cannot replace itself", "name the newer one")
    await get_by_id(conn, by)
    with translated():
        async with conn.transaction():
            # The job first, as everybody does, so that two deliverers cannot deadlock.
            job_id = await fetch_val(conn, LOCK_JOB, {"approval_id": approval_id})
            closed = await execute(conn, SUPERSEDE, {"approval_id": approval_id, "by": by})
            if closed == 0:
                stands = await get_by_id(conn, approval_id)
                raise Conflict(f"approval {approval_id} is already {stands.status}", HOW_TO_LIST)
            if job_id is not None:
                await execute(conn, RESUME, {"job_id": job_id})


EXPIRE: LiteralString = "select jobsworth.expire_approvals(%(most)s)"


async def expire(conn: Connection, most: int) -> int:
    """Close up to `most` approvals past their deadline with their default; returns how many."""
    return await fetch_val(conn, EXPIRE, {"most": most})


def _canonical(value: Any) -> Any:
    match value:
        case Decimal():
            # As PostgreSQL's numeric prints it: no exponent, and whole numbers are whole.
            return int(value) if value == value.to_integral_value() else float(value)
        case dict():
            members = cast(dict[str, Any], value)
            return {key: _canonical(member) for key, member in members.items()}
        case list():
            return [_canonical(member) for member in cast(list[Any], value)]
        case _:
            return value
