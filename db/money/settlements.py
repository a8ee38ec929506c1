"""Settling calls: each is ended once in the books, whatever became of its job.

In: how calls ended, as told by their attempts, by a spool, or found out by upkeep. Out: the row of
the call with what it took, and a `settle` in the `token_ledger`; a `release` if it was provably
never sent, an `adjust` if the true numbers came later. The function behind it
(migrations/schema/money/settle_calls.sql) also keeps the windows of the budgets.

Invariant: a call is settled exactly once, and without the fence: an answer that was paid for
belongs in the books even if its attempt has lost the job.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from db.documents import to_text
from db.errors import InvalidInput
from db.fence import PINNED
from db.money.amount import checked_amount
from db.money.calls import CallStatus, Usage, UsageSource
from db.pool import Connection, LastStatement, fetch_one
from db.tables import table

# What a provider sends is bounded here.
MODEL_CHARACTERS_MAX = 200


class Settlement(NamedTuple):
    """How a call ended. `usage` None: what it took is unknown. `unsent`: provably no byte of it was
    sent. `limited`: its provider refused it for its rate limit, or was overloaded, and asked for a
    pause of `wait_seconds` (None: of no length). `finish_reason`: why the model stopped.
    `answered_model`: the model that answered, if it is another one than was asked.
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
    limited: bool = False
    wait_seconds: float | None = None
    finish_reason: str | None = None
    answered_model: str | None = None


class SettledBatch(NamedTuple):
    """How many calls were ended or corrected, and which budgets have more left now and jobs that
    wait for them: hand those to `db.money.budgets.wake` after the commit.
    """

    calls: int
    freed_budgets: Sequence[UUID]


# Begins the transaction of a batch of settlements. Nothing else has reason to lock what they write;
# if something does, the batch must not hold up the answers of other jobs.
SETTLING: LiteralString = PINNED + "; set local lock_timeout = '100ms'"

SETTLE: LiteralString = """
select s.settled, s.freed_budgets from jobsworth.settle_calls(%(rows)s::jsonb) s
"""


def settle_statement(settlements: Sequence[Settlement]) -> LastStatement[SettledBatch]:
    """The statement that ends calls in the books, with or without their jobs' leases; the last of
    its transaction, which begins with `PINNED`, or with `SETTLING` for several calls.

    A call that was settled before, or is unknown, stays as it is. One exception: a true answer
    (status ok) corrects a call that was given up as unknown.
    """
    if any(one.status is CallStatus.STARTED for one in settlements):
        raise InvalidInput("a call cannot be settled as started", "say how it ended")
    return LastStatement(SETTLE, {"rows": table([_row(one) for one in settlements])}, _settled)


def _settled(found: Sequence[tuple[Any, ...]]) -> SettledBatch:
    [(settled, freed_budgets)] = found
    return SettledBatch(settled, freed_budgets or ())


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
        "other_usage": (usage and dict(usage.others)) or None,
        "tier": usage and usage.tier,
        "answered_model": one.answered_model and to_text(one.answered_model)[:MODEL_CHARACTERS_MAX],
        "usage_source": usage.source if usage else UsageSource.UNKNOWN,
        "cost": checked_amount(one.cost),
        "price_version": one.price_version,
        "price": one.price,
        "latency_ms": one.latency_ms,
        "error": one.error and to_text(one.error),
        "unsent": one.unsent,
        "limited": one.limited,
        "wait_seconds": one.wait_seconds,
        "finish_reason": one.finish_reason,
    }


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
    'error', 'its worker ended before the answer came; counted at its upper estimate')), '[]')
    as rows
  from abandoned a
)
select s.settled, s.freed_budgets
from ended e
cross join lateral jobsworth.settle_calls(e.rows) s
"""


async def settle_abandoned(conn: Connection, most: int) -> SettledBatch:
    """Settle up to `most` calls whose attempt is over, as unknown, at their upper estimate.

    A call without a job counts as abandoned an hour after its start.
    """
    row = await fetch_one(conn, SETTLE_ABANDONED, {"most": most})
    assert row is not None
    return SettledBatch(row["settled"], row["freed_budgets"] or ())
