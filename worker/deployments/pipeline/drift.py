"""Compare the symlink `current` on this machine with the database.

Stage: `jobsworth deployment list` and `jobsworth doctor`; never while deploying.
In: the states of the environments, the releases directory, this host's name. Out: one sentence for
each environment where the two differ.
Invariant: it reports only what this machine can know: nothing about releases on other hosts, and
nothing while a deployment runs.
"""

from collections.abc import Sequence
from pathlib import Path

from db.deployments.environments import EnvironmentState
from worker.deployments.pipeline.errors import DeployError
from worker.deployments.pipeline.release import current_release


def find_drift(states: Sequence[EnvironmentState], releases_dir: Path, host: str) -> dict[str, str]:
    """One sentence for each environment that differs, by its name."""
    found: dict[str, str] = {}
    for state in states:
        directory = releases_dir.absolute() / state.environment
        if state.locked_by_deployment_id or not directory.is_dir():
            continue
        sentence = _difference(state, directory, host)
        if sentence is not None:
            found[state.environment] = sentence
    return found


def _difference(state: EnvironmentState, directory: Path, host: str) -> str | None:
    if state.current_host not in (None, host):
        return None
    try:
        live = current_release(directory)
    except (DeployError, OSError) as error:
        return f"`current` cannot be read: {error}"
    if state.current_deployment_id is None:
        return (
            live and f"the database has no healthy deployment, but `current` points to {live.name}"
        )
    if state.current_release in (None, str(live)):
        return None
    points = "points to nothing" if live is None else f"points to {live.name}"
    recorded = Path(state.current_release or "").name
    return f"{recorded} is live according to the database, but `current` {points}"
