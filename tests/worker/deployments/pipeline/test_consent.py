"""People approve a deployment before it begins; a job that waits holds no environment."""

from __future__ import annotations

from functools import partial
from typing import Any, LiteralString

import anyio
import pytest

from db.approvals import consumption
from db.approvals.approvals import Approval
from db.deployments import deployments
from db.deployments.deployments import Deployment, DeploymentStatus
from db.pool import Database, fetch_val
from db.queue import jobs
from db.queue.jobs import Job, JobStatus, WaitReason
from jobsworth import Job as Handle
from jobsworth import handler
from tests import support
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.deployments.pipeline.support import pid_in, until
from tests.worker.job_api import JobApi
from worker.deployments.record import close_abandoned, close_idle

ASKING = {"approvals": 1, "build": ["sh", "-c", "echo build >> ../log"]}
BEGUN: LiteralString = "select count(*) from jobsworth.deployments"


async def order(api: JobApi, sha: str) -> Job:
    return await api.run("deploy", {"environment": "staging", "sha": sha})


async def test_nothing_is_begun_before_the_yes_and_what_is_asked_shows_what_will_run(
    api: JobApi, site: Site
) -> None:
    site.environment(**ASKING, environment={"API_TOKEN": "a-secret-value", "PORT": "80"})
    sha = site.commit()
    job = await order(api, sha)
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.APPROVAL)
    assert await api.value(BEGUN) == 0
    approval = await api.approval(job.id)
    assert approval.proposal_text == f"Deploy {sha[:12]} to staging?"
    assert approval.shown["sha"] == sha
    assert approval.shown["environment"] == "staging"
    assert approval.shown["commands"] == {"build": ASKING["build"]}
    assert approval.shown["variables"] == {"API_TOKEN": "•••", "PORT": "80"}
    assert "a-secret-value" not in str(approval)

    await api.decide(job.id, "approve")
    await api.work()
    job = await api.job(job.id)
    assert (job.status, (job.result or {})["status"]) == (JobStatus.DONE, "healthy")
    assert (site.environment_dir / "log").read_text() == "build\n"


async def test_a_no_fails_the_job_for_good_and_begins_nothing(api: JobApi, site: Site) -> None:
    site.environment(**ASKING)
    sha = site.commit()
    job = await order(api, sha)
    await api.decide(job.id, "reject", "not on a Friday")
    await api.work()
    job = await api.job(job.id)
    assert (job.status, job.failures) == (JobStatus.FAILED, 1)
    assert job.error == f"Deploy {sha[:12]} to staging was refused by Ann: not on a Friday"
    assert await api.value(BEGUN) == 0


async def test_an_environment_that_asks_nobody_deploys_at_once(api: JobApi, site: Site) -> None:
    site.environment(approvals=0)
    assert (await order(api, site.commit())).status is JobStatus.DONE


async def test_a_job_that_waits_for_consent_leaves_the_environment_to_others(
    api: JobApi, site: Site
) -> None:
    site.environment(**ASKING)
    first, second = await order(api, site.commit()), await order(api, site.commit())
    for job in (second, first):
        await api.decide(job.id, "approve")
        await api.work()
        assert (await api.job(job.id)).status is JobStatus.DONE


async def test_two_jobs_with_the_same_commit_are_two_questions(api: JobApi, site: Site) -> None:
    site.environment(**ASKING)
    sha = site.commit()
    first, second = await order(api, sha), await order(api, sha)
    await api.decide(first.id, "approve")
    await api.work()
    assert (await api.job(second.id)).waiting_for is WaitReason.APPROVAL


async def test_going_back_asks_too_and_says_from_where_to_where(api: JobApi, site: Site) -> None:
    site.environment()
    shas = [site.commit(note=str(n)) for n in range(2)]
    for sha in shas:
        await order(api, sha)
    site.environment(**ASKING)
    job = await api.run("deploy", {"environment": "staging", "rollback_to": "previous"})
    approval = await api.approval(job.id)
    assert approval.proposal_text == f"Go back in staging from {shas[1][:12]} to {shas[0][:12]}?"
    await api.decide(job.id, "approve")
    await api.work()
    assert (await api.job(job.id)).status is JobStatus.DONE


