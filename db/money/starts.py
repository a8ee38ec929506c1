"""Starting calls: each is entered in the books before it is sent, if limits and budgets allow it.

In: calls with their upper estimates, under their jobs' leases. Out: for each call either its row in
`llm_calls` with a `reserve` in the `token_ledger`, or the limit or budget that refuses it. The
function behind it (migrations/schema/money/start_calls.sql) also keeps the budgets and the rate
limits.

Invariant: a call is written and committed before a byte of it is sent. Starting is fenced: an
attempt that has lost its lease sends nothing.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from db.errors import Conflict
from db.fence import Lease, LeaseLost
from db.ids import uuidv7
from db.money.amount import checked_amount
from db.money.calls import Usage
from db.pool import Connection, LastStatement, fetch_val, run_last
from db.tables import table


class Starting(NamedTuple):
    """A call that is about to be sent. With `lease` None it belongs to no job (scope proactive).

    `request_id` is new for each call; the same one again is the same call until it is settled.
    `estimate` is an upper bound, which counts if the answer never arrives. `allow_unpriced`:
    without an `estimated_cost` the call passes budgets of money. `exceeds`: budgets that the call
    may exceed. `run_id` and `agent_id` are those of a call without a job; a job has its own.
    """

    lease: Lease | None
    provider: str
    model: str
    request_id: str
    estimate: Usage
    estimated_cost: Decimal | None = None
    mode: str | None = None
    step_name: str | None = None
    attempt: int | None = None
    team_id: UUID | None = None
    thread_id: UUID | None = None
    allow_unpriced: bool = True
    exceeds: frozenset[UUID] = frozenset()
    run_id: UUID | None = None
    agent_id: UUID | None = None


class CallStarted(NamedTuple):
    """The call is in the books; `warned` names the budgets that have just passed `warn_at`."""

    call_id: UUID
    warned: Sequence[str] = ()


class Limited(NamedTuple):
    """A rate limit refuses the call for `wait_seconds`; nothing was written."""

    detail: str
    wait_seconds: float


class Short(NamedTuple):
    """A budget has too little left. `over` is what to do then: park, fail or ask. For park, the job
    is noted among those that wait for the budget; nothing else was written.
    """

    budget_id: UUID
    budget: str
    over: str
    detail: str


class Unpriced(NamedTuple):
    """A budget of money applies and the call's price is unknown; nothing was written."""

    budget: str
    detail: str


Verdict = CallStarted | Limited | Short | Unpriced


class Decided(NamedTuple):
    """Verdicts by request id, and the ids of requests that were in the books already."""

    verdicts: dict[str, Verdict]
    booked: set[str]


START: LiteralString = """
select s.request_id, s.verdict, s.call_id, s.budget_id, s.budget, s.over, s.detail, s.wait_seconds,
  s.warned
from jobsworth.start_calls(%(rows)s::jsonb, %(waits)s) s
"""


def start_statement(calls: Sequence[Starting], *, waits: bool = False) -> LastStatement[Decided]:
    """The statement that writes calls which are about to be sent; the last of its transaction.

    A call missing from the verdicts was not written: its lease is lost, its request is in the
    books, or another transaction holds its job right now. With `waits` the statement waits for that
    one.
    """
    rows = table([_row(one) for one in calls])
    return LastStatement(START, {"rows": rows, "waits": waits}, _decided)


async def start_call(conn: Connection, call: Starting) -> Verdict:
    """Start one call, waiting while another transaction holds its job; committed on return.

    Raises `LeaseLost`, `Conflict`.
    """
    decided = await run_last(conn, start_statement([call], waits=True), prepare=False)
    if call.request_id in decided.verdicts:
        return decided.verdicts[call.request_id]
    if call.lease is not None and not decided.booked:
        raise LeaseLost(call.lease)
    return CallStarted(await _booked(conn, call))


# Finds the call again when the answer to its COMMIT was lost and it is started a second time.
BOOKED: LiteralString = """
select c.id
from jobsworth.llm_calls c
where c.request_id = %(request_id)s and c.status = 'started'
  and c.job_id is not distinct from %(job_id)s and c.lease_no is not distinct from %(lease_no)s
"""


async def _booked(conn: Connection, call: Starting) -> UUID:
    call_id = await fetch_val(conn, BOOKED, _row(call))
    if call_id is None:
        raise Conflict(
            f"request {call.request_id} is in the books already",
            "give each call a request id of its own",
        )
    return call_id


def _decided(found: Sequence[tuple[Any, ...]]) -> Decided:
    verdicts = {row[0]: verdict for row in found if (verdict := _verdict(*row[1:]))}
    return Decided(verdicts, {row[0] for row in found if row[1] == "known"} - verdicts.keys())


def _verdict(
    verdict: str,
    call_id: UUID,
    budget_id: UUID,
    budget: str,
    over: str,
    detail: str,
    wait_seconds: float,
    warned: list[str] | None,
) -> Verdict | None:
    match verdict:
        case "started":
            return CallStarted(call_id, tuple(warned or ()))
        case "limit":
            return Limited(detail, wait_seconds)
        case "budget":
            return Short(budget_id, budget, over, detail)
        case "unpriced":
            return Unpriced(budget, detail)
        case _:
            return None


def _row(call: Starting) -> dict[str, Any]:
    lease = call.lease
    return {
        "call_id": uuidv7(),
        "job_id": lease and lease.job_id,
        "lease_no": lease and lease.lease_no,
        "worker_id": lease and lease.worker_id,
        "attempt": call.attempt,
        "team_id": call.team_id,
        "thread_id": call.thread_id,
        "step_name": call.step_name,
        "mode": call.mode,
        "provider": call.provider,
        "model": call.model,
        "request_id": call.request_id,
        "input_tokens": call.estimate.input_tokens,
        "output_tokens": call.estimate.output_tokens,
        "cost": checked_amount(call.estimated_cost),
        "allow_unpriced": call.allow_unpriced,
        "exceeds": list(call.exceeds) or None,
        "of_run_id": call.run_id,
        "of_agent_id": call.agent_id,
    }
