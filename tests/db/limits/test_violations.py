"""Each broken invariant of limits, fair queues, expiry and messages is listed once.

What can never happen is arranged by plain SQL, past the triggers.
"""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import pytest

from db.diagnosis import violations
from db.limits import fairness, job_limits
from db.pool import Connection, execute
from tests.db.protocol import add, claim, register

WITHOUT_SLOTS: LiteralString = """
with older as (
  update jobsworth.job_limits set changed_at = now() - interval '2 minutes'
)
delete from jobsworth.job_limit_slots
"""
ENDED: LiteralString = """
update jobsworth.reactive_jobs
set status = 'done', finished_at = now() - interval '6 minutes', created_at = now() - interval '1 h'
where status = 'running'
"""
AT_REST: LiteralString = """
with older as (
  update jobsworth.reactive_jobs set created_at = now() - interval '1 minute'
)
update jobsworth.job_limit_rates
set arrival_at = now() - interval '31 s', due_at = now() - interval '31 s'
"""
UNNOTED: LiteralString = """
update jobsworth.job_limit_rates set due_at = null
"""
FRESH: LiteralString = """
update jobsworth.job_limit_rates set arrival_at = now() - interval '29 s'
"""
FAIR_LONG: LiteralString = """
with older as (
  update jobsworth.reactive_jobs set created_at = now() - interval '2 minutes'
)
update jobsworth.queues set changed_at = now() - interval '2 minutes'
"""
UNKNOWN_KEY: LiteralString = "delete from jobsworth.fair_keys where fair_key = 'lost'"
STALE_KEY: LiteralString = """
with older as (
  update jobsworth.workers
  set started_at = now() - interval '2 hours', beaten_at = now(), queues = '{default}'
)
insert into jobsworth.fair_keys (queue, priority, fair_key, virtual_time, ready, since)
values ('default', 3, 'gone', 1, true, now() - interval '2 hours')
"""
EXPIRED: LiteralString = """
update jobsworth.reactive_jobs set expires_at = now() - interval '31 s' where id = %(id)s
"""
SUPERSEDED: LiteralString = """
update jobsworth.reactive_jobs set superseded_by = gen_random_uuid() where id = %(id)s
"""


async def past_triggers(conn: Connection, statement: LiteralString, **values: object) -> None:
    await execute(conn, "set session_replication_role = replica")
    await execute(conn, statement, values)
    await execute(conn, "reset session_replication_role")


async def listed(conn: Connection) -> list[tuple[str, UUID | None]]:
    found = await violations.list_violations(conn)
    assert all(one.detail for one in found)
    return [(one.invariant, one.subject_id) for one in found]


async def test_slots(conn: Connection) -> None:
    await job_limits.set_limit(conn, "some", slots=1)
    worker_id = await register(conn)
    job_id = await add(conn)
    await claim(conn, worker_id)
    assert await listed(conn) == []
    await past_triggers(conn, ENDED)
    assert await listed(conn) == [("slot of a job that has ended", job_id)]
    await execute(conn, "delete from jobsworth.job_limit_slots")
    assert await listed(conn) == []

    job_id = await add(conn)
    await claim(conn, worker_id)
    await past_triggers(conn, WITHOUT_SLOTS)
    assert await listed(conn) == [("running without the slot that its limit asks for", job_id)]


async def test_rates(conn: Connection) -> None:
    await job_limits.set_limit(conn, "slow", rate=1, per_seconds=60)
    worker_id = await register(conn)
    _, waiting = await add(conn), await add(conn)
    await claim(conn, worker_id)
    assert await listed(conn) == []
    found = [("waiting for a limit that has room", waiting)]
    await past_triggers(conn, AT_REST)
    assert await listed(conn) == found
    await execute(conn, UNNOTED)
    assert await listed(conn) == found
    await execute(conn, FRESH)
    assert await listed(conn) == []


async def test_keys_of_fair_queues(conn: Connection) -> None:
    await fairness.set_fair(conn, "default", fair=True)
    await register(conn)
    await add(conn, fair_key="known")
    job_id = await add(conn, fair_key="lost")
    await past_triggers(conn, FAIR_LONG)
    assert await listed(conn) == []
    await execute(conn, UNKNOWN_KEY)
    unknown = ("queued in a fair queue under a key that claims do not know", job_id)
    assert await listed(conn) == [unknown]
    await past_triggers(conn, STALE_KEY)
    assert sorted(await listed(conn), key=str) == sorted(
        [unknown, ("ready key without a queued job", None)], key=str
    )


@pytest.mark.parametrize(
    ("statement", "invariant"),
    [
        (EXPIRED, "open though it has expired"),
        (SUPERSEDED, "running though it is superseded"),
    ],
)
async def test_jobs(conn: Connection, statement: LiteralString, invariant: str) -> None:
    job_id = await add(conn)
    if statement == SUPERSEDED:
        await claim(conn, await register(conn))
    assert await listed(conn) == []
    await past_triggers(conn, statement, id=job_id)
    assert await listed(conn) == [(invariant, job_id)]
