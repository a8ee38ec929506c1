"""Consumption: the step that a yes was given for uses it up, once.

In: an approval and the step that begins. Out: the approval, marked as consumed in the caller's
transaction, under the fence. Invariant: a no counts until this commits, and is too late from then
on. Voting and consumption both lock the job's row before the approval's, so when they meet, the
second sees what the first did.
"""

from typing import LiteralString
from uuid import UUID

from db.approvals import approvals
from db.approvals.approvals import Approval
from db.errors import Conflict
from db.fence import Lease, hold
from db.pool import Connection, execute

CONSUME: LiteralString = """
update jobsworth.approvals a
set consumed_at = coalesce(a.consumed_at, clock_timestamp()), consumed_by = %(step)s
where a.id = %(approval_id)s and a.job_id = %(job_id)s and a.superseded_by is null
  and a.status in ('approved', 'expired') and a.chosen_option <> 'reject'
  and (a.for_step is null or a.for_step = %(step)s)
  and (a.consumed_by is null or a.consumed_by = %(step)s)
  and a.shown_hash = jobsworth.shown_hash(a.proposal_text, a.options, a.shown)
  and (a.edited is null
    or a.edited_hash = jobsworth.shown_hash(a.proposal_text, a.options, a.edited))
"""


async def consume(conn: Connection, lease: Lease, approval_id: UUID, step_name: str) -> Approval:
    """Consume an approval for the step that begins in the caller's transaction; returns its row.

    From the commit on, a no is too late. The same step may consume it again, no other step may.
    Raises `LeaseLost`, `NotFound`, `Conflict` (the answer is not yes, or another step has it).
    """
    await hold(conn, lease)
    values = {"approval_id": approval_id, "job_id": lease.job_id, "step": step_name}
    consumed = await execute(conn, CONSUME, values)
    found = await approvals.get_by_id(conn, approval_id)
    if consumed:
        return found
    if found.job_id != lease.job_id:
        reason = f"it is not for job {lease.job_id}"
    elif not found.approved:
        reason = f"it is {found.status} ({found.chosen_option})"
    elif {found.for_step, found.consumed_by} <= {None, step_name}:
        reason = "what it shows has changed since it was asked"
    else:
        reason = f"it is for the step {found.consumed_by or found.for_step}"
    raise Conflict(f"approval {approval_id} does not allow {step_name}: {reason}", "ask anew")
