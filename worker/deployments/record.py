"""What a deployment leaves behind: its steps, its row and its logs; and the end of one left alone.

In: how each phase ended. Out: a step, a log (an artifact of the job) and the row's status, each
committed at once under the job's lease. A deployment whose job has ended, or does not go on, is
ended here as failed, with what is known of it.

Invariant: an environment is held only by a deployment that somebody goes on with, or will soon.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.deployments import abandoned, deployments, environments
from db.deployments.abandoned import Abandoned
from db.deployments.deployments import Deployment, DeploymentStatus
from db.errors import Conflict, JobsworthError
from db.pool import Connection, Database
from db.steps import artifacts, steps
from db.steps.steps import Step
from worker import events
from worker.deployments.pipeline.phases import EndStatus, PhaseName, PhaseResult, PhaseStatus
from worker.deployments.pipeline.probe import ProbeResult
from worker.log import get_logger
from worker.steps import steps as recording

if TYPE_CHECKING:
    from worker.job import Job

ABANDONED_BATCH = 100
IDLE_SECONDS_MAX = 600.0
"""How long a deployment's job may not run (it waits, or no worker takes it) before its environment
is given free. Rescue after a crash takes a fiftieth of it."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """The deployment's memory: its row and the job's steps and artifacts, all fenced."""

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
        await self._keep_log(result)
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
        """End the deployment; whoever waits for its environment longest is next."""
        await self._set_status(DeploymentStatus(status), report_text, probe)
        await _free(self.database, self.deployment)

    async def _keep_log(self, result: PhaseResult) -> None:
        if not result.output:
            return
        async with self.database.connection() as connection:
            await artifacts.keep_log(
                connection,
                self.job.lease,
                f"deployment:{self.deployment.id}:{result.name}",
                f"deploy/{self.deployment.environment}/{result.name}.log",
                result.output,
            )

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


async def close_abandoned(database: Database) -> int:
    """End, as failed, the deployments whose jobs ended without them; returns how many.

    A job that was canceled in mid-deployment, or whose workers died once too often, leaves one
    behind: unfinished, it would keep its environment busy for ever.
    """
    async with database.transaction() as connection:
        found = await abandoned.lock_ended(connection, ABANDONED_BATCH)
        why = "Its job ended as {status} while it was {at}{because}"
        closed = await _close(connection, found, why)
    await _free(database, *closed)
    return len(closed)


async def close_idle(database: Database, idle_seconds: float = IDLE_SECONDS_MAX) -> int:
    """The same for jobs that have not ended but do not run: they wait for a person, a budget, a
    worker that never comes. A deployment is short; what holds an environment must be under way.
    """
    async with database.connection() as connection:
        if not await abandoned.mark_idle(connection):
            return 0
    async with database.transaction() as connection:
        found = await abandoned.lock_idle(connection, idle_seconds, ABANDONED_BATCH)
        why = (
            f"Its job was {{status}} for more than {idle_seconds:g} s while it was {{at}}, so its"
            " environment was given free"
        )
        closed = await _close(connection, found, why)
    await _free(database, *closed)
    return len(closed)


async def _free(database: Database, *ended: Deployment | Abandoned) -> None:
    """After the commit that ended them. A crash right before this is the sweep's."""
    if not ended:
        return
    async with database.connection() as connection:
        for one in ended:
            await environments.wake_next(connection, one.environment, team_id=one.team_id)


async def _close(connection: Connection, found: list[Abandoned], why: str) -> list[Abandoned]:
    closed: list[Abandoned] = []
    for one in found:
        recorded = await steps.list_for_job(connection, one.job_id)
        if not await abandoned.close(connection, one.id, _last_words(one, recorded, why)):
            continue
        closed.append(one)
        log.error(
            events.DEPLOYMENT_ENDED,
            environment=one.environment,
            sha=one.sha,
            status="failed",
            reason=f"its job is {_standing(one)}",
        )
    return closed


def _standing(one: Abandoned) -> str:
    return f"waiting for {one.waiting_for}" if one.waiting_for else one.job_status


def _last_words(one: Abandoned, recorded: list[Step], why: str) -> str:
    """What is known: which phases ended, and whether anything that is live was touched."""
    prefix = f"{one.step_name}:"
    begun = {
        step.name.removeprefix(prefix): step
        for step in recorded
        if step.kind == "phase" and step.name.startswith(prefix)
    }
    ended = [
        PhaseResult.model_validate(step.output)
        for name, step in begun.items()
        if step.finished_at and name != "plan"
    ]
    untouched = "switch" not in begun
    because = f": {one.job_error}" if one.job_error else ""
    return "\n".join(
        [
            f"Deployment of {one.sha[:12]} to {one.environment}: FAILED",
            *(f"  {r.name:<8} {'ok    ' if r.passed else 'FAILED'} {r.detail}" for r in ended),
            why.format(status=_standing(one), at=one.status, because=because),
            "Live now: as before, nothing was switched"
            if untouched
            else "Live now: UNKNOWN, check the environment (the switch had begun)",
        ]
    )
