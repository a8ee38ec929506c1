"""`/approvals`: what waits for a person's yes or no.

In: a decision. Out: what became of it. Invariant: a decision that comes too late changes
nothing, and says so (409).
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from db.approvals import approvals
from db.approvals.approvals import Approval
from db.approvals.voting import Resolution, Vote, resolve, votes
from worker.api.access import Access, may
from worker.api.paging import At
from worker.api.problems import documented

router = APIRouter(prefix="/approvals", tags=["approvals"])
Read = Annotated[Access, may("approvals:read")]
Write = Annotated[Access, may("approvals:write")]


class ApprovalShown(BaseModel):
    """An approval with its votes. `document_hash`: pass it as `seen_hash` of a decision."""

    approval: Approval
    document_hash: str
    votes: list[Vote]


class NewDecision(BaseModel):
    """`option` is one of the approval's. `edited` approves this document instead of the one shown.
    `seen_hash`: refuse the decision if another version was asked about meanwhile.
    """

    model_config = ConfigDict(extra="forbid")

    option: str = Field(examples=["approve"])
    comment: str | None = Field(None, max_length=10_000)
    edited: Any = None
    seen_hash: str | None = None


@router.get("", summary="List open approvals, oldest first", responses=documented())
async def list_approvals(
    access: Read,
    at: At,
    thread_id: UUID | None = None,
) -> list[Approval]:
    async with access.reading() as conn:
        return await approvals.get_pending(
            conn, at.limit, thread_id=thread_id, before_id=at.before, after_id=at.after
        )


@router.get("/{approval_id}", summary="Show an approval", responses=documented(404))
async def show_approval(access: Read, approval_id: UUID) -> ApprovalShown:
    async with access.reading() as conn:
        found = await approvals.get_by_id(conn, approval_id)
        given = await votes(conn, approval_id)
    return ApprovalShown(approval=found, document_hash=found.document_hash, votes=given)


@router.post("/{approval_id}/decide", summary="Decide an approval", responses=documented(404, 409))
async def decide(access: Write, approval_id: UUID, new: NewDecision) -> Resolution:
    async with access.acting(lambda conn: approvals.get_by_id(conn, approval_id)) as conn:
        done = await resolve(
            conn,
            approval_id,
            new.option,
            access.caller.signature,
            "api",
            new.comment,
            edited=new.edited,
            seen_hash=new.seen_hash,
        )
    done.require_accepted()
    return done