async def test_a_job_that_a_person_runs_again_asks_again(api: JobApi, site: Site) -> None:
    site.environment(**ASKING)
    job = await order(api, site.commit(health=500))
    await api.decide(job.id, "approve")
    await api.work()
    assert (await api.job(job.id)).status is JobStatus.FAILED
    async with api.database.connection() as connection:
        await jobs.retry(connection, job.id)
    await api.work()
    job = await api.job(job.id)
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.APPROVAL)
    await api.decide(job.id, "approve")
    await api.work()
    assert await api.value(BEGUN) == 2


async def test_an_approval_of_other_commands_does_not_count(api: JobApi, site: Site) -> None:
    site.environment(**ASKING)
    job = await order(api, site.commit())
    site.environment(approvals=1, build=["sh", "-c", "echo other >> ../log"])
    await api.decide(job.id, "approve")
    await api.work()
    assert (await api.job(job.id)).status is not JobStatus.DONE
    assert await api.value(BEGUN) == 0


BLOCKS_ONCE = "test -e ../pid || { echo $$ > ../pid; exec sleep 600; }; echo build >> ../log"


@pytest.mark.parametrize("says", ["the same", "otherwise"])
async def test_what_was_agreed_to_is_what_goes_on(api: JobApi, site: Site, says: str) -> None:
    """A worker dies in the build, and deploy.toml changes before the next one resumes."""
    build = ["sh", "-c", BLOCKS_ONCE]
    site.environment(approvals=1, build=build)
    job = await order(api, site.commit())
    await api.decide(job.id, "approve")
    async with api.dying() as worker:
        await until(pid_in(site.environment_dir / "pid"))
        worker.kill()
    other = ["sh", "-c", "echo other >> ../log"]
    site.environment(approvals=1, build=build if says == "the same" else other)
    await api.work()
    job = await api.job(job.id)
    log = site.environment_dir / "log"
    if says == "the same":
        assert (job.status, log.read_text()) == (JobStatus.DONE, "build\n")
        return
    assert job.status is JobStatus.FAILED
    assert "deploy.toml has changed since this deployment was approved" in (job.error or "")
    assert not log.exists()
    await close_abandoned(api.database)
    assert await api.value("select report_text from jobsworth.deployments") is not None


async def test_a_job_that_waits_in_mid_deployment_frees_its_environment_after_a_while(
    api: JobApi, site: Site
) -> None:
    """A user's handler may ask for an approval while its deployment runs."""
    site.environment()
    async with api.database.connection() as connection:
        held = await deployments.create(connection, environment="staging", sha="e" * 40)
    await api.database.execute(
        "update jobsworth.deployments set job_id = %(job_id)s, step_name = 'deploy:x'",
        {"job_id": (await waiting_job(api)).id},
    )
    assert await close_idle(api.database) == 0, "marked"
    assert await close_idle(api.database) == 0, "marked just now"
    assert await close_idle(api.database, 0.0) == 1
    async with api.database.connection() as connection:
        closed = await deployments.get_by_id(connection, held.id)
    assert closed.status is DeploymentStatus.FAILED
    assert "Its job was waiting for approval for more than 0 s" in (closed.report_text or "")
    assert "nothing was switched" in (closed.report_text or "")
    assert await close_idle(api.database, 0.0) == 0
    assert (await order(api, site.commit())).status is JobStatus.DONE


async def waiting_job(api: JobApi) -> Job:
    @handler("asks")
    async def asks(job: Handle) -> None:
        await job.ask("Well?")

    job = await api.run("asks")
    assert job.waiting_for is WaitReason.APPROVAL
    return job


async def test_more_persons_asked_for_meanwhile_make_the_question_another_one(
    api: JobApi, site: Site
) -> None:
    site.environment(**ASKING)
    job = await order(api, site.commit())
    asked = await api.approval(job.id)
    site.environment(**{**ASKING, "approvals": 2})
    await api.decide(job.id, "approve")
    await api.work()
    assert (await api.job(job.id)).waiting_for is WaitReason.APPROVAL
    again = await api.approval(job.id)
    assert (again.supersedes, again.votes_needed) == (asked.id, 2)
    assert await api.value(BEGUN) == 0


# The yes is consumed in the transaction that begins the deployment.

