"""Jobs that wait for a budget, and many transactions that use one at once."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID, uuid4

import anyio
import pytest

from db.fence import PINNED, Lease
from db.money import budgets, limits, settlements
from db.money.budgets import Period
from db.money.calls import CallStatus, Usage
from db.money.settlements import Settlement
from db.money.starts import CallStarted, Short, Verdict
from db.pool import Connection, Database, begun, execute, fetch_all
from db.queue import promote
from tests.db import rows
from tests.db.money import entries
from tests.db.money.budgeting import (
    BROKEN,
    DAY_BEFORE,
    park,
    settle,
    short_job,
    start,
    started,
    starting,
    tokens_a_day,
    windows,
)
from tests.db.racing import until_blocked

pytestmark = pytest.mark.both


async def status(conn: Connection, lease: Lease) -> str:
    return (await rows.status(conn, lease.job_id))[0]


# Waiting.


async def test_who_waits_says_for_what_and_how_to_help(conn: Connection) -> None:
    await budgets.set_budget(conn, "money", Decimal("5.00"), unit="money", period="day")
    lease = await rows.running_job(conn)
    await started(conn, lease, estimated_cost=Decimal("4.90"))
    waiting = await short_job(conn, estimated_cost=Decimal("0.20"))
    [why] = await fetch_all(conn, "select * from jobsworth.why(%s)", [waiting.job_id])
    assert why["reason"] == "budget"
    assert why["detail"].startswith(
        "budget money: 4.9 of 5 USD reserved or spent, this call needs up to 0.2; the window ends"
    )
    assert why["remedy"].startswith("jobsworth budget raise money 5.1 ")
    assert (await budgets.get(conn, "money")).waiting == 1


@pytest.mark.parametrize("period", ["day", "run"])
async def test_a_call_that_no_window_can_hold_is_not_told_to_wait_for_room(
    conn: Connection, period: Period
) -> None:
    """It is larger than the whole budget, or than what its run has not spent yet."""
    await budgets.set_budget(conn, "my budget", 150, unit="tokens", period=period)
    spends = Usage(60, 90) if period == "run" else Usage(60, 91)
    lease = await rows.running_job(conn)
    if period == "run":
        await settle(conn, await started(conn, lease), usage=Usage(60, 40))
    assert isinstance(await start(conn, lease, estimate=spends), Short)
    await park(conn, lease)
    [why] = await fetch_all(conn, "select * from jobsworth.why(%s)", [lease.job_id])
    assert "no waiting makes room for it" in why["detail"]
    needs = 250 if period == "run" else 151
    assert why["remedy"] == f"jobsworth budget raise 'my budget' {needs} (or more)"
    await budgets.raise_to(conn, "my budget", needs)
    assert await status(conn, lease) == "queued"


async def test_a_settlement_names_the_budgets_whose_waiters_are_to_be_woken(
    conn: Connection,
) -> None:
    budget = await tokens_a_day(conn, 150)
    first = await started(conn, await rows.running_job(conn))
    second = await started(conn, await rows.running_job(conn), estimate=Usage(1, 0))
    assert not (await settle(conn, second, usage=Usage(0, 0))).freed_budgets
    waiting = await short_job(conn)
    settled = await settle(conn, first)
    assert list(settled.freed_budgets) == [budget.id]
    assert await status(conn, waiting) == "waiting"
    assert await budgets.wake(conn, settled.freed_budgets) == 1
    assert await status(conn, waiting) == "queued"


@pytest.mark.parametrize("how", ["raise", "reset", "remove", "set"])
async def test_room_that_a_person_makes_wakes_whoever_fits_with_the_same_commit(
    conn: Connection, how: str
) -> None:
    await tokens_a_day(conn, 100)
    await started(conn, await rows.running_job(conn))
    waiting = await short_job(conn)
    match how:
        case "raise":
            await execute(conn, "select jobsworth.raise_budget('daily', 200)")
        case "reset":
            await execute(conn, "select jobsworth.reset_budget('daily')")
        case "remove":
            await execute(conn, "select jobsworth.remove_budget('daily')")
        case _:
            await tokens_a_day(conn, 200)
    assert await status(conn, waiting) == "queued"
    assert isinstance(await start(conn, await rows.take(conn, waiting.job_id)), CallStarted)
    if how != "remove":
        assert await fetch_all(conn, "select job_id from jobsworth.budget_waits") == []


async def test_a_new_window_is_found_by_the_sweep(conn: Connection) -> None:
    await tokens_a_day(conn, 100)
    await started(conn, await rows.running_job(conn))
    waiting = await short_job(conn)
    await promote.sweep(conn, "budget", UUID(int=0), 10)
    assert await status(conn, waiting) == "waiting"
    await execute(conn, DAY_BEFORE)
    await promote.sweep(conn, "budget", UUID(int=0), 10)
    assert await status(conn, waiting) == "queued"


async def test_room_goes_to_the_oldest_that_fit(conn: Connection) -> None:
    await tokens_a_day(conn, 100)
    await started(conn, await rows.running_job(conn))
    large = await short_job(conn, estimate=Usage(500, 0))
    first, second, third = [await short_job(conn, estimate=Usage(size, 0)) for size in (60, 50, 40)]
    await budgets.raise_to(conn, "daily", 200)
    found = [await status(conn, lease) for lease in (large, first, second, third)]
    assert found == ["waiting", "queued", "waiting", "queued"]
    # What was granted counts until it is used.
    assert await budgets.wake(conn) == 0


async def test_a_job_that_is_short_again_keeps_its_age(conn: Connection) -> None:
    await tokens_a_day(conn, 100)
    await started(conn, await rows.running_job(conn))
    first = await short_job(conn)
    second = await short_job(conn)
    await budgets.raise_to(conn, "daily", 200)
    assert await status(conn, first) == "queued"
    await started(conn, await rows.running_job(conn))  # it takes the room
    lease = await rows.take(conn, first.job_id)
    assert isinstance(await start(conn, lease), Short)
    await park(conn, lease)
    await budgets.raise_to(conn, "daily", 300)
    assert (await status(conn, first), await status(conn, second)) == ("queued", "waiting")


# Races.


async def test_the_last_room_is_given_once(database: Database, conn: Connection) -> None:
    """The second waits for the first one's commit, and then sees it."""
    await tokens_a_day(conn, 150)
    first, second = await rows.running_job(conn), await rows.running_job(conn)
    verdicts: list[Verdict] = []
    async with database.connection() as other, anyio.create_task_group() as tasks:

        async def start_second() -> None:
            verdicts.append(await start(other, second))

        async with begun(conn, PINNED):
            await started(conn, first)
            tasks.start_soon(start_second)
            await until_blocked(database, other)
    assert [type(one) for one in verdicts] == [Short]
    assert await windows(conn) == [(100, 0)]


