"""How calls ended: each is settled once, whatever became of its job.

In: endings, of living attempts, of a spool, or of nobody. Out: the row of the call with what it
took, and its `settle` in the `token_ledger` (`release` if it was provably not sent), or an `adjust`
if the truth came later. The function behind it (migrations/schema/money/settle_calls.sql)
also keeps the budgets' windows.

Invariant: settled exactly once, lease or no lease: an answer that was paid for belongs into the
books even if the attempt has lost its job.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from db.documents import to_text
from db.errors import InvalidInput
from db.fence import PINNED
from db.money.calls import CallStatus, Usage, UsageSource, checked_cost
from db.pool import Connection, Last, fetch_last, fetch_one, table


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
    `db.money.budgets.wake` after the commit.
    """

    calls: int
    rooms: Sequence[UUID]


# The transaction of a batch of settlements. Nobody has reason to hold what they write; if somebody
# does, the batch must not hold up what others paid for.
SETTLING: LiteralString = PINNED + "; set local lock_timeout = '100ms'"

SETTLE: LiteralString = """
select s.settled, s.rooms from jobsworth.settle_calls(%(rows)s::jsonb) s
"""


def settles(settlements: Sequence[Settlement]) -> Last[Settled]:
    """End calls in the books, with or without their jobs' leases; to be the last statement of its
    transaction, which begins with `PINNED`, or with `SETTLING` where it is one of several.

    Each once: one that was settled before (or is not there) stays as it is, but for a true answer
    (status ok) to one that was given up for unknown, which corrects it.
    """
    if any(one.status is CallStatus.STARTED for one in settlements):
        raise InvalidInput("a call cannot be settled as started", "say how it ended")
    return Last(SETTLE, {"rows": table([_row(one) for one in settlements])}, _settled)


async def settle_calls(conn: Connection, settlements: Sequence[Settlement]) -> Settled:
    """`settles` inside the caller's transaction."""
    return await fetch_last(conn, settles(settlements), prepare=True)


def _settled(found: Sequence[tuple[Any, ...]]) -> Settled:
    [(settled, rooms)] = found
    return Settled(settled, rooms or ())


def _row(one: Settlement) -> dict[str, Any]:
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
        "cost": checked_cost(one.cost),
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
    return bool((await fetch_last(conn, settles([ended]), prepare=False)).calls)


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
