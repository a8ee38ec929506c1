"""Asking a person: the job parks until somebody decides, or the deadline passes.

In: a proposal, and what is shown with it. Out: a `Decision` about exactly this question, which an
earlier attempt has asked; another question under the same name replaces it and is asked anew.

A yes is consumed in the transaction that starts what was approved: the question's own step, or the
step that the question names. From then on a no comes too late, and replays read the step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, cast
from uuid import UUID

from db.approvals import approvals, consumption
from db.approvals.approvals import REJECT
from db.approvals.questions import ApprovalEffect, check_question, shown_hash
from db.documents import readable, to_document, to_text
from db.errors import InvalidInput
from db.fence import hold
from db.steps import steps as stored
from worker.attempt_state import AttemptState, RecordedStep
from worker.outcomes import Fail
from worker.steps import steps
from worker.steps.changed import other_input
from worker.steps.declaration import check_effect
from worker.steps.input_hash import input_hash
from worker.tracing import conventions


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person, or the deadline, decided about a question of `job.ask`.

    `option` is what was chosen; `approved` is true for every option but "reject". `decided_by` is
    "deadline" if nobody decided in time. `shown` is the document that was approved: what the
    question showed, or what a person changed it to.
    """

    approved: bool
    option: str
    comment: str | None
    decided_by: str | None
    shown: Any = None
    approval_id: UUID | None = None


class NotApproved(Fail):
    """`job.approved_step` raises it when the step was rejected; the job fails for good.

    `decision` says who decided, and why.
    """

    def __init__(self, step: str, decision: Decision) -> None:
        why = f": {decision.comment}" if decision.comment else ""
        super().__init__(f"step {step!r} was not approved, by {decision.decided_by}{why}")
        self.decision = decision


async def ask(
    state: AttemptState,
    proposal: str,
    *,
    options: tuple[str, ...] = ("approve", REJECT),
    shows: object = None,
    deadline_seconds: float | None = None,
    on_timeout: str = REJECT,
    name: str | None = None,
    votes: int = 1,
    asked_by: str | None = None,
    self_approval: bool = False,
    editable: bool = False,
    for_step: str | None = None,
) -> Decision:
    """The decision; parks if there is none yet."""
    choices = tuple(options) if REJECT in options else (*options, REJECT)
    check_question(proposal, choices, deadline_seconds, on_timeout, votes)
    hash_ = shown_hash(proposal, choices, shows)
    # One after the other, a question that has changed replaces the old one. Branches ask in any
    # order.
    question = ApprovalEffect(
        key=state.key("approval", name, *([hash_] if state.beside.in_branch() else [])),
        proposal_text=to_text(proposal),
        options=choices,
        shown=None if shows is None else to_document(shows, "what the approval shows"),
        shown_hash=hash_,
        deadline_seconds=deadline_seconds,
        on_timeout=on_timeout,
        votes_needed=votes,
        asked_by=asked_by and to_text(asked_by),
        self_approval=self_approval,
        editable=editable,
        for_step=for_step,
    )
    recorded = await steps.find(state, question.key)
    if recorded is not None:
        return _replayed(state, question, recorded.output)
    spent = await _spent_before_fork(state, question)
    if spent is not None:
        return spent
    decision = await _decided(state, question)
    if decision is None:
        state.effects.append(question)
        raise state.park("approval", detail=proposal[:200])
    return decision


