"""Shipping: one at a time, forwards only, healthy only when probed, fenced by the job's lease."""

from __future__ import annotations

from itertools import product
from typing import Any, LiteralString
from uuid import UUID, uuid4

import anyio
import pytest

from db.deployments import deployments, environments
from db.deployments.deployments import Deployment, DeploymentStatus
from db.errors import Conflict, InvalidInput, NotFound, Refused
from db.fence import LeaseLost
from db.pool import Connection, Database, execute
from tests.db import rows
from tests.support import until

BUILDING, TESTING, DEPLOYING, HEALTHY, ROLLED_BACK, FAILED = DeploymentStatus

LEGAL = {
    (BUILDING, TESTING),
    (BUILDING, DEPLOYING),
    (BUILDING, FAILED),
    (TESTING, DEPLOYING),
    (TESTING, FAILED),
    (DEPLOYING, HEALTHY),
    (DEPLOYING, ROLLED_BACK),
    (DEPLOYING, FAILED),
}
WAY_TO: dict[DeploymentStatus, list[DeploymentStatus]] = {
    BUILDING: [],
    TESTING: [TESTING],
    DEPLOYING: [TESTING, DEPLOYING],
    HEALTHY: [TESTING, DEPLOYING, HEALTHY],
    ROLLED_BACK: [TESTING, DEPLOYING, ROLLED_BACK],
    FAILED: [FAILED],
}
PASSED = {"passed": True, "status": 200}


async def deploy(conn: Connection, environment: str = "live", **options: Any) -> Deployment:
    values: dict[str, Any] = {"environment": environment, "sha": "a1b2"}
    return await deployments.create(conn, **values | options)


async def advance(conn: Connection, deployment_id: UUID, to: DeploymentStatus) -> Deployment:
    return await deployments.update_status(
        conn, deployment_id, to, probe=PASSED if to is HEALTHY else None
    )


async def ended(conn: Connection, status: DeploymentStatus, **options: Any) -> Deployment:
    deployment = await deploy(conn, **options)
    for step in WAY_TO[status]:
        deployment = await advance(conn, deployment.id, step)
    return deployment


async def test_a_deployment_goes_from_building_to_healthy(conn: Connection) -> None:
    begun = await deploy(conn, repository="/src", branch="main")
    assert (begun.status, begun.finished_at) == (BUILDING, None)
    await deployments.update_status(conn, begun.id, TESTING, release="r-7", report_text="built\0")
    await advance(conn, begun.id, DEPLOYING)
    healthy = await deployments.update_status(conn, begun.id, HEALTHY, probe=PASSED)
    assert (healthy.sha, healthy.repository, healthy.branch) == ("a1b2", "/src", "main")
    assert (healthy.release, healthy.report_text) == ("r-7", "built\u2400")
    assert healthy.probe == PASSED
    assert healthy.finished_at is not None
    assert healthy == await deployments.get_by_id(conn, begun.id)


@pytest.mark.parametrize(("before", "after"), list(product(DeploymentStatus, repeat=2)))
async def test_only_legal_transitions_are_made(
    conn: Connection, before: DeploymentStatus, after: DeploymentStatus
) -> None:
    deployment = await ended(conn, before)
    if before == after or (before, after) in LEGAL:
        assert (await advance(conn, deployment.id, after)).status is after
    else:
        with pytest.raises(Conflict, match=f"cannot go from {before} to {after}"):
            await advance(conn, deployment.id, after)
        assert await deployments.get_by_id(conn, deployment.id) == deployment


async def test_the_same_status_again_keeps_the_end_it_had(conn: Connection) -> None:
    failed = await ended(conn, FAILED)
    again = await deployments.update_status(conn, failed.id, FAILED, report_text="why")
    assert (again.finished_at, again.report_text) == (failed.finished_at, "why")


@pytest.mark.parametrize("probe", [None, {"passed": False}, {"passed": "yes"}, {}])
async def test_healthy_needs_a_probe_that_passed(
    conn: Connection, probe: dict[str, Any] | None
) -> None:
    deployment = await ended(conn, DEPLOYING)
    with pytest.raises(InvalidInput, match="prob"):
        await deployments.update_status(conn, deployment.id, HEALTHY, probe=probe)
    assert (await deployments.get_by_id(conn, deployment.id)).status is DEPLOYING


SAY_HEALTHY: LiteralString = """
update jobsworth.deployments
set status = 'healthy', finished_at = now(), probe = %(probe)s::jsonb
where id = %(id)s
"""


@pytest.mark.parametrize("probe", [None, '{"passed": false}', '{"passed": null}', "{}"])
async def test_the_database_itself_refuses_healthy_without_a_passing_probe(
    conn: Connection, probe: str | None
) -> None:
    deployment = await ended(conn, DEPLOYING)
    with pytest.raises(Refused, match="healthy_has_a_passing_probe"):
        await execute(conn, SAY_HEALTHY, {"id": deployment.id, "probe": probe})


async def test_a_failing_probe_is_recorded_with_the_roll_back(conn: Connection) -> None:
    deployment = await ended(conn, DEPLOYING)
    rolled_back = await deployments.update_status(
        conn, deployment.id, ROLLED_BACK, probe={"passed": False, "status": 500}
    )
    assert rolled_back.probe == {"passed": False, "status": 500}
    assert rolled_back.finished_at is not None


async def test_an_environment_has_one_unfinished_deployment(conn: Connection) -> None:
    running = await deploy(conn)
    with pytest.raises(Conflict, match=f"busy: deployment {running.id} of a1b2 is building"):
        await deploy(conn)
    with pytest.raises(Conflict, match=f"busy: deployment {running.id}"):
        await deploy(conn, team_id=uuid4())  # a place has one lock, whoever deploys there
    await deploy(conn, "staging")
    await advance(conn, running.id, FAILED)
    assert (await deploy(conn)).status is BUILDING


