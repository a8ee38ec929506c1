"""Sums over the ledger: by time and dimension, the same from sums of days as from the entries."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from db.errors import InvalidInput
from db.fence import Lease
from db.money import ledger
from db.money.calls import CallStatus, LedgerScope, Usage
from db.pool import Connection, execute
from tests.db import rows
from tests.db.money import entries

pytestmark = pytest.mark.both

USED = Usage(120, 30, cache_read_tokens=80, cache_write_tokens=10)
PRICE = Decimal("0.00042")


async def start(conn: Connection, lease: Lease | None, **options: Any) -> UUID:
    values: dict[str, Any] = {
        "provider": "acme",
        "model": "large",
        "mode": "answer",
        "request_id": str(uuid4()),
        "estimate": Usage(1000, 500),
    }
    return await entries.start(conn, lease, **values | options)


async def settle(conn: Connection, call_id: UUID, *, cost: Decimal | None = PRICE) -> None:
    await entries.settle(conn, call_id, status=CallStatus.OK, usage=USED, cost=cost)


async def test_stats_are_by_provider_model_and_scope(conn: Connection) -> None:
    for _ in range(2):
        await settle(conn, await start(conn, await rows.running_job(conn)))
    await settle(conn, await start(conn, None, model="small"), cost=None)
    await settle(conn, await start(conn, None, model="small"), cost=Decimal(1))

    large, small = await ledger.get_stats(conn, 7)
    assert (large.model, large.scope, large.entries) == ("large", LedgerScope.REACTIVE, 2)
    assert (large.input_tokens, large.output_tokens, large.total_tokens) == (240, 60, 300)
    assert (large.cache_read_tokens, large.cache_write_tokens) == (160, 20)
    assert (large.cost, large.unknown_cost_entries) == (2 * PRICE, 0)
    assert (small.cost, small.unknown_cost_entries) == (Decimal(1), 1)


async def test_a_reservation_is_not_spend(conn: Connection) -> None:
    await start(conn, await rows.running_job(conn))
    assert await ledger.get_stats(conn, 1) == []
    assert (await ledger.get_daily_usage(conn)).total_tokens == 0


async def test_daily_usage_is_that_of_one_utc_day(conn: Connection) -> None:
    empty = await ledger.get_daily_usage(conn)
    assert (empty.entries, empty.cost) == (0, Decimal(0))
    assert empty.day == datetime.now(UTC).date()

    await _entry_at(conn, "2026-03-01 00:00:00+00", 1)
    await _entry_at(conn, "2026-03-01 23:59:59+00", 10)
    await _entry_at(conn, "2026-03-02 00:00:00+00", 100)
    await execute(conn, "set timezone to 'Asia/Tokyo'")
    usage = await ledger.get_daily_usage(conn, date(2026, 3, 1))
    assert (usage.day, usage.entries, usage.input_tokens) == (date(2026, 3, 1), 2, 11)
    assert (usage.cost, usage.unknown_cost_entries) == (None, 2)


async def test_sums_can_be_kept_to_a_team(conn: Connection) -> None:
    team_id = uuid4()
    await ledger.log(conn, provider="acme", model="large", usage=Usage(1, 1), team_id=team_id)
    await ledger.log(conn, provider="acme", model="large", usage=Usage(2, 2))
    assert (await ledger.get_daily_usage(conn, team_id=team_id)).input_tokens == 1
    assert (await ledger.get_daily_usage(conn)).input_tokens == 3
    [stats] = await ledger.get_stats(conn, 1, team_id=team_id)
    assert stats.entries == 1
    [usage] = await ledger.usage_by(conn, "team", team_id=team_id)
    assert usage.key == str(team_id)


async def test_usage_is_summed_by_any_dimension(conn: Connection) -> None:
    first, second = await rows.running_job(conn), await rows.running_job(conn)
    await settle(conn, await start(conn, first, mode="classify", model="small"))
    await settle(conn, await start(conn, second, mode="answer"))
    await settle(conn, await start(conn, None, mode=None))

    def totals(sums: list[ledger.UsageBy]) -> dict[str | None, int]:
        return {usage.key: usage.total_tokens for usage in sums}

    today = datetime.now(UTC).date().isoformat()
    by = ledger.usage_by
    assert totals(await by(conn, "mode")) == {"answer": 150, "classify": 150, None: 150}
    assert totals(await by(conn, "model")) == {"acme:large": 300, "acme:small": 150}
    assert totals(await by(conn, "provider")) == {"acme": 450}
    assert totals(await by(conn, "scope")) == {"reactive": 300, "proactive": 150}
    assert totals(await by(conn, "day")) == {today: 450}
    assert totals(await by(conn, "job")) == {
        str(first.job_id): 150,
        str(second.job_id): 150,
        None: 150,
    }
    assert totals(await by(conn, "agent")) == {None: 450}
    assert await by(conn, "mode", datetime.now(UTC) + timedelta(hours=1)) == []


async def test_an_instant_without_a_time_zone_is_refused(conn: Connection) -> None:
    with pytest.raises(InvalidInput, match="time zone"):
        await ledger.usage_by(conn, "mode", datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(InvalidInput, match="days_back"):
        await ledger.get_stats(conn, 0)


async def test_spend_that_is_logged_costs_an_amount_of_money(conn: Connection) -> None:
    for cost in (Decimal("NaN"), Decimal("Infinity"), Decimal("1e30")):
        with pytest.raises(InvalidInput, match="money"):
            await ledger.log(conn, provider="a", model="b", usage=USED, cost=cost)


async def _entry_at(conn: Connection, occurred_at: str, input_tokens: int) -> None:
    await execute(
        conn,
        "insert into jobsworth.token_ledger (entry, provider, model, input_tokens, occurred_at)"
        " values ('settle', 'acme', 'large', %s, %s::timestamptz)",
        [input_tokens, occurred_at],
    )
