"""Rates of limits: how many jobs start in a time, by weight and key."""

from __future__ import annotations

from time import monotonic
from typing import LiteralString

import pytest

from db.errors import InvalidInput
from db.limits import gates, job_limits
from db.pool import Connection, execute, fetch_val
from tests.db.protocol import add, breaches, claim, register, row, states

pytestmark = pytest.mark.both

# All that a rate remembers is a time and a turn: move both, and time has passed.
PASS: LiteralString = """
update jobsworth.job_limit_rates
set arrival_at = arrival_at - %(seconds)s * interval '1 second',
  due_at = due_at - %(seconds)s * interval '1 second'
"""


async def time_passes(conn: Connection, seconds: float) -> float | None:
    """Let time pass, and give the turns that are due then."""
    await execute(conn, PASS, {"seconds": seconds})
    return await gates.promote_due(conn, 100)


async def test_no_more_start_than_a_rate_allows(conn: Connection) -> None:
    await job_limits.set_limit(conn, "slow", rate=6, per_seconds=60, burst=2)
    worker_id = await register(conn)
    jobs = [await add(conn) for _ in range(5)]
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == jobs[:2]
    assert (await claim(conn, worker_id)).jobs == []
    assert (await row(conn, jobs[2]))["waiting_detail"] == "limit slow"

    next_in = await gates.promote_due(conn, 100)
    assert next_in == pytest.approx(10, abs=1)
    assert (await claim(conn, worker_id)).jobs == []
    assert await time_passes(conn, 10) == pytest.approx(10, abs=1)
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [jobs[2]]
    # After a rest there is a burst again, and no more than that.
    await time_passes(conn, 3600)
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == jobs[3:]
    assert await gates.promote_due(conn, 100) is None
    assert await breaches(conn) == []


async def test_the_rate_holds_in_the_long_run(conn: Connection) -> None:
    await job_limits.set_limit(conn, "slow", rate=3, per_seconds=10)
    worker_id = await register(conn)
    for _ in range(40):
        await add(conn)
    started, began = 0, monotonic()
    for second in range(0, 60, 2):
        started += len((await claim(conn, worker_id, 40)).jobs)
        assert started <= 3 + (second + monotonic() - began) * 0.3
        await time_passes(conn, 2)
    assert started >= 3 + 58 * 0.3 - 1


async def test_a_heavy_job_takes_more_of_a_rate(conn: Connection) -> None:
    await job_limits.set_limit(conn, "tokens", per="team", rate=100, per_seconds=100)
    await job_limits.set_limit(conn, "keyed", per="key", rate=100, per_seconds=100)
    worker_id = await register(conn)
    first = await add(conn, limit_key="a", limit_weight=70)
    second = await add(conn, limit_key="a", limit_weight=50)
    light = await add(conn, limit_key="a")
    other = await add(conn, limit_key="b", limit_weight=100)
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [first, other]
    # The light one would fit, and does not overtake.
    assert await states(conn, second, light) == [("waiting", "limit")] * 2
    assert await gates.promote_due(conn, 100) == pytest.approx(20, abs=1)
    await time_passes(conn, 20.5)
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [second]


async def test_a_job_above_the_burst_is_refused_or_waits_for_a_rest(conn: Connection) -> None:
    await job_limits.set_limit(conn, "tokens", rate=10, per_seconds=10, burst=20)
    with pytest.raises(InvalidInput, match="weight 21 of a answer job is above the burst 20") as no:
        await add(conn, limit_weight=21)
    assert "jobsworth job-limit set tokens --burst 21" in str(no.value.remedy)
    worker_id = await register(conn)
    first, heavy, last = await add(conn), await add(conn, limit_weight=20), await add(conn)
    # The burst is lowered when it waits already: it starts after a rest, and is charged in full.
    await job_limits.set_limit(conn, "tokens", burst=5)
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [first]
    await time_passes(conn, 1.1)
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [heavy]
    assert await gates.promote_due(conn, 100) == pytest.approx(16, abs=1)
    await time_passes(conn, 16.5)
    assert [job.id for job in (await claim(conn, worker_id)).jobs] == [last]


async def test_a_rate_is_forgotten_once_it_rests(conn: Connection) -> None:
    await job_limits.set_limit(conn, "keyed", per="key", rate=1, per_seconds=1)
    worker_id = await register(conn)
    for key in "abc":
        await add(conn, limit_key=key)
    await claim(conn, worker_id)
    count: LiteralString = "select count(*) from jobsworth.job_limit_rates"
    assert await fetch_val(conn, count) == 3
    await gates.sweep(conn, gates.FIRST_GATE, 10)
    assert await fetch_val(conn, count) == 3
    await execute(conn, PASS, {"seconds": 120})
    await gates.sweep(conn, gates.FIRST_GATE, 10)
    assert await fetch_val(conn, count) == 0
