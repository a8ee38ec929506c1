"""Rate limits: all daemons together send no more in a minute, and a pause is everybody's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from time import monotonic
from typing import Any, LiteralString
from uuid import uuid4

import anyio
import pytest

from db.errors import InvalidInput, NotFound
from db.fence import PINNED, Lease
from db.money import calls as call_records
from db.money import limits, starts
from db.money.calls import CallStatus, Usage
from db.money.starts import CallStarted, Limited, Starting, Verdict
from db.pool import Connection, Database, begun, execute, fetch_val
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


OLD_CALLS: LiteralString = "update jobsworth.llm_calls set started_at = now() - interval '70 s'"

WAIT_AN_HOUR: LiteralString = """
update jobsworth.reactive_jobs
set status = 'waiting', waiting_for = 'limit', run_at = now() + interval '1 hour'
where id = %(job_id)s
"""

# A call ends here when it starts (`settle`).
PAUSE: LiteralString = """
select extract(epoch from l.paused_until - (
  select max(c.started_at) from jobsworth.llm_calls c where c.limited))::float8
from jobsworth.rate_limits l
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


async def pause(conn: Connection) -> float:
    """How long the model that was refused is left alone, in seconds after the last refusal."""
    return await fetch_val(conn, PAUSE)


async def lets(conn: Connection, **options: Any) -> int:
    """How many calls go out now."""
    for n in range(1000):
        if isinstance(await start(conn, **options), Limited):
            return n
    raise AssertionError("there is no limit")


async def lets_many(conn: Connection, count: int) -> int:
    return sum([isinstance(await start(conn), CallStarted) for _ in range(count)])


async def settle(
    conn: Connection,
    call: CallStarted,
    usage: Usage,
    status: CallStatus = CallStatus.OK,
    **how: Any,
) -> None:
    await entries.settle(conn, call.call_id, status=status, usage=usage, latency_ms=0, **how)


async def refuse(
    conn: Connection, calls: Sequence[Verdict], wait_seconds: float | None = None
) -> None:
    for call in calls:
        assert isinstance(call, CallStarted)
        how: dict[str, Any] = {"limited": True, "wait_seconds": wait_seconds}
        await settle(conn, call, Usage(0, 0), CallStatus.ERROR, **how)


async def reserved(conn: Connection) -> int:
    return await fetch_val(conn, "select sum(tokens_reserved)::int from jobsworth.rate_limits")


async def age(conn: Connection, seconds: float) -> None:
    await execute(conn, AGE, {"seconds": seconds})