NO: LiteralString = """
select r.accepted
from jobsworth.approvals a
cross join lateral jobsworth.resolve(a.id, 'reject', decided_by => 'Bob', comment => 'stop') r
"""
CONSUMED: LiteralString = "select consumed_by from jobsworth.approvals"


async def test_a_no_in_the_instant_before_the_deployment_begins_counts(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    consume = consumption.consume

    async def late(*arguments: Any) -> Approval:
        monkeypatch.undo()
        assert await api.value(NO) is True
        return await consume(*arguments)

    site.environment(**ASKING)
    job = await order(api, site.commit())
    await api.decide(job.id, "approve")
    monkeypatch.setattr(consumption, "consume", late)
    await api.work()
    job = await api.job(job.id)
    assert job.status is JobStatus.FAILED
    assert (job.error or "").endswith("was refused by Bob: stop")
    assert await api.value(BEGUN) == 0
    assert await api.value(CONSUMED) is None


async def test_a_no_while_the_deployment_begins_waits_for_it_and_comes_too_late(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[bool] = []
    create = deployments.create
    site.environment(**ASKING)
    job = await order(api, site.commit())
    await api.decide(job.id, "approve")

    async def say_no(database: Database) -> None:
        async with database.connection() as connection:
            accepted.append(await fetch_val(connection, NO))

    async with (
        Database(api.url, pool_min=1, pool_max=1) as database,
        anyio.create_task_group() as tasks,
    ):

        async def slowly(*arguments: Any, **keys: Any) -> Deployment:
            begun = await create(*arguments, **keys)
            tasks.start_soon(say_no, database)
            await support.until(partial(blocked, api))
            return begun

        monkeypatch.setattr(deployments, "create", slowly)
        await api.work()
    assert accepted == [False]
    assert (await api.job(job.id)).status is JobStatus.DONE
    assert await api.value(CONSUMED) == "deploy:deploy"


async def blocked(api: JobApi) -> bool:
    """Whether a session of this database waits for the lock of another."""
    return await api.value(
        "select exists (select 1 from pg_stat_activity a where a.datname = current_database()"
        " and a.wait_event_type = 'Lock')"
    )


async def test_a_worker_killed_while_a_deployment_begins_leaves_the_yes_for_the_next_one(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.environment(**ASKING)
    job = await order(api, site.commit())
    await api.decide(job.id, "approve")
    async with api.dying() as worker:

        async def die(*_: Any, **__: Any) -> Deployment:
            worker.kill()
            await anyio.sleep_forever()
            raise AssertionError

        monkeypatch.setattr(deployments, "create", die)
        await anyio.sleep_forever()
    monkeypatch.undo()
    assert await api.value(CONSUMED) is None
    assert await api.value(BEGUN) == 0
    await api.work()
    job = await api.job(job.id)
    assert (job.status, job.attempt, job.crashes) == (JobStatus.DONE, 3, 1)
    assert await api.value(CONSUMED) == "deploy:deploy"


async def test_a_yes_stays_open_to_a_no_while_another_deployment_holds_the_environment(
    api: JobApi, site: Site
) -> None:
    async with api.database.connection() as connection:
        await deployments.create(connection, environment="staging", sha="e" * 40)
    site.environment(**ASKING)
    job = await order(api, site.commit())
    await api.decide(job.id, "approve")
    await api.work()
    assert await api.value(CONSUMED) is None
    assert await api.value(NO) is True


async def test_two_persons_are_asked_where_the_environment_wants_two(
    api: JobApi, site: Site
) -> None:
    site.environment(**{**ASKING, "approvals": 2})
    job = await order(api, site.commit())
    vote = "select jobsworth.resolve(%(id)s, 'approve', decided_by => %(who)s)"
    asked = await api.approval(job.id)
    for who in ("Ann", "Ann"):
        await api.rows(vote, id=asked.id, who=who)
        await api.work()
        assert (await api.job(job.id)).waiting_for is WaitReason.APPROVAL, "one person is not two"
        assert await api.value(BEGUN) == 0
    await api.rows(vote, id=asked.id, who="Bob")
    await api.work()
    job = await api.job(job.id)
    assert (job.status, (job.result or {})["status"]) == (JobStatus.DONE, "healthy")
