"""The books balance, or the check says where not."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest

from db.diagnosis import violations
from db.errors import InvalidInput
from db.money import books, budgets, days, ledger
from db.money.calls import CallStatus, Usage
from db.pool import Connection, Database, begun, execute, fetch_val
from tests.db import rows
from tests.db.money import entries

UNLOCK_LEDGER: LiteralString = """
alter table jobsworth.token_ledger disable trigger ledger_is_append_only;
alter table jobsworth.llm_calls disable trigger calls_are_not_deleted;
alter table jobsworth.llm_calls disable trigger settled_calls_stay;
drop index jobsworth.token_ledger_once
"""


async def call(
    conn: Connection,
    *,
    settled: bool = True,
    cost: Decimal | None = Decimal("0.10"),
    status: CallStatus = CallStatus.OK,
) -> UUID:
    call_id = await entries.start(
        conn,
        await rows.running_job(conn),
        provider="acme",
        model="large",
        request_id=str(uuid4()),
        estimate=Usage(1000, 500),
        estimated_cost=Decimal("0.5"),
    )
    if settled:
        await entries.settle(conn, call_id, status=status, usage=Usage(10, 5), cost=cost)
    return call_id


async def broken_rules(conn: Connection) -> list[tuple[str, str]]:
    return [(imbalance.rule, imbalance.subject) for imbalance in await books.check(conn)]


async def test_books_of_open_settled_and_logged_spend_balance(conn: Connection) -> None:
    assert await books.check(conn) == []
    await call(conn)
    await call(conn, settled=False)
    await ledger.log(conn, provider="acme", model="large", usage=Usage(1, 1))
    assert await books.check(conn) == []


OF_A_WINDOW = "a window is the sum of its calls"
OF_A_CALL = "a call counts in its windows what it reserves or spent"
SUMS = ("calls and ledger have the same sums", "acme large")


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (
            "delete from jobsworth.token_ledger where entry = 'reserve'",
            ["a call has one reservation"],
        ),
        (
            "delete from jobsworth.token_ledger where entry = 'settle'",
            ["a settled call has one settlement", SUMS[0]],
        ),
        (
            "insert into jobsworth.token_ledger (call_id, entry, provider, model, input_tokens,"
            " output_tokens, cost) select call_id, entry, provider, model, input_tokens,"
            " output_tokens, cost from jobsworth.token_ledger where entry = 'settle'",
            ["a settled call has one settlement", SUMS[0]],
        ),
        (
            "update jobsworth.token_ledger set input_tokens = 9 where entry = 'settle'",
            ["a settlement says what was used", SUMS[0]],
        ),
        (
            "update jobsworth.token_ledger set cost = null where entry = 'settle'",
            ["a settlement says what was used", SUMS[0]],
        ),
        (
            "update jobsworth.token_ledger set cache_read_tokens = 1 where entry = 'settle'",
            ["a settlement says what was used"],
        ),
        (
            "update jobsworth.token_ledger set output_tokens = 1 where entry = 'reserve'",
            ["a reservation says what was estimated"],
        ),
        (
            "update jobsworth.llm_calls set status = 'started', settled_at = null",
            ["an open call has no settlement", SUMS[0]],
        ),
        (
            "insert into jobsworth.token_ledger (entry, provider, model)"
            " values ('reserve', 'acme', 'large')",
            ["an entry has its call"],
        ),
        (
            "delete from jobsworth.llm_calls",
            ["an entry has its call", "an entry has its call", SUMS[0]],
        ),
    ],
)
async def test_each_disagreement_is_found(
    conn: Connection, change: LiteralString, rules: list[str]
) -> None:
    await call(conn)
    await execute(conn, UNLOCK_LEDGER)
    await execute(conn, change)
    assert sorted(rule for rule, _ in await broken_rules(conn)) == sorted(rules)


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (
            "update jobsworth.budget_windows set spent = spent + 1",
            [OF_A_WINDOW] * 2,
        ),
        (
            "update jobsworth.budget_windows set reserved = 0 where reserved = 1500",
            [OF_A_WINDOW],
        ),
        (
            "update jobsworth.call_windows set spent = 14 where spent = 15",
            [
                "a call counts in its windows what it reserves or spent",
                "a window is the sum of its calls",
            ],
        ),
        (
            "update jobsworth.call_windows set reserved = 0.1 where reserved = 0.5",
            [
                "a call counts in its windows what it reserves or spent",
                "a window is the sum of its calls",
            ],
        ),
        (
            "delete from jobsworth.call_windows where spent = 15",
            [OF_A_WINDOW],
        ),
        (
            "insert into jobsworth.call_windows (call_id, window_id, reserved, spent)"
            " select gen_random_uuid(), w.id, 0, 0 from jobsworth.budget_windows w limit 1",
            ["a window counts calls that exist"],
        ),
    ],
)
async def test_each_wrong_window_is_found(
    conn: Connection, change: LiteralString, rules: list[str]
) -> None:
    await budgets.set_budget(conn, "tokens", Decimal(10_000), unit="tokens", period="day")
    await budgets.set_budget(conn, "money", Decimal(10), unit="money", period="day")
    await call(conn)
    await call(conn, settled=False)
    assert await books.check(conn) == []
    await execute(conn, change)
    assert sorted(rule for rule, _ in await broken_rules(conn)) == rules


ADJUST: LiteralString = """
insert into jobsworth.token_ledger (
  call_id, entry, provider, model, input_tokens, cost, reprices, unknown_costs)
