"""`jobsworth deployment`: ship a commit, go back, look at what was shipped.

In: an environment, and a commit or where to go back to. Out: a job of the mode `deploy`, followed
to its end if asked; or the deployments so far, with what is live and whether this machine agrees.
Where this machine has the deploy.toml, an environment that is not in it is refused before a job is
made.
"""

import socket
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import click
from rich.text import Text

from db.deployments import deployments, environments
from db.deployments.deployments import Deployment
from db.deployments.environments import MODE, PREVIOUS, EnvironmentState, RollbackTarget
from db.errors import InvalidInput, shown
from db.pool import Connection
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.enqueue import enqueue_job
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import (
    Column,
    compact_json,
    emit,
    emit_facts,
    emit_json,
    emit_table,
    say,
    styled,
)
from worker.cli.terminal.times import age, ago
from worker.cli.views.drift import say_drift
from worker.deployments.pipeline import find_environment, gist, load_environments
from worker.deployments.pipeline.drift import find_drift
from worker.settings import load_settings

# Ids of older deployments are given whole.
NAME_CHARACTERS_MAX = 200
FOUND_AMONG = 1000

deployment = Noun("deployment", "Deployments: commits shipped to environments.")


@deployment.verb("list", "jobsworth deployment --environment staging")
@options.environment_filter
@options.limit(20)
@options.as_json
def list_deployments(environment: str | None, limit: int, as_json: bool) -> None:
    """List deployments, newest first."""

    async def work(conn: Connection) -> tuple[list[Deployment], list[EnvironmentState]]:
        found = await deployments.get_recent(conn, environment, limit)
        return found, await environments.list_states(conn, environment)

    settings = load_settings()
    found, states = run_in_database(work, settings)
    drift = find_drift(states, settings.releases_dir, socket.gethostname())
    live = {state.current_deployment_id for state in states}
    if as_json:
        emit_json([_document(each, live, drift) for each in found])
        return
    now = datetime.now(UTC)
    short = ids.short_ids(each.id for each in found)
    short_job = ids.short_ids(each.job_id for each in found if each.job_id)
    columns = [
        Column("ID"),
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
            short(each.id),
            each.environment,
            each.sha[:12],
            "live" if each.id in live else "",
            styled(each.status),
            age(each.created_at, now),
            short_job(each.job_id) if each.job_id else "",
            gist(each.report_text),
        ]
        for each in found
    ]
    emit_table(columns, rows, "no deployments yet")
    say_drift(drift)


@deployment.verb("show", "jobsworth deployment show 0123456789ab")
@click.argument(
    "deployment",
    metavar="ID",
    help="The deployment's id, or at least 6 digits of its beginning or end.",
)
@options.as_json
def show_deployment(deployment: str, as_json: bool) -> None:
    """Show a deployment with its report and its probe."""
    typed = ids.typed(deployment, "deployment")

    async def work(conn: Connection) -> Deployment:
        if len(typed.digits) == ids.UUID_DIGITS:
            return await deployments.get_by_id(conn, typed.lowest)
        recent = await deployments.get_recent(conn, limit=FOUND_AMONG)
        known = [each.id for each in recent]
        found = ids.find_among(typed, known, "jobsworth deployment list")
        return next(each for each in recent if each.id == found)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        _emit(found)


@deployment.verb("start", "jobsworth deployment start staging main --wait")
@options.environment_name
@click.argument("commit", metavar="COMMIT", help="The commit: a SHA, a branch or a tag.")
@options.wait("healthy")
@options.as_json
def start(environment: str, commit: str, wait: bool, as_json: bool) -> ExitCode:
    """Enqueue a job that deploys a commit, and print the job's id."""
    _check(ENVIRONMENT=environment, COMMIT=commit)
    document = {"environment": environment, "sha": commit}
    return enqueue_job(MODE, document, {}, wait=wait, as_json=as_json, readable=_report)


@deployment.verb("rollback", "jobsworth deployment rollback staging --wait")
@options.environment_name
@click.option(
    "--to",
    metavar="ID|SHA",
    default=PREVIOUS,
    help="A deployment's id, or its commit.",
)
@options.wait("healthy")
@options.as_json
def rollback(environment: str, to: str, wait: bool, as_json: bool) -> ExitCode:
    """Enqueue a job that goes back to what was healthy before, and print the job's id.

    Without anything to go back to, no job is made.
    """
    _check(ENVIRONMENT=environment, **{"--to": to})

    async def work(conn: Connection) -> RollbackTarget:
        return await environments.find_rollback(conn, environment, to)

    found = run_in_database(work)
    say(f"{environment}: from {found.live.sha[:12]} back to {found.target.sha[:12]}")
    document = {"environment": environment, "rollback_to": str(found.target.id)}
    return enqueue_job(MODE, document, {}, wait=wait, as_json=as_json, readable=_report)


def _check(**names: str) -> None:
    file = load_settings().deploy_file
    if file is not None:
        find_environment(load_environments(file), names["ENVIRONMENT"])
    for name, value in names.items():
        odd = value.startswith("-") or not value.isprintable() or len(value) > NAME_CHARACTERS_MAX
        if odd or not value.strip():
            raise InvalidInput(f"{name} {shown(value)} is not a name", "like: staging 4f2a91c")


def _report(result: Any) -> str | None:
    """The report of the deployment that a job of the mode `deploy` returned."""
    document = cast("dict[str, Any]", result) if isinstance(result, dict) else {}
    return document.get("report_text")


def _emit(found: Deployment) -> None:
    now = datetime.now(UTC)
    emit(Text.assemble((f"deployment {found.id}", "bold"), "  ", styled(found.status)))
    emit_facts(
        [
            ("environment", found.environment),
            ("commit", found.sha + (f", {found.branch}" if found.branch else "")),
            ("started", ago(found.created_at, now)),
            ("finished", found.finished_at and ago(found.finished_at, now)),
            ("job", found.job_id and str(found.job_id)),
            ("release", found.release and f"{found.release} on {found.host}"),
            ("goes back to", found.rollback_to and str(found.rollback_to)),
            ("probe", None if found.probe is None else compact_json(found.probe)),
            ("report", found.report_text),
        ]
    )


def _document(
    deployment: Deployment, live: set[UUID | None], drift: dict[str, str]
) -> dict[str, object]:
    is_current = deployment.id in live
    document = {**deployment.model_dump(mode="json"), "is_current": is_current}
    return {**document, "drift": drift.get(deployment.environment) if is_current else None}
