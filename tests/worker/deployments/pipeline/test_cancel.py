"""A cancel during a switch goes back to the release before; another stop leaves all as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import LiteralString

import anyio
import pytest

from db.deployments import deployments
from db.deployments.deployments import DeploymentStatus
from db.pool import execute
from db.queue.jobs import JobStatus
from tests.support import until as until_true
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.deployments.pipeline.support import FileRecorder, until
from tests.worker.job_api import JobApi
from worker.deployments.pipeline.config import Environment

# It moves what is live, and does not end.
HANGS = ["sh", "-c", 'ln -sfn "$1" ../current; sleep 600', "sh", "{release}"]
CUSTOM: dict[str, object] = {
    "switch": HANGS,
    "rollback": ["sh", "-c", 'ln -sfn "$1" ../current', "sh", "{previous}"],
}

CANCEL: LiteralString = "select jobsworth.cancel(%(id)s)"


async def deploy_until(
    site: Site, environment: Environment, when: Callable[[], bool], *, canceled: bool
) -> FileRecorder:
    """Deploy the newest commit, and stop the deployment when that is true."""
    site.next_deployment()
    record = site.recorder()
    async with anyio.create_task_group() as tasks:

        async def ship() -> None:
            await site.deploy(environment, record=record)

        tasks.start_soon(ship)
        await until(when)
        record.is_canceled = canceled
        tasks.cancel_scope.cancel()
    return record


async def test_a_cancel_during_a_switch_command_goes_back_and_is_confirmed(site: Site) -> None:
    site.commit()
    await site.deploy(site.environment())
    before = site.current()
    site.commit(note="2")
    record = await deploy_until(
        site, site.environment(**CUSTOM), lambda: site.current() != before, canceled=True
    )
    assert site.current() == before
    assert record.statuses[-1] == "rolled_back"
    assert record.ran[-2:] == ["rollback", "confirm"]
    assert "stopped, because the job was canceled" in record.report_text
    assert "Its job was canceled meanwhile." in record.report_text


async def test_a_cancel_during_the_probe_goes_back(site: Site) -> None:
    site.commit()
    environment = site.environment()
    await site.deploy(environment)
    before = site.current()
    site.commit(health=500, note="2")
    patient = environment.probe.model_copy(update={"interval_seconds": 600.0, "attempts": 2})
    timeouts = environment.timeouts.model_copy(update={"probe_seconds": 1200.0})
    slow = environment.model_copy(update={"probe": patient, "timeouts": timeouts})
    record = await deploy_until(site, slow, lambda: site.current() != before, canceled=True)
    assert site.current() == before
    assert record.statuses[-1] == "rolled_back"


async def test_a_cancel_before_the_switch_changes_nothing_that_is_live(site: Site) -> None:
    site.commit()
    await site.deploy(site.environment())
    before = site.current()
    site.commit(note="2")
    building = site.environment(build=["sh", "-c", "touch ../building; sleep 600"])
    begun = (site.environment_dir / "building").exists
    record = await deploy_until(site, building, begun, canceled=True)
    assert (site.current(), record.ran) == (before, ["export", "build"])


@pytest.mark.parametrize("why", ["the lease is lost", "the worker drains"])
async def test_another_stop_leaves_the_switch_to_the_next_attempt(site: Site, why: str) -> None:
    site.commit()
    await site.deploy(site.environment())
    before = site.current()
    site.commit(note="2")
    record = await deploy_until(
        site, site.environment(**CUSTOM), lambda: site.current() != before, canceled=False
    )
    assert site.current() != before, why
    assert "rollback" not in record.ran


async def test_a_job_that_is_canceled_during_its_switch_ends_canceled_and_rolled_back(
    api: JobApi, site: Site
) -> None:
    site.environment()
    first = site.commit()
    await api.run("deploy", {"environment": "staging", "sha": first})
    before = site.current()
    site.environment(**CUSTOM)
    second = site.commit(note="2")
    job_id = await api.enqueue("deploy", {"environment": "staging", "sha": second})

    async def moved() -> bool:
        return site.current() != before

    async with api.working():
        await until_true(moved, 60)
        async with api.database.connection() as connection:
            await execute(connection, CANCEL, {"id": job_id})
        await api.idle(60)
        async with api.database.connection() as connection:
            [newest, *_] = await deployments.get_recent(connection, "staging")
    assert (await api.job(job_id)).status is JobStatus.CANCELED
    assert newest.status is DeploymentStatus.ROLLED_BACK
    assert site.current() == before
