"""`job.deploy`, with a real repository, real commands and a real service: what ends how, and what a
worker's death in between changes (nothing but the time it takes)."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString

import anyio
import pytest

from db.deployments import abandoned, deployments, environments
from db.deployments.deployments import Deployment, DeploymentStatus
from db.errors import Conflict
from db.queue import jobs, promote
from db.queue.jobs import JobStatus, WaitReason
from tests.support import until
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.deployments.pipeline.support import is_gone, make_repository, pid_in, serve
from tests.worker.job_api import JobApi, registered
from worker import Job, crash_points, handler
from worker.deployments.pipeline import pipeline
from worker.deployments.record import close_abandoned

COMMANDS = {
    "build": ["sh", "-c", "echo build >> ../log"],
    "test": ["sh", "-c", "echo test >> ../log"],
    "switch": ["sh", "-c", 'echo switch >> ../log; ln -sfn "$1" ../current', "sh", "{release}"],
    "rollback": ["sh", "-c", 'echo back >> ../log; ln -sfn "$1" ../current', "sh", "{previous}"],
}
GOOD = ["sha", "export", "build", "test", "switch", "probe"]
BAD = [*GOOD, "rollback", "confirm"]
PHASES: LiteralString = """
select split_part(name, ':', 3) as phase, attempt from jobsworth.steps
where job_id = %(job_id)s and kind <> 'deploy' order by finished_at
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serve(tmp_path / "releases" / "staging") as url:
        yield Site(tmp_path, url, make_repository(tmp_path / "site"))


@pytest.fixture
async def api(database_url: str, site: Site) -> AsyncGenerator[JobApi]:
    with registered():
        handler("ship")(ship)
        async with JobApi.open(
            database_url, deploy_file=site.directory / "deploy.toml", releases_dir=site.releases
        ) as api:
            yield api
            assert await api.violations() == []


async def ship(job: Job, sha: str = "main", environment: str = "staging") -> list[str | None]:
    deployment = await job.deploy(environment, sha, name="web")
    return [deployment.status, deployment.sha]


async def latest(api: JobApi) -> Deployment:
    async with api.database.connection() as connection:
        found = await deployments.get_latest(connection, "staging")
    assert found is not None
    return found


async def phases(api: JobApi, job: jobs.Job) -> dict[str, int]:
    """The recorded steps of the deployment, each with the attempt that recorded it."""
    rows = await api.rows(PHASES, job_id=job.id)
    return {row["phase"]: row["attempt"] for row in rows}


def log(site: Site) -> list[str]:
    file = site.environment_dir / "log"
    return file.read_text().split() if file.exists() else []


async def die_after(
    api: JobApi, step: int, monkeypatch: pytest.MonkeyPatch, **payload: Any
) -> jobs.Job:
    """The job whose worker died as soon as this many of its steps were recorded."""
    recorded = 0
    job_id = await api.enqueue("ship", payload)
    with anyio.fail_after(20), monkeypatch.context() as patch:
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
        async with job.tools.database.connection() as connection:
            await deployments.create(
                connection, environment="staging", sha="e" * 40, step_name="x", lease=job.lease
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
    async def twice(job: Job) -> str:
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
    with anyio.fail_after(20), monkeypatch.context() as patch:
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