async def approved_step(
    state: AttemptState,
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

    The step begins in the transaction that consumes the yes. If it was begun and not recorded, the
    next attempt runs it with the same yes; an unsafe step makes the job wait for a person instead.
    """
    check_effect(name, effect)
    shows = {"step": name, "args": list(args), "kwargs": dict(kwargs)}
    recorded = await steps.find(state, name)
    if recorded is not None and recorded.source is not None and effect != "pure":
        # A fork past this step, which will not run.
        if recorded.input_hash == input_hash(args, kwargs):
            return recorded.output
        async with state.tools.database.connection() as connection:
            asked = await approvals.get_by_effect(connection, recorded.source, f"approval:{name}")
        if asked is None or asked.edited_hash is None:
            raise other_input(state, name, inherited=True)
    decision = await ask(state, proposal, shows=shows, name=name, for_step=name, **asking)
    if not decision.approved:
        raise NotApproved(name, decision)
    approved_args, approved_kwargs = _arguments(name, decision, args, kwargs)
    return await steps.run(state, name, fn, approved_args, approved_kwargs, effect=effect)


def _replayed(state: AttemptState, question: ApprovalEffect, output: Any) -> Decision:
    """The decision that an earlier attempt consumed, if the question is still the same."""
    if output["asked_hash"] != question.shown_hash:
        raise _changed(state, question)
    return Decision(
        output["approved"],
        output["option"],
        output["comment"],
        output["decided_by"],
        output["shown"],
        UUID(output["approval_id"]),
    )


async def _spent_before_fork(state: AttemptState, question: ApprovalEffect) -> Decision | None:
    """The yes to this very question that was spent on its step before the fork, where it was asked.

    A branch does not inherit consent; but it reads that step and does not run it.
    """
    step = await steps.find(state, question.for_step) if question.for_step else None
    if step is None or step.source is None:
        return None
    async with state.tools.database.connection() as connection:
        asked = await approvals.get_by_effect(connection, step.source, question.key)
    if asked is None or not asked.approved or asked.answers != question.shown_hash:
        return None
    return _decision(asked)


async def _decided(state: AttemptState, question: ApprovalEffect) -> Decision | None:
    """The decision about exactly this question, a yes consumed; None while there is none.

    A yes that is for a named step is left to that step.
    """
    async with state.tools.database.connection() as connection:
        asked = await approvals.get_by_effect(connection, state.job.id, question.key)
    if asked is None:
        return None
    if asked.answers != question.shown_hash:
        if asked.consumed_at is not None:
            raise _changed(state, question)
        return None
    if not _is_final(asked):
        return None
    _trace(state, asked)
    if not asked.approved:
        return _decision(asked)
    if question.for_step is None:
        return await _consume(state, question)
    state.approvals[question.for_step] = asked.id
    return _decision(asked)


async def _consume(state: AttemptState, question: ApprovalEffect) -> Decision | None:
    """Consume the yes for the question's own step; a no that came meanwhile is the decision."""
    async with state.tools.database.transaction() as connection:
        await hold(connection, state.lease)
        asked = await approvals.get_by_effect(connection, state.job.id, question.key)
        if asked is None or asked.answers != question.shown_hash or not _is_final(asked):
            return None
        decision = _decision(asked)
        if not decision.approved:
            return decision
        await consumption.consume(connection, state.lease, asked.id, question.key)
        document = to_document(_document(decision, question))
        _, output = await stored.record(
            connection,
            state.lease,
            question.key,
            document,
            attempt=state.job.attempt,
            kind="approval",
            input_hash=question.shown_hash,
        )
    steps.keep(state, question.key, RecordedStep(output, "approval", question.shown_hash))
    return decision


def _trace(state: AttemptState, asked: approvals.Approval) -> None:
    tracing, ended = state.tools.tracing, asked.decided_at or asked.closed_at
    if tracing is not None and ended is not None:
        described = conventions.approval(asked.approved, asked.channel)
        tracing.past(described, asked.created_at, ended)


def _is_final(asked: approvals.Approval) -> bool:
    """False for an approval that was closed by its job's end: a job that runs again asks again."""
    return asked.closed_at is not None and asked.status is not approvals.ApprovalStatus.SUPERSEDED


def _decision(asked: approvals.Approval) -> Decision:
    option = asked.chosen_option or REJECT
    shown = readable(asked.document, f"the document of approval {asked.id}")
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
            f"the document that was approved for step {name!r} does not hold its arguments",
            'approve a document like {"step": …, "args": […], "kwargs": {…}}',
        )
    return tuple(cast("list[Any]", approved["args"])), approved["kwargs"]


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _changed(state: AttemptState, question: ApprovalEffect) -> InvalidInput:
    return InvalidInput(
        f"{question.key} of job {state.job.id} was approved and used; now it asks something else",
        "give the new question a name of its own, or keep what it shows in a step",
    )
