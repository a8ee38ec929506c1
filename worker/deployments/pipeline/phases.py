"""The phases of a deployment, and which one comes next.

Stage: between two phases of `pipeline.deploy`.
In: the results of the phases that have ended. Out: the next phase, or the deployment's end.
Invariant: `healthy` needs a passed probe of this deployment, `rolled_back` a passed rollback, a
passed probe after it, and no process left that could switch again; everything else is `failed`. A
rollback is tried once.

    export ─► build ─► test ─► switch ─► probe ─► healthy
      │         │        │        │        │
      └─────────┴────────┘        ├────────┴─► rollback ─► confirm ─► rolled_back, else failed
                ▼                 ▼
             failed            failed (nothing was changed, or there is no previous release)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from worker.deployments.pipeline.probe import ProbeResult

PhaseName = Literal["export", "build", "test", "switch", "probe", "rollback", "confirm"]
PhaseStatus = Literal["building", "testing", "deploying"]
EndStatus = Literal["healthy", "rolled_back", "failed"]
PHASES: dict[PhaseName, PhaseStatus] = {
    "export": "building",
    "build": "building",
    "test": "testing",
    "switch": "deploying",
    "probe": "deploying",
    "rollback": "deploying",
    "confirm": "deploying",
}
"""Each phase with the deployment's status while it runs, in order."""
AFTER: dict[PhaseName, PhaseName] = {
    "export": "build",
    "build": "test",
    "test": "switch",
    "switch": "probe",
}


@dataclass(frozen=True, slots=True)
class DeploymentEnd:
    """No phase is left; `status` is how the deployment ends."""

    status: EndStatus


class PhaseResult(BaseModel):
    """How a phase ended. It survives JSON unchanged, so it can be a step's output."""

    model_config = ConfigDict(frozen=True)

    name: PhaseName
    passed: bool
    detail: str
    """One line for people."""
    duration_seconds: float = 0.0
    exit_code: int | None = None
    timed_out: bool = False
    output: str = ""
    """The command's last output."""
    previous: str | None = None
    """Set by `export`: the absolute path of the release that was live before."""
    live_unchanged: bool = False
    """Set by a failed `switch` or `rollback` that certainly changed nothing."""
    left_running: bool = False
    """Set if a process of a failed command could not be ended: it may still change what is live."""
    probe: ProbeResult | None = None
    """Set by `probe` and `confirm`."""


def next_phase(results: Mapping[PhaseName, PhaseResult]) -> PhaseName | DeploymentEnd:
    if not results:
        return "export"
    last = results[max(results, key=list(PHASES).index)]
    match last.name:
        case "export" | "build" | "test":
            return AFTER[last.name] if last.passed else DeploymentEnd("failed")
        case "switch":
            return "probe" if last.passed else _go_back(results)
        case "probe":
            return DeploymentEnd("healthy") if last.passed else _go_back(results)
        case "rollback":
            return "confirm"  # also after a failed rollback: it shows the operator what is live
        case "confirm":
            ended = not any(result.left_running for result in results.values())
            came_back = last.passed and results["rollback"].passed and ended
            return DeploymentEnd("rolled_back" if came_back else "failed")


def _go_back(results: Mapping[PhaseName, PhaseResult]) -> PhaseName | DeploymentEnd:
    untouched = results["switch"].live_unchanged
    if untouched or results["export"].previous is None:
        return DeploymentEnd("failed")
    return "rollback"
