"""Repricing corrects each call once, by whoever, and leaves rows and closed days as they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import pytest

from db.money import books, ledger, prices, repricing
from db.money.calls import CallStatus, Usage
from db.pool import Connection, Database, begun, execute, fetch_all, fetch_val
from tests.db.money import entries
from worker.money.pricing import Pricing
from worker.money.repricing import PAGE_CALLS, Repriced, reprice

pytestmark = pytest.mark.both

EVER = datetime(2020, 1, 1, tzinfo=UTC)
USED = Usage(1_000_000, 500_000, 200_000)
ADJUSTS: LiteralString = """
select l.cost, l.price_version, l.total_tokens, l.reprices, l.mode
from jobsworth.token_ledger l
where l.entry = 'adjust'
order by l.occurred_at, l.id
"""
SPENT: LiteralString = """
select sum(cost) from jobsworth.token_ledger where entry in ('settle', 'adjust')
"""
MANY: LiteralString = """
insert into jobsworth.llm_calls (
  id, provider, model, request_id, status, input_tokens, output_tokens, settled_at)
select gen_random_uuid(), 'acme', 'large', 'r' || n, 'ok', 10, 10, now()
from generate_series(1, %s) n
"""
THEIR_ENTRIES: LiteralString = """
insert into jobsworth.token_ledger (call_id, entry, provider, model, input_tokens, output_tokens)
select c.id, e.entry::jobsworth.ledger_entry, c.provider, c.model, 10 * e.used, 10 * e.used
from jobsworth.llm_calls c
cross join (values ('reserve', 0), ('settle', 1)) e (entry, used)
"""


async def call(
    conn: Connection,
    *,
    cost: Decimal | None = None,
    usage: Usage | None = USED,
    model: str = "large",
    team_id: UUID | None = None,
) -> UUID:
    call_id = await entries.start(
        conn,
        None,
        provider="acme",
        model=model,
        mode="answer",
        request_id=uuid4().hex,
        estimate=Usage(2_000_000, 1_000_000),
        team_id=team_id,
    )
    await entries.settle(conn, call_id, status=CallStatus.OK, usage=usage, cost=cost)
    return call_id


async def set_price(conn: Connection, model: str = "*", **more: Any) -> Pricing:
    values: dict[str, Any] = {"input": Decimal(2), "output": Decimal(8)} | more
    await prices.set_price(conn, "acme", model, **values)
    return await fresh(conn)


async def fresh(conn: Connection) -> Pricing:
    pricing = Pricing()
    await pricing.refresh(conn)
    return pricing


async def run(conn: Connection, pricing: Pricing, **options: Any) -> Repriced:
    return await reprice(conn, pricing, EVER, **options)


async def test_a_cost_that_was_unknown_becomes_known_and_a_second_time_nothing_changes(
    conn: Connection,
) -> None:
    call_id = await call(conn)
    pricing = await set_price(conn, cache_read=Decimal(1))
    done = await run(conn, pricing)
    assert (done.looked_at, done.corrected, done.unknown, done.passed) == (1, 1, 0, 0)
    assert done.difference == {"acme:large": Decimal("5.8")}

    [adjust] = await fetch_all(conn, ADJUSTS)
    assert (adjust["cost"], adjust["total_tokens"], adjust["mode"]) == (Decimal("5.8"), 0, "answer")
    assert adjust["price_version"].startswith("own ")
    assert adjust["reprices"]
    [usage] = await ledger.usage_by(conn, "model")
    assert (usage.cost, usage.unknown_cost_entries) == (Decimal("5.8"), 0)
    cost = "select cost from jobsworth.llm_calls where id = %s"
    assert await fetch_val(conn, cost, [call_id]) is None
    assert await books.check(conn) == []

    again = await run(conn, pricing)
    assert (again.looked_at, again.corrected) == (1, 0)


async def test_a_known_cost_follows_own_prices_up_and_down(conn: Connection) -> None:
    await call(conn, cost=Decimal(1))
    for rate, cost in (("2", "6"), ("4", "8"), ("0", "4")):
        done = await run(conn, await set_price(conn, input=Decimal(rate)))
        assert done.corrected == 1
        assert await fetch_val(conn, SPENT) == Decimal(cost)
        assert await books.check(conn) == []
    assert len(await fetch_all(conn, ADJUSTS)) == 3


async def test_a_known_cost_does_not_follow_the_packages_data(conn: Connection) -> None:
    call_id = await entries.start(
        conn, None, provider="openai", model="gpt-4o", request_id="r", estimate=USED
    )
    await entries.settle(conn, call_id, status=CallStatus.OK, usage=USED, cost=Decimal("0.0000001"))
    assert (await run(conn, Pricing())).corrected == 0


async def test_an_unknown_cost_follows_the_packages_data(conn: Connection) -> None:
    call_id = await entries.start(
        conn, None, provider="openai", model="gpt-4o", request_id="r", estimate=USED
    )
    await entries.settle(conn, call_id, status=CallStatus.OK, usage=USED)
    done = await run(conn, Pricing())
    assert done.difference == {"openai:gpt-4o": Decimal("7.25")}
    assert (await run(conn, Pricing())).corrected == 0


async def test_a_price_holds_from_its_time_on_by_when_a_call_was_started(conn: Connection) -> None:
    await call(conn)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    pricing = await set_price(conn, valid_from=tomorrow)
    assert (await run(conn, pricing)).unknown == 1


async def test_a_teams_price_is_for_its_calls(conn: Connection) -> None:
    team_id = uuid4()
    await call(conn, team_id=team_id)
    await call(conn)
    done = await run(conn, await set_price(conn, team_id=team_id))
    assert (done.corrected, done.unknown) == (1, 1)


async def test_only_the_calls_that_are_named_are_corrected(conn: Connection) -> None:
    for model in ("large", "larger", "small"):
        await call(conn, model=model)
    pricing = await set_price(conn)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert (await reprice(conn, pricing, soon)).looked_at == 0
    assert (await run(conn, pricing, until=EVER)).looked_at == 0
    assert (await run(conn, pricing, provider="other")).looked_at == 0
    assert (await run(conn, pricing, model="larg")).looked_at == 0
    assert (await run(conn, pricing, model="large", dry_run=True)).corrected == 1
    assert (await run(conn, pricing, model="larg*", dry_run=True)).corrected == 2
    assert await fetch_all(conn, ADJUSTS) == []
    assert (await run(conn, pricing)).corrected == 3


async def test_usage_that_nobody_told_stays_unknown(conn: Connection) -> None:
    await call(conn, usage=None)
    done = await run(conn, await set_price(conn))
    assert (done.corrected, done.unknown) == (0, 1)


async def test_many_calls_are_corrected_page_by_page_by_two_at_once(
    database: Database, conn: Connection
) -> None:
    count = 3 * PAGE_CALLS + 1
    await execute(conn, MANY, [count])
    await execute(conn, THEIR_ENTRIES)
    pricing = await set_price(conn)
    done: list[Repriced] = []

    async def correct() -> None:
        async with database.connection() as connection:
            done.append(await run(connection, pricing))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(correct)
        tasks.start_soon(correct)
    assert sum(each.corrected for each in done) == count
    assert len(await fetch_all(conn, ADJUSTS)) == count
    assert await books.check(conn) == []


async def test_a_call_that_somebody_corrects_right_now_is_passed_over(
    database: Database, conn: Connection
) -> None:
    await call(conn)
    pricing = await set_price(conn)
    async with database.connection() as other, begun(other, repricing.CORRECTING):
        page = await repricing.page(
            other, EVER, None, after_id=None, provider=None, model=None, most=10
        )
        assert page is not None
        held, _ = await repricing.lock_calls(other, page.call_ids)
        assert held == 1
        done = await run(conn, pricing)
        assert (done.corrected, done.passed) == (0, 1)
    assert (await run(conn, pricing)).corrected == 1


async def test_who_dies_while_correcting_has_corrected_nothing(
    database: Database, conn: Connection
) -> None:
    call_id = await call(conn)
    pricing = await set_price(conn)
    async with database.connection() as other:
        await other.execute(repricing.CORRECTING)
        await repricing.lock_calls(other, [call_id])
        correction = repricing.Correction(call_id, Decimal(1), -1, "own x")
        assert await repricing.correct(other, [correction]) == 1
        await other.close()
    assert await fetch_all(conn, ADJUSTS) == []
    assert (await run(conn, pricing)).corrected == 1
