"""Approvals: the inbox, one approval with exactly what a yes is for, and the answer of a person.

In: ids, an option, a comment, the hash of what was shown. Out: pages; a decision, which resumes the
waiting job in the same transaction, or the reason why it came too late. Invariant: a yes counts
only for the document that the page showed.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from fastapi import Response

from db.approvals import approvals
from db.approvals.approvals import REJECT, Approval, ApprovalStatus, Resolution
from db.diagnosis import paperwork
from db.documents import parse_document
from db.errors import Conflict
from db.money import calls
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import Job
from db.runs import view
from worker.cli.terminal.ids import find_approval, typed_approval
from worker.dashboard.frame import Frame, Said, answer

LIMIT = 100
CHANNEL = "dashboard"


class Spent(NamedTuple):
    """What the models of a run or job were paid before its approval; in USD."""

    noun: str
    calls: int
    cost: Decimal | None
    unknown: int


async def page(conn: Connection, frame: Frame) -> Response:
    everything = frame.query.get("show") == "all"
    found = (
        await paperwork.latest_approvals(conn, LIMIT)
        if everything
        else await approvals.get_pending(conn, LIMIT)
    )
    asking = sum(each.status is ApprovalStatus.PENDING for each in found)
    return answer(
        frame, "approvals.html", page="approvals", asking=asking, rows=found, everything=everything
    )


async def one(conn: Connection, frame: Frame, approval: str) -> Response:
    approval_id = await find_approval(conn, typed_approval(approval))
    found = await approvals.get_by_id(conn, approval_id)
    job = await jobs.get_by_id(conn, found.job_id) if found.job_id else None
    return answer(
        frame,
        "approval.html",
        page="approvals",
        asking=0,
        approval=found,
        is_open=found.status is ApprovalStatus.PENDING,
        votes=await approvals.votes(conn, approval_id),
        job=job,
        spent=await _spent(conn, job),
        yeses=[option for option in found.options if option != REJECT],
        reject=REJECT,
        deadline_option=_then(found),
    )


async def _spent(conn: Connection, job: Job | None) -> Spent | None:
    """What the work cost so far: that of the whole run, or of a job without one."""
    if job is None:
        return None
    if job.run_id is not None:
        run = await view.stats(conn, job.run_id)
        return Spent("run", run.calls, run.cost, run.cost_unknown_calls)
    made = await calls.list_calls(conn, job.id)
    known = [each.cost for each in made if each.cost is not None]
    cost = sum(known, Decimal()) if known else None
    return Spent("job", len(made), cost, len(made) - len(known))


async def decide(
    conn: Connection, frame: Frame, approval: str, given: Mapping[str, str]
) -> Resolution:
    """Enter the answer, to be committed by the caller even if it does not count: an expiry that it
    met is recorded with it.
    """
    approval_id = await find_approval(conn, typed_approval(approval))
    edited = None
    if given.get("edit"):
        edited = parse_document(given.get("edited", ""), "the edited document", "correct it there")
    return await approvals.resolve(
        conn,
        approval_id,
        given.get("edit") or given.get("option", ""),
        frame.who,
        CHANNEL,
        given.get("comment", "").strip() or None,
        edited=edited,
        seen_hash=given.get("seen", ""),
    )


def told(resolution: Resolution) -> Said:
    """What the next page says about the answer."""
    try:
        resolution.require_accepted()
    except Conflict as late:
        return Said(f"Your answer came too late and changed nothing: {late.message}", is_bad=True)
    if resolution.status is ApprovalStatus.PENDING:
        return Said("Your vote counts; more are needed.")
    return Said(f"Decided: {resolution.chosen_option}. The job goes on.")


def _then(found: Approval) -> str:
    return REJECT if found.edited_hash is not None else found.on_timeout
