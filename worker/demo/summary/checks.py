"""The checks of the whole demo.

In: what the demo found in the database, as values. Out: one line for each thing that is not as the
inbox expects, or that is wrong with any inbox. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from db.approvals.approvals import Approval
from db.deployments.deployments import Deployment
from db.diagnosis.violations import Violation
from db.memory.memories import Hit
from db.money.books import Imbalance
from db.money.budgets import Budget
from db.money.calls import Call
from db.money.ledger import UsageBy
from db.queue.jobs import Job, JobStatus
from worker.demo.feed import UNDECIDED, FedMessage
from worker.demo.guests import GuestsResult, problems_of
from worker.demo.kill import KillCost
from worker.demo.order import OrderResult
from worker.demo.provider.bill import Charge
from worker.demo.summary.story_checks import of_bill, of_budget, of_fork, of_order, of_run
from worker.demo.survey import SurveyResult

FINAL = (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database holds at the end of the demo.

    `waits` counts the jobs seen waiting, by reason; `bill` is the provider's, for a `priced` model.
    """

    fed: Sequence[FedMessage]
    jobs: Sequence[Job]
    waits: dict[str, int]
    approvals: Sequence[Approval]
    deployments: Sequence[Deployment]
    by_mode: Sequence[UsageBy]
    by_model: Sequence[UsageBy]
    query: str
    hits: Sequence[Hit]
    texts_pending: int
    surveyed: SurveyResult
    budget: Budget
    ordered: OrderResult
    guests: GuestsResult
    calls: Sequence[Call]
    bill: Sequence[Charge]
    priced: bool
    kill: KillCost
    said_tokens: int
    called_tokens: int
    violations: Sequence[Violation]
    imbalances: Sequence[Imbalance]
    stop_problems: Sequence[str]


def problems_in(facts: Facts) -> list[str]:
    """One line for each failed check; empty if everything is right."""
    return [
        *(line for fed in _first_deliveries(facts.fed) for line in _of_message(fed, facts)),
        *_of_redeliveries(facts.fed),
        *_of_order(facts),
        *_of_kill(facts.kill),
        *of_budget(facts.surveyed.budget, facts.budget),
        *of_run(facts.surveyed),
        *of_fork(facts.surveyed),
        *of_order(facts.ordered),
        *problems_of(facts.guests),
        *(of_bill(facts.bill, facts.calls) if facts.priced else ()),
        *_of_memory(facts),
        *_of_books(facts),
        *(f"violation: {v.invariant}: {v.subject_id} {v.detail}" for v in facts.violations),
        *facts.stop_problems,
    ]


def _first_deliveries(fed: Iterable[FedMessage]) -> list[FedMessage]:
    return [one for one in fed if not one.received.duplicate]


def _of_message(fed: FedMessage, facts: Facts) -> list[str]:
    message, place = fed.message, f"line {fed.message.line} ({fed.message.thread})"
    own = [job for job in facts.jobs if job.trigger_message_id == fed.received.message.id]
    roots = [job for job in own if job.parent_id is None]
    if len(roots) != 1:
        return [f"{place}: it has {len(roots)} root jobs, not one"]
    found: list[str] = []
    last = own[-1]
    expected = message.expect
    if last.status != expected.status:
        found.append(
            f"{place}: its last job, {last.mode}, is {last.status}, not {expected.status}"
            + (f": {last.error}" if last.error else "")
        )
    found += [
        f"{place}: its {job.mode} job is {job.status}: {job.error}"
        for job in own[:-1]
        if job.status is not JobStatus.DONE
    ]
    modes = [job.mode for job in own]
    if expected.mode is not None and expected.mode not in modes:
        found.append(f"{place}: no {expected.mode} job ran for it, only {', '.join(modes)}")
    ids = {job.id for job in own}
    found += [f"{place}: {line}" for line in _of_decision(fed, ids, facts.approvals)]
    found += [f"{place}: {line}" for line in _of_deployment(fed, ids, facts.deployments)]
    if message.when == "busy" and roots[0].id not in _waited_for_lane(facts, fed):
        found.append(f"{place}: it did not wait for its lane, although its thread was busy")
    return found


