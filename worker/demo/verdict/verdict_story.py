"""Was the story as it should be: the budget, the run, its fork, the order, the provider's bill?

In: what came of each, as values. Out: one line for each thing that is not right. Pure.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal

from db.approvals.approvals import Approval, ApprovalStatus
from db.money.budgets import Budget
from db.money.calls import Call, CallStatus
from db.runs.runs import RunStatus
from worker.demo.order import FIRST, GOODS, THEN, Ordered
from worker.demo.provider.bill import Charge
from worker.demo.survey import FORKED_STEP, LETTERS, REPORT, Held, Surveyed, Told


def of_budget(held: Held, at_the_end: Budget) -> list[str]:
    """It was hit, jobs waited, more was never in it than it allows, and nobody waits any more."""
    found: list[str] = []
    name = held.scant.name
    if not held.waited:
        found.append(f"budget {name}: no job waited for it")
    if held.peak > held.scant.amount:
        found.append(f"budget {name}: {held.peak} was in it, although {held.scant.amount} is all")
    if not held.scant.spent:
        found.append(f"budget {name}: nothing was spent before it was hit")
    if at_the_end.spent + at_the_end.reserved > at_the_end.amount:
        found.append(f"budget {name}: more is spent of it at the end than it allows")
    if at_the_end.spent <= held.scant.spent:
        found.append(f"budget {name}: nothing was spent of it after it was raised")
    if at_the_end.waiting or at_the_end.reserved:
        found.append(f"budget {name}: something waits for it, or is reserved, at the end")
    return found


def of_run(surveyed: Surveyed) -> list[str]:
    """Each letter was read once and paid once, and the comparison came after all of them."""
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


def of_fork(surveyed: Surveyed) -> list[str]:
    """What was done before it was read, and neither done nor paid again; the rest is new."""
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
    for told in (surveyed.run, branch):
        if not told.answer:
            found.append(f"run {told.run.id} has no answer")
    if surveyed.run.answer == branch.answer:
        found.append("the fork has the same answer, although it was asked something else")
    return found


def of_order(ordered: Ordered) -> list[str]:
    """The first yes was for something else, and counts for nothing; the second one was done."""
    first, second = ordered.first, ordered.second
    found: list[str] = []
    if first.superseded_by != second.id or second.supersedes != first.id:
        found.append("the changed question did not take the place of the first one")
    if first.consumed_at is not None:
        found.append(f"the yes to {FIRST} crates was used, although {THEN} were wanted by then")
    if not _shows(second, str(FIRST), str(THEN)):
        found.append(f"the second question does not show the difference: {second.difference}")
    if second.status is not ApprovalStatus.APPROVED or second.consumed_at is None:
        found.append("the yes to the second question was not used")
    wanted = (f"ordered {THEN} crates of {GOODS}",)
    if ordered.diary != wanted:
        found.append(f"this was ordered: {', '.join(ordered.diary) or 'nothing'}; not {wanted[0]}")
    return found


def of_bill(bill: Sequence[Charge], calls: Sequence[Call]) -> list[str]:
    """Each charge is a call in the books, to the token where it is known, and at a frozen price."""
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


def _of_ending(what: str, told: Told, *, calls: int) -> list[str]:
    found: list[str] = []
    if told.run.status is not RunStatus.DONE:
        found.append(f"{what} is {told.run.status}: {told.run.error}")
    if told.stats.calls != calls:
        found.append(f"{what} made {told.stats.calls} calls, not {calls}")
    if told.stats.open_calls:
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
