"""The books balance, or the check says where not."""

from __future__ import annotations

from decimal import Decimal
from typing import LiteralString
from uuid import UUID, uuid4

import pytest

from db import books, ledger, tokens
from db.pool import Connection, execute
from db.tokens import CallStatus, Usage
from tests.db import rows

UNLOCK_LEDGER: LiteralString = """
alter table jobsworth.token_ledger disable trigger ledger_is_append_only;
drop index jobsworth.token_ledger_once
"""


async def call(conn: Connection, *, settled: bool = True) -> UUID:
    call_id = await tokens.start_call(
        conn,
        await rows.running_job(conn),
        provider="acme",
        model="large",
        request_id=str(uuid4()),
        estimate=Usage(1000, 500),
        estimated_cost=Decimal("0.5"),
    )
    if settled:
        await tokens.settle_call(
            conn, call_id, status=CallStatus.OK, usage=Usage(10, 5), cost=Decimal("0.10")
        )
    return call_id


async def broken_rules(conn: Connection) -> list[tuple[str, str]]:
    return [(imbalance.rule, imbalance.subject) for imbalance in await books.check(conn)]


async def test_books_of_open_settled_and_logged_spend_balance(conn: Connection) -> None:
    assert await books.check(conn) == []
    await call(conn)
    await call(conn, settled=False)
    await ledger.log(conn, provider="acme", model="large", usage=Usage(1, 1))
    assert await books.check(conn) == []


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


async def test_an_imbalance_says_what_was_expected_and_found(conn: Connection) -> None:
    call_id = await call(conn)
    await execute(conn, UNLOCK_LEDGER)
    await execute(conn, "update jobsworth.token_ledger set input_tokens = 9 where entry = 'settle'")
    [settlement] = [i for i in await books.check(conn) if i.rule != SUMS[0]]
    assert settlement.subject == str(call_id)
    assert settlement.expected == '("acme large",10,5,0,0,0.1)'
    assert settlement.found == '("acme large",9,5,0,0,0.1)'
