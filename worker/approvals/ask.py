"""Asking a person: the job parks until somebody decides, or the deadline does.

In: a proposal, and what is shown with it. Out: a `Decision`, from the approval that exactly this
question made in an earlier attempt; another question under the same name takes its place.

A yes is consumed in the transaction that starts what was approved: the ask's own step, unless the
question says for which step it is. From then on a no comes too late, and replays read the step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, cast
from uuid import UUID

from db.approvals import approvals, consumption
from db.approvals.approvals import REJECT
from db.approvals.questions import ApprovalEffect, check_question, shown_hash
from db.documents import to_document, to_text
from db.errors import InvalidInput
from db.fence import hold
from db.steps import steps as recorded
from worker.outcomes import Fail
from worker.steps import steps

if TYPE_CHECKING:
    from worker.job import Job


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person (or the deadline) decided; `shown` is what was approved, edits included."""

    approved: bool
    option: str
    comment: str | None
    decided_by: str | None
    shown: Any = None
    approval_id: UUID | None = None


class NotApproved(Fail):
    """A step that needs a yes got a no; `decision` says whose and why."""

    def __init__(self, step: str, decision: Decision) -> None:
        why = f": {decision.comment}" if decision.comment else ""
        super().__init__(f"step {step!r} was not approved, by {decision.decided_by}{why}")
        self.decision = decision


async def ask(
    job: "Job",
    proposal: str,
    *,
    options: tuple[str, ...],
    shows: object,
    deadline_seconds: float | None,
    on_timeout: str,
    name: str | None,
    votes: int = 1,
    asked_by: str | None = None,
    self_approval: bool = False,
    editable: bool = False,
    for_step: str | None = None,
) -> Decision:
    """What was decided; parks if that is still open."""
    choices = tuple(options) if REJECT in options else (*options, REJECT)
    check_question(proposal, choices, deadline_seconds, on_timeout, votes)
    question = ApprovalEffect(
        key=job.key("approval", name),
        proposal_text=to_text(proposal),
        options=choices,
        shown=None if shows is None else to_document(shows, "what the approval shows"),
        shown_hash=shown_hash(proposal, choices, shows),
        deadline_seconds=deadline_seconds,
        on_timeout=on_timeout,
        votes_needed=votes,
        asked_by=asked_by and to_text(asked_by),
        self_approval=self_approval,
        editable=editable,
        for_step=for_step,
    )
    found, output = await steps.read(job, question.key)
    if found:
        return _replayed(job, question, output)
    decision = await _decided(job, question)
    if decision is None:
        job.effects.append(question)
        raise job.park("approval", detail=proposal[:200])
    return decision


async def approved_step(
    job: "Job",
    name: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    proposal: str,
    effect: str,
    **asking: Any,
) -> Any:
    """The recorded output of step `name`, which runs only with a yes to exactly these arguments.

    Approval and step begin in one transaction. A re-run of a step that was begun and not recorded
    uses the approval again, unless the step is unsafe to repeat: then the job waits for a person.
    """
    steps.check_effect(name, effect)
    shows = {"step": name, "args": list(args), "kwargs": dict(kwargs)}
    decision = await ask(
        job,
        proposal,
        options=("approve", REJECT),
        shows=shows,
        name=name,
        for_step=name,
        **asking,
    )
    if not decision.approved:
        raise NotApproved(name, decision)
    approved_args, approved_kwargs = _arguments(name, decision, args, kwargs)
    return await steps.run(
        job,
        name,
        fn,
        approved_args,
        approved_kwargs,
        effect=effect,
    )


def _replayed(job: "Job", question: ApprovalEffect, output: Any) -> Decision:
    """The decision that an earlier attempt consumed, if this is still what it was about."""
    if output["asked_hash"] != question.shown_hash:
        raise _changed(job, question)
    return Decision(
        output["approved"],
        output["option"],
        output["comment"],
        output["decided_by"],
        output["shown"],
        UUID(output["approval_id"]),
    )


async def _decided(job: "Job", question: ApprovalEffect) -> Decision | None:
    """The decision about exactly this question, consumed if it is a yes; None: ask, or wait."""
    async with job.tools.database.connection() as connection:
        asked = await approvals.get_by_effect(connection, job.id, question.key)
    if asked is None:
        return None
    if asked.answers != question.shown_hash:
        if asked.consumed_at is not None:
            raise _changed(job, question)
        return None
    if not _is_final(asked):
        return None
    if not asked.approved:
        return _decision(asked)
    if question.for_step is None:
        return await _consume(job, question)
    job.allowed[question.for_step] = asked.id
    return _decision(asked)


async def _consume(job: "Job", question: ApprovalEffect) -> Decision | None:
    """Spend the yes on the ask's own step; a no that came meanwhile is the decision."""
    async with job.tools.database.transaction() as connection:
        await hold(connection, job.lease)
        asked = await approvals.get_by_effect(connection, job.id, question.key)
        if asked is None or asked.answers != question.shown_hash or not _is_final(asked):
            return None
        decision = _decision(asked)
        if not decision.approved:
            return decision
        await consumption.consume(connection, job.lease, asked.id, question.key)
        document = to_document(_document(decision, question))
        _, output = await recorded.record(
            connection,
            job.lease,
            question.key,
            document,
            attempt=job.attempt,
            kind="approval",
            input_hash=question.shown_hash,
        )
    steps.keep(job, question.key, output)
    return decision


def _is_final(asked: approvals.Approval) -> bool:
    """One that its job's end has closed is asked again when the job is run again."""
    return asked.closed_at is not None and asked.status is not approvals.ApprovalStatus.SUPERSEDED


def _decision(asked: approvals.Approval) -> Decision:
    option = asked.chosen_option or REJECT
    shown = asked.document
    return Decision(asked.approved, option, asked.comment, asked.decided_by, shown, asked.id)


def _document(decision: Decision, question: ApprovalEffect) -> dict[str, Any]:
    return {
        "approved": decision.approved,
        "option": decision.option,
        "comment": decision.comment,
        "decided_by": decision.decided_by,
        "shown": decision.shown,
        "approval_id": decision.approval_id,
        "asked_hash": question.shown_hash,
    }


def _arguments(
    name: str, decision: Decision, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments that were approved: the handler's own, unless a person has edited them."""
    asked = {"step": name, "args": list(args), "kwargs": dict(kwargs)}
    if shown_hash(name, (), decision.shown) == shown_hash(name, (), asked):
        return args, kwargs
    approved = decision.shown
    if not (
        _is_object(approved)
        and approved.keys() == asked.keys()
        and approved["step"] == name
        and isinstance(approved["args"], list)
        and _is_object(approved["kwargs"])
    ):
        raise InvalidInput(
            f"what was approved for step {name!r} names no arguments of it",
            'approve a document like {"step": …, "args": […], "kwargs": {…}}',
        )
    return tuple(cast("list[Any]", approved["args"])), approved["kwargs"]


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _changed(job: "Job", question: ApprovalEffect) -> InvalidInput:
    return InvalidInput(
        f"{question.key} of job {job.id} was approved and used; now it asks something else",
        "give the new question a name of its own, or keep what it shows in a step",
    )
