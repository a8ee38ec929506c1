"""Ship commits: export, build, test, switch, probe, and go back when that fails.

Read in this order: config → repository → release → commands → probe → phases → pipeline → report.
"""

from worker.deploy.config import Environment, find_environment, load_environments
from worker.deploy.errors import DeployConfigError, DeployError, EnvironmentBusy
from worker.deploy.phases import PHASES, EndStatus, PhaseName, PhaseResult, PhaseStatus
from worker.deploy.pipeline import Recorder, deploy
from worker.deploy.probe import ProbeResult
from worker.deploy.report import Report
from worker.deploy.repository import resolve_sha

__all__ = [
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
    "Recorder",
    "Report",
    "deploy",
    "find_environment",
    "load_environments",
    "resolve_sha",
]
