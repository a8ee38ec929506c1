"""`jobsworth deploy, rollback, deployments, environments`: ship a commit, go back, look.

In: an environment, and a commit or where to go back to. Out: a job that does it (mode `deploy`),
followed to its end if asked; or the deployments so far, with what is live, and whether this machine
says so too. Where it has the deploy.toml, an environment that is not in it is refused before a job
is made.
"""

import socket
from datetime import UTC, datetime
from uuid import UUID

from db.deployments import deployments, environments
from db.deployments.deployments import Deployment
from db.deployments.environments import EnvironmentState, RollbackTarget
from db.errors import InvalidInput
from db.pool import Connection
from worker.cli import ids
from worker.cli.database import run_in_database
from worker.cli.enqueue import enqueue_document
from worker.cli.exit_codes import ExitCode
from worker.cli.output import Column, emit_json, emit_table, say, styled
from worker.cli.times import age
from worker.deployments.pipeline import find_environment, gist, load_environments
from worker.deployments.pipeline.drift import find_drift
from worker.settings import load_settings

MODE = "deploy"


def deploy(environment: str, sha: str, *, wait: bool, as_json: bool) -> ExitCode:
    _check(ENVIRONMENT=environment, SHA=sha)
    document = {"environment": environment, "sha": sha}
    return enqueue_document(MODE, document, {}, wait=wait, as_json=as_json)


def roll_back(environment: str, to: str, *, wait: bool, as_json: bool) -> ExitCode:
    """Refused before a job is made if there is nothing to go back to."""
    _check(ENVIRONMENT=environment, TO=to)

    async def work(conn: Connection) -> RollbackTarget:
        return await environments.find_rollback(conn, environment, to)

    found = run_in_database(load_settings(), work)
    say(f"{environment}: from {found.live.sha[:12]} back to {found.target.sha[:12]}")
    document = {"environment": environment, "rollback_to": str(found.target.id)}
    return enqueue_document(MODE, document, {}, wait=wait, as_json=as_json)


def _check(**names: str) -> None:
    file = load_settings().deploy_file
    if file is not None:
        find_environment(load_environments(file), names["ENVIRONMENT"])
    for name, value in names.items():
        if not value.strip() or value.startswith("-"):
            raise InvalidInput(f"{name} {value!r} is not a name", "like: staging 4f2a91c")


def list_deployments(*, environment: str | None, limit: int, as_json: bool) -> None:
    async def work(conn: Connection) -> tuple[list[Deployment], list[EnvironmentState]]:
        found = await deployments.get_recent(conn, environment, limit)
        return found, await environments.list_states(conn, environment)

    settings = load_settings()
    found, states = run_in_database(settings, work)
    drift = find_drift(states, settings.releases_dir, socket.gethostname())
    live = {state.current_deployment_id for state in states}
    if as_json:
        emit_json([_document(each, live, drift) for each in found])
        return
    now = datetime.now(UTC)
    short = ids.short_ids(each.job_id for each in found if each.job_id)
    columns = [
        Column("ENVIRONMENT", flexible=True),
        Column("COMMIT"),
        Column("LIVE"),
        Column("STATUS"),
        Column("AGE", right=True),
        Column("JOB", optional=True),
        Column("WHAT HAPPENED", flexible=True),
    ]
    rows = [
        [
            each.environment,
            each.sha[:12],
            "live" if each.id in live else "",
            styled(each.status),
            age(each.created_at, now),
            short(each.job_id) if each.job_id else "",
            gist(each.report_text),
        ]
        for each in found
    ]
    emit_table(columns, rows, "no deployments")
    _say_drift(drift)


def list_environments(*, as_json: bool) -> None:
    """What is live where, since when, and who holds it."""
    settings = load_settings()
    states = run_in_database(settings, environments.list_states)
    drift = find_drift(states, settings.releases_dir, socket.gethostname())
    if as_json:
        emit_json(
            [{**s.model_dump(mode="json"), "drift": drift.get(s.environment)} for s in states]
        )
        return
    now = datetime.now(UTC)
    columns = [
        Column("ENVIRONMENT", flexible=True),
        Column("LIVE"),
        Column("SINCE", right=True),
        Column("HOST", flexible=True),
        Column("APPROVALS", right=True),
        Column("HELD BY", flexible=True),
    ]
    rows = [
        [
            state.environment,
            (state.current_sha or "")[:12],
            age(state.current_since, now) if state.current_since else "",
            state.current_host,
            None if state.approvals_needed is None else str(state.approvals_needed),
            _holder(state, now),
        ]
        for state in states
    ]
    emit_table(columns, rows, "no environments: nothing was deployed yet")
    _say_drift(drift)


def _holder(state: EnvironmentState, now: datetime) -> str:
    if state.locked_since is None:
        return ""
    holder = f"job {state.locked_by_job_id}" if state.locked_by_job_id else "a person, by hand"
    return f"{holder}, for {age(state.locked_since, now)}"


def _say_drift(drift: dict[str, str]) -> None:
    for name, difference in drift.items():
        say(f"note: {name}: {difference}\n  → look what runs there; then deploy, or roll back")


def _document(
    deployment: Deployment, live: set[UUID | None], drift: dict[str, str]
) -> dict[str, object]:
    is_current = deployment.id in live
    document = {**deployment.model_dump(mode="json"), "is_current": is_current}
    return {**document, "drift": drift.get(deployment.environment) if is_current else None}
