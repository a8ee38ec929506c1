"""`jobsworth environment list`: what is live where.

In: nothing. Out: each environment that was deployed to, with its live commit, its holder, and
whether this machine agrees; and those of this folder's deploy.toml to which nothing was deployed.
"""

import socket
from datetime import UTC, datetime
from pathlib import Path

from db.deployments import environments
from db.deployments.environments import EnvironmentState
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit_json, emit_table, say
from worker.cli.terminal.times import age
from worker.cli.views.drift import say_drift
from worker.deployments.pipeline import DeployConfigError, load_environments
from worker.deployments.pipeline.drift import find_drift
from worker.settings import load_settings

environment = Noun("environment", "Environments: where commits are deployed to.")


@environment.verb("list", "jobsworth environment")
@options.as_json
def list_environments(as_json: bool) -> None:
    """List environments: what is live in each, since when, and who holds it."""
    settings = load_settings()
    states = run_in_database(environments.list_states, settings)
    states += _undeployed(settings.deploy_file, {state.environment for state in states})
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
        Column("TEAM", optional=True),
        Column("APPROVALS", right=True),
        Column("HELD BY", flexible=True),
    ]
    rows = [
        [
            state.environment,
            (state.current_sha or "nothing")[:12],
            age(state.current_since, now) if state.current_since else "",
            state.current_host,
            str(state.current_team_id or ""),
            None if state.approvals_needed is None else str(state.approvals_needed),
            _holder(state, now),
        ]
        for state in states
    ]
    emit_table(columns, rows, "no environments yet: write a deploy.toml (examples/deploy.toml)")
    say_drift(drift)


def _undeployed(file: Path | None, deployed: set[str]) -> list[EnvironmentState]:
    """The environments of deploy.toml that have no row yet; none if the file cannot be read."""
    if file is None:
        return []
    try:
        known = load_environments(file)
    except DeployConfigError as error:
        say(f"note: {error.message}\n  → {error.remedy}")
        return []
    return [
        EnvironmentState.model_validate(
            dict.fromkeys(EnvironmentState.model_fields)
            | {"environment": name, "approvals_needed": environment.approvals}
        )
        for name, environment in known.items()
        if name not in deployed
    ]


def _holder(state: EnvironmentState, now: datetime) -> str:
    if state.locked_since is None:
        return ""
    holder = f"job {state.locked_by_job_id}" if state.locked_by_job_id else "a person, by hand"
    return f"{holder}, for {age(state.locked_since, now)}"