select l.call_id, 'adjust', l.provider, l.model, %(tokens)s, %(cost)s, %(reprices)s, %(unknown)s
from jobsworth.token_ledger l
where l.entry = 'reserve'
"""
RELEASE: LiteralString = """
with released as (
  update jobsworth.llm_calls
  set status = 'error', settled_at = now(), input_tokens = 0, output_tokens = 0, cost = 0
  returning id, provider, model
)
insert into jobsworth.token_ledger (call_id, entry, provider, model, cost)
select r.id, 'release', r.provider, r.model, 0 from released r
"""


async def adjust(conn: Connection, **columns: Any) -> None:
    defaults = {"tokens": 0, "cost": Decimal("0.1"), "reprices": True, "unknown": None}
    await execute(conn, ADJUST, defaults | columns)


async def test_a_repricing_comes_on_top_of_what_was_charged(conn: Connection) -> None:
    await call(conn)
    await adjust(conn)
    await adjust(conn, cost=Decimal(-2))
    assert await books.check(conn) == []


async def test_a_call_that_was_given_up_and_answered_after_all_balances(conn: Connection) -> None:
    await call(conn)
    await adjust(conn, tokens=2, cost=Decimal("0.2"), reprices=False)
    assert {rule for rule, _ in await broken_rules(conn)} == {
        "a settlement says what was used",
        SUMS[0],
    }
    async with rows.past_the_guards(conn):
        await execute(conn, "update jobsworth.llm_calls set input_tokens = 12, cost = 0.3")
    assert await books.check(conn) == []


async def test_a_call_that_was_never_sent_is_closed_by_its_release(conn: Connection) -> None:
    await call(conn, settled=False)
    await execute(conn, RELEASE)
    assert await books.check(conn) == []
    await execute(
        conn,
        "insert into jobsworth.token_ledger (call_id, entry, provider, model, cost)"
        " select id, 'settle', provider, model, 0 from jobsworth.llm_calls",
    )
    assert {rule for rule, _ in await broken_rules(conn)} == {
        "a settled call has one settlement",
        SUMS[0],
    }


async def test_a_correction_of_an_open_call_is_found(conn: Connection) -> None:
    await call(conn, settled=False)
    await adjust(conn)
    assert [rule for rule, _ in await broken_rules(conn)] == ["a correction is of a settled call"]
    [violation] = await violations.list_violations(conn)
    assert violation.invariant == "call whose entries do not add up to it"


async def test_a_repricing_with_tokens_is_found(conn: Connection) -> None:
    await call(conn)
    await adjust(conn, tokens=1)
    assert [rule for rule, _ in await broken_rules(conn)] == ["a repricing takes no tokens"]


async def test_a_cost_that_is_made_known_twice_is_found(conn: Connection) -> None:
    call_id = await call(conn, cost=None)
    await adjust(conn, unknown=-1)
    assert await books.check(conn) == []
    await adjust(conn, unknown=-1)
    assert await broken_rules(conn) == [("a cost is unknown once, or known", str(call_id))]


async def test_a_call_that_its_entries_do_not_add_up_to_is_a_violation(conn: Connection) -> None:
    call_id = await call(conn)
    await adjust(conn)
    assert await violations.list_violations(conn) == []
    await adjust(conn, reprices=False)
    found = await violations.list_violations(conn)
    assert {(each.invariant, each.subject_id) for each in found} >= {
        ("call whose entries do not add up to it", call_id)
    }


async def test_what_a_new_price_made_of_an_estimate_is_taken_back_by_the_truth(
    conn: Connection,
) -> None:
    call_id = await call(conn, cost=None, status=CallStatus.UNKNOWN)
    await adjust(conn, cost=Decimal(3), unknown=-1)
    await adjust(conn, cost=Decimal("0.5"), reprices=False, unknown=-1)
    await execute(
        conn, "update jobsworth.llm_calls set status = 'ok', cost = 0.5 where id = %s", [call_id]
    )
    assert await books.check(conn) == []
    [usage] = await ledger.usage_by(conn, "model")
    assert (usage.cost, usage.unknown_cost_entries) == (Decimal("0.5"), 0)


async def test_an_open_reservation_of_an_attempt_that_is_over_is_found(conn: Connection) -> None:
    call_id = await call(conn, settled=False)
    await execute(conn, "update jobsworth.llm_calls set started_at = now() - interval '2 minutes'")
    assert await books.check(conn) == []
    await execute(conn, "update jobsworth.reactive_jobs set lease_no = lease_no + 1")
    assert await broken_rules(conn) == [("an open reservation has a live attempt", str(call_id))]
    await execute(conn, "delete from jobsworth.reactive_jobs")
    [imbalance] = await books.check(conn)
    assert imbalance.found == "nothing"


async def test_a_settled_call_may_outlive_its_job(conn: Connection) -> None:
    await call(conn)
    await execute(conn, "delete from jobsworth.reactive_jobs")
    assert await books.check(conn) == []


async def test_an_open_reservation_without_a_job_ends_within_the_hour(conn: Connection) -> None:
    call_id = await entries.start(
        conn, None, provider="acme", model="large", request_id="r", estimate=Usage(1, 1)
    )
    assert await books.check(conn) == []
    await execute(conn, "update jobsworth.llm_calls set started_at = now() - interval '62 minutes'")
    assert await broken_rules(conn) == [("an open reservation has a live attempt", str(call_id))]


async def test_a_step_without_its_job_is_found(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    await execute(
        conn,
        "insert into jobsworth.steps (job_id, name, attempt) values (%s, 'draft', 1)",
        [lease.job_id],
    )
    assert await books.check(conn) == []
    await execute(conn, "set session_replication_role = replica")
    await execute(conn, "delete from jobsworth.reactive_jobs")
    assert await broken_rules(conn) == [("a step has its job", "draft")]


DAY = "a closed day is the sum of its entries"


@pytest.mark.parametrize(
    "change",
    [
        "update jobsworth.ledger_days set cost = cost + 1",
        "update jobsworth.ledger_days set input_tokens = input_tokens - 1",
        "update jobsworth.ledger_days set unknown_cost_entries = 1",
        "delete from jobsworth.ledger_days",
        "insert into jobsworth.ledger_days select day + 1, null, provider, model, mode, agent_id,"
        " scope, 0, 0, 0, 0, 0, 0, 0 from jobsworth.ledger_days",
    ],
)
async def test_a_closed_day_that_is_not_the_sum_of_its_entries_is_found(
    database: Database, conn: Connection, change: LiteralString
) -> None:
    await execute(
        conn,
        "insert into jobsworth.token_ledger (entry, provider, model, input_tokens, cost,"
        " occurred_at) values ('settle', 'acme', 'large', 5, 1, '2026-03-01 12:00Z')",
    )
    async with database.transaction() as other:
        await days.close_day(other, date(2026, 3, 1))
    assert await books.check(conn) == []
    await execute(conn, change)
    assert [rule for rule, _ in await broken_rules(conn)] == [DAY]


async def test_the_check_is_of_one_moment(database: Database, conn: Connection) -> None:
    """What commits while it reads is in all of its statements or in none."""
    await call(conn)
    async with database.connection() as other, begun(other, books.SNAPSHOT):
        await fetch_val(other, "select count(*) from jobsworth.llm_calls")
        await call(conn)
        assert await fetch_val(other, "select count(*) from jobsworth.token_ledger") == 2
    assert await books.check(conn) == []


@pytest.mark.parametrize(
    "change",
    [
        "truncate jobsworth.token_ledger",
        "delete from jobsworth.token_ledger",
        "update jobsworth.token_ledger set cost = 0",
    ],
)
async def test_the_ledger_is_append_only(conn: Connection, change: LiteralString) -> None:
    await call(conn)
    with pytest.raises(InvalidInput, match="append-only"):
        await execute(conn, change)


async def test_an_imbalance_says_what_was_expected_and_found(conn: Connection) -> None:
    call_id = await call(conn)
    await execute(conn, UNLOCK_LEDGER)
    await execute(conn, "update jobsworth.token_ledger set input_tokens = 9 where entry = 'settle'")
    [settlement] = [i for i in await books.check(conn) if i.rule != SUMS[0]]
    assert settlement.subject == str(call_id)
    assert settlement.expected == "acme large: 10 in, 5 out, cache 0 read 0 written, 0.1 USD"
    assert settlement.found == "acme large: 9 in, 5 out, cache 0 read 0 written, 0.1 USD"
