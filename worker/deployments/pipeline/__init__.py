"""Ship commits: export, build, test, switch, probe, and roll back when that fails.

Read in this order: config → repository → release → masking → commands → probe → phases → shipment
→ pipeline → report; and proposal, the question that a person answers first.
"""

from worker.deployments.pipeline.config import Environment, find_environment, load_environments
from worker.deployments.pipeline.errors import DeployConfigError, DeployError, EnvironmentBusy
from worker.deployments.pipeline.phases import (
    PHASES,
    EndStatus,
    PhaseName,
    PhaseResult,
    PhaseStatus,
)
from worker.deployments.pipeline.pipeline import deploy
from worker.deployments.pipeline.probe import ProbeResult
from worker.deployments.pipeline.proposal import Proposal, propose
from worker.deployments.pipeline.release import current_release, release_path
from worker.deployments.pipeline.report import ASKED_FOR, Report, gist
from worker.deployments.pipeline.repository import resolve_sha, without_password
from worker.deployments.pipeline.secret_variables import masker_of
from worker.deployments.pipeline.shipment import Recorder

__all__ = [
    "ASKED_FOR",
    "PHASES",
    "DeployConfigError",
    "DeployError",
    "EndStatus",
    "Environment",
    "EnvironmentBusy",
    "PhaseName",
    "PhaseResult",
    "PhaseStatus",
    "ProbeResult",
    "Proposal",
    "Recorder",
    "Report",
    "current_release",
    "deploy",
    "find_environment",
    "gist",
    "load_environments",
    "masker_of",
    "propose",
    "release_path",
    "resolve_sha",
    "without_password",
]
