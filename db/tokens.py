"""The books: what each model call was estimated at, and what it cost.

In: calls about to be sent, and how they ended. Out: one `llm_calls` row per call, and the
append-only `token_ledger`: `reserve` with the start of a call, `settle` with its end (`release` if
it was provably not sent), `adjust` if the truth came later. Both are functions of the schema
(migrations/versions/0007_budgets.py), which also keep the budgets and the rate limits.

Invariant: a call is written, and committed, before a byte of it is sent, and settled exactly once,
whatever became of its job. Only starting a call is fenced: an answer that was paid for belongs into
the books even if the attempt has lost its lease. What a thing cost is a number or unknown (null),
never zero for want of knowing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.documents import to_text
from db.errors import Conflict, InvalidInput, JobsworthError
from db.ids import uuidv7
from db.pool import Connection, Last, fetch_all, fetch_one, fetch_val, table, write_rows
from db.queue import PINNED, Lease, LeaseLost

TOKENS_MAX = 2_147_483_647
COST_MAX = Decimal(10) ** 12


class CallStatus(StrEnum):
    STARTED = "started"
    OK = "ok"
    ERROR = "error"
    CUT = "cut"
    UNKNOWN = "unknown"


class UsageSource(StrEnum):
    PROVIDER = "provider"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


class LedgerEntry(StrEnum):
    RESERVE = "reserve"
    SETTLE = "settle"
    RELEASE = "release"
    ADJUST = "adjust"


class LedgerScope(StrEnum):
    """Proactive: on the system's own account. Reactive: for a job."""

    PROACTIVE = "proactive"
    REACTIVE = "reactive"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `input_tokens` is all that the model read; the cache counts are shares
    of it, and `reasoning_tokens` of the output, so the total is input plus output. `total_tokens`
    is what the provider says it is, if it says so. `cache_write_1h_tokens` are a share of the
    cache's writes and `web_searches` no tokens at all: both make the price, and are not kept but in
    the rates beside it. Raises `InvalidInput`.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    source: UsageSource = UsageSource.PROVIDER
    reasoning_tokens: int = 0
    total_tokens: int | None = None
    cache_write_1h_tokens: int = 0
    web_searches: int = 0

    def __post_init__(self) -> None:
        for name in (
            *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
            *("reasoning_tokens", "total_tokens", "cache_write_1h_tokens", "web_searches"),
        ):
            count = getattr(self, name)
            if name == "total_tokens" and count is None:
                continue
            if type(count) is not int or not 0 <= count <= TOKENS_MAX:
                raise InvalidInput(
                    f"{name} is {count!r}, not a count of tokens",
                    f"give a whole number from 0 to {TOKENS_MAX}",
                )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model call brought: its content (any JSON value), and what it took.

    `usage` None: the provider did not say. `cost` None: its price is not known. `price`: the rates
    that made the cost.
    """

    content: Any
    usage: Usage | None
    cost: Decimal | None = None
    price_version: str | None = None
    price: Mapping[str, Any] | None = None


class Call(BaseModel):
    """A row of `llm_calls`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    job_id: UUID | None
    thread_id: UUID | None
    run_id: UUID | None
    agent_id: UUID | None
    lease_no: int | None
    attempt: int | None
    step_name: str | None
    scope: LedgerScope
    mode: str | None
    provider: str
    model: str
    status: CallStatus
    request_id: str
    estimated_input_tokens: int
    estimated_output_tokens: int
    estimated_cost: Decimal | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    total_tokens: int | None
    usage_source: UsageSource | None
    cost: Decimal | None
    price_version: str | None
    price: dict[str, Any] | None
    over_estimate: bool
    latency_ms: int | None
    error: str | None
    started_at: AwareDatetime
    settled_at: AwareDatetime | None


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


async def start_calls(conn: Connection, calls: Sequence[Starting]) -> dict[str, Verdict]:
    """Write calls that are about to be sent, inside the caller's transaction (`PINNED`).

    Returns what was decided, by their request ids. One that is missing was not written: its lease
    is lost, its request is in the books, or somebody holds its job right now. This never waits for
    a job; `start_call` does, and tells what it is.
    """
    return (await _start(conn, calls, patient=False))[1]