def _of_decision(fed: FedMessage, job_ids: set[UUID], approvals: Sequence[Approval]) -> list[str]:
    asked = [approval for approval in approvals if approval.job_id in job_ids]
    wanted = fed.message.decide
    if wanted is not None and not asked:
        return [f"the inbox decides {wanted.option}, but no approval was asked for"]
    option = (wanted or UNDECIDED).option
    return [
        f"approval {approval.id} is {approval.status} ({approval.chosen_option}), not {option}"
        for approval in asked
        if approval.chosen_option != option
    ]


def _of_deployment(
    fed: FedMessage, job_ids: set[UUID], deployments: Sequence[Deployment]
) -> list[str]:
    wanted = fed.message.expect.deployment
    if wanted is None:
        return []
    own = [deployment for deployment in deployments if deployment.job_id in job_ids]
    if not own:
        return [f"it made no deployment, and should have made one that ends {wanted}"]
    last = max(own, key=lambda deployment: deployment.id)
    if last.status == wanted:
        return []
    return [f"its deployment to {last.environment} is {last.status}, not {wanted}"]


def _waited_for_lane(facts: Facts, fed: FedMessage) -> set[UUID]:
    job = fed.received.job
    return {job.id} if job is not None and job.waiting_for == "lane" else set()


def _of_redeliveries(fed: Sequence[FedMessage]) -> list[str]:
    first: dict[tuple[str, str], FedMessage] = {}
    found: list[str] = []
    for one in fed:
        if one.message.platform_message_id is None:
            continue
        key = (one.message.thread, one.message.platform_message_id)
        original = first.setdefault(key, one)
        if original is not one and original.received.message.id != one.received.message.id:
            found.append(f"line {one.message.line}: the redelivered message was stored again")
    return found


def _of_order(facts: Facts) -> list[str]:
    """Check that the messages of each thread were classified in the order in which they came."""
    of_message = {job.trigger_message_id: job for job in facts.jobs if job.mode == "classify"}
    of_thread: dict[str, list[tuple[int, Job]]] = defaultdict(list)
    for fed in _first_deliveries(facts.fed):
        job = of_message.get(fed.received.message.id)
        if job is not None and job.started_at is not None:
            of_thread[fed.message.thread].append((fed.message.line, job))
    return [
        f"line {later}: it was classified before line {earlier} of the same thread was"
        for own in of_thread.values()
        for (earlier, before), (later, after) in pairwise(own)
        if before.finished_at is not None
        and after.started_at is not None
        and after.started_at < before.finished_at
    ]


def _of_kill(kill: KillCost) -> list[str]:
    found: list[str] = []
    if kill.held == 0:
        found.append(f"{kill.daemon} held no running job when it was killed")
    if kill.ran_again < kill.held:
        lost = kill.held - kill.ran_again
        found.append(f"{lost} jobs that {kill.daemon} held never ran again")
    return found + [f"done a second time after the kill: {step}" for step in kill.steps_repeated]


def _of_memory(facts: Facts) -> list[str]:
    found: list[str] = []
    if facts.texts_pending:
        found.append(f"{facts.texts_pending} texts were never embedded")
    remembering = any(
        job.mode in ("answer", "execute") and job.status is JobStatus.DONE for job in facts.jobs
    )
    if remembering and not facts.hits:
        found.append(f"a search for {facts.query!r} found nothing of what was remembered")
    return found


def _of_books(facts: Facts) -> list[str]:
    found = [
        f"the books do not balance: {i.rule}: {i.subject}: expected {i.expected}, found {i.found}"
        for i in facts.imbalances
    ]
    if facts.said_tokens != facts.called_tokens:
        found.append(
            f"the messages say that making them took {facts.said_tokens:,} tokens, "
            f"the calls of their jobs {facts.called_tokens:,}"
        )
    return found
