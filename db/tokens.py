"""The books: what each model call was estimated at, and what it cost.

In: calls about to be sent, and how they ended. Out: one `llm_calls` row per call, and the
append-only `token_ledger`: `reserve` with the start of a call, `settle` with its end.

Invariant: a call is written, and committed, before a byte of it is sent, and settled exactly once,
whatever became of its job. Only starting a call is fenced: an answer that was paid for belongs into
the books even if the attempt has lost its lease. What a thing cost is a number or unknown (null),
never zero for want of knowing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.documents import to_text
from db.errors import Conflict, InvalidInput
from db.ids import uuidv7
from db.pool import Connection, execute, fetch_all, fetch_val, write_rows
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
    is what the provider says it is, if it says so. Raises `InvalidInput`.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    source: UsageSource = UsageSource.PROVIDER
    reasoning_tokens: int = 0
    total_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in (
            *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
            *("reasoning_tokens", "total_tokens"),
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

    `usage` None: the provider did not say. `cost` None: its price is not known.
    """

    content: Any
    usage: Usage | None
    cost: Decimal | None = None
    price_version: str | None = None


class Call(BaseModel):
    """A row of `llm_calls`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    job_id: UUID | None
    thread_id: UUID | None
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
    usage_source: UsageSource | None
    cost: Decimal | None
    price_version: str | None
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


START: LiteralString = """
with asked as materialized (
  select a.*
  from jsonb_to_recordset(%(rows)s::jsonb) as a (
    call_id uuid, job_id uuid, lease_no bigint, worker_id uuid, attempt int, team_id uuid,
    thread_id uuid, step_name text, mode text, provider text, model text, request_id text,
    input_tokens int, output_tokens int, cost numeric)
), locked as materialized (
  -- By the primary key alone, and compared after the lock (as in `db.queue.FINISH`). A row that
  -- somebody holds is passed over, so that its neighbours do not wait for it.
  select a.*, j.ours
  from asked a
  cross join lateral (
    select r.status = 'running' and r.lease_no = a.lease_no and r.worker_id = a.worker_id as ours
    from jobsworth.reactive_jobs r
    where r.id = a.job_id
    for no key update skip locked
  ) j
), held as materialized (
  -- The fence.
  select l.* from locked l where l.ours
), started as (
  insert into jobsworth.llm_calls (
    id, team_id, job_id, thread_id, lease_no, attempt, step_name, scope, mode, provider, model,
    request_id, estimated_input_tokens, estimated_output_tokens, estimated_cost)
  select h.call_id, h.team_id, h.job_id, h.thread_id, h.lease_no, h.attempt, h.step_name,
    'reactive', h.mode, h.provider, h.model, h.request_id, h.input_tokens, h.output_tokens, h.cost
  from held h
  on conflict (request_id) do nothing
  returning id, team_id, job_id, thread_id, scope, mode, provider, model, estimated_input_tokens,
    estimated_output_tokens, estimated_cost
), reserved as (
  insert into jobsworth.token_ledger (
    team_id, call_id, job_id, thread_id, entry, scope, mode, provider, model, input_tokens,
    output_tokens, cost)
  select s.team_id, s.id, s.job_id, s.thread_id, 'reserve', s.scope, s.mode, s.provider, s.model,
    s.estimated_input_tokens, s.estimated_output_tokens, s.estimated_cost
  from started s
  returning call_id
)
select f.leases, r.call_id
from (select count(*) as leases from held) f
left join reserved r on true
"""


async def start_calls(conn: Connection, calls: Sequence[Starting]) -> dict[str, UUID]:
    """Write calls that are about to be sent, inside the caller's transaction (`PINNED`).

    Returns their ids by their request ids. One that is missing was not written: its lease is lost,
    its request is in the books, or somebody holds its job right now. This never waits for a job;
    `start_call` does, and tells what it is.
    """
    _, started = await _start(conn, calls, alone=False)
    return started


async def _start(
    conn: Connection, calls: Sequence[Starting], *, alone: bool
) -> tuple[int, dict[str, UUID]]:
    """How many leases held, and the ids of the calls that were written."""
    rows = [_row(call) for call in calls]
    statement = START.replace(" skip locked", "") if alone else START
    found = await write_rows(conn, statement, rows, prepare=not alone)
    requests = {row["call_id"]: row["request_id"] for row in rows}
    return found[0][0], {requests[call_id]: call_id for _, call_id in found if call_id}


START_WITHOUT_JOB: LiteralString = """
with started as (
  insert into jobsworth.llm_calls (
    id, team_id, thread_id, step_name, scope, mode, provider, model, request_id,
    estimated_input_tokens, estimated_output_tokens, estimated_cost)
  values (
    %(call_id)s, %(team_id)s, %(thread_id)s, %(step_name)s, 'proactive', %(mode)s, %(provider)s,
    %(model)s, %(request_id)s, %(input_tokens)s, %(output_tokens)s, %(cost)s)
  on conflict (request_id) do nothing
  returning id, team_id, thread_id, scope, mode, provider, model, estimated_input_tokens,
    estimated_output_tokens, estimated_cost
)
insert into jobsworth.token_ledger (
  team_id, call_id, thread_id, entry, scope, mode, provider, model, input_tokens, output_tokens,
  cost)
