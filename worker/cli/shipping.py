"""`jobsworth deploy, deployments`: ship a commit, and see what was shipped.

In: an environment and a commit. Out: a job that deploys it (mode `deploy`), followed to its end if
asked; or the deployments so far. Where this machine has the deploy.toml, an environment that is not
in it is refused before a job is made.
"""

from datetime import UTC, datetime

from db import deployments
from db.deployments import Deployment
from db.errors import InvalidInput
from db.pool import Connection
from worker.cli import ids
from worker.cli.database import run_in_database
from worker.cli.enqueue import enqueue_document
from worker.cli.exit_codes import ExitCode
from worker.cli.output import Column, emit_json, emit_table, styled
from worker.cli.times import age
from worker.deploy import find_environment, load_environments
from worker.settings import load_settings

MODE = "deploy"


def deploy(environment: str, sha: str, *, wait: bool, as_json: bool) -> ExitCode:
    file = load_settings().deploy_file
    if file is not None:
        find_environment(load_environments(file), environment)
    for name, value in (("ENVIRONMENT", environment), ("SHA", sha)):
        if not value.strip() or value.startswith("-"):
            raise InvalidInput(f"{name} {value!r} is not a name", "like: staging 4f2a91c")
    document = {"environment": environment, "sha": sha}
    return enqueue_document(MODE, document, {}, wait=wait, as_json=as_json)


def list_deployments(*, environment: str | None, limit: int, as_json: bool) -> None:
    async def work(conn: Connection) -> list[Deployment]:
        return await deployments.get_recent(conn, environment, limit)

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    short = ids.short_ids(each.job_id for each in found if each.job_id)
    columns = [
        Column("ENVIRONMENT", flexible=True),
        Column("COMMIT"),
        Column("STATUS"),
        Column("AGE", right=True),
        Column("JOB", optional=True),
        Column("REPORT", flexible=True),
    ]
    rows = [
        [
            each.environment,
            each.sha[:12],
            styled(each.status),
            age(each.created_at, now),
            short(each.job_id) if each.job_id else "",
            each.report_text,
        ]
        for each in found
    ]
    emit_table(columns, rows, "no deployments")
