"""Calls about to be sent: into the books, if limits and budgets let them.

In: calls with their upper estimates, under their jobs' leases. Out: one `llm_calls` row for each
and its `reserve` in the `token_ledger`, or what stands against it. The function behind it
(migrations/schema/money/start_calls.sql) also keeps the budgets and the rate limits.

Invariant: a call is written, and committed, before a byte of it is sent. Starting is fenced: who
has lost the lease sends nothing.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from db.errors import Conflict, JobsworthError
from db.fence import Lease, LeaseLost
from db.ids import uuidv7
from db.money.calls import Usage, checked_cost
from db.pool import Connection, Last, fetch_last, fetch_val, table


class Starting(NamedTuple):
    """A call that is about to be sent; `start_call` says what the fields are."""

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


class Started(NamedTuple):
    """A call that is in the books; `warned`: budgets that have just come near their end."""

    call_id: UUID
    warned: Sequence[str] = ()


class Limited(NamedTuple):
    """A rate limit says: come again in `wait_seconds`. Nothing was written."""

    detail: str
    wait_seconds: float


class Short(NamedTuple):
    """A budget has too little left. `over`: park, fail or ask. If it is park, the job is noted as
    one that waits for room; nothing else was written.
    """

    budget_id: UUID
    budget: str
    over: str
    detail: str


class Unpriced(NamedTuple):
    """A budget counts money, and the call's price is not known. Nothing was written."""

    budget: str
    detail: str


Verdict = Started | Limited | Short | Unpriced


class NotStarted(JobsworthError):
    """A budget or a rate limit does not let this call out; `verdict` says which."""

    def __init__(self, verdict: Limited | Short | Unpriced) -> None:
        remedy = {
            Limited: "try again later",
            Short: "see jobsworth budget list; raise it, or wait for its next window",
            Unpriced: "give the model a price, or set JOBSWORTH_UNKNOWN_PRICE=allow",
        }[type(verdict)]
        super().__init__(verdict.detail, remedy)
        self.verdict = verdict


START: LiteralString = """
select s.request_id, s.verdict, s.call_id, s.budget_id, s.budget, s.over, s.detail, s.wait_seconds,
  s.warned
from jobsworth.start_calls(%(rows)s::jsonb, %(patient)s) s
"""


class Decided(NamedTuple):
    """What was decided, by request ids, and the requests that are in the books already."""

    verdicts: dict[str, Verdict]
    known: set[str]


def starts(calls: Sequence[Starting], *, patient: bool = False) -> Last[Decided]:
    """Write calls that are about to be sent; to be the last statement of its transaction.

    Who has no verdict was not written: its lease is lost, its request is in the books, or (unless
    `patient`, which waits) somebody holds its job right now.
    """
    return Last(START, {"rows": table([_row(one) for one in calls]), "patient": patient}, _decided)


def _decided(found: Sequence[tuple[Any, ...]]) -> Decided:
    verdicts = {row[0]: verdict for row in found if (verdict := _verdict(*row[1:]))}
    return Decided(verdicts, {row[0] for row in found if row[1] == "known"} - verdicts.keys())


async def start_calls(conn: Connection, calls: Sequence[Starting]) -> dict[str, Verdict]:
    """`starts` inside the caller's transaction (`PINNED`): what was decided, by request ids.

    This never waits for a job; `start_call` does, and tells what became of it.
    """
    return (await fetch_last(conn, starts(calls), prepare=True)).verdicts


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
            return Started(call_id, tuple(warned or ()))
        case "limit":
            return Limited(detail, wait_seconds)
        case "budget":
            return Short(budget_id, budget, over, detail)
        case "unpriced":
            return Unpriced(budget, detail)
        case _:
            return None


# The second try after a COMMIT whose answer was lost.
BOOKED: LiteralString = """
select c.id
from jobsworth.llm_calls c
where c.request_id = %(request_id)s and c.status = 'started'
  and c.job_id is not distinct from %(job_id)s and c.lease_no is not distinct from %(lease_no)s
"""


async def try_start_call(conn: Connection, call: Starting) -> Verdict:
    """Start one call, waiting for whoever holds its job; committed on return.

    Raises `LeaseLost`, `Conflict`.
    """
    decided = await fetch_last(conn, starts([call], patient=True), prepare=False)
    if call.request_id in decided.verdicts:
        return decided.verdicts[call.request_id]
    if call.lease is not None and not decided.known:
        raise LeaseLost(call.lease)
    call_id = await fetch_val(conn, BOOKED, _row(call))
    if call_id is None:
        raise Conflict(
            f"request {call.request_id} is in the books already", "give each call an id of its own"
        )
    return Started(call_id)


async def start_call(
    conn: Connection,
    lease: Lease | None,
    *,
    provider: str,
    model: str,
    request_id: str,
    estimate: Usage,
    estimated_cost: Decimal | None = None,
    mode: str | None = None,
    step_name: str | None = None,
    attempt: int | None = None,
    team_id: UUID | None = None,
    thread_id: UUID | None = None,
    allow_unpriced: bool = True,
    exceeds: frozenset[UUID] = frozenset(),
) -> UUID:
    """Write a call that is about to be sent, with its reservations; committed on return.

    `estimate` is an upper bound: it is what counts if nobody lives to see the answer. `request_id`
    is new for each call; the same one again is the same call, as long as it is not settled. With
    `lease` None the call belongs to no job (scope proactive). `allow_unpriced`: without an
    `estimated_cost` it passes a budget of money. `exceeds`: budgets that it may go beyond. Raises
    `LeaseLost`, `Conflict`, `NotStarted`.
    """
    call = Starting(
        lease,
        provider=provider,
        model=model,
        request_id=request_id,
        estimate=estimate,
        estimated_cost=estimated_cost,
        mode=mode,
        step_name=step_name,
        attempt=attempt,
        team_id=team_id,
        thread_id=thread_id,
        allow_unpriced=allow_unpriced,
        exceeds=exceeds,
    )
    verdict = await try_start_call(conn, call)
    if not isinstance(verdict, Started):
        raise NotStarted(verdict)
    return verdict.call_id


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
        "cost": checked_cost(call.estimated_cost),
        "allow_unpriced": call.allow_unpriced,
        "exceeds": list(call.exceeds) or None,
    }
