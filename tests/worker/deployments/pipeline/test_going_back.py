"""Rolling back on request: to a release that was healthy, kept or built again, and probed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from db.deployments import deployments, environments
from db.deployments.deployments import Deployment, DeploymentStatus
from db.queue.jobs import Job, JobStatus
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.job_api import JobApi

COUNTED = {"build": ["sh", "-c", "echo build >> ../log"]}


async def deploy(api: JobApi, sha: str) -> Deployment:
    job = await api.run("deploy", {"environment": "staging", "sha": sha})
    assert job.status is JobStatus.DONE, job.error
    return Deployment.model_validate(job.result)


async def go_back(api: JobApi, to: str = "previous") -> Job:
    return await api.run("deploy", {"environment": "staging", "rollback_to": to})


async def went_back(api: JobApi, to: str = "previous") -> Deployment:
    job = await go_back(api, to)
    assert job.status is JobStatus.DONE, job.error
    return Deployment.model_validate(job.result)


async def live(api: JobApi) -> Deployment:
    async with api.database.connection() as connection:
        found = await deployments.current(connection, "staging")
    assert found is not None
    return found


def builds(site: Site) -> int:
    return (site.environment_dir / "log").read_text().count("build")


async def test_going_back_switches_to_the_release_that_is_still_there(
    api: JobApi, site: Site
) -> None:
    site.environment(**COUNTED)
    first = await deploy(api, site.commit())
    second = await deploy(api, site.commit(note="2"))
    back = await went_back(api)
    assert (back.status, back.sha) == (DeploymentStatus.HEALTHY, first.sha)
    assert (back.rollback_of, back.rollback_to) == (second.id, first.id)
    assert back.release == first.release == str(site.current())
    assert back.probe is not None
    assert back.probe["passed"] is True
    assert f"Asked for: go back from {second.sha[:12]}" in (back.report_text or "")
    assert builds(site) == 2
    assert (await live(api)).id == back.id


async def test_going_back_to_a_release_that_was_removed_builds_its_commit_again(
    api: JobApi, site: Site
) -> None:
    site.environment(**COUNTED)
    first = await deploy(api, site.commit())
    await deploy(api, site.commit(note="2"))
    shutil.rmtree(Path(first.release or ""))
    back = await went_back(api)
    assert back.sha == first.sha
    assert back.release != first.release
    assert back.release == str(site.current())
    assert builds(site) == 3


async def test_going_back_twice_goes_further_back_and_never_forth(api: JobApi, site: Site) -> None:
    site.environment()
    first, second, _ = [await deploy(api, site.commit(note=str(n))) for n in range(3)]
    assert (await went_back(api)).rollback_to == second.id
    assert (await went_back(api)).rollback_to == first.id
    refused = await go_back(api)
    assert refused.status is JobStatus.FAILED
    assert "no deployment before it was healthy there" in (refused.error or "")


@pytest.mark.parametrize("by", ["id", "sha", "roll back"])
async def test_where_to_go_back_to_can_be_named(api: JobApi, site: Site, by: str) -> None:
    site.environment()
    first = await deploy(api, site.commit())
    await deploy(api, site.commit(note="2"))
    earlier = await went_back(api)
    last = await deploy(api, site.commit(note="3"))
    to = {"id": str(first.id), "sha": first.sha[:9], "roll back": str(earlier.id)}[by]
    back = await went_back(api, to)
    assert (back.rollback_of, back.rollback_to) == (last.id, first.id)
    assert back.release == str(site.current())


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("previous", "no deployment before it was healthy there"),
        ("abcdef0", "no deployment of abcdef0 was healthy there"),
        ("main", "'main' is neither a deployment's id nor a commit"),
        ("live", "already (deployment"),
    ],
)
async def test_a_mistake_in_where_to_go_back_to_fails_the_job_without_a_retry(
    api: JobApi, site: Site, to: str, message: str
) -> None:
    site.environment()
    only = await deploy(api, site.commit())
    job = await go_back(api, only.sha if to == "live" else to)
    assert (job.status, job.failures) == (JobStatus.FAILED, 1)
    assert message in (job.error or "")


async def test_where_nothing_was_healthy_there_is_nothing_to_go_back_to(
    api: JobApi, site: Site
) -> None:
    site.environment()
    job = await go_back(api)
    assert "nothing was ever healthy in environment 'staging'" in (job.error or "")


async def test_a_deployment_that_failed_is_nowhere_to_go_back_to(api: JobApi, site: Site) -> None:
    site.environment()
    first = await deploy(api, site.commit())
    bad = site.commit(health=500)
    await api.run("deploy", {"environment": "staging", "sha": bad})
    await deploy(api, site.commit())
    job = await go_back(api, bad)
    assert "was healthy there" in (job.error or "")
    assert (await went_back(api)).rollback_to == first.id


async def test_going_back_to_what_fails_its_probe_now_returns_to_what_was_live(
    api: JobApi, site: Site
) -> None:
    site.environment()
    first = await deploy(api, site.commit())
    second = await deploy(api, site.commit(note="2"))
    (Path(first.release or "") / "health").write_text("500")
    job = await go_back(api)
    assert job.status is JobStatus.FAILED
    assert "rolled back" in (job.error or "")
    assert str(site.current()) == second.release
    assert (await live(api)).id == second.id


async def test_going_back_from_what_is_not_live_any_more_is_refused(
    api: JobApi, site: Site
) -> None:
    """The rollback waits for the environment, and meanwhile another deployment goes live."""
    site.environment()
    await deploy(api, site.commit())
    await deploy(api, site.commit(note="2"))
    other: dict[str, Any] = {"environment": "staging", "sha": "c" * 40, "release": "/elsewhere"}
    async with api.database.connection() as connection:
        begun = await deployments.create(connection, **other)
    job = await go_back(api)
    assert job.status is JobStatus.WAITING
    assert job.waiting_detail == "environment staging"
    async with api.database.connection() as connection:
        for status in (DeploymentStatus.DEPLOYING, DeploymentStatus.HEALTHY):
            await deployments.update_status(connection, begun.id, status, probe={"passed": True})
    await api.work()
    job = await api.job(job.id)
    assert job.status is JobStatus.FAILED
    assert "has moved on since this was asked for: cccccccccccc is live" in (job.error or "")
    assert await api.value("select count(*) from jobsworth.deployments") == 3


async def test_the_state_of_an_environment_is_derived_from_its_deployments(
    api: JobApi, site: Site
) -> None:
    site.environment(approvals=0)
    first = await deploy(api, site.commit())
    await api.run("deploy", {"environment": "staging", "sha": site.commit(health=500)})
    async with api.database.connection() as connection:
        held = await deployments.create(connection, environment="staging", sha="d" * 40)
        [state] = await environments.list_states(connection)
        await deployments.update_status(connection, held.id, DeploymentStatus.FAILED)
        [free] = await environments.list_states(connection, "staging")
    assert (state.environment, state.approvals_needed) == ("staging", 0)
    assert (state.current_deployment_id, state.current_release) == (first.id, first.release)
    assert (state.locked_by_deployment_id, free.locked_by_deployment_id) == (held.id, None)


@pytest.mark.parametrize("payload", [{}, {"sha": "main", "rollback_to": "previous"}])
async def test_a_deployment_is_of_a_sha_or_goes_back(
    api: JobApi, site: Site, payload: dict[str, str]
) -> None:
    job = await api.run("deploy", {"environment": "staging", **payload})
    assert "give either a `sha` to deploy, or `rollback_to` to go back" in (job.error or "")
