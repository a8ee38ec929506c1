"""Budgets: checked before a call is written, and whoever waits goes on when there is room."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import pytest

from db.errors import InvalidInput, NotFound
from db.fence import PINNED, Lease
from db.money import books, budgets, limits, settlements, starts
from db.money import calls as call_records
from db.money.budgets import Budget
from db.money.calls import CallStatus, Usage
from db.money.settlements import Settlement
from db.money.starts import CallStarted, Short, Starting, Unpriced, Verdict
from db.pool import Connection, Database, begun, execute, fetch_all, fetch_val
from db.queue import promote
from tests.db import rows
from tests.db.money import entries
from tests.db.racing import until_blocked

pytestmark = pytest.mark.both

ESTIMATE = Usage(60, 40)
WAIT: LiteralString = """
update jobsworth.reactive_jobs set status = 'waiting', waiting_for = 'budget'
where id = %(job_id)s
"""
WINDOWS: LiteralString = """
select b.name, w.reserved, w.spent, w.run_id
from jobsworth.budget_windows w join jobsworth.budgets b on b.id = w.budget_id
order by b.name, w.starts_at, w.run_id
"""
BROKEN: LiteralString = "select invariant from jobsworth.violations"
# As if all that was counted had been so many days ago.
OLD: LiteralString = """
with calls as (
  update jobsworth.llm_calls
  set started_at = started_at - make_interval(days => %(days)s),
    settled_at = settled_at - make_interval(days => %(days)s)
)
update jobsworth.budget_windows w set starts_at = starts_at - make_interval(days => %(days)s)
from jobsworth.budgets b
where b.id = w.budget_id and b.period <> 'run'
"""
LEDGER: LiteralString = """
select entry::text, input_tokens::int, cost from jobsworth.token_ledger order by id
"""
DAY_BEFORE: LiteralString = """
update jobsworth.budget_windows set starts_at = starts_at - interval '1 day'
"""


def starting(lease: Lease | None, **options: Any) -> Starting:
    known: dict[str, Any] = {
        "provider": "acme",
        "model": "large",
        "request_id": uuid4().hex,
        "estimate": ESTIMATE,
        "estimated_cost": Decimal("1.00"),
        "mode": "answer",
    }
    return Starting(lease, **{**known, **options})


async def start(conn: Connection, lease: Lease | None = None, **options: Any) -> Verdict:
    return await starts.start_call(conn, starting(lease, **options))


async def started(conn: Connection, lease: Lease | None = None, **options: Any) -> UUID:
    verdict = await start(conn, lease, **options)
    assert isinstance(verdict, CallStarted)
    return verdict.call_id


async def tokens_a_day(conn: Connection, amount: int, **options: Any) -> Budget:
    return await budgets.set_budget(conn, "daily", amount, unit="tokens", period="day", **options)


async def windows(conn: Connection) -> list[tuple[Decimal, Decimal]]:
    return [(row["reserved"], row["spent"]) for row in await fetch_all(conn, WINDOWS)]


async def settle(conn: Connection, call_id: UUID, **options: Any) -> settlements.SettledBatch:
    known: dict[str, Any] = {"status": CallStatus.OK, "usage": Usage(5, 5), "cost": Decimal("0.1")}
    return await entries.settle_all(conn, [Settlement(call_id, **{**known, **options})])


async def forget(conn: Connection) -> None:
    await budgets.forget_windows(conn, UUID(int=0), days=90, most=1000)


async def park(conn: Connection, lease: Lease) -> None:
    """As a finish does, and the look after its commit."""
    await execute(conn, WAIT, {"job_id": lease.job_id})
    await promote.unblock(conn, [lease.job_id])


async def short_job(conn: Connection, **options: Any) -> Lease:
    """A job that waits for room in a budget."""
    lease = await rows.running_job(conn)
    assert isinstance(await start(conn, lease, **options), Short)
    await park(conn, lease)
    assert await rows.status(conn, lease.job_id) == ("waiting", "budget")
    return lease


async def status(conn: Connection, lease: Lease) -> str:
    return (await rows.status(conn, lease.job_id))[0]


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


# Forgetting.


async def test_a_finished_waiter_is_forgotten(conn: Connection) -> None:
    await tokens_a_day(conn, 0)
    lease = await short_job(conn)
    await forget(conn)
    assert len(await fetch_all(conn, "select job_id from jobsworth.budget_waits")) == 1
    await execute(conn, "select jobsworth.cancel(%s)", [lease.job_id])
    await forget(conn)
    assert await fetch_all(conn, "select job_id from jobsworth.budget_waits") == []


async def test_windows_that_are_over_are_forgotten_in_slices_and_the_books_balance_all_the_time(
    conn: Connection,
) -> None:
    await tokens_a_day(conn, 10_000)
    await budgets.set_budget(conn, "hourly", 10_000, unit="tokens", period="hour")
    lease = await rows.running_job(conn)
    for _ in range(3):
        await settle(conn, await started(conn, lease))
    await execute(conn, OLD, {"days": 100})
    await started(conn, lease)
    assert len(await windows(conn)) == 4
    forgotten, after = 0, UUID(int=0)
    while forgotten < 6:
        count, next_one = await budgets.forget_windows(conn, after, days=90, most=1)
        forgotten, after = forgotten + count, next_one or UUID(int=0)
        assert await books.check(conn) == []
    await forget(conn)
    assert await windows(conn) == [(100, 0), (100, 0)]
    assert await books.check(conn) == []


async def test_what_may_still_count_is_kept(conn: Connection) -> None:
    await tokens_a_day(conn, 10_000)
    await budgets.set_budget(conn, "run", 10_000, unit="tokens", period="run")
    open_one, ended, lately = [await rows.running_job(conn) for _ in range(3)]
    await started(conn, open_one)
    await settle(conn, await started(conn, ended))
    await execute(conn, OLD, {"days": 100})
    # A call that is open keeps its window, and a job that goes on that of its run.
    await settle(conn, await started(conn, lately))
    await rows.end(conn, ended.job_id)
    await rows.end(conn, lately.job_id)
    await forget(conn)
    kept = {row["run_id"] for row in await fetch_all(conn, WINDOWS) if row["name"] == "run"}
    assert kept == {open_one.job_id, lately.job_id}
    assert len(await windows(conn)) == 4
    assert await books.check(conn) == []


async def test_a_truth_that_comes_after_its_window_was_forgotten_corrects_the_books(
    conn: Connection,
) -> None:
    await tokens_a_day(conn, 10_000)
    lease = await rows.running_job(conn)
    call_id = await started(conn, lease)
    await settle(conn, call_id, status=CallStatus.UNKNOWN, usage=ESTIMATE)
    await execute(conn, OLD, {"days": 100})
    await forget(conn)
    assert await windows(conn) == []
    assert (await settle(conn, call_id)).calls == 1
    [call] = await call_records.list_calls(conn, lease.job_id)
    assert (call.status, call.input_tokens) == (CallStatus.OK, 5)
    assert await books.check(conn) == []
    assert await fetch_all(conn, BROKEN) == []
