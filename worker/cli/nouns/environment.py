"""`jobsworth environment list`: what is live where.

In: nothing. Out: each environment that was deployed to, with its live commit, its holder, and
whether this machine agrees.
"""

import socket
from datetime import UTC, datetime

from db.deployments import environments
from db.deployments.environments import EnvironmentState
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit_json, emit_table
from worker.cli.terminal.times import age
from worker.cli.views.drift import say_drift
from worker.deployments.pipeline.drift import find_drift
from worker.settings import load_settings

environment = Noun("environment", "Environments: where commits are deployed to.")


@environment.verb("list", "jobsworth environment")
@options.as_json
def list_environments(as_json: bool) -> None:
    """List environments: what is live in each, since when, and who holds it."""
    settings = load_settings()
    states = run_in_database(environments.list_states, settings)
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
    emit_table(columns, rows, "no environments yet: nothing was deployed")
    say_drift(drift)


def _holder(state: EnvironmentState, now: datetime) -> str:
    if state.locked_since is None:
        return ""
    holder = f"job {state.locked_by_job_id}" if state.locked_by_job_id else "a person, by hand"
    return f"{holder}, for {age(state.locked_since, now)}"
