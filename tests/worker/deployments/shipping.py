"""What the tests of `job.deploy` share: a handler that deploys, commands, and what was recorded."""

from __future__ import annotations

from typing import LiteralString

from db.deployments import deployments
from db.deployments.deployments import Deployment
from db.queue import jobs
from jobsworth import Job
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.job_api import JobApi

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