select s.team_id, s.id, s.thread_id, 'reserve', s.scope, s.mode, s.provider, s.model,
  s.estimated_input_tokens, s.estimated_output_tokens, s.estimated_cost
from started s
returning call_id
"""

# The second try after a COMMIT whose answer was lost.
BOOKED: LiteralString = """
select c.id
from jobsworth.llm_calls c
where c.request_id = %(request_id)s and c.status = 'started'
  and c.job_id is not distinct from %(job_id)s and c.lease_no is not distinct from %(lease_no)s
"""


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
) -> UUID:
    """Write a call that is about to be sent, with its reservation; committed on return.

    `estimate` is an upper bound: it is what counts if nobody lives to see the answer. `request_id`
    is new for each call; the same one again is the same call, as long as it is not settled. With
    `lease` None the call belongs to no job (scope proactive). Raises `LeaseLost`, `Conflict`.
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
    )
    row = _row(call)
    if lease is None:
        call_id = await fetch_val(conn, START_WITHOUT_JOB, row)
    else:
        held, started = await _start(conn, [call], alone=True)
        if not held:
            raise LeaseLost(lease)
        call_id = started.get(request_id)
    call_id = call_id or await fetch_val(conn, BOOKED, row)
    if call_id is None:
        raise Conflict(
            f"request {request_id} is in the books already", "give each call an id of its own"
        )
    return call_id


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
    }


class Settlement(NamedTuple):
    """How a call ended; `usage` None: nobody knows what it took."""

    call_id: UUID
    status: CallStatus
    usage: Usage | None
    cost: Decimal | None = None
    price_version: str | None = None
    latency_ms: int | None = None
    error: str | None = None


# The transaction of a batch of settlements. Nobody has reason to hold what they write; if somebody
# does, the batch must not hold up what others paid for.
SETTLING: LiteralString = PINNED + "; set local lock_timeout = '100ms'"

SETTLE: LiteralString = """
with ended as materialized (
  select e.*
  from jsonb_to_recordset(%(rows)s::jsonb) as e (
    call_id uuid, status jobsworth.call_status, input_tokens int, output_tokens int,
    cache_read_tokens int, cache_write_tokens int, usage_source jobsworth.usage_source,
    cost numeric, price_version text, latency_ms int, error text)
), settled as (
  -- The update itself is the lock, and the row is looked at again after waiting for it. By the
  -- primary key, whatever the planner believes: no join can hash this condition, and `status` would
  -- have it walk the index of open calls, with all that is dead in there, for each.
  update jobsworth.llm_calls c
  set status = e.status, input_tokens = e.input_tokens, output_tokens = e.output_tokens,
    cache_read_tokens = e.cache_read_tokens, cache_write_tokens = e.cache_write_tokens,
    usage_source = e.usage_source, cost = e.cost, price_version = e.price_version,
    latency_ms = e.latency_ms, error = e.error, settled_at = clock_timestamp()
  from ended e
  where c.id = any(array[e.call_id]) and c.settled_at is null
  returning c.id, c.team_id, c.job_id, c.thread_id, c.agent_id, c.scope, c.mode, c.provider,
    c.model, c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens, c.cost,
    c.price_version
)
insert into jobsworth.token_ledger (
  team_id, call_id, job_id, thread_id, agent_id, entry, scope, mode, provider, model,
  input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost, price_version)
select s.team_id, s.id, s.job_id, s.thread_id, s.agent_id, 'settle', s.scope, s.mode, s.provider,
  s.model, coalesce(s.input_tokens, 0), coalesce(s.output_tokens, 0),
  coalesce(s.cache_read_tokens, 0), coalesce(s.cache_write_tokens, 0), s.cost, s.price_version
from settled s
returning call_id
"""


