"""What the tests of consent share: approvals, votes and parked questions."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

from db.approvals import approvals, questions
from db.approvals.approvals import ApprovalStatus, Resolution, shown_hash
from db.pool import Connection
from db.queue.effects import ApprovalEffect

QUEUED = ("queued", None)
WAITING = ("waiting", "approval")

PASS_DEADLINE: LiteralString = """
update jobsworth.approvals
set created_at = now() - interval '1 hour', deadline = now() - interval '1 second'
where id = %(id)s
"""


async def ask(conn: Connection, job_id: UUID | None = None, **options: Any) -> UUID:
    return (await approvals.create(conn, "Ship it?", job_id=job_id, **options)).id


async def vote(
    conn: Connection, approval_id: UUID, who: str, option: str = "approve", **options: Any
) -> Resolution:
    return await approvals.resolve(conn, approval_id, option, who, **options)


def question(proposal: str = "Ship it?", shows: object = None, **options: Any) -> ApprovalEffect:
    choices = ("approve", "reject")
    return ApprovalEffect(
        key="approval:ship",
        proposal_text=proposal,
        options=choices,
        shown=None if shows is None else questions.canonical(shows),
        shown_hash=shown_hash(proposal, choices, shows),
        deadline_seconds=None,
        on_timeout="reject",
        **options,
    )


async def status(conn: Connection, approval_id: UUID) -> ApprovalStatus:
    return await approvals.check_status(conn, approval_id)