async def test_a_minutes_worth_goes_out_at_once_and_then_one_by_one(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", "large", requests=6)
    assert await lets(conn) == 6
    await age(conn, 10.01)
    assert await lets(conn) == 1
    await age(conn, 120)
    assert await lets(conn) == 6


async def test_of_a_batch_as_many_go_out_as_the_limit_lets(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", "large", requests=16, tokens=1250)
    calls = [
        Starting(None, "acme", "large", uuid4().hex, Usage(size, 0))
        for size in (100,) * 10 + (200, 200, 50, 100, 0)
    ]
    async with begun(conn, PINNED):
        found = await entries.start_all(conn, calls)
    started = [isinstance(found[call.request_id], CallStarted) for call in calls]
    assert started == [True] * 11 + [False, True, False, True]
    assert await lets(conn, estimate=Usage(0, 0)) == 16 - 13


async def test_tokens_are_held_at_the_estimate_while_a_call_is_open(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", "large", tokens=1000)
    assert await lets(conn) == 10
    await age(conn, 3)
    assert await lets(conn, estimate=Usage(50, 0)) == 0


async def test_a_settled_call_counts_at_what_it_took(conn: Connection) -> None:
    """A minute of a limit of 40,000 tokens: most of it goes through, and no more than all."""
    await limits.set_limit(conn, "acme", "large", tokens=40_000)
    took = 0
    while isinstance(started := await start(conn, estimate=Usage(300, 4_096)), CallStarted):
        await settle(conn, started, Usage(300, 50))
        took += 350
    assert 40_000 - 4_396 - 350 < took <= 40_000 + 667 * 10  # it refills while this runs
    assert await reserved(conn) == 0


async def test_what_was_spent_long_ago_is_not_given_back_to_the_bucket(conn: Connection) -> None:
    """A call that held much and took little frees what it held, and no second minute's worth."""
    await limits.set_limit(conn, "acme", "large", tokens=60_000)
    early = await start(conn, estimate=Usage(50_000, 0))
    late = await start(conn, estimate=Usage(10_000, 0))
    assert isinstance(early, CallStarted)
    assert isinstance(late, CallStarted)
    await settle(conn, late, Usage(10_000, 0))
    await settle(conn, early, Usage(100, 0))
    assert not isinstance(await start(conn, estimate=Usage(55_000, 0)), CallStarted)
    assert isinstance(await start(conn, estimate=Usage(49_000, 0)), CallStarted)


@pytest.mark.parametrize("status", [CallStatus.ERROR, CallStatus.UNKNOWN])
async def test_every_end_of_a_call_gives_back_what_it_held(
    conn: Connection, status: CallStatus
) -> None:
    await limits.set_limit(conn, "acme", "large", tokens=1000)
    started = await start(conn, estimate=Usage(600, 400))
    assert isinstance(started, CallStarted)
    await settle(conn, started, Usage(0, 0) if status == "error" else Usage(600, 400), status)
    await settle(conn, started, Usage(0, 0), status)  # once
    assert await reserved(conn) == 0
    again = await start(conn, estimate=Usage(900, 0))
    assert isinstance(again, CallStarted) == (status == "error")


async def test_a_call_from_before_the_limit_gives_nothing_back(conn: Connection) -> None:
    before = await start(conn, estimate=Usage(600, 400))
    assert isinstance(before, CallStarted)
    await limits.set_limit(conn, "acme", "large", tokens=1000)
    assert isinstance(await start(conn, estimate=Usage(600, 0)), CallStarted)
    await settle(conn, before, Usage(1, 1))
    assert await reserved(conn) == 600
    await limits.set_limit(conn, "acme", "large", tokens=5000)
    assert await reserved(conn) == 600


async def test_a_long_call_holds_up_others_for_a_minute_at_most(conn: Connection) -> None:
    await limits.set_limit(conn, "acme", "large", tokens=1000)
    long = await start(conn, estimate=Usage(600, 400))
    assert isinstance(long, CallStarted)
    assert await limits.release_reserved(conn, 10) == 0
    await execute(conn, OLD_CALLS)
    assert await limits.release_reserved(conn, 10) == 1
    assert await reserved(conn) == 0
    assert isinstance(await start(conn, estimate=Usage(900, 0)), CallStarted)
    await settle(conn, long, Usage(600, 400))
    assert await reserved(conn) == 900


async def test_a_model_that_refuses_everything_is_asked_more_and_more_seldom(
    conn: Connection,
) -> None:
    """Eight calls in the first minute after those that were under way, then one a minute."""
    asked_at, now = list[float](), 0.0
    while now < 300:
        verdict = await start(conn)
        if isinstance(verdict, CallStarted):
            asked_at.append(now)
            await refuse(conn, [verdict])
            continue
        assert isinstance(verdict, Limited)
        step = min(verdict.wait_seconds + 0.01, 60)
        await age(conn, step)
        now += step
    assert sum(at < 60 for at in asked_at) <= 9
    assert sum(at >= 120 for at in asked_at) <= 4
    assert (await start(conn, model="small")) is not None


async def test_calls_that_were_under_way_at_a_refusal_slow_nothing_down(conn: Connection) -> None:
    under_way = [await start(conn) for _ in range(20)]
    await refuse(conn, under_way[:1])
    [limit] = await limits.list_all(conn)
    await refuse(conn, under_way[1:10])
    for one in under_way[10:]:
        assert isinstance(one, CallStarted)
        await settle(conn, one, Usage(1, 1))
    [after] = await limits.list_all(conn)
    assert after.pace_seconds == limit.pace_seconds == 0.25
    assert 1 <= await pause(conn) <= 1.11


async def test_answers_set_a_model_free_again(conn: Connection) -> None:
    await refuse(conn, [await start(conn)])
    answers = 0
    while await limits.list_all(conn):
        await age(conn, 2)
        verdict = await start(conn)
        assert isinstance(verdict, CallStarted)
        await settle(conn, verdict, Usage(1, 1))
        await execute(conn, "update jobsworth.rate_limits set paused_until = null")
        answers += 1
    assert answers == 31
    assert await lets_many(conn, 5) == 5


@pytest.mark.parametrize(
    ("asked_for", "first", "second"),
    [
        (None, (1, 1.11), (1, 1.11)),
        (0.0, (1, 1.11), (1, 1.11)),
        (0.3, (0.3, 0.34), (1, 1.11)),
        (30.0, (30, 33.1), (30, 33.1)),
        (1e30, (31_000_000, 31_600_000), (31_000_000, 31_600_000)),
    ],
)
async def test_a_pause_is_as_long_as_the_provider_says_and_grows(
    conn: Connection,
    asked_for: float | None,
    first: tuple[float, float],
    second: tuple[float, float],
) -> None:
    for least, most in (first, second):
        await refuse(conn, [await start(conn)], asked_for)
        paused = await pause(conn)
        assert least <= paused <= most, paused
        await age(conn, paused + 1)


async def test_what_is_larger_than_a_minutes_worth_goes_when_the_bucket_is_full(
    conn: Connection,
) -> None:
    await limits.set_limit(conn, "acme", "large", tokens=1000)
    large = Usage(5000, 0)
    started = await start(conn, estimate=large)
    assert isinstance(started, CallStarted)
    await settle(conn, started, large)
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
    await limits.set_limit(conn, "acme", "large", requests=6)
    assert await lets(conn) == 6
    turns = [await waits(conn) for _ in range(4)]
    steps = [after - before for before, after in pairwise(turns)]
    assert all(5 < step < 10.01 for step in steps)


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

        began = monotonic()
        async with anyio.create_task_group() as tasks:
            for _ in range(16):
                tasks.start_soon(work)
        took = monotonic() - began
    # One more for each three seconds that this took.
    sent = sum(isinstance(one, CallStarted) for one in verdicts)
    assert 20 <= sent <= 20 + took / 3, took