async def test_of_two_deployments_at_once_one_waits_and_is_refused(
    database: Database, conn: Connection
) -> None:
    begun: list[Deployment] = []
    refused: list[Conflict] = []
    async with database.connection() as other, anyio.create_task_group() as tasks:

        async def deploy_late() -> None:
            try:
                await deploy(other)
            except Conflict as conflict:
                refused.append(conflict)

        async with conn.transaction():
            begun.append(await deploy(conn))
            tasks.start_soon(deploy_late)
            await until(lambda: rows.is_blocked(database, other))
    assert len(refused) == 1
    assert str(begun[0].id) in str(refused[0])


async def test_a_step_has_one_deployment(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    first = await deploy(conn, lease=lease, step_name="ship")
    assert await deploy(conn, lease=lease, step_name="ship") == first
    assert first.job_id == lease.job_id
    await advance(conn, first.id, FAILED)
    assert (await deploy(conn, lease=lease, step_name="ship")).id == first.id
    assert (await deploy(conn, lease=lease, step_name="again")).id != first.id
    found = await deployments.get_for_step(conn, lease.job_id, "ship")
    assert found is not None
    assert found.id == first.id
    assert await deployments.get_for_step(conn, lease.job_id, "other") is None


async def test_a_lost_lease_neither_begins_nor_moves_a_deployment(conn: Connection) -> None:
    lease = await rows.running_job(conn)
    begun = await deploy(conn, lease=lease, step_name="ship")
    new_lease = await rows.take(conn, lease.job_id)
    with pytest.raises(LeaseLost):
        await deployments.update_status(conn, begun.id, TESTING, lease=lease)
    with pytest.raises(LeaseLost):
        await deploy(conn, "staging", lease=lease, step_name="ship too")
    assert await deployments.get_recent(conn) == [begun]
    moved = await deployments.update_status(conn, begun.id, TESTING, lease=new_lease)
    assert moved.status is TESTING


async def test_a_lease_moves_only_its_own_jobs_deployment(conn: Connection) -> None:
    begun = await deploy(conn, lease=await rows.running_job(conn), step_name="ship")
    with pytest.raises(Conflict, match="belongs to job"):
        await deployments.update_status(conn, begun.id, TESTING, lease=await rows.running_job(conn))
    assert (await deployments.get_by_id(conn, begun.id)).status is BUILDING


async def test_what_runs_is_the_newest_healthy_one(conn: Connection) -> None:
    assert await deployments.current(conn, "live") is None
    first = await ended(conn, HEALTHY, sha="first")
    second = await ended(conn, HEALTHY, sha="second")
    await ended(conn, HEALTHY, sha="elsewhere", environment="staging")
    assert await deployments.current(conn, "live") == second
    await ended(conn, HEALTHY, sha="another team's", team_id=uuid4())
    last = await ended(conn, ROLLED_BACK, sha="third")
    assert await deployments.get_latest(conn, "live") == last
    assert await deployments.get_latest(conn, "nowhere") is None
    recent = await deployments.get_recent(conn, "live", 10)
    assert [d.sha for d in recent] == ["third", "another team's", "second", first.sha]
    assert [d.sha for d in await deployments.get_recent(conn, limit=1)] == ["third"]
    team_id = recent[1].team_id
    assert team_id is not None
    assert await deployments.get_recent(conn, team_id=team_id) == [recent[1]]
    assert await deployments.current(conn, "live") == recent[1]


async def test_an_environment_of_several_teams_is_shown_once(conn: Connection) -> None:
    """They share one folder, one link and one service, so one commit is live."""
    teams = [uuid4(), uuid4(), None]
    made = [await ended(conn, HEALTHY, sha=f"a{n}", team_id=team) for n, team in enumerate(teams)]
    held = await deploy(conn, team_id=teams[1])
    [state] = await environments.list_states(conn)
    assert (state.current_deployment_id, state.current_team_id) == (made[2].id, None)
    assert (state.locked_by_deployment_id, state.locked_by_team_id) == (held.id, teams[1])


async def test_a_team_goes_back_from_its_own_deployment_only(conn: Connection) -> None:
    ours, theirs = uuid4(), uuid4()
    first = await ended(conn, HEALTHY, sha="a1b2c3d", team_id=ours)
    second = await ended(conn, HEALTHY, sha="b1b2c3d", team_id=theirs)
    for to in ("previous", "a1b2c3d"):
        with pytest.raises(Conflict, match="runs b1b2c3d of another team"):
            await environments.find_rollback(conn, "live", to, team_id=ours)
    for team in (theirs, None):
        found = await environments.find_rollback(conn, "live", team_id=team)
        assert (found.live, found.target) == (second, first)


async def test_a_deployment_names_its_environment_and_sha(conn: Connection) -> None:
    with pytest.raises(InvalidInput):
        await deploy(conn, "")
    with pytest.raises(InvalidInput):
        await deploy(conn, sha="")


async def test_unknown_deployments_are_named(conn: Connection) -> None:
    unknown = uuid4()
    with pytest.raises(NotFound, match=str(unknown)):
        await deployments.get_by_id(conn, unknown)
    with pytest.raises(NotFound, match=str(unknown)):
        await deployments.update_status(conn, unknown, TESTING)
    with pytest.raises(NotFound, match=str(unknown)):
        await deployments.update_status(conn, unknown, TESTING, lease=await rows.running_job(conn))
