"""Deployments that nobody goes on with: found only while nobody can be in the middle of them."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import pytest

from db.deployments import abandoned, deployments
from db.deployments.deployments import Deployment, DeploymentStatus
from db.fence import Lease
from db.pool import Connection, Database, execute
from tests.db import rows

pytestmark = pytest.mark.both

AGE_MARKS: LiteralString = """
update jobsworth.deployments set idle_since = idle_since - interval '1 hour'
"""


async def begun(conn: Connection) -> tuple[Deployment, Lease]:
    lease = await rows.running_job(conn)
    deployment = await deployments.create(
        conn, environment="live", sha="a1", lease=lease, step_name="ship"
    )
    return deployment, lease


async def idle(conn: Connection) -> list[UUID]:
    """Those that have been idle for a minute."""
    async with conn.transaction():
        return [one.id for one in await abandoned.lock_idle(conn, 60, 10)]


async def test_a_job_that_does_not_run_is_marked_first_and_found_when_the_mark_is_old(
    conn: Connection,
) -> None:
    deployment, lease = await begun(conn)
    assert not await abandoned.mark_idle(conn), "it runs"
    await rows.park(conn, lease.job_id)
    assert await idle(conn) == []
    assert not await abandoned.mark_idle(conn), "nothing was marked before"
    assert await idle(conn) == []
    await execute(conn, AGE_MARKS)
    assert await abandoned.mark_idle(conn)
    assert await idle(conn) == [deployment.id]


async def test_a_claim_makes_the_mark_worthless(conn: Connection) -> None:
    deployment, lease = await begun(conn)
    await rows.park(conn, lease.job_id)
    await abandoned.mark_idle(conn)
    await execute(conn, AGE_MARKS)
    await rows.take(conn, lease.job_id)
    assert await idle(conn) == [], "it runs"
    await rows.park(conn, lease.job_id)
    assert await idle(conn) == [], "it ran since"
    await abandoned.mark_idle(conn)
    assert await idle(conn) == [], "marked anew"
    await execute(conn, AGE_MARKS)
    assert await idle(conn) == [deployment.id]


async def test_a_job_that_is_being_claimed_is_passed_over(
    database: Database, conn: Connection
) -> None:
    """The look does not wait for the claim, and takes nothing from under it."""
    _, lease = await begun(conn)
    await rows.park(conn, lease.job_id)
    await abandoned.mark_idle(conn)
    await execute(conn, AGE_MARKS)
    async with database.connection() as other:
        async with other.transaction():
            await rows.take(other, lease.job_id)
            assert await idle(conn) == []
        assert await idle(conn) == []


async def test_a_job_of_a_found_deployment_cannot_be_claimed_meanwhile(
    database: Database, conn: Connection
) -> None:
    deployment, lease = await begun(conn)
    await rows.park(conn, lease.job_id)
    await abandoned.mark_idle(conn)
    await execute(conn, AGE_MARKS)
    async with database.connection() as other, conn.transaction():
        [found] = await abandoned.lock_idle(conn, 60, 10)
        locked = "select id from jobsworth.reactive_jobs for no key update skip locked"
        assert await execute(other, locked) == 0
        assert await abandoned.close(conn, found.id, "nobody went on")
    closed = await deployments.get_by_id(conn, deployment.id)
    assert (closed.status, closed.report_text) == (DeploymentStatus.FAILED, "nobody went on")


async def test_one_that_has_ended_meanwhile_keeps_its_end(conn: Connection) -> None:
    deployment, _ = await begun(conn)
    for status in (DeploymentStatus.DEPLOYING, DeploymentStatus.HEALTHY):
        await deployments.update_status(conn, deployment.id, status, probe={"passed": True})
    assert not await abandoned.close(conn, deployment.id, "too late")
    assert (await deployments.get_by_id(conn, deployment.id)).status is DeploymentStatus.HEALTHY


async def test_one_whose_job_has_ended_is_found_at_once(conn: Connection) -> None:
    deployment, lease = await begun(conn)
    await rows.end(conn, lease.job_id)
    async with conn.transaction():
        [found] = await abandoned.lock_ended(conn, 10)
    assert (found.id, found.job_status) == (deployment.id, "done")