async def test_a_call_under_no_budget_does_not_wait_for_those_that_are_under_one(
    database: Database, conn: Connection
) -> None:
    await tokens_a_day(conn, 1000, model="large")
    await budgets.set_budget(conn, "of a thread", 1, unit="tokens", period="day", thread_id=uuid4())
    await limits.set_limit(conn, "other", requests=1)
    async with database.connection() as other, begun(other, PINNED):
        await started(other)
        with anyio.fail_after(5):
            await started(conn, model="small", thread_id=uuid4())
    assert await windows(conn) == [(100, 0)]


async def test_many_at_once_never_overshoot(database_url: str, conn: Connection) -> None:
    await tokens_a_day(conn, 1000)
    held = [await rows.running_job(conn) for _ in range(16)]
    verdicts: list[Verdict] = []
    async with Database(database_url, pool_min=1, pool_max=16) as database:

        async def work(lease: Lease) -> None:
            async with database.connection() as other:
                for _ in range(5):
                    async with begun(other, PINNED):
                        found = await entries.start_all(
                            other, [starting(lease), starting(lease, estimate=Usage(1, 0))]
                        )
                    verdicts.extend(found.values())

        async with anyio.create_task_group() as tasks:
            for lease in held:
                tasks.start_soon(work, lease)
    [(reserved, _)] = await windows(conn)
    assert 1000 - 100 < reserved <= 1000
    assert len(verdicts) == 160
    assert await fetch_all(conn, BROKEN) == []


async def test_a_settlement_beside_a_park_strands_nobody(
    database: Database, conn: Connection
) -> None:
    """Whichever commits last looks after it: here the settlement, which saw nobody wait."""
    await tokens_a_day(conn, 110)
    call_id = await started(conn, await rows.running_job(conn))
    lease = await rows.running_job(conn)
    assert isinstance(await start(conn, lease), Short)
    async with database.connection() as other:
        async with other.transaction():
            settled = await settle(other, call_id)
            await park(conn, lease)
            assert await status(conn, lease) == "waiting"
        await budgets.wake(other, settled.freed_budgets)
    assert await status(conn, lease) == "queued"


@pytest.mark.parametrize("first", ["the raise", "the park"])
async def test_a_raise_beside_a_park_strands_nobody(
    database: Database, conn: Connection, first: str
) -> None:
    await tokens_a_day(conn, 100)
    await started(conn, await rows.running_job(conn))
    lease = await rows.running_job(conn)
    assert isinstance(await start(conn, lease), Short)
    async with database.connection() as other:
        if first == "the raise":
            # It is committed before the job waits: the look after the park finds the room.
            await budgets.raise_to(other, "daily", 500)
            assert await status(conn, lease) == "running"
            await park(conn, lease)
        else:
            # The raise does not see the park, whose look does not see the raise: the sweep does.
            async with other.transaction():
                await budgets.raise_to(other, "daily", 500)
                await park(conn, lease)
            assert await status(conn, lease) == "waiting"
            await promote.sweep(conn, "budget", UUID(int=0), 10)
    assert await status(conn, lease) == "queued"


async def test_a_persons_open_transaction_holds_up_no_call(
    database: Database, conn: Connection
) -> None:
    await tokens_a_day(conn, 1000)
    async with database.connection() as other, other.transaction():
        await budgets.raise_to(other, "daily", 500)
        with anyio.fail_after(5):
            call_id = await started(conn, await rows.running_job(conn))
            await settle(conn, call_id)


async def test_settling_in_opposite_orders_deadlocks_nobody(
    database_url: str, conn: Connection
) -> None:
    await tokens_a_day(conn, 100_000)
    await budgets.set_budget(conn, "other", 100_000, unit="tokens", period="hour")
    held = [await rows.running_job(conn) for _ in range(8)]
    async with Database(database_url, pool_min=1, pool_max=8) as database:

        async def work(lease: Lease) -> None:
            async with database.connection() as other:
                mine: list[UUID] = []
                for _ in range(10):
                    async with begun(other, settlements.SETTLING):
                        ended = [Settlement(one, CallStatus.OK, Usage(1, 1)) for one in mine]
                        await entries.settle_all(other, ended)
                        found = await entries.start_all(other, [starting(lease)])
                    mine = [one.call_id for one in found.values() if isinstance(one, CallStarted)]

        async with anyio.create_task_group() as tasks:
            for lease in held:
                tasks.start_soon(work, lease)
    assert await windows(conn) == [(800, 144), (800, 144)]
    assert await fetch_all(conn, BROKEN) == []
