"""Voting: what people say to an approval, and what comes of it.

In: decisions from SQL, Python, the command line or a clock. Out: votes, with who, when and by which
channel, and an approval that is closed by the first no or the last yes that it needs; the job that
waits for it resumes in the same transaction.

Invariant: an approval is closed once, but for the last word: a no counts until what was approved is
consumed, by the one step that it names. `jobsworth.resolve` checks the deadline itself, so a
decision that comes too late records the expiry (with its default) and is not accepted. Because a
raised error would roll that record back, `resolve` returns what happened;
`Resolution.require_accepted` raises it, once you have committed.
"""

from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.documents import to_document, to_text
from db.errors import Conflict, InvalidInput, translated
from db.pool import Connection, fetch_all, fetch_one, fetch_val
from db.schema import DEFAULT_SCHEMA, render

HOW_TO_LIST = "list the open ones: jobsworth approval list"


class ApprovalStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"


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


VOTES: LiteralString = """
select v.option, v.decided_by, v.channel, v.comment, v.voted_hash, v.decided_at
from jobsworth.approval_decisions v
where v.approval_id = %(approval_id)s
order by v.id
"""


async def votes(conn: Connection, approval_id: UUID) -> list[Vote]:
    """What has been said about an approval so far, in that order."""
    return await fetch_all(conn, VOTES, {"approval_id": approval_id}, Vote)


EXPIRE: LiteralString = "select jobsworth.expire_approvals(%(most)s)"


async def expire(conn: Connection, most: int) -> int:
    """Close up to `most` approvals past their deadline with their default, or escalate them;
    returns how many.
    """
    return await fetch_val(conn, EXPIRE, {"most": most})
