"""Budgets: what they bound, and what counts in their windows."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, LiteralString
from uuid import uuid4

import pytest

from db.errors import InvalidInput, NotFound
from db.fence import PINNED
from db.money import books, budgets, settlements
from db.money import calls as call_records
from db.money.calls import CallStatus, Usage
from db.money.starts import CallStarted, Short, Unpriced
from db.pool import Connection, begun, execute, fetch_all, fetch_val
from tests.db import rows
from tests.db.money import entries
from tests.db.money.budgeting import (
    BROKEN,
    DAY_BEFORE,
    ESTIMATE,
    WINDOWS,
    settle,
    start,
    started,
    starting,
    tokens_a_day,
    windows,
)

pytestmark = pytest.mark.both
LEDGER: LiteralString = """
select entry::text, input_tokens::int, cost from jobsworth.token_ledger order by id
"""


# Reserving and settling.


async def test_a_call_holds_its_estimate_until_it_is_settled_and_what_it_took_after(
    conn: Connection,
) -> None:
    await tokens_a_day(conn, 1000)
    await budgets.set_budget(conn, "money", Decimal(5), unit="money", period="month")
    call_id = await started(conn, await rows.running_job(conn))
    assert await windows(conn) == [(100, 0), (1, 0)]
    assert (await settle(conn, call_id)).calls == 1
    assert await windows(conn) == [(0, 10), (0, Decimal("0.1"))]
    assert (await settle(conn, call_id)).calls == 0
    assert await windows(conn) == [(0, 10), (0, Decimal("0.1"))]
    assert await fetch_all(conn, BROKEN) == []


async def test_a_call_that_does_not_fit_is_not_written(conn: Connection) -> None:
    await tokens_a_day(conn, 150)
    lease = await rows.running_job(conn)
    await started(conn, lease)
    verdict = await start(conn, lease)
    assert isinstance(verdict, Short)
    assert (verdict.budget, verdict.over) == ("daily", "park")
    assert "budget daily: 100 of 150 tokens reserved or spent, this call needs up to 100" in (
        verdict.detail
    )
    assert len(await call_records.list_calls(conn, lease.job_id)) == 1


@pytest.mark.parametrize(
    ("column", "other"),
    [
        ("mode", {"mode": "plan"}),
        ("provider", {"provider": "other"}),
        ("model", {"model": "small"}),
        ("thread_id", {"thread_id": uuid4()}),
        ("for_team_id", {"team_id": uuid4()}),
    ],
)
async def test_a_budget_bounds_what_matches_its_filters(
    conn: Connection, column: str, other: dict[str, Any]
) -> None:
    same = {"thread_id": uuid4(), "team_id": uuid4()}
    known = {"mode": "answer", "provider": "acme", "model": "large", **same}
    known["for_team_id"] = known.pop("team_id")
    await tokens_a_day(conn, 0, **{column: known[column]})
    lease = await rows.running_job(conn)
    assert isinstance(await start(conn, lease, **same), Short)
    assert isinstance(await start(conn, lease, **{**same, **other}), CallStarted)


async def test_an_agent_and_a_run_are_those_of_the_job(conn: Connection) -> None:
    agent_id, run_id = uuid4(), uuid4()
    await tokens_a_day(conn, 0, agent_id=agent_id)
    other, lease = await rows.running_job(conn), await rows.running_job(conn)
    await execute(
        conn,
        "update jobsworth.reactive_jobs set agent_id = %s, run_id = %s where id = %s",
        [agent_id, run_id, lease.job_id],
    )
    assert isinstance(await start(conn, other), CallStarted)
    assert isinstance(await start(conn, lease), Short)
    await budgets.remove(conn, "daily")
    await started(conn, lease)
    [call] = await call_records.list_calls(conn, lease.job_id)
    assert (call.agent_id, call.run_id) == (agent_id, run_id)
    ids = await fetch_all(
        conn,
        "select distinct run_id, agent_id from jobsworth.token_ledger where run_id is not null",
    )
    assert ids == [{"run_id": run_id, "agent_id": agent_id}]


async def test_each_run_has_a_window_of_its_own_and_a_job_without_one_is_a_run(
    conn: Connection,
) -> None:
    await budgets.set_budget(conn, "run", 150, unit="tokens", period="run")
    run_id = uuid4()
    first, second, alone = [await rows.running_job(conn) for _ in range(3)]
    for lease in (first, second):
        await execute(
            conn,
            "update jobsworth.reactive_jobs set run_id = %s where id = %s",
            [run_id, lease.job_id],
        )
    await started(conn, first)
    assert isinstance(await start(conn, second), Short)
    await started(conn, alone)
    assert isinstance(await start(conn, alone), Short)
    await started(conn, None)
    found = await fetch_all(conn, WINDOWS)
    assert {row["run_id"] for row in found} == {run_id, alone.job_id}


async def test_a_call_of_unknown_price_needs_leave_to_pass_a_budget_of_money(
    conn: Connection,
) -> None:
    await budgets.set_budget(conn, "money", 5, unit="money", period="day")
    lease = await rows.running_job(conn)
    verdict = await start(conn, lease, estimated_cost=None, allow_unpriced=False)
    assert isinstance(verdict, Unpriced)
    call_id = await started(conn, lease, estimated_cost=None, allow_unpriced=True)
    await settle(conn, call_id, cost=Decimal("0.7"))
    assert await windows(conn) == [(0, Decimal("0.7"))]
    await budgets.remove(conn, "money")
    await tokens_a_day(conn, 1000)
    await started(conn, lease, estimated_cost=None, allow_unpriced=False)


async def test_usage_above_the_estimate_is_recorded_and_flagged(conn: Connection) -> None:
    await tokens_a_day(conn, 1000)
    lease = await rows.running_job(conn)
    call_id = await started(conn, lease)
    await settle(conn, call_id, usage=Usage(200, 100, reasoning_tokens=50, total_tokens=350))
    [call] = await call_records.list_calls(conn, lease.job_id)
    assert (call.over_estimate, call.reasoning_tokens, call.total_tokens) == (True, 50, 350)
    assert await windows(conn) == [(0, 300)]


async def test_the_largest_counts_there_are_are_booked_and_balance(conn: Connection) -> None:
    most = Usage(call_records.TOKENS_MAX, call_records.TOKENS_MAX)
    await tokens_a_day(conn, 10**14)
    await budgets.set_budget(conn, "money", 10**14, unit="money", period="day")
    first, second = [await started(conn, None, estimate=most) for _ in range(2)]
    await settle(conn, first, usage=most, cost=Decimal("0.00000000000000000000000000000001"))
    assert await books.check(conn) == []
    await settle(conn, second, usage=most, cost=None)
    assert [spent for _, spent in await windows(conn)] == [
        4 * call_records.TOKENS_MAX,
        Decimal("1.00000000000000000000000000000001"),
    ]
    assert await books.check(conn) == []
    assert await fetch_all(conn, BROKEN) == []


async def test_what_was_provably_not_sent_is_released(conn: Connection) -> None:
    await tokens_a_day(conn, 150)
    call_id = await started(conn, await rows.running_job(conn))
    await settle(
        conn,
        call_id,
        status=CallStatus.ERROR,
        usage=Usage(0, 0),
        cost=Decimal(0),
        unsent=True,
    )
    assert await windows(conn) == [(0, 0)]
    entries = [row["entry"] for row in await fetch_all(conn, LEDGER)]
    assert entries == ["reserve", "release"]
    assert await fetch_all(conn, BROKEN) == []


async def test_an_unknown_cost_is_held_at_its_estimate(conn: Connection) -> None:
    await budgets.set_budget(conn, "money", 5, unit="money", period="day")
    call_id = await started(conn, await rows.running_job(conn))
    await settle(conn, call_id, cost=None)
    assert await windows(conn) == [(0, 1)]


async def test_the_truth_about_an_abandoned_call_corrects_it_once(conn: Connection) -> None:
    await budgets.set_budget(conn, "money", 5, unit="money", period="day")
    await tokens_a_day(conn, 1000)
    lease = await rows.running_job(conn)
    call_id = await started(conn, lease)
    await rows.end(conn, lease.job_id)
    assert (await settlements.settle_abandoned(conn, 10)).calls == 1
    assert await windows(conn) == [(0, 100), (0, 1)]
    assert (await settle(conn, call_id, price={"input": "1.25"})).calls == 1
    assert (await settle(conn, call_id)).calls == 0
    assert await windows(conn) == [(0, 10), (0, Decimal("0.1"))]
    [call] = await call_records.list_calls(conn, lease.job_id)
    assert (call.status, call.input_tokens, call.cost) == (CallStatus.OK, 5, Decimal("0.1"))
    assert call.price == {"input": "1.25"}
    entries = [tuple(row.values()) for row in await fetch_all(conn, LEDGER)]
    assert entries[1:] == [("settle", 60, 1), ("adjust", -55, Decimal("-0.9"))]
    assert await fetch_all(conn, BROKEN) == []


async def test_only_the_truth_corrects(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    call_id = await started(conn, lease)
    await settle(conn, call_id, status=CallStatus.UNKNOWN, usage=ESTIMATE)
    assert (await settle(conn, call_id, status=CallStatus.UNKNOWN)).calls == 0
    assert (await settle(conn, call_id, status=CallStatus.OK)).calls == 1
    assert (await settle(conn, call_id, status=CallStatus.ERROR)).calls == 0


async def test_a_call_counts_in_the_window_of_its_reservation(conn: Connection) -> None:
    await tokens_a_day(conn, 150)
    call_id = await started(conn, await rows.running_job(conn))
    await execute(conn, DAY_BEFORE)
    await started(conn, await rows.running_job(conn))
    assert await windows(conn) == [(100, 0), (100, 0)]
    await settle(conn, call_id)
    assert await windows(conn) == [(0, 10), (100, 0)]


async def test_a_warning_comes_once_for_each_window(conn: Connection) -> None:
    await tokens_a_day(conn, 250, warn_at=0.8)
    lease = await rows.running_job(conn)
    assert await start(conn, lease) == CallStarted(
        (await call_records.list_calls(conn, lease.job_id))[0].id
    )
    second = await start(conn, lease)
    assert isinstance(second, CallStarted)
    assert second.warned == ("daily: 200 of 250 tokens",)
    await budgets.raise_to(conn, "daily", 300)
    third = await start(conn, lease)
    assert isinstance(third, CallStarted)
    assert third.warned == ()


async def test_an_approved_call_goes_beyond_the_budget_and_is_recorded(conn: Connection) -> None:
    budget = await tokens_a_day(conn, 50, over="ask")
    lease = await rows.running_job(conn)
    verdict = await start(conn, lease)
    assert isinstance(verdict, Short)
    assert (verdict.budget_id, verdict.over) == (budget.id, "ask")
    await started(conn, lease, exceeds=frozenset([budget.id]))
    assert await fetch_val(conn, "select exceeded from jobsworth.call_windows") is True
    assert await windows(conn) == [(100, 0)]


async def test_of_several_short_budgets_the_one_that_fails_speaks(conn: Connection) -> None:
    await tokens_a_day(conn, 0)
    await budgets.set_budget(conn, "strict", 0, unit="tokens", period="hour", over="fail")
    verdict = await start(conn, await rows.running_job(conn))
    assert isinstance(verdict, Short)
    assert (verdict.budget, verdict.over) == ("strict", "fail")


async def test_of_a_batch_that_does_not_fit_as_a_whole_each_that_does_is_started(
    conn: Connection,
) -> None:
    await tokens_a_day(conn, 250)
    await budgets.set_budget(conn, "run", 120, unit="tokens", period="run")
    first, second = await rows.running_job(conn), await rows.running_job(conn)
    sizes = [(first, 100), (first, 30), (first, 20), (second, 90), (second, 50), (None, 35)]
    calls = [starting(lease, estimate=Usage(size, 0)) for lease, size in sizes]
    async with begun(conn, PINNED):
        found = await entries.start_all(conn, calls)
    decided = [
        one.budget if isinstance(one, Short) else type(one).__name__
        for one in (found[call.request_id] for call in calls)
    ]
    # By the order in which they came, and each as if it were alone.
    assert decided == ["CallStarted", "run", "CallStarted", "CallStarted", "daily", "CallStarted"]
    assert sum(reserved for reserved, _ in await windows(conn)) == 245 + 120 + 90
    assert await fetch_all(conn, BROKEN) == []


async def test_a_batch_warns_once(conn: Connection) -> None:
    await tokens_a_day(conn, 500)
    async with begun(conn, PINNED):
        found = await entries.start_all(conn, [starting(None) for _ in range(5)])
    warned = [tuple(one.warned) for one in found.values() if isinstance(one, CallStarted)]
    assert sorted(warned) == [(), (), (), (), ("daily: 500 of 500 tokens",)]


async def test_what_stands_against_a_call_may_be_gone_when_it_is_looked_for(
    conn: Connection,
) -> None:
    """A person raises a budget without the money's lock, so also between two statements."""
    await tokens_a_day(conn, 100)
    call = '{"request_id": "r", "input_tokens": 60, "output_tokens": %s, "cost": 1}'
    refuse: LiteralString = (
        "select (jobsworth.refuse_call(%(call)s::jsonb, clock_timestamp())).verdict"
    )
    assert await fetch_val(conn, refuse, {"call": call % 41}) == "budget"
    assert await fetch_val(conn, refuse, {"call": call % 40}) is None


# Operations.


async def test_a_budget_that_counts_something_else_begins_anew(conn: Connection) -> None:
    await tokens_a_day(conn, 150)
    await started(conn, await rows.running_job(conn))
    same = await tokens_a_day(conn, 200)
    assert (same.reserved, same.reset_at) == (100, None)
    other = await tokens_a_day(conn, 200, mode="answer")
    assert (other.reserved, other.id) == (0, same.id)


async def test_a_removed_budget_bounds_nothing_and_can_come_back(conn: Connection) -> None:
    await tokens_a_day(conn, 0)
    await budgets.remove(conn, "daily")
    assert await budgets.list_all(conn) == []
    [removed] = await budgets.list_all(conn, everything=True)
    assert not removed.active
    await started(conn, await rows.running_job(conn))
    assert (await tokens_a_day(conn, 7)).active


async def test_a_name_that_is_not_there_is_told(conn: Connection) -> None:
    with pytest.raises(NotFound, match="there is no budget weekly"):
        await budgets.raise_to(conn, "weekly", 5)
    with pytest.raises(InvalidInput, match="-1 is not an amount"):
        await tokens_a_day(conn, -1)
