"""The books: started once under the fence, settled once without it, summed honestly."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from db.errors import Conflict, Contended, InvalidInput
from db.fence import PINNED, Lease, LeaseLost, hold
from db.money import books, settlements
from db.money import calls as call_records
from db.money.calls import CallStatus, LedgerScope, Usage, UsageSource
from db.money.ledger import get_stats
from db.money.settlements import Settlement
from db.money.starts import CallStarted, Starting
from db.pool import Connection, Database, begun, execute, fetch_all
from tests.db import rows
from tests.db.money import entries
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
    return await entries.start(conn, lease, **values | options)


async def settle(conn: Connection, call_id: UUID, **options: Any) -> bool:
    values: dict[str, Any] = {
        "status": CallStatus.OK,
        "usage": USED,
        "cost": PRICE,
        "latency_ms": 12,
    }
    return await entries.settle(conn, call_id, **values | options)


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

    [call] = await call_records.list_calls(conn, lease.job_id)
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
    assert await call_records.list_calls(conn, lease.job_id) == []
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
    [call] = await call_records.list_calls(conn, lease.job_id)
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

    assert (await settlements.settle_abandoned(conn, 10)).calls == 2
    [open_call] = await call_records.list_calls(conn, running.job_id)
    assert open_call.status is CallStatus.STARTED
    for lease in (rescued, ended):
        [call] = await call_records.list_calls(conn, lease.job_id)
        assert call.status is CallStatus.UNKNOWN
        assert (call.input_tokens, call.output_tokens, call.cost) == (1000, 500, Decimal("0.01"))
        assert call.usage_source is UsageSource.ESTIMATED
    assert (await settlements.settle_abandoned(conn, 10)).calls == 0
    assert await books.check(conn) == []


async def test_a_call_without_a_job_is_abandoned_after_an_hour(conn: Connection) -> None:
    await start(conn, None)
    old = await start(conn, None)
    assert (await settlements.settle_abandoned(conn, 10)).calls == 0
    await execute(
        conn,
        "update jobsworth.llm_calls set started_at = now() - interval '61 minutes' where id = %s",
        [old],
    )
    assert (await settlements.settle_abandoned(conn, 10)).calls == 1
    assert (await settlements.settle_abandoned(conn, 10)).calls == 0


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
        assert (await settlements.settle_abandoned(conn, 1)).calls == 1
        assert (await settlements.settle_abandoned(conn, 5)).calls == 1
    assert (await settlements.settle_abandoned(conn, 5)).calls == 0
    assert await books.check(conn) == []


@pytest.mark.parametrize("count", [-1, 1.5, 2**31, True])
def test_tokens_are_counts(count: Any) -> None:
    with pytest.raises(InvalidInput, match="output_tokens"):
        Usage(0, count)


async def test_a_cost_is_an_amount_of_money(conn: Connection) -> None:
    for cost in (Decimal("NaN"), Decimal("Infinity"), Decimal("1e30")):
        with pytest.raises(InvalidInput, match="money"):
            await start(conn, None, estimated_cost=cost)


# Many at once.


def starting(lease: Lease | None, **options: Any) -> Starting:
    return Starting(lease, "acme", "large", uuid4().hex, ESTIMATE, **options)


async def start_all(conn: Connection, *calls: Starting) -> list[UUID | None]:
    """Start these in one transaction; None for those that were not written."""
    async with begun(conn, PINNED):
        verdicts = await entries.start_all(conn, calls)
    found = [verdicts.get(call.request_id) for call in calls]
    return [one.call_id if isinstance(one, CallStarted) else None for one in found]


async def test_many_calls_are_started_as_one_is(conn: Connection) -> None:
    calls = [
        starting(
            await rows.running_job(conn),
            estimated_cost=Decimal("0.01"),
            mode="answer",
            step_name=f"draft {n}",
            attempt=n,
            team_id=uuid4(),
            thread_id=uuid4(),
        )
        for n in range(1, 4)
    ]
    ids = await start_all(conn, *calls)
    for call, call_id in zip(calls, ids, strict=True):
        assert call.lease is not None
        [one] = await call_records.list_calls(conn, call.lease.job_id)
        assert (one.id, one.status, one.request_id) == (call_id, "started", call.request_id)
        assert (one.lease_no, one.attempt) == (call.lease.lease_no, call.attempt)
        assert (one.team_id, one.thread_id) == (call.team_id, call.thread_id)
        assert (one.mode, one.step_name) == (call.mode, call.step_name)
        assert (one.estimated_input_tokens, one.estimated_cost) == (1000, Decimal("0.01"))
    assert await ledger(conn) == 3 * [("reserve", 1000, 500, Decimal("0.01"))]


async def test_a_lost_lease_among_many_starts_no_call(conn: Connection) -> None:
    lease, lost, ended = [await rows.running_job(conn) for _ in range(3)]
    await rows.take(conn, lost.job_id)
    await rows.end(conn, ended.job_id)
    ids = await start_all(conn, *map(starting, (lost, lease, ended, None)))
    assert [call_id is not None for call_id in ids] == [False, True, False, True]
    assert len(await ledger(conn)) == 2


async def test_a_request_that_is_in_the_books_is_left_out_of_many(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    booked, fresh = starting(lease), starting(lease)
    assert await start_all(conn, booked) != [None]
    first, second = await start_all(conn, booked, fresh)
    assert (first, second is not None) == (None, True)
    assert len(await ledger(conn)) == 2


async def test_many_calls_do_not_wait_for_a_job_that_somebody_holds(
    database: Database, conn: Connection
) -> None:
    lease, held = await rows.running_job(conn), await rows.running_job(conn)
    async with database.transaction() as other:
        await hold(other, held)
        ids = await start_all(conn, starting(held), starting(lease))
    assert [call_id is not None for call_id in ids] == [False, True]


async def test_many_calls_are_settled_once_each(conn: Connection) -> None:
    leases = [await rows.running_job(conn) for _ in range(3)]
    ids = [await start(conn, lease) for lease in leases]
    await settle(conn, ids[1], usage=Usage(1, 1), cost=None)
    ended = [Settlement(one, CallStatus.OK, USED, PRICE, "2026-01", 12) for one in (*ids, uuid4())]
    async with begun(conn, settlements.SETTLING):
        assert (await entries.settle_all(conn, ended)).calls == 2
    found = [(await call_records.list_calls(conn, lease.job_id))[0] for lease in leases]
    assert [call.input_tokens for call in found] == [120, 1, 120]
    assert (found[2].cost, found[2].price_version, found[2].latency_ms) == (PRICE, "2026-01", 12)
    assert len(await ledger(conn)) == 6
    assert await books.check(conn) == []


async def test_many_settlements_do_not_wait_long_for_what_somebody_holds(
    database: Database, conn: Connection
) -> None:
    call_id = await start(conn, None)
    async with database.transaction() as other:
        assert await settle(other, call_id)
        with pytest.raises(Contended):
            async with begun(conn, settlements.SETTLING):
                await entries.settle_all(conn, [Settlement(call_id, CallStatus.OK, USED)])