async def settle_calls(conn: Connection, settlements: Sequence[Settlement]) -> int:
    """End calls in the books, with or without their jobs' leases; in the caller's transaction.

    Returns how many this settled: each once, one that was settled before (or is not there) stays as
    it is. The transaction begins with `PINNED`, or with `SETTLING` where it is one of several.
    """
    return len(await _settle(conn, settlements, prepare=True))


async def _settle(
    conn: Connection, settlements: Sequence[Settlement], *, prepare: bool
) -> list[Any]:
    if any(one.status is CallStatus.STARTED for one in settlements):
        raise InvalidInput("a call cannot be settled as started", "say how it ended")
    rows = [
        {
            "call_id": call_id,
            "status": status,
            "input_tokens": usage and usage.input_tokens,
            "output_tokens": usage and usage.output_tokens,
            "cache_read_tokens": usage and usage.cache_read_tokens,
            "cache_write_tokens": usage and usage.cache_write_tokens,
            "usage_source": usage.source if usage else UsageSource.UNKNOWN,
            "cost": _cost(cost),
            "price_version": price_version,
            "latency_ms": latency_ms,
            "error": error and to_text(error),
        }
        for call_id, status, usage, cost, price_version, latency_ms, error in settlements
    ]
    return await write_rows(conn, SETTLE, rows, prepare=prepare)


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
) -> bool:
    """End a call in the books, with or without its job's lease; committed on return.

    Once: False if it was settled before (or is not there), and then nothing is written.
    """
    ended = Settlement(call_id, status, usage, cost, price_version, latency_ms, error)
    return bool(await _settle(conn, [ended], prepare=False))


SETTLE_ABANDONED: LiteralString = """
with abandoned as materialized (
  select c.id
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
), settled as (
  update jobsworth.llm_calls c
  set status = 'unknown', input_tokens = c.estimated_input_tokens,
    output_tokens = c.estimated_output_tokens, cache_read_tokens = 0, cache_write_tokens = 0,
    usage_source = 'estimated', cost = c.estimated_cost, settled_at = clock_timestamp(),
    error = 'nobody lived to see its answer; counted at its upper estimate'
  from abandoned a
  where c.id = a.id
  returning c.id, c.team_id, c.job_id, c.thread_id, c.agent_id, c.scope, c.mode, c.provider,
    c.model, c.input_tokens, c.output_tokens, c.cost
)
insert into jobsworth.token_ledger (
  team_id, call_id, job_id, thread_id, agent_id, entry, scope, mode, provider, model,
  input_tokens, output_tokens, cost)
select s.team_id, s.id, s.job_id, s.thread_id, s.agent_id, 'settle', s.scope, s.mode, s.provider,
  s.model, s.input_tokens, s.output_tokens, s.cost
from settled s
"""


async def settle_abandoned(conn: Connection, most: int) -> int:
    """Settle up to `most` calls whose attempt is over, as unknown at their upper estimate.

    Without a job, a call counts as abandoned an hour after its start. Returns how many there were.
    """
    return await execute(conn, SETTLE_ABANDONED, {"most": most})


CALLS_OF_JOB: LiteralString = """
select c.id, c.team_id, c.job_id, c.thread_id, c.lease_no, c.attempt, c.step_name, c.scope, c.mode,
  c.provider, c.model, c.status, c.request_id, c.estimated_input_tokens, c.estimated_output_tokens,
  c.estimated_cost, c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens,
  c.usage_source, c.cost, c.price_version, c.latency_ms, c.error, c.started_at, c.settled_at
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
