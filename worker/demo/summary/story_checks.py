"""The checks of the budget, the run, its fork, the order and the provider's bill.

In: how each ended, as values. Out: one line for each failed check. Pure.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal

from db.approvals.approvals import Approval, ApprovalStatus
from db.money.budgets import Budget
from db.money.calls import Call, CallStatus
from db.runs.runs import RunStatus
from worker.demo.order import FIRST, GOODS, THEN, OrderResult
from worker.demo.provider.bill import Charge
from worker.demo.survey import FORKED_STEP, LETTERS, REPORT, BudgetHit, RunSummary, SurveyResult


def of_budget(held: BudgetHit, at_the_end: Budget) -> list[str]:
    """Check that jobs waited for the budget, that it always held, and that none waits now."""
    found: list[str] = []
    name = held.scant.name
    if not held.waited:
        found.append(f"budget {name}: no job waited for it")
    if held.peak > held.scant.amount:
        found.append(f"budget {name}: {held.peak} was reserved and spent of {held.scant.amount}")
    if not held.scant.spent:
        found.append(f"budget {name}: nothing was spent before it was hit")
    if at_the_end.spent + at_the_end.reserved > at_the_end.amount:
        found.append(f"budget {name}: more is spent of it at the end than it allows")
    if at_the_end.spent <= held.scant.spent:
        found.append(f"budget {name}: nothing was spent of it after it was raised")
    if at_the_end.waiting or at_the_end.reserved:
        found.append(f"budget {name}: something waits for it, or is reserved, at the end")
    return found


def of_run(surveyed: SurveyResult) -> list[str]:
    """Check that each letter was read and paid once, and that the comparison came after all."""
    found = _of_ending("the run", surveyed.run, calls=len(LETTERS) + 1)
    graph = surveyed.run.graph
    nodes = {node.node: node for node in graph.nodes}
    if nodes.keys() != {*LETTERS, REPORT}:
        return [*found, f"the run has other nodes: {', '.join(map(str, nodes))}"]
    report = nodes[REPORT]
    needs = {edge.needs_job_id for edge in graph.edges if edge.job_id == report.id}
    for name in LETTERS:
        letter = nodes[name]
        if letter.id not in needs:
            found.append(f"{REPORT} does not come after {name}")
        began, ended = report.started_at, letter.finished_at
        if began is None or ended is None or began < ended:
            found.append(f"{REPORT} began before {name} had ended")
    return found


def of_fork(surveyed: SurveyResult) -> list[str]:
    """Check that the fork read what was done before, and did and paid only the rest."""
    dry, branch = surveyed.dry, surveyed.branch
    found = _of_ending("the fork", branch, calls=1)
    if (dry.reused.calls, dry.rerun.calls) != (len(LETTERS), 1):
        found.append(
            f"the dry run says that {dry.reused.calls} calls are read and {dry.rerun.calls} made"
        )
    if dry.unsafe:
        found.append("the dry run finds unsafe steps, and there are none")
    again = [str(node.node) for node in branch.graph.nodes if node.node != REPORT]
    if again:
        found.append(f"the fork ran again what comes before {FORKED_STEP}: {', '.join(again)}")
    found += [
        f"done {times} times, although the fork reads it: {line}"
        for line, times in Counter(surveyed.diary).items()
        if times > 1
    ]
    for summary in (surveyed.run, branch):
        if not summary.answer:
            found.append(f"run {summary.run.id} has no answer")
    if surveyed.run.answer == branch.answer:
        found.append("the fork has the same answer, although it was asked something else")
    return found


def of_order(ordered: OrderResult) -> list[str]:
    """Check that the first approval was not used, and that the second one was carried out."""
    first, second = ordered.first, ordered.second
    found: list[str] = []
    if first.superseded_by != second.id or second.supersedes != first.id:
        found.append("the changed question did not take the place of the first one")
    if first.consumed_at is not None:
        found.append(
            f"the approval of {FIRST} crates was used, although {THEN} were wanted by then"
        )
    if not _shows(second, str(FIRST), str(THEN)):
        found.append(f"the second question does not show the difference: {second.difference}")
    if second.status is not ApprovalStatus.APPROVED or second.consumed_at is None:
        found.append("the approval of the second question was not used")
    wanted = (f"ordered {THEN} crates of {GOODS}",)
    if ordered.diary != wanted:
        found.append(f"this was ordered: {', '.join(ordered.diary) or 'nothing'}; not {wanted[0]}")
    return found


def of_bill(bill: Sequence[Charge], calls: Sequence[Call]) -> list[str]:
    """Check that each charge is one call in the books, with the billed tokens and a frozen price.

    The reservation of a call that did not settle as ok must cover what was billed.
    """
    found: list[str] = []
    by_request: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_request[call.request_id].append(call)
    for request_id, times in Counter(charge.request_id for charge in bill).items():
        if times > 1:
            found.append(f"the provider was sent request {request_id} {times} times")
    for charge in bill:
        found += _of_charge(charge, by_request[charge.request_id])
    charged = {charge.request_id for charge in bill}
    for call in calls:
        if call.status is CallStatus.OK and call.request_id not in charged:
            found.append(f"call {call.id} is settled, but the provider has not charged for it")
        if call.status is CallStatus.OK and not (call.cost and call.price and call.price_version):
            found.append(f"call {call.id} of {call.mode} has no cost, or no price is frozen in it")
    return found


def cost_of(calls: Sequence[Call]) -> Decimal:
    """What these calls cost, as far as it is known."""
    return sum((call.cost for call in calls if call.cost is not None), Decimal(0))


def _of_ending(what: str, summary: RunSummary, *, calls: int) -> list[str]:
    found: list[str] = []
    if summary.run.status is not RunStatus.DONE:
        found.append(f"{what} is {summary.run.status}: {summary.run.error}")
    if summary.stats.calls != calls:
        found.append(f"{what} made {summary.stats.calls} calls, not {calls}")
    if summary.stats.open_calls:
        found.append(f"{what} has calls that are not settled")
    return found


def _shows(approval: Approval, *pieces: str) -> bool:
    return all(piece in (approval.difference or "") for piece in pieces)


def _of_charge(charge: Charge, calls: Sequence[Call]) -> list[str]:
    if len(calls) != 1:
        return [f"request {charge.request_id} is charged for, and {len(calls)} calls have it"]
    [call] = calls
    billed = (charge.input_tokens, charge.output_tokens)
    if call.status is CallStatus.OK:
        booked = (call.input_tokens or 0, call.output_tokens or 0)
        agree = booked == billed
    else:
        booked = (call.estimated_input_tokens, call.estimated_output_tokens)
        agree = booked[0] >= billed[0] and booked[1] >= billed[1]
    if agree:
        return []
    return [f"call {call.id} ({call.status}) has {booked} tokens in the books, billed are {billed}"]
