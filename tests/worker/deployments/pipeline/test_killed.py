"""A daemon killed inside a phase: the next one ends the deployment truthfully, and neither a switch
nor a rollback command ever runs twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import LiteralString

import anyio
import pytest

from db.deployments import deployments
from db.deployments.deployments import Deployment
from tests.support import Workers
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.deployments.pipeline.support import git, is_gone, pid_in, until
from tests.worker.job_api import JobApi

# Every command of every phase is this. It writes down that it runs, and hangs the first time that
# the phase in the file `hang` comes.
COMMAND = """#!/bin/sh
cd "$(dirname "$0")/releases/staging" || exit 9
phase=$1
if [ "$phase" = probe ] && grep -q rollback log; then phase=confirm; fi
echo "$phase" >> log
if [ "$phase" = "$(cat hang)" ] && ! [ -e pid ]; then echo $$ > pid; exec sleep 600; fi
case $phase in
  export) exec cat ;;
  switch | rollback) ln -sfn "$2" current ;;
  probe | confirm) test "$(cat current/health)" = 200 ;;
esac
"""
FORWARD = ["export", "build", "test", "switch", "probe"]
ATTEMPTS: LiteralString = "select attempt, status::text from jobsworth.reactive_jobs"


@pytest.mark.parametrize(
    ("phase", "health", "status", "ran"),
    [
        ("export", 200, "healthy", ["export", *FORWARD]),
        # Once more on a fresh export, which no orphan writes into.
        ("build", 200, "healthy", ["export", "build", *FORWARD]),
        ("test", 200, "healthy", ["export", "build", "test", "test", "switch", "probe"]),
        # How far it got is unknown, so the rollback command restores the previous release.
        ("switch", 200, "rolled_back", [*FORWARD[:-1], "rollback", "confirm"]),
        ("probe", 200, "healthy", [*FORWARD, "probe"]),
        ("rollback", 500, "failed", [*FORWARD, "rollback", "confirm"]),
        ("confirm", 500, "rolled_back", [*FORWARD, "rollback", "confirm", "confirm"]),
    ],
)
async def test_a_daemon_killed_inside_a_phase_is_followed_by_one_that_ends_it_truthfully(
    api: JobApi,
    site: Site,
    workers: Workers,
    database_url: str,
    phase: str,
    health: int,
    status: str,
    ran: list[str],
) -> None:
    prepare(site)
    first = await ship(api, site.commit())
    (site.environment_dir / "log").write_text("")
    (site.environment_dir / "hang").write_text(phase)
    sha = site.commit(health=health)
    job_id = await api.enqueue("deploy", {"environment": "staging", "sha": sha})
    orphan = await killed_inside(site, workers, database_url)
    try:
        await api.rescue()
        await api.work()
        if phase != "export":
            assert is_gone(orphan), "its command does not go on beside the next one"
    finally:
        if not is_gone(orphan):
            os.kill(orphan, signal.SIGKILL)

    assert (site.environment_dir / "log").read_text().split() == ran
    job = await api.job(job_id)
    assert job.attempt == 2
    async with api.database.connection() as connection:
        deployment = await deployments.get_latest(connection, "staging")
    assert deployment is not None
    assert (deployment.status, deployment.sha) == (status, sha)
    if status == "healthy":
        assert (deployment.probe or {})["passed"] is True
        assert str(site.current()) == deployment.release
    elif status == "rolled_back":
        assert str(site.current()) == first.release
        assert "its probe passed" in (deployment.report_text or "")
    else:
        assert "how far it got is unknown" in (deployment.report_text or "")


def prepare(site: Site) -> None:
    """A site that counts all its commands, checkouts included."""
    script = site.directory / "command"
    script.write_text(COMMAND)
    script.chmod(0o755)
    site.environment_dir.mkdir(parents=True)
    (site.environment_dir / "log").touch()
    (site.environment_dir / "hang").touch()
    command = str(script)
    site.environment(
        build=[command, "build"],
        test=[command, "test"],
        switch=[command, "switch", "{release}"],
        rollback=[command, "rollback", "{previous}"],
    )
    file = site.directory / "deploy.toml"
    probe = f'command = ["{command}", "probe"]'
    text = file.read_text().replace(f'url = "{site.url}/health"', probe)
    file.write_text(text.replace("attempts = 2", "attempts = 1"))
    git(site.repository, "config", "filter.counted.smudge", f"{command} export")
    (site.repository / ".gitattributes").write_text("health filter=counted\n")


async def ship(api: JobApi, sha: str) -> Deployment:
    job = await api.run("deploy", {"environment": "staging", "sha": sha})
    return Deployment.model_validate(job.result)


async def killed_inside(site: Site, workers: Workers, url: str) -> int:
    """The process id of the command that the killed daemon left."""
    worker = workers.start(
        url,
        {
            "JOBSWORTH_DEPLOY_FILE": str(site.directory / "deploy.toml"),
            "JOBSWORTH_RELEASES_DIR": str(site.releases),
        },
    )
    pid_file: Path = site.environment_dir / "pid"
    await until(pid_in(pid_file))
    await anyio.to_thread.run_sync(worker.kill)
    orphan = int(await anyio.Path(pid_file).read_text())
    assert not is_gone(orphan)
    return orphan
