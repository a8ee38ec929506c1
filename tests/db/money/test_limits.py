"""Rate limits: all daemons together send no more in a minute, and a pause is everybody's."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, LiteralString
from uuid import uuid4

import anyio
import pytest

from db.errors import InvalidInput, NotFound
from db.fence import PINNED, Lease
from db.money import calls as call_records
from db.money import limits, starts
from db.money.calls import Usage
from db.money.starts import CallStarted, Limited, Starting, Verdict
from db.pool import Connection, Database, begun, execute
from db.queue import promote
from tests.db import rows
from tests.db.money import entries

pytestmark = pytest.mark.both

# As if so many seconds had passed.
AGE: LiteralString = """
update jobsworth.rate_limits
set requests_at = requests_at - %(seconds)s * interval '1 second',
  tokens_at = tokens_at - %(seconds)s * interval '1 second',
  turn_at = turn_at - %(seconds)s * interval '1 second',
  paused_until = paused_until - %(seconds)s * interval '1 second'
"""


WAIT_AN_HOUR: LiteralString = """
update jobsworth.reactive_jobs
set status = 'waiting', waiting_for = 'limit', run_at = now() + interval '1 hour'
where id = %(job_id)s
"""


async def start(conn: Connection, lease: Lease | None = None, **options: Any) -> Verdict:
    known: dict[str, Any] = {
        "provider": "acme",
        "model": "large",
        "request_id": uuid4().hex,
        "estimate": Usage(60, 40),
    }
    return await starts.start_call(conn, Starting(lease, **{**known, **options}))


async def waits(conn: Connection, **options: Any) -> float:
    verdict = await start(conn, **options)
    assert isinstance(verdict, Limited)
    return verdict.wait_seconds


async def lets(conn: Connection, **options: Any) -> int:
    """How many calls go out now."""
    for n in range(1000):
        if isinstance(await start(conn, **options), Limited):
            return n
    raise AssertionError("there is no limit")


async def age(conn: Connection, seconds: float) -> None:
    await execute(conn, AGE, {"seconds": seconds})


async def test_a_minutes_worth_goes_out_at_once_and_then_one_by_one(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", "large", requests=30)
    assert await lets(conn) == 30
    await age(conn, 2.01)
    assert await lets(conn) == 1
    await age(conn, 120)
    assert await lets(conn) == 30


async def test_of_a_batch_as_many_go_out_as_the_limit_lets(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", "large", requests=30, tokens=1250)
    calls = [
        Starting(None, "acme", "large", uuid4().hex, Usage(size, 0))
        for size in (100,) * 10 + (200, 200, 50, 100, 0)
    ]
    async with begun(conn, PINNED):
        found = await entries.start_all(conn, calls)
    started = [isinstance(found[call.request_id], CallStarted) for call in calls]
    assert started == [True] * 11 + [False, True, False, True]
    assert await lets(conn, estimate=Usage(0, 0)) == 30 - 13


async def test_tokens_are_counted_by_the_estimate(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", "large", tokens=1000)
    assert await lets(conn) == 10
    await age(conn, 3)
    assert await lets(conn, estimate=Usage(50, 0)) == 1


async def test_what_is_larger_than_a_minutes_worth_goes_when_the_bucket_is_full(
    conn: Connection,
) -> None:
    await limits.set_limit(conn, "acme", "large", tokens=1000)
    large = Usage(5000, 0)
    assert isinstance(await start(conn, estimate=large), CallStarted)
    await age(conn, 230)
    assert 60 < await waits(conn, estimate=large) < 71
    assert 10 < await waits(conn) < 136  # after those that were sent away before
    await age(conn, 75)
    assert isinstance(await start(conn, estimate=large), CallStarted)


async def test_a_limit_of_all_models_and_one_of_a_model_both_hold(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", requests=5)
    await limits.set_limit(conn, "acme", "large", requests=3)
    assert await lets(conn) == 3
    assert await lets(conn, model="small") == 2
    assert isinstance(await start(conn, provider="other"), CallStarted)


@pytest.mark.usefixtures("unguarded")
async def test_those_that_are_sent_away_come_back_one_by_one(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", "large", requests=60)
    assert await lets(conn) == 60
    turns = [await waits(conn) for _ in range(4)]
    steps = [after - before for before, after in pairwise(turns)]
    assert all(0.5 < step < 1.01 for step in steps)


async def test_a_call_that_is_limited_is_not_written(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", "large", requests=1)
    lease = await rows.running_job(conn)
    assert isinstance(await start(conn, lease), CallStarted)
    verdict = await start(conn, lease)
    assert isinstance(verdict, Limited)
    assert verdict.detail == "rate limit of acme large"
    assert len(await call_records.list_calls(conn, lease.job_id)) == 1


async def test_a_pause_is_everybodys_and_ends(database: Database, conn: Connection) -> None:
    await limits.pause(conn, "acme", "large", 30)
    async with database.connection() as other:
        assert 29 < await waits(other) < 31
        assert isinstance(await start(other, model="small"), CallStarted)
    [limit] = await limits.list_all(conn)
    assert (limit.model, limit.requests_per_minute) == ("large", None)
    await limits.pause(conn, "acme", "large", 1)
    assert await waits(conn) > 28  # the longer one stays
    await age(conn, 31)
    assert isinstance(await start(conn), CallStarted)
    assert await limits.list_all(conn) == []


async def test_a_limit_is_lifted(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", requests=1)
    assert await lets(conn) == 1
    await limits.remove(conn, "acme")
    assert isinstance(await start(conn), CallStarted)
    with pytest.raises(NotFound, match="no limit of acme"):
        await limits.remove(conn, "acme")
    with pytest.raises(InvalidInput, match="lets nothing through"):
        await limits.set_limit(conn, "acme", requests=0)


@pytest.mark.parametrize("how", ["set", "remove"])
async def test_who_waits_for_a_turn_tries_again_when_the_limit_is_another(
    conn: Connection, how: str
) -> None:
    await limits.set_limit(conn, "acme", "large", requests=1)
    job_id = await rows.new_job(conn)
    await execute(conn, WAIT_AN_HOUR, {"job_id": job_id})
    await promote.reconsider(conn, [job_id])
    assert await rows.status(conn, job_id) == ("waiting", "limit")
    if how == "set":
        await limits.set_limit(conn, "acme", "large", requests=60)
    else:
        await limits.remove(conn, "acme", "large")
    await promote.promote_due(conn, 10)
    assert await rows.status(conn, job_id) == ("queued", None)


async def test_many_daemons_at_once_send_no_more_than_the_limit(
    database_url: str, conn: Connection
) -> None:
    await limits.set_limit(conn, "acme", "large", requests=20)
    verdicts: list[Verdict] = []
    async with Database(database_url, pool_min=1, pool_max=16) as database:

        async def work() -> None:
            async with database.connection() as other:
                verdicts.extend([await start(other) for _ in range(5)])

        async with anyio.create_task_group() as tasks:
            for _ in range(16):
                tasks.start_soon(work)
    # One more for each three seconds that this took.
    assert 20 <= sum(isinstance(one, CallStarted) for one in verdicts) < 30
