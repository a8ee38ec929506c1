"""`job.deploy` when workers die, machines change and jobs end: nothing but time is lost, and an
environment is never held for ever."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from db.deployments import abandoned
from db.deployments.deployments import DeploymentStatus
from db.queue import jobs
from db.queue.jobs import JobStatus, WaitReason
from jobsworth import Job, handler
from tests.support import until
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.deployments.pipeline.support import is_gone, pid_in
from tests.worker.deployments.shipping import BAD, COMMANDS, GOOD, latest, log, phases
from tests.worker.job_api import JobApi
from worker import crash_points
from worker.deployments.pipeline import pipeline
from worker.deployments.record import close_abandoned


async def die_after(
    api: JobApi, step: int, monkeypatch: pytest.MonkeyPatch, **payload: Any
) -> jobs.Job:
    """The job whose worker died as soon as this many of its steps were recorded."""
    recorded = 0
    job_id = await api.enqueue("ship", payload)
    with anyio.fail_after(60), monkeypatch.context() as patch:
        async with api.dying() as worker:

            def reach(point: str) -> None:
                nonlocal recorded
                recorded += point == "step.committed"
                if recorded == step:
                    worker.kill()

            patch.setattr(crash_points, "reach", reach)
            await anyio.sleep_forever()
    job = await api.job(job_id)
    assert (job.status, job.crashes) == (JobStatus.QUEUED, 1)
    return job


async def test_a_finished_deployment_is_read_by_a_replay(api: JobApi, site: Site) -> None:
    @handler("twice")
    async def twice(job: Job) -> str:
        deployment = await job.deploy("staging", "main")
        if job.attempt == 1:
            raise ConnectionError("after the deployment")
        return deployment.status

    site.environment(**COMMANDS)
    site.commit()
    job = await api.run("twice")
    assert (job.result, job.failures) == ("healthy", 1)
    assert log(site) == ["build", "test", "switch"]


async def test_a_replay_does_not_even_look_at_the_repository(api: JobApi, site: Site) -> None:
    @handler("twice")
    async def twice(job: Job) -> str | None:
        deployment = await job.deploy("staging", "main", name="web")
        if job.attempt == 1:
            shutil.rmtree(site.repository)
            (site.directory / "deploy.toml").unlink()
            raise ConnectionError("after the deployment")
        return deployment.report_text

    site.environment()
    site.commit()
    job = await api.run("twice")
    assert job.result == (await latest(api)).report_text
    kinds = "select kind from jobsworth.steps where name = 'deploy:web'"
    assert await api.value(kinds) == "deploy"


@pytest.mark.parametrize("after", GOOD)
async def test_a_worker_that_dies_after_a_phase_is_followed_by_one_that_goes_on(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    site.environment(**COMMANDS)
    sha = site.commit()
    done_before = GOOD.index(after) + 1
    job = await die_after(api, done_before, monkeypatch)
    assert await phases(api, job) == dict.fromkeys(GOOD[:done_before], 1)

    await api.work()
    job = await api.job(job.id)
    assert job.result == ["healthy", sha]
    attempts = await phases(api, job)
    assert [attempts[name] for name in GOOD] == [1] * done_before + [2] * (6 - done_before)
    assert log(site) == ["build", "test", "switch"]


@pytest.mark.parametrize("after", ["probe", "rollback", "confirm"])
async def test_a_worker_that_dies_while_going_back_is_followed_by_one_that_goes_on(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    site.environment(**COMMANDS)
    site.commit()
    await api.run("ship")
    before = site.current()
    sha = site.commit(health=500)
    job = await die_after(api, BAD.index(after) + 1, monkeypatch)
    await api.work()
    assert (await api.job(job.id)).result == ["rolled_back", sha]
    assert log(site) == ["build", "test", "switch"] * 2 + ["back"]
    assert site.current() == before


# Another machine takes over: it has another name, and other releases in the same place.


@asynccontextmanager
async def other_machine(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[JobApi]:
    site.releases.mkdir(exist_ok=True)
    away = site.releases.rename(site.directory / "away")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "other")
        yield api
    if site.releases.exists():
        site.releases.rename(site.directory / "other")
    away.rename(site.releases)


async def test_a_deployment_is_left_to_the_machine_that_has_its_release(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.environment(**COMMANDS)
    sha = site.commit()
    job = await die_after(api, GOOD.index("build") + 1, monkeypatch)
    async with other_machine(api, site, monkeypatch) as other:
        await other.work()
    job = await api.job(job.id)
    assert job.waiting_for is WaitReason.TIMER
    assert f"was begun on {socket.gethostname()}, where its release is" in (
        job.waiting_detail or ""
    )
    await api.database.execute("update jobsworth.reactive_jobs set run_at = now()")
    await api.work()
    assert (await api.job(job.id)).result == ["healthy", sha]
    assert log(site) == ["build", "test", "switch"]


async def test_a_deployment_whose_machine_stays_away_fails_and_says_where_to_look(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.environment(**COMMANDS)
    site.commit()
    job = await die_after(api, GOOD.index("switch") + 1, monkeypatch)
    await api.rows(
        "insert into jobsworth.steps (job_id, name, kind, attempt, started_at) values"
        " (%(id)s, 'deploy:web:pause', 'phase', 1, now() - interval '1 hour') returning name",
        id=job.id,
    )
    async with other_machine(api, site, monkeypatch) as other:
        await other.work()
    job = await api.job(job.id)
    assert job.status is JobStatus.FAILED
    assert "where its release is; that has not changed for 36" in (job.error or "")
    await close_abandoned(api.database)
    assert "Live now: UNKNOWN" in ((await latest(api)).report_text or "")


async def test_what_was_not_exported_yet_is_shipped_by_whoever_takes_over(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.environment()
    sha = site.commit()
    with anyio.fail_after(20):
        async with api.dying() as worker:

            @asynccontextmanager
            async def die(_: Path) -> AsyncGenerator[None]:
                worker.kill()
                await anyio.sleep_forever()
                yield

            monkeypatch.setattr(pipeline, "exclusive", die)
            await api.enqueue("ship")
            await anyio.sleep_forever()
    monkeypatch.undo()
    assert (await latest(api)).host == socket.gethostname()
    async with other_machine(api, site, monkeypatch) as other:
        await other.work()
    deployment = await latest(api)
    assert (deployment.status, deployment.host, deployment.sha) == ("healthy", "other", sha)


async def test_a_releases_directory_that_cannot_be_written_is_named(
    api: JobApi, site: Site
) -> None:
    site.environment()
    site.commit()
    site.releases.mkdir(exist_ok=True)
    (site.environment_dir).write_text("a file in the way")
    job = await api.run("ship")
    assert (job.status, job.failures) == (JobStatus.FAILED, 1)
    assert f"{site.environment_dir}: nothing can be written there" in (job.error or "")
    await close_abandoned(api.database)


# What nobody will finish.


async def test_a_job_canceled_in_mid_deployment_frees_its_environment(
    api: JobApi, site: Site
) -> None:
    blocking = "test -e ../pid || { echo $$ > ../pid; exec sleep 600; }"
    site.environment(build=["sh", "-c", blocking])
    sha = site.commit()
    pid_file = site.environment_dir / "pid"

    async def build_runs() -> bool:
        return pid_in(pid_file)()

    async def closed() -> bool:
        return (await latest(api)).finished_at is not None

    async with api.working():
        job_id = await api.enqueue("ship")
        await until(build_runs)
        async with api.database.connection() as connection:
            await jobs.cancel(connection, job_id, "changed my mind")
        await api.idle()
        await until(closed)
    assert (await api.job(job_id)).status is JobStatus.CANCELED
    assert is_gone(int(pid_file.read_text()))
    deployment = await latest(api)
    assert deployment.status is DeploymentStatus.FAILED
    headline, export, why, live = (deployment.report_text or "").splitlines()
    assert headline == f"Deployment of {sha[:12]} to staging: FAILED"
    assert export.startswith("  export   ok     release ")
    assert why == "Its job ended as canceled while it was building: changed my mind"
    assert live == "Live now: as before, nothing was switched"

    job = await api.run("ship")
    assert job.result == ["healthy", sha]


async def test_a_deployment_left_after_its_switch_says_that_nobody_knows_what_is_live(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.environment(**COMMANDS)
    site.commit()
    job = await die_after(api, GOOD.index("switch") + 1, monkeypatch)
    async with api.database.connection() as connection:
        await jobs.cancel(connection, job.id)
    await work_until_closed(api)
    deployment = await latest(api)
    assert deployment.status is DeploymentStatus.FAILED
    assert "  switch   ok     " in (deployment.report_text or "")
    assert "Live now: UNKNOWN" in (deployment.report_text or "")


async def test_a_deployment_whose_workers_died_too_often_is_closed(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.environment(**COMMANDS)
    site.commit()
    job = await die_after(api, GOOD.index("build") + 1, monkeypatch)
    await api.database.execute("update jobsworth.reactive_jobs set crashes_max = 1")
    with anyio.fail_after(60), monkeypatch.context() as patch:
        async with api.dying() as worker:

            def reach(_: str) -> None:
                worker.kill()

            patch.setattr(crash_points, "reach", reach)
            await anyio.sleep_forever()
    assert (await api.job(job.id)).status is JobStatus.FAILED
    await work_until_closed(api)
    deployment = await latest(api)
    assert deployment.status is DeploymentStatus.FAILED
    assert "its worker died during attempt 2" in (deployment.report_text or "")


async def test_a_job_that_a_person_runs_again_ships_anew_what_did_not_become_healthy(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.environment(**COMMANDS)
    sha = site.commit()
    job = await die_after(api, GOOD.index("test") + 1, monkeypatch)
    async with api.database.connection() as connection:
        await jobs.cancel(connection, job.id)
    await work_until_closed(api)
    async with api.database.connection() as connection:
        await jobs.retry(connection, job.id)
    await api.work()
    assert (await api.job(job.id)).result == ["healthy", sha]
    assert log(site) == ["build", "test", "build", "test", "switch"]
    statuses = "select status::text from jobsworth.deployments order by id"
    assert [row["status"] for row in await api.rows(statuses)] == ["failed", "healthy"]


async def test_a_deployment_whose_job_goes_on_is_left_alone(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.environment(**COMMANDS)
    site.commit()
    await die_after(api, GOOD.index("export") + 1, monkeypatch)
    async with api.database.connection() as connection, connection.transaction():
        assert await abandoned.lock_ended(connection, 10) == []
    assert (await latest(api)).finished_at is None


async def work_until_closed(api: JobApi) -> None:
    """A worker's life until the latest deployment has ended."""

    async def closed() -> bool:
        return (await latest(api)).finished_at is not None

    async with api.working():
        await until(closed)
