"""Asking a person: the job parks until somebody decides, or the deadline does.

In: a proposal, and what is shown with it. Out: a `Decision`, from the approval that the same
question made in an earlier attempt.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from db import approvals
from db.approvals import shown_hash
from db.documents import to_document, to_text
from db.effects import Approval
from db.errors import InvalidInput

if TYPE_CHECKING:
    from worker.context import Job


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person (or the deadline) decided."""

    approved: bool
    option: str
    comment: str | None
    decided_by: str | None


async def ask(
    job: "Job",
    proposal: str,
    *,
    options: tuple[str, ...],
    shows: object,
    deadline_seconds: float | None,
    on_timeout: str,
    name: str | None,
) -> Decision:
    """What was decided; parks if that is still open."""
    key = job.key("approval", name)
    choices = tuple(options) if "reject" in options else (*options, "reject")
    if on_timeout not in choices:
        raise InvalidInput(
            f"on_timeout={on_timeout!r} is not one of the options {', '.join(choices)}",
            "name one of them",
        )
    async with job.tools.database.connection() as connection:
        asked = await approvals.get_by_effect(connection, job.id, key)
    if asked is None:
        shown = None if shows is None else to_document(shows, "what the approval shows")
        question = Approval(
            key=key,
            proposal_text=to_text(proposal),
            options=choices,
            shown=shown,
            shown_hash=shown_hash(proposal, choices, shows),
            deadline_seconds=deadline_seconds,
            on_timeout=on_timeout,
        )
        job.effects.append(question)
    elif asked.closed_at is not None:
        option = asked.chosen_option or "reject"
        return Decision(option != "reject", option, asked.comment, asked.decided_by)
    raise job.park("approval", detail=proposal[:200])