async def _start(
    conn: Connection, calls: Sequence[Starting], *, patient: bool
) -> tuple[set[str], dict[str, Verdict]]:
    """The requests whose leases held and that were not decided, and what was decided."""
    rows = [_row(call) for call in calls]
    found = await write_rows(conn, START, rows, prepare=not patient, patient=patient)
    verdicts = _verdicts(found)
    return {row[0] for row in found if row[1] == "known"} - verdicts.keys(), verdicts


def last_starts(calls: Sequence[Starting]) -> Last[dict[str, Verdict]]:
    """`start_calls` as the last statement of a transaction."""
    return Last(START, {"rows": table([_row(one) for one in calls]), "patient": False}, _verdicts)


def _verdicts(found: Sequence[tuple[Any, ...]]) -> dict[str, Verdict]:
    return {row[0]: verdict for row in found if (verdict := _verdict(*row[1:]))}


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
    known, verdicts = await _start(conn, [call], patient=True)
    if call.request_id in verdicts:
        return verdicts[call.request_id]
    if call.lease is not None and not known:
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
        "cost": _cost(call.estimated_cost),
        "allow_unpriced": call.allow_unpriced,
        "exceeds": list(call.exceeds) or None,
    }


class Settlement(NamedTuple):
    """How a call ended; `usage` None: nobody knows what it took. `unsent`: provably not a byte of
    it went out.
    """

    call_id: UUID
    status: CallStatus
    usage: Usage | None
    cost: Decimal | None = None
    price_version: str | None = None
    latency_ms: int | None = None
    error: str | None = None
    price: Mapping[str, Any] | None = None
    unsent: bool = False


class Settled(NamedTuple):
    """How many calls were ended or corrected; `rooms`: budgets that got room and have waiters, for
    `db.budgets.wake` after the commit.
    """

    calls: int
    rooms: Sequence[UUID]


# The transaction of a batch of settlements. Nobody has reason to hold what they write; if somebody
# does, the batch must not hold up what others paid for.
SETTLING: LiteralString = PINNED + "; set local lock_timeout = '100ms'"

SETTLE: LiteralString = """
select s.settled, s.rooms from jobsworth.settle_calls(%(rows)s::jsonb) s
"""


async def settle_calls(conn: Connection, settlements: Sequence[Settlement]) -> Settled:
    """End calls in the books, with or without their jobs' leases; in the caller's transaction.

    Each once: one that was settled before (or is not there) stays as it is, but for a true answer
    (status ok) to one that was given up for unknown, which corrects it. The transaction begins with
    `PINNED`, or with `SETTLING` where it is one of several.
    """
    return await _settle(conn, settlements, prepare=True)


def last_settlements(settlements: Sequence[Settlement]) -> Last[Settled]:
    """`settle_calls` as the last statement of a transaction."""
    return Last(SETTLE, {"rows": table(_settlement_rows(settlements))}, _settled)


async def _settle(conn: Connection, settlements: Sequence[Settlement], *, prepare: bool) -> Settled:
    return _settled(await write_rows(conn, SETTLE, _settlement_rows(settlements), prepare=prepare))


def _settled(found: Sequence[tuple[Any, ...]]) -> Settled:
    [(settled, rooms)] = found
    return Settled(settled, rooms or ())


def _settlement_rows(settlements: Sequence[Settlement]) -> list[dict[str, Any]]:
    if any(one.status is CallStatus.STARTED for one in settlements):
        raise InvalidInput("a call cannot be settled as started", "say how it ended")
    return [_settlement_row(one) for one in settlements]


def _settlement_row(one: Settlement) -> dict[str, Any]:
    usage = one.usage
    return {
        "call_id": one.call_id,
        "status": one.status,
        "input_tokens": usage and usage.input_tokens,
        "output_tokens": usage and usage.output_tokens,
        "cache_read_tokens": usage and usage.cache_read_tokens,
        "cache_write_tokens": usage and usage.cache_write_tokens,
        "reasoning_tokens": usage and usage.reasoning_tokens,
        "total_tokens": usage and usage.total_tokens,
        "usage_source": usage.source if usage else UsageSource.UNKNOWN,
        "cost": _cost(one.cost),
        "price_version": one.price_version,
        "price": one.price,
        "latency_ms": one.latency_ms,
        "error": one.error and to_text(one.error),
        "unsent": one.unsent,
    }


