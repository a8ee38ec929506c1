"""Setting limits of jobs: what is refused, what a change keeps, what is told."""

from __future__ import annotations

from typing import Any, LiteralString

import pytest

from db.diagnosis import violations
from db.errors import InvalidInput, NotFound
from db.limits import job_limits
from db.pool import Connection, execute, fetch_one
from tests.db.protocol import add, claim, register

pytestmark = pytest.mark.both

WHY: LiteralString = "select w.reason, w.detail, w.remedy from jobsworth.why(%(id)s) w"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "has no number"),
        ({"slots": 0}, "lets nothing run"),
        ({"slots": -1}, "lets nothing run"),
        ({"rate": 0}, "lets nothing run"),
        ({"rate": 1, "per_seconds": float("nan")}, "is not a time"),
        ({"rate": 1, "per_seconds": -1.0}, "is not a time"),
        ({"rate": 1_000_000, "per_seconds": 1.0}, "more than 100,000"),
        ({"slots": 1, "rate": 1}, "both slots and a rate"),
        ({"slots": 3, "burst": 5}, "has a burst but no key"),
        ({"slots": 3, "burst": 2, "per": "team"}, "is below its 3 slots"),
        ({"rate": 3, "burst": 0}, "lets nothing run"),
        ({"slots": 1, "per": "tenant"}, "per tenant is not known"),
        ({"slots": 2_000_000}, "not a whole number"),
        ({"slots": 1, "queue": ""}, "queue"),
        ({"slots": 1, "mode": ""}, "mode"),
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused(
    conn: Connection, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        await job_limits.set_limit(conn, "odd", **options)
    assert await job_limits.list_all(conn) == []


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 101, "a,b", "é"])
async def test_a_limit_has_a_plain_name(conn: Connection, name: str) -> None:
    with pytest.raises(InvalidInput, match="is not the name of a limit"):
        await job_limits.set_limit(conn, name, slots=1)


async def test_a_change_keeps_what_it_does_not_name(conn: Connection) -> None:
    await job_limits.set_limit(conn, "a", queue="q", mode="m", per="team", slots=2, burst=4)
    changed = await job_limits.set_limit(conn, "a", slots=3)
    assert (changed.queue, changed.mode, changed.per) == ("q", "m", "team")
    assert (changed.slots, changed.burst, changed.rate) == (3, 4, None)
    rated = await job_limits.set_limit(conn, "a", rate=10)
    assert (rated.slots, rated.rate, rated.per_seconds, rated.burst) == (None, 10, 60.0, 10)
    faster = await job_limits.set_limit(conn, "a", rate=20)
    assert (faster.rate, faster.burst) == (20, 20)


async def test_a_job_passes_at_most_four_limits(conn: Connection) -> None:
    for name in ("a", "b"):
        await job_limits.set_limit(conn, name, slots=1)
    for name in ("c", "d"):
        await job_limits.set_limit(conn, name, queue="q", slots=1)
        await job_limits.set_limit(conn, f"{name}2", queue="r", mode="m", slots=1)
    with pytest.raises(InvalidInput, match="at most four limits"):
        await job_limits.set_limit(conn, "e", mode="m", slots=1)
    await job_limits.set_limit(conn, "e", queue="other", mode="m", slots=1)
    await job_limits.set_limit(conn, "a", slots=2)


async def test_it_is_told_who_holds_and_waits(conn: Connection) -> None:
    await job_limits.set_limit(conn, "each", per="key", slots=1)
    worker_id = await register(conn)
    first, *_ = [await add(conn, limit_key=key) for key in "aab"]
    await claim(conn, worker_id)
    [used] = await job_limits.list_all(conn)
    assert (used.name, used.taken, used.waiting) == ("each", 2, 1)
    a, b = await job_limits.keys(conn, "each")
    assert (a.key, a.taken, a.waiting, a.room) == ("a", 1, 1, 0.0)
    assert (b.key, b.taken, b.waiting) == ("b", 1, 0)
    assert await job_limits.holders(conn, "each", "a") == [first]
    with pytest.raises(NotFound, match="there is no limit b"):
        await job_limits.keys(conn, "b")
    with pytest.raises(NotFound, match="there is no limit b"):
        await job_limits.remove(conn, "b")


@pytest.mark.parametrize(
    "options", [{"limit_key": ""}, {"limit_key": "x" * 1001}, {"limit_weight": 0}]
)
async def test_a_bad_key_or_weight_is_refused(conn: Connection, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="limit_"):
        await add(conn, **options)


async def test_why_names_the_limit_and_who_holds_it(conn: Connection) -> None:
    await job_limits.set_limit(conn, "each", per="key", slots=1)
    worker_id = await register(conn)
    first, second = [await add(conn, limit_key="a") for _ in range(2)]
    await claim(conn, worker_id)
    why = await fetch_one(conn, WHY, {"id": second})
    assert why == {
        "reason": "limit",
        "detail": f"limit each, key a: 1 of 1 slots are taken, by job {first}",
        "remedy": "wait for a slot, or raise the limit: jobsworth job-limit set each --slots 2",
    }
    await job_limits.set_limit(conn, "each", rate=1, per_seconds=3600)
    why = await fetch_one(conn, WHY, {"id": second})
    assert why is not None
    assert "1 in 3600 s; the first of those that wait has its turn at" in why["detail"]
    await job_limits.remove(conn, "each")
    why = await fetch_one(conn, WHY, {"id": second})
    assert why is not None
    assert why["remedy"] == "nothing to do: a worker promotes it"


# What can never happen is arranged by plain SQL.
LOWERED: LiteralString = """
update jobsworth.job_limits set slots = 1, changed_at = now() - interval '1 hour'
"""
RAISED: LiteralString = """
with older as (
  update jobsworth.reactive_jobs set created_at = now() - interval '1 minute'
), rested as (
  update jobsworth.job_limit_slots set turn_at = now() - interval '1 minute'
)
update jobsworth.job_limits set slots = 5
"""


async def test_violations_tell_of_slots_beyond_a_limit_and_of_room_that_nobody_gets(
    conn: Connection,
) -> None:
    await job_limits.set_limit(conn, "some", slots=2)
    worker_id = await register(conn)
    jobs = [await add(conn) for _ in range(3)]
    await claim(conn, worker_id)
    assert await violations.list_violations(conn) == []
    await execute(conn, LOWERED)
    [beyond] = await violations.list_violations(conn)
    assert beyond.invariant == "more jobs at once than their limit has slots"
    assert (beyond.subject_id, beyond.detail) == (jobs[1], "limit some: 2 of 1")
    await execute(conn, RAISED)
    [waiting] = await violations.list_violations(conn)
    assert waiting.invariant == "waiting for a limit that has room"
    assert waiting.subject_id == jobs[2]
