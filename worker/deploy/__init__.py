"""Ship commits: export, build, test, switch, probe, and go back when that fails.

Read in this order: config → repository → release → masking → commands → probe → phases → shipment
→ pipeline → report; and proposal, which is what a person is asked before.
"""

from worker.deploy.config import Environment, find_environment, load_environments
from worker.deploy.errors import DeployConfigError, DeployError, EnvironmentBusy
from worker.deploy.phases import PHASES, EndStatus, PhaseName, PhaseResult, PhaseStatus
from worker.deploy.pipeline import deploy
from worker.deploy.probe import ProbeResult
from worker.deploy.proposal import Proposal, propose
from worker.deploy.release import current_release, release_path
from worker.deploy.report import ASKED_FOR, Report, gist
from worker.deploy.repository import resolve_sha, without_password
from worker.deploy.secret_variables import masker_of
from worker.deploy.shipment import Recorder

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
