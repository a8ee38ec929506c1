"""Voting: what people decide about an approval, and what follows.

In: decisions from SQL, Python, the command line or a clock. Out: votes, each with its person, time
and channel, and an approval that is closed by the first no or by the last yes it needs. The job
that waits for it resumes in the same transaction.

Invariant: an approval is closed once, with one exception: a no still counts until the step that the
approval names has consumed it. `jobsworth.resolve` checks the deadline itself: a decision that
comes too late records the expiry (with its default option) and is not accepted. A raised error
would roll that record back, so `resolve` returns what happened; `Resolution.require_accepted`
raises it, after your commit.

Voting, superseding and consuming lock the job's row, then the approval's row, and judge afterwards:
of a no and a consumption at the same moment, the second sees the first. A vote carries the hash of
what was shown. An edit makes a new hash, so earlier votes no longer count, and a deadline never
approves an edited approval. One person is one voter however the name is spelt, and the last vote
counts.
"""

from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_text
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
    """One person's vote, and the hash of the version that they saw."""

    model_config = ConfigDict(frozen=True)

    option: str
    decided_by: str
    channel: str
    comment: str | None
    voted_hash: str | None
    decided_at: AwareDatetime


class Resolution(BaseModel):
    """The result of a decision: whether it was `accepted`, and the state of the approval.

    An accepted decision that leaves the approval pending means that more votes are needed.
    """

    model_config = ConfigDict(frozen=True)

    approval_id: UUID
    accepted: bool
    status: ApprovalStatus
    chosen_option: str | None

    def require_accepted(self) -> None:
        """Raise `Conflict` if the decision was not accepted. Commit first, or the expiry that it
        may have recorded is rolled back.
        """
        if self.accepted:
            return
        if self.status is ApprovalStatus.PENDING:
            reason = "you have said yes already, and another person must say yes as well"
        elif self.status is ApprovalStatus.EXPIRED:
            reason = f"its deadline has passed, and {self.chosen_option} was chosen"
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

    The job that waits for it resumes in the same transaction. `edited` approves this document
    instead of the one that was shown; `seen_hash` is the `document_hash` of what the person saw.
    `schema` defaults to that of a connection of `db.pool`, else to "jobsworth". Raises `NotFound`,
    `InvalidInput` (not an option of this approval; it is not editable) and `Conflict` (the person
    who asked cannot say yes; it has changed since it was seen). A decision that came too late is
    returned, not raised: see `Resolution`.
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
    """`resolve` on a plain, blocking psycopg connection."""
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
    if not check_text("decided_by", decided_by).strip():
        raise InvalidInput("decided_by is empty", "name the person who decides")
    return {
        "approval_id": approval_id,
        "option": option,
        "decided_by": to_text(decided_by),
        "channel": channel,
        "comment": None if comment is None else to_text(check_text("comment", comment)),
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
    """The votes on an approval so far, oldest first."""
    return await fetch_all(conn, VOTES, {"approval_id": approval_id}, Vote)


EXPIRE: LiteralString = "select jobsworth.expire_approvals(%(most)s)"


async def expire(conn: Connection, most: int) -> int:
    """Close up to `most` approvals past their deadline with their default option, or escalate them.

    Returns how many.
    """
    return await fetch_val(conn, EXPIRE, {"most": most})
