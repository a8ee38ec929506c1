"""`job.deploy`: a deployment as durable steps of its job.

In: an environment's name and a commit. Out: the deployment's row as it ended. Each phase is a step,
so a deployment whose worker died goes on where it stood, and no recorded phase runs twice; the
rules for a phase that was begun and not recorded are in `worker.deploy.pipeline`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from db import deployments, steps
from db.deployments import Abandoned, Deployment, DeploymentStatus
from db.errors import Conflict, JobsworthError
from db.pool import Database
from db.steps import Step
from worker import deploy as engine
from worker import events
from worker import steps as recording
from worker.deploy.config import Environment
from worker.deploy.errors import DeployError, EnvironmentBusy
from worker.deploy.phases import EndStatus, PhaseName, PhaseResult, PhaseStatus
from worker.deploy.probe import ProbeResult
from worker.log import get_logger
from worker.outcomes import Fail, Parked, ParkSignal

if TYPE_CHECKING:
    from worker.context import Job

BUSY_SECONDS = 3.0
ABANDONED_BATCH = 100

log = get_logger()


class Deployer:
    """Ships for all jobs of this worker. The file is read anew for each deployment."""

    def __init__(
        self, database: Database, file: Path | None, releases_dir: Path, output_bytes_max: int
    ) -> None:
        self._database = database
        self._file = file
        self._releases_dir = releases_dir
        self._output_bytes_max = output_bytes_max

    async def deploy(self, job: "Job", environment_name: str, sha: str, key: str) -> Deployment:
        """Ship `sha`, or go on shipping it. A mistake in the order fails the job for good."""
        try:
            environment = self._environment(environment_name)
            full_sha = await job.step(
                f"{key}:sha",
                engine.resolve_sha,
                environment.repository,
                sha,
                self._releases_dir,
                any_input=True,  # the file may change while it ships
            )
            deployment = await self._open(job, environment, full_sha, key)
            if deployment.finished_at is None:
                deployment = await self._ship(job, environment, deployment, key)
            return deployment
        except (EnvironmentBusy, Conflict) as busy:
            # Somebody else ships there: look again in a while; no slot is held and no try burnt.
            parked = Parked("timer", busy.message, BUSY_SECONDS, tuple(job.effects))
            raise ParkSignal(parked) from busy
        except DeployError as error:
            raise Fail(str(error)) from error

    def _environment(self, name: str) -> Environment:
        if self._file is None:
            raise Fail(
                f"there is no deploy.toml, so no environment {name!r}"
                " (write one in the worker's folder, or set JOBSWORTH_DEPLOY_FILE)"
            )
        return engine.find_environment(engine.load_environments(self._file), name)

    async def _open(self, job: "Job", environment: Environment, sha: str, key: str) -> Deployment:
        async with self._database.connection() as connection:
            return await deployments.create(
                connection,
                environment=environment.name,
                sha=sha,
                repository=environment.repository,
                step_name=key,
                team_id=job.team_id,
                lease=job.lease,
            )

    async def _ship(
        self, job: "Job", environment: Environment, deployment: Deployment, key: str
    ) -> Deployment:
        recorder = _Recorder(job, self._database, deployment, key)
        report = await engine.deploy(
            environment,
            deployment.sha,
            recorder,
            deployment_id=deployment.id,
            releases_dir=self._releases_dir,
            output_bytes_max=self._output_bytes_max,
        )
        tell = log.info if report.status == "healthy" else log.error
        tell(
            events.DEPLOYMENT_ENDED,
            environment=environment.name,
            sha=deployment.sha,
            status=report.status,
            live=report.live,
        )
        async with self._database.connection() as connection:
            return await deployments.get_by_id(connection, deployment.id)


async def close_abandoned(database: Database) -> int:
    """End, as failed, the deployments whose jobs ended without them; returns how many.

    A job that was canceled in mid-deployment, or whose workers died once too often, leaves one
    behind: unfinished, it would keep its environment busy for ever.
    """
    async with database.transaction() as connection:
        found = await deployments.lock_abandoned(connection, ABANDONED_BATCH)
        for one in found:
            recorded = await steps.list_for_job(connection, one.job_id)
            await deployments.update_status(
                connection,
                one.id,
                DeploymentStatus.FAILED,
                report_text=_last_words(one, recorded),
            )
    for one in found:
        log.error(
            events.DEPLOYMENT_ENDED,
            environment=one.environment,
            sha=one.sha,
            status="failed",
            reason=f"its job is {one.job_status}",
        )
    return len(found)


def _last_words(one: Abandoned, recorded: list[Step]) -> str:
    """What is known: which phases ended, and whether anything that is live was touched."""
    prefix = f"{one.step_name}:"
    begun = {
        step.name.removeprefix(prefix): step
        for step in recorded
        if step.kind == "phase" and step.name.startswith(prefix)
    }
    ended = [PhaseResult.model_validate(s.output) for s in begun.values() if s.finished_at]
    reason = f": {one.job_error}" if one.job_error else ""
    untouched = "switch" not in begun
    return "\n".join(
        [
            f"Deployment of {one.sha[:12]} to {one.environment}: FAILED",
            *(f"  {r.name:<8} {'ok    ' if r.passed else 'FAILED'} {r.detail}" for r in ended),
            f"Its job ended as {one.job_status} while it was {one.status}{reason}",
            "Live now: as before, nothing was switched"
            if untouched
            else "Live now: UNKNOWN, look for yourself (the switch had begun)",
        ]
    )


@dataclass(frozen=True, slots=True)
class _Recorder:
    """The deployment's memory: its row and the job's steps, all fenced."""

    job: "Job"
    database: Database
    deployment: Deployment
    key: str

    async def phase(
        self, name: PhaseName, status: PhaseStatus, run: Callable[[], Awaitable[PhaseResult]]
    ) -> PhaseResult:
        """The recorded result of a phase, or run and record it."""
        step = f"{self.key}:{name}"
        found, output = await recording.read(self.job, step)
        if found:
            return PhaseResult.model_validate(output)
        await self._set_status(DeploymentStatus(status))
        result = await run()
        await recording.record(
            self.job, step, result.model_dump_json(), result.duration_seconds, kind="phase"
        )
        log.info(
            events.DEPLOYMENT_PHASE_ENDED,
            environment=self.deployment.environment,
            phase=name,
            passed=result.passed,
            detail=result.detail,
        )
        return result

    async def started(self, name: PhaseName) -> bool:
        """Commit that a phase is about to act; True if an earlier attempt had."""
        async with self.database.connection() as connection:
            fresh = await steps.begin(
                connection,
                self.job.lease,
                f"{self.key}:{name}",
                attempt=self.job.attempt,
                kind="phase",
                effect="unsafe",
            )
        return not fresh

    async def status(self, status: EndStatus, report_text: str, probe: ProbeResult | None) -> None:
        """End the deployment."""
        await self._set_status(DeploymentStatus(status), report_text, probe)

    async def _set_status(
        self,
        status: DeploymentStatus,
        report_text: str | None = None,
        probe: ProbeResult | None = None,
    ) -> None:
        async with self.database.connection() as connection:
            try:
                await deployments.update_status(
                    connection,
                    self.deployment.id,
                    status,
                    report_text=report_text,
                    probe=None if probe is None else probe.model_dump(mode="json"),
                    lease=self.job.lease,
                )
            except Conflict as error:
                raise JobsworthError(error.message, error.remedy) from error