async def settle_call(
    conn: Connection,
    call_id: UUID,
    *,
    status: CallStatus,
    usage: Usage | None,
    cost: Decimal | None = None,
    price_version: str | None = None,
    latency_ms: int | None = None,
    error: str | None = None,
    price: Mapping[str, Any] | None = None,
    unsent: bool = False,
) -> bool:
    """End a call in the books, with or without its job's lease; committed on return.

    Once: False if it was settled before (or is not there), and then nothing is written. Who waits
    for the room it made is woken by the next sweep; `settle_calls` tells for whom to look at once.
    """
    ended = Settlement(
        call_id, status, usage, cost, price_version, latency_ms, error, price, unsent
    )
    return bool((await _settle(conn, [ended], prepare=False)).calls)


BY_ID: LiteralString = """
select exists (select from jobsworth.llm_calls c where c.id = %(call_id)s) as booked
"""


async def is_booked(conn: Connection, call_id: UUID) -> bool:
    """Is this call in the books?"""
    return bool(await fetch_val(conn, BY_ID, {"call_id": call_id}))


SETTLE_ABANDONED: LiteralString = """
with abandoned as materialized (
  select c.id, c.estimated_input_tokens, c.estimated_output_tokens, c.estimated_cost
  from jobsworth.llm_calls c
  where c.status = 'started' and case when c.job_id is null
    then c.started_at < now() - interval '1 hour'
    else not exists (
      select 1
      from jobsworth.reactive_jobs j
      where j.id = c.job_id and j.lease_no = c.lease_no and j.status = 'running')
    end
  order by c.started_at
  limit %(most)s
  for update of c skip locked
), ended as materialized (
  select coalesce(jsonb_agg(jsonb_build_object(
    'call_id', a.id, 'status', 'unknown', 'input_tokens', a.estimated_input_tokens,
    'output_tokens', a.estimated_output_tokens, 'cache_read_tokens', 0, 'cache_write_tokens', 0,
    'usage_source', 'estimated', 'cost', a.estimated_cost,
    'error', 'nobody lived to see its answer; counted at its upper estimate')), '[]') as rows
  from abandoned a
)
select s.settled, s.rooms
from ended e
cross join lateral jobsworth.settle_calls(e.rows) s
"""


async def settle_abandoned(conn: Connection, most: int) -> Settled:
    """Settle up to `most` calls whose attempt is over, as unknown at their upper estimate.

    Without a job, a call counts as abandoned an hour after its start.
    """
    row = await fetch_one(conn, SETTLE_ABANDONED, {"most": most})
    assert row is not None
    return Settled(row["settled"], row["rooms"] or ())


CALLS_OF_JOB: LiteralString = """
select c.id, c.team_id, c.job_id, c.thread_id, c.run_id, c.agent_id, c.lease_no, c.attempt,
  c.step_name, c.scope, c.mode, c.provider, c.model, c.status, c.request_id,
  c.estimated_input_tokens, c.estimated_output_tokens, c.estimated_cost, c.input_tokens,
  c.output_tokens, c.cache_read_tokens, c.cache_write_tokens, c.reasoning_tokens, c.total_tokens,
  c.usage_source, c.cost, c.price_version, c.price, c.over_estimate, c.latency_ms, c.error,
  c.started_at, c.settled_at
from jobsworth.llm_calls c
where c.job_id = %(job_id)s
order by c.id
"""


async def list_calls(conn: Connection, job_id: UUID) -> list[Call]:
    """The calls of a job, of all its attempts, in the order they were started."""
    return await fetch_all(conn, CALLS_OF_JOB, {"job_id": job_id}, Call)


def _cost(cost: Decimal | None) -> Decimal | None:
    if cost is not None and not (cost.is_finite() and abs(cost) < COST_MAX):
        raise InvalidInput(f"the cost {cost} is not an amount of money", "give a finite Decimal")
    return cost
