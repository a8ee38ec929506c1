"""What the phases of one deployment share: its release, directory, variables and recorder.

Stage: made by `pipeline.deploy`, passed to each phase.
In: an environment, a commit, the path of its release. Out: commands run and files exported there.
Invariant: commands see the secrets; their stored output does not show them.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker.deployments.pipeline.commands import CommandResult, command_environment, run_command
from worker.deployments.pipeline.config import Argv, Environment, fill_placeholders
from worker.deployments.pipeline.errors import DeployError
from worker.deployments.pipeline.orphans import mark_command
from worker.deployments.pipeline.phases import EndStatus, PhaseName, PhaseResult, PhaseStatus
from worker.deployments.pipeline.probe import ProbeResult
from worker.deployments.pipeline.release import current_release, export, prune
from worker.deployments.pipeline.repository import resolve_sha
from worker.masking import Masker


class Recorder(Protocol):
    """Records the phases of a deployment durably, so that another worker can resume it.

    Each method may raise (the lease is lost, the database is unavailable): the deployment then
    stops, and a later `deploy` with the same records resumes it.
    """

    async def phase(
        self, name: PhaseName, status: PhaseStatus, run: Callable[[], Awaitable[PhaseResult]]
    ) -> PhaseResult:
        """Return the recorded result of the phase, or run it and record its result.

        Sets the deployment's status before `run`. A failed result is recorded too, an exception is
        not. Committed on return.
        """
        ...

    async def started(self, name: PhaseName) -> bool:
        """Commit that the phase is about to act; true if that had been committed before.

        The `run` of `build`, `switch` and `rollback` calls it.
        """
        ...

    def canceled(self) -> bool:
        """Whether this deployment is being stopped because a person has canceled its job."""
        ...

    async def status(self, status: EndStatus, report_text: str, probe: ProbeResult | None) -> None:
        """End the deployment. To repeat it with the same status after a crash is no error."""
        ...


@dataclass(frozen=True, slots=True)
class Shipment:
    environment: Environment
    sha: str
    record: Recorder
    release: Path
    is_built: bool
    environment_dir: Path
    output_bytes_max: int
    secrets: Mapping[str, str]
    masker: Masker

    @property
    def subject(self) -> str:
        return f"{self.sha[:12]} to {self.environment.name}"

    def live(self) -> str | None:
        """Where `current` points to; None if it points to nothing, or cannot be read."""
        try:
            current = current_release(self.environment_dir)
        except (DeployError, OSError):
            return None
        return None if current is None else str(current)

    def live_is_readable(self) -> bool:
        """Whether `live` is what `current` says."""
        try:
            current_release(self.environment_dir)
        except (DeployError, OSError):
            return False
        return True

    async def export(self) -> None:
        await export(
            self.environment.repository,
            self.sha,
            self.release,
            self.environment_dir.parent,
            timeout_seconds=self.environment.timeouts.export_seconds,
        )

    async def sha_of(self, release: Path) -> str:
        """The sha that a release was made of; if it cannot be found any more, its beginning."""
        beginning = release.name.partition("-")[0]
        try:
            return await resolve_sha(
                self.environment.repository,
                beginning,
                self.environment_dir.parent,
                timeout_seconds=self.environment.timeouts.export_seconds,
            )
        except DeployError:
            return beginning

    async def run(
        self, name: PhaseName, argv: Argv, previous: str | None, timeout_seconds: float
    ) -> PhaseResult:
        result = await run_command(
            fill_placeholders(argv, self.placeholders(previous)),
            cwd=self.release,
            env=self.variables(previous),
            timeout_seconds=timeout_seconds,
            output_bytes_max=self.output_bytes_max,
            mark=mark_command(self.environment_dir),
            masker=self.masker,
            leaves_running=name in ("switch", "rollback"),
        )
        return _of_command(name, result)

    def placeholders(self, previous: str | None) -> dict[str, str]:
        return {
            "sha": self.sha,
            "release": str(self.release),
            "previous": previous or "",
            "environment": self.environment.name,
        }

    def variables(self, previous: str | None) -> dict[str, str]:
        ours = {
            f"JOBSWORTH_DEPLOY_{name.upper()}": value
            for name, value in self.placeholders(previous).items()
        }
        return command_environment(os.environ, self.environment.environment, self.secrets, ours)

    async def prune(self, results: Mapping[PhaseName, PhaseResult]) -> list[str]:
        """Remove old releases; return a note for the report if that failed."""
        previous = results["export"].previous
        protected = {self.release, *([] if previous is None else [Path(previous)])}
        try:
            await prune(self.environment_dir, self.environment.releases_keep, protected)
        except (OSError, DeployError) as error:
            return [f"Old releases could not be removed: {error}"]
        return []


def _of_command(name: PhaseName, result: CommandResult) -> PhaseResult:
    return PhaseResult(
        name=name,
        passed=result.passed,
        detail=result.detail,
        duration_seconds=result.duration_seconds,
        exit_code=result.exit_code,
        timed_out=result.timed_out,
        output=result.output,
        left_running=bool(result.left_running),
    )
