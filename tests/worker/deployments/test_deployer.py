"""`job.deploy`, with a real repository, real commands and a real service: what ends how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from db.deployments import deployments, environments
from db.deployments.deployments import Deployment, DeploymentStatus
from db.errors import Conflict
from db.queue import promote
from db.queue.jobs import JobStatus, WaitReason
from jobsworth import Job, handler
from tests.support import until
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.deployments.shipping import COMMANDS, GOOD, latest, log, phases, ship
from tests.worker.job_api import JobApi, registered
from worker.deployments.record import close_abandoned
from worker.plain_job import state_of


async def test_a_good_commit_becomes_healthy(api: JobApi, site: Site) -> None:
    site.environment(**COMMANDS)
    sha = site.commit()
    job = await api.run("ship")
    assert job.result == ["healthy", sha]
    deployment = await latest(api)
    assert (deployment.job_id, deployment.step_name) == (job.id, "deploy:web")
    assert deployment.probe is not None
    assert deployment.probe["passed"] is True
    assert "its probe passed" in (deployment.report_text or "")
    assert await phases(api, job) == dict.fromkeys(GOOD, 1)
    assert log(site) == ["build", "test", "switch"]


async def test_a_bad_commit_is_rolled_back(api: JobApi, site: Site) -> None:
    site.environment()
    site.commit()
    await api.run("ship")
    before = site.current()
    sha = site.commit(health=500)
    job = await api.run("ship")
    assert job.result == ["rolled_back", sha]
    assert site.current() == before


async def test_a_build_that_fails_ends_the_deployment_not_the_job(api: JobApi, site: Site) -> None:
    site.environment(build=["sh", "-c", "echo the cause >&2; exit 3"])
    sha = site.commit()
    job = await api.run("ship")
    assert (job.status, job.result) == (JobStatus.DONE, ["failed", sha])
    assert "the cause" in ((await latest(api)).report_text or "")


async def test_a_commands_output_is_kept_up_to_the_setting(database_url: str, site: Site) -> None:
    site.environment(build=["sh", "-c", "seq 1 9999; exit 1"])
    site.commit()
    with registered():
        handler("ship")(ship)
        async with JobApi.open(
            database_url,
            deploy_file=site.directory / "deploy.toml",
            releases_dir=site.releases,
            output_bytes_max=1024,
        ) as api:
            await api.run("ship")
            query = "select output ->> 'output' from jobsworth.steps where name like '%%:build'"
            output = await api.value(query)
    assert len(output) == 1024
    assert output.endswith("9998\n9999\n")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"environment": "moon"}, "environment 'moon' is not configured; known are: staging"),
        ({"sha": "nosuchref"}, "commit 'nosuchref' of"),
    ],
)
async def test_a_mistake_in_the_order_fails_the_job_without_a_retry(
    api: JobApi, site: Site, payload: dict[str, str], message: str
) -> None:
    site.environment()
    site.commit()
    job = await api.run("ship", payload)
    assert (job.status, job.failures, job.attempt) == (JobStatus.FAILED, 1, 1)
    assert message in (job.error or "")
    assert await api.value("select count(*) from jobsworth.deployments") == 0


async def test_a_repository_that_cannot_be_fetched_is_tried_again(api: JobApi, site: Site) -> None:
    site.environment()
    sha = site.commit()
    file = site.directory / "deploy.toml"
    url = f"file://{site.directory}/moved"
    file.write_text(file.read_text().replace(str(site.repository), url))
    job_id = await api.enqueue("ship", failures_max=100)

    async def failed() -> bool:
        return (await api.job(job_id)).failures > 0

    async with api.working():
        await until(failed)
        assert "it cannot be fetched" in ((await api.job(job_id)).error or "")
        site.repository.rename(site.directory / "moved")
        await api.idle()
    assert (await api.job(job_id)).result == ["healthy", sha]


async def test_a_mistake_in_deploy_toml_fails_the_job_with_its_line(
    api: JobApi, site: Site
) -> None:
    (site.directory / "deploy.toml").write_text("[environments.staging]\nrepo = 5\n")
    job = await api.run("ship")
    assert (job.status, job.failures) == (JobStatus.FAILED, 1)
    assert "deploy.toml:2: environments.staging.repo" in (job.error or "")


async def test_without_a_deploy_toml_the_job_fails_and_says_so(
    database_url: str, tmp_path: Path
) -> None:
    with registered():
        handler("ship")(ship)
        async with JobApi.open(
            database_url, deploy_file=None, releases_dir=tmp_path / "releases"
        ) as api:
            job = await api.run("ship")
    assert (job.status, job.failures) == (JobStatus.FAILED, 1)
    assert "there is no deploy.toml" in (job.error or "")
    assert "JOBSWORTH_DEPLOY_FILE" in (job.error or "")


async def test_a_busy_environment_is_waited_for_and_why_names_who_holds_it(
    api: JobApi, site: Site
) -> None:
    """Who ended it by hand, or died just then, has woken nobody: the sweep finds the job."""
    site.environment()
    sha = site.commit()
    async with api.database.connection() as connection:
        other = await deployments.create(connection, environment="staging", sha="0" * 40)
    job = await api.run("ship")
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.LIMIT)
    assert (job.failures, job.attempt, job.run_at) == (0, 1, None)
    [why] = await api.rows("select detail from jobsworth.why(%(id)s)", id=job.id)
    assert why["detail"] == (
        f"environment staging is held by deployment {other.id} of {'0' * 12} (building)"
    )

    async with api.database.connection() as connection:
        await deployments.update_status(connection, other.id, DeploymentStatus.FAILED)
    await api.work()
    job = await api.job(job.id)
    assert (job.result, job.failures, job.attempt) == (["healthy", sha], 0, 2)


async def test_the_end_of_a_deployment_wakes_the_oldest_job_that_waits_for_it(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promote, "sweep", no_sweep)
    waits = "test -e ../go || { touch ../began; until test -e ../go; do sleep 0.05; done; }"
    site.environment(build=["sh", "-c", waits])
    site.commit()
    waiting = "select count(*) = %(n)s from jobsworth.reactive_jobs where waiting_for = 'limit'"
    async with api.working():
        ids = [await api.enqueue("ship")]
        await until(lambda: anyio.Path(site.environment_dir / "began").exists())
        for others in (1, 2):
            ids.append(await api.enqueue("ship"))
            await until(lambda n=others: api.value(waiting, n=n))
        (site.environment_dir / "go").touch()
        await until(lambda: api.value("select count(*) = 3 from jobsworth.deployments"))
        await api.idle()
    order = await api.rows("select job_id from jobsworth.deployments order by id")
    assert [row["job_id"] for row in order] == ids
    assert [(await api.job(one)).attempt for one in ids] == [1, 2, 2]


async def test_a_deployment_that_ends_while_another_parks_for_it_is_not_missed(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = deployments.create

    async def create_late(*arguments: Any, **keys: Any) -> Deployment:
        monkeypatch.setattr(deployments, "create", create)
        try:
            return await create(*arguments, **keys)
        except Conflict:
            async with api.database.connection() as connection:
                failed = DeploymentStatus.FAILED
                await deployments.update_status(connection, other.id, failed)
                await environments.wake_next(connection, "staging")
            raise

    monkeypatch.setattr(promote, "sweep", no_sweep)
    site.environment()
    sha = site.commit()
    async with api.database.connection() as connection:
        other = await deployments.create(connection, environment="staging", sha="0" * 40)
    monkeypatch.setattr(deployments, "create", create_late)
    job = await api.run("ship")
    assert (job.result, job.attempt) == (["healthy", sha], 2)


async def test_a_job_does_not_wait_for_itself(api: JobApi, site: Site) -> None:
    @handler("twice")
    async def twice(job: Job) -> None:
        async with job.database.connection() as connection:
            await deployments.create(
                connection,
                environment="staging",
                sha="e" * 40,
                step_name="x",
                lease=state_of(job).lease,
            )
        await job.deploy("staging", "main")

    site.environment()
    site.commit()
    job = await api.run("twice")
    assert (job.status, job.failures) == (JobStatus.FAILED, 1)
    assert "another deployment of this very job holds environment staging" in (job.error or "")
    await close_abandoned(api.database)


async def no_sweep(*_: Any) -> None:
    """In its place: nothing is found by chance."""
