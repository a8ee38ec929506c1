"""The phases of a deployment, and which one comes next.

Stage: between two phases of `pipeline.deploy`.
In: the results of the phases that have ended. Out: the next phase, or how the deployment ends.
Invariant: `healthy` needs a passed probe of this very deployment, `rolled_back` a passed rollback
*and* a passed probe after it; everything else is `failed`. A rollback is tried once.

    export ─► build ─► test ─► switch ─► probe ─► healthy
      │         │        │        │        │
      └─────────┴────────┘        ├────────┴─► rollback ─► confirm ─► rolled_back, else failed
                ▼                 ▼
             failed            failed (nothing was changed, or there is nothing to go back to)
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
class Ending:
    status: EndStatus


class PhaseResult(BaseModel):
    """How a phase ended; goes through JSON and back unchanged, so it can be a step's output."""

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
    """Of `export`: the release that was live before, an absolute path."""
    live_unchanged: bool = False
    """Of a failed `switch` or `rollback`: it is certain that it changed nothing."""
    probe: ProbeResult | None = None
    """Of `probe` and `confirm`."""


def next_phase(results: Mapping[PhaseName, PhaseResult]) -> PhaseName | Ending:
    if not results:
        return "export"
    last = results[max(results, key=list(PHASES).index)]
    match last.name:
        case "export" | "build" | "test":
            return AFTER[last.name] if last.passed else Ending("failed")
        case "switch":
            return "probe" if last.passed else _go_back(results)
        case "probe":
            return Ending("healthy") if last.passed else _go_back(results)
        case "rollback":
            return "confirm"  # after a failed one too: it tells the operator what is live
        case "confirm":
            came_back = last.passed and results["rollback"].passed
            return Ending("rolled_back" if came_back else "failed")


def _go_back(results: Mapping[PhaseName, PhaseResult]) -> PhaseName | Ending:
    untouched = results["switch"].live_unchanged
    if untouched or results["export"].previous is None:
        return Ending("failed")
    return "rollback"
