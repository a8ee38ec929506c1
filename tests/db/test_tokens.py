"""The books: started once under the fence, settled once without it, summed honestly."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from db import books, tokens
from db.errors import Conflict, InvalidInput
from db.ledger import get_stats
from db.pool import Connection, Database, execute, fetch_all
from db.queue import Lease, LeaseLost
from db.tokens import CallStatus, LedgerScope, Usage, UsageSource
from tests.db import rows
from tests.support import until

pytestmark = pytest.mark.both

ESTIMATE = Usage(1000, 500)
USED = Usage(120, 30, cache_read_tokens=80, cache_write_tokens=10)
PRICE = Decimal("0.00042")


async def start(conn: Connection, lease: Lease | None, **options: Any) -> UUID:
    values: dict[str, Any] = {
        "provider": "acme",
        "model": "large",
        "mode": "answer",
        "request_id": str(uuid4()),
        "estimate": ESTIMATE,
        "estimated_cost": Decimal("0.01"),
        "attempt": 1 if lease else None,
        "step_name": "draft",
    }
    return await tokens.start_call(conn, lease, **values | options)


async def settle(conn: Connection, call_id: UUID, **options: Any) -> bool:
    values: dict[str, Any] = {
        "status": CallStatus.OK,
        "usage": USED,
        "cost": PRICE,
        "latency_ms": 12,
    }
    return await tokens.settle_call(conn, call_id, **values | options)


async def ledger(conn: Connection) -> list[tuple[str, int, int, Decimal | None]]:
    found = await fetch_all(
        conn,
        "select entry::text, input_tokens, output_tokens, cost from jobsworth.token_ledger"
        " order by occurred_at, id",
    )
    return [(r["entry"], r["input_tokens"], r["output_tokens"], r["cost"]) for r in found]


async def test_a_call_reserves_its_estimate_and_settles_what_it_used(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    call_id = await start(conn, lease)
    assert await settle(conn, call_id, price_version="2026-01")

    [call] = await tokens.list_calls(conn, lease.job_id)
    assert (call.id, call.status, call.lease_no) == (call_id, CallStatus.OK, lease.lease_no)
    assert (call.input_tokens, call.output_tokens) == (120, 30)
    assert (call.cache_read_tokens, call.cache_write_tokens) == (80, 10)
    assert (call.cost, call.price_version) == (PRICE, "2026-01")
    assert call.settled_at is not None
    assert await ledger(conn) == [
        ("reserve", 1000, 500, Decimal("0.01")),
        ("settle", 120, 30, PRICE),
    ]
    assert await books.check(conn) == []


async def test_a_lost_lease_starts_no_call(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    await rows.take(conn, lease.job_id)
    with pytest.raises(LeaseLost):
        await start(conn, lease)
    assert await tokens.list_calls(conn, lease.job_id) == []
    assert await ledger(conn) == []


async def test_a_call_that_waits_for_the_rescue_of_its_job_is_not_started(
    database: Database, conn: Connection
) -> None:
    """A read would still see the lease; the lock sees what the rescue committed."""
    lease = await rows.running_job(conn)
    outcome: list[BaseException] = []
    async with database.connection() as late, anyio.create_task_group() as tasks:

        async def start_late() -> None:
            try:
                await start(late, lease)
            except LeaseLost as lost:
                outcome.append(lost)

        async with conn.transaction():
            await rows.take(conn, lease.job_id)
            tasks.start_soon(start_late)
            await until(lambda: rows.is_blocked(database, late))
    assert len(outcome) == 1
    assert await ledger(conn) == []


async def test_a_call_is_settled_after_its_lease_was_lost(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    call_id = await start(conn, lease)
    await rows.take(conn, lease.job_id)
    assert await settle(conn, call_id)
    assert await books.check(conn) == []


async def test_a_second_settle_writes_nothing(conn: Connection) -> None:
    call_id = await start(conn, await rows.running_job(conn))
    assert await settle(conn, call_id)
    before = await ledger(conn)
    assert not await settle(conn, call_id, status=CallStatus.ERROR, usage=Usage(9, 9), cost=None)
    assert await ledger(conn) == before
    assert not await settle(conn, uuid4())


async def test_of_two_settles_at_once_one_counts(database: Database, conn: Connection) -> None:
    call_id = await start(conn, await rows.running_job(conn))
    outcomes: list[bool] = []
    async with database.connection() as other, anyio.create_task_group() as tasks:

        async def settle_late() -> None:
            outcomes.append(await settle(other, call_id, usage=Usage(7, 7)))

        async with conn.transaction():
            outcomes.append(await settle(conn, call_id))
            tasks.start_soon(settle_late)
            await until(lambda: rows.is_blocked(database, other))
    assert outcomes == [True, False]
    assert [entry for entry, *_ in await ledger(conn)] == ["reserve", "settle"]
    assert await books.check(conn) == []


async def test_the_same_request_started_again_is_the_same_call(conn: Connection) -> None:
    """The second try after a COMMIT whose answer was lost."""
    lease = await rows.running_job(conn)
    call_id = await start(conn, lease, request_id="r-1")
    assert await start(conn, lease, request_id="r-1") == call_id
    alone = await start(conn, None, request_id="r-2")
    assert await start(conn, None, request_id="r-2") == alone
    assert [entry for entry, *_ in await ledger(conn)] == ["reserve", "reserve"]


async def test_a_request_id_of_another_call_is_refused(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    await settle(conn, await start(conn, lease, request_id="r-1"))
    for again in (lease, None, await rows.running_job(conn)):
        with pytest.raises(Conflict, match="r-1"):
            await start(conn, again, request_id="r-1")


async def test_a_call_outside_any_job_is_proactive(conn: Connection) -> None:
    await settle(conn, await start(conn, None, mode=None))
    [stats] = await get_stats(conn, 1)
    assert (stats.provider, stats.model, stats.scope) == ("acme", "large", LedgerScope.PROACTIVE)


async def test_unknown_usage_and_cost_stay_unknown(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    call_id = await start(conn, lease)
    await settle(conn, call_id, status=CallStatus.CUT, usage=None, cost=None, error="cut\0off")
    [call] = await tokens.list_calls(conn, lease.job_id)
    assert (call.input_tokens, call.cost, call.usage_source) == (None, None, UsageSource.UNKNOWN)
    assert call.error == "cut\u2400off"
    [stats] = await get_stats(conn, 1)
    assert (stats.cost, stats.unknown_cost_entries) == (None, 1)
    assert await books.check(conn) == []


async def test_a_call_cannot_be_settled_as_started(conn: Connection) -> None:
    call_id = await start(conn, None)
    with pytest.raises(InvalidInput):
        await settle(conn, call_id, status=CallStatus.STARTED)


async def test_abandoned_calls_are_settled_at_their_upper_estimate(conn: Connection) -> None:
    running, rescued, ended = [await rows.running_job(conn) for _ in range(3)]
    for lease in (running, rescued, ended):
        await start(conn, lease)
    await rows.take(conn, rescued.job_id)
    await rows.end(conn, ended.job_id)

    assert await tokens.settle_abandoned(conn, 10) == 2
    [open_call] = await tokens.list_calls(conn, running.job_id)
    assert open_call.status is CallStatus.STARTED
    for lease in (rescued, ended):
        [call] = await tokens.list_calls(conn, lease.job_id)
        assert call.status is CallStatus.UNKNOWN
        assert (call.input_tokens, call.output_tokens, call.cost) == (1000, 500, Decimal("0.01"))
        assert call.usage_source is UsageSource.ESTIMATED
    assert await tokens.settle_abandoned(conn, 10) == 0
    assert await books.check(conn) == []


async def test_a_call_without_a_job_is_abandoned_after_an_hour(conn: Connection) -> None:
    await start(conn, None)
    old = await start(conn, None)
    assert await tokens.settle_abandoned(conn, 10) == 0
    await execute(
        conn,
        "update jobsworth.llm_calls set started_at = now() - interval '61 minutes' where id = %s",
        [old],
    )
    assert await tokens.settle_abandoned(conn, 10) == 1
    assert not await settle(conn, old)


async def test_abandoned_calls_are_settled_in_bounded_batches_and_never_waited_for(
    database: Database, conn: Connection
) -> None:
    calls: list[UUID] = []
    for _ in range(3):
        lease = await rows.running_job(conn)
        calls.append(await start(conn, lease))
        await rows.end(conn, lease.job_id)
    async with database.transaction() as other:
        assert await settle(other, calls[0])
        assert await tokens.settle_abandoned(conn, 1) == 1
        assert await tokens.settle_abandoned(conn, 5) == 1
    assert await tokens.settle_abandoned(conn, 5) == 0
    assert await books.check(conn) == []


@pytest.mark.parametrize("count", [-1, 1.5, 2**31, True])
def test_tokens_are_counts(count: Any) -> None:
    with pytest.raises(InvalidInput, match="output_tokens"):
        Usage(0, count)


async def test_a_cost_is_an_amount_of_money(conn: Connection) -> None:
    for cost in (Decimal("NaN"), Decimal("Infinity"), Decimal("1e30")):
        with pytest.raises(InvalidInput, match="money"):
            await start(conn, None, estimated_cost=cost)
