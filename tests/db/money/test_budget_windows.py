"""Windows that are over are forgotten, and the books balance all the time."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import pytest

from db.money import books, budgets
from db.money import calls as call_records
from db.money.calls import CallStatus
from db.pool import Connection, execute, fetch_all
from tests.db import rows
from tests.db.money.budgeting import (
    BROKEN,
    ESTIMATE,
    WINDOWS,
    settle,
    short_job,
    started,
    tokens_a_day,
    windows,
)

pytestmark = pytest.mark.both
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


async def age(conn: Connection) -> None:
    async with rows.past_the_guards(conn):
        await execute(conn, OLD, {"days": 100})


async def forget(conn: Connection) -> None:
    await budgets.forget_windows(conn, UUID(int=0), days=90, most=1000)


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
    await age(conn)
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
    await age(conn)
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
    await age(conn)
    await forget(conn)
    assert await windows(conn) == []
    assert (await settle(conn, call_id)).calls == 1
    [call] = await call_records.list_calls(conn, lease.job_id)
    assert (call.status, call.input_tokens) == (CallStatus.OK, 5)
    assert await books.check(conn) == []
    assert await fetch_all(conn, BROKEN) == []
