"""Does the symlink `current` on this machine say what the books say?

Stage: `jobsworth deployment list` and `jobsworth doctor`; never while deploying.
In: the states of the environments, the releases directory, this host's name. Out: one sentence for
each environment where the two differ.
Invariant: only what this machine can know: nothing about releases of other hosts, and nothing while
a deployment is under way.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from db.deployments.environments import EnvironmentState
from worker.deployments.pipeline.errors import DeployError
from worker.deployments.pipeline.release import current_release

LONG_AGO = datetime.min.replace(tzinfo=UTC)


def find_drift(states: Sequence[EnvironmentState], releases_dir: Path, host: str) -> dict[str, str]:
    """By environment. Of several teams' states, the one that changed last is compared: they share
    the directory."""
    found: dict[str, str] = {}
    for name in sorted({state.environment for state in states}):
        of_teams = [state for state in states if state.environment == name]
        newest = max(of_teams, key=lambda state: state.current_since or LONG_AGO)
        directory = releases_dir.absolute() / name
        if any(state.locked_by_deployment_id for state in of_teams) or not directory.is_dir():
            continue
        sentence = _difference(newest, directory, host)
        if sentence is not None:
            found[name] = sentence
    return found


def _difference(state: EnvironmentState, directory: Path, host: str) -> str | None:
    if state.current_host not in (None, host):
        return None
    try:
        live = current_release(directory)
    except (DeployError, OSError) as error:
        return f"`current` cannot be read: {error}"
    if state.current_deployment_id is None:
        return live and f"nothing is healthy by the books, but `current` points to {live.name}"
    if state.current_release in (None, str(live)):
        return None
    points = "points to nothing" if live is None else f"points to {live.name}"
    return f"{Path(state.current_release or '').name} is live by the books, but `current` {points}"
