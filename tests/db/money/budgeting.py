"""What the tests of budgets share: calls under budgets, jobs that wait for them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID, uuid4

from db.fence import Lease
from db.money import budgets, settlements, starts
from db.money.budgets import Budget
from db.money.calls import CallStatus, Usage
from db.money.settlements import Settlement
from db.money.starts import CallStarted, Short, Starting, Verdict
from db.pool import Connection, execute, fetch_all
from db.queue import promote
from tests.db import rows
from tests.db.money import entries

ESTIMATE = Usage(60, 40)
WAIT: LiteralString = """
update jobsworth.reactive_jobs set status = 'waiting', waiting_for = 'budget', run_at = null
where id = %(job_id)s
"""
WINDOWS: LiteralString = """
select b.name, w.reserved, w.spent, w.run_id
from jobsworth.budget_windows w join jobsworth.budgets b on b.id = w.budget_id
order by b.name, w.starts_at, w.run_id
"""
BROKEN: LiteralString = "select invariant from jobsworth.violations"
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
