"""What a deployment records: its steps, its row and its logs; and how an abandoned one is closed.

In: how each phase ended. Out: a step, a log (an artifact of the job) and the row's status, each
committed at once under the job's lease. A deployment whose job has ended, or no longer runs, is
closed here as failed, with a report of what is known.

Invariant: a deployment that nobody goes on with gives its environment free, after
`IDLE_SECONDS_MAX` at the latest.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from db.deployments import abandoned, deployments, environments
from db.deployments.abandoned import Abandoned
from db.deployments.deployments import Deployment, DeploymentStatus
from db.errors import Conflict, JobsworthError
from db.pool import Connection, Database
from db.steps import artifacts, steps
from db.steps.steps import Step
from worker import events
from worker.attempt_state import AttemptState
from worker.deployments.pipeline.phases import EndStatus, PhaseName, PhaseResult, PhaseStatus
from worker.deployments.pipeline.probe import ProbeResult
from worker.log import get_logger
from worker.outcomes import Canceled
from worker.steps import steps as recording
from worker.tracing import conventions
from worker.tracing.spans import within

ABANDONED_BATCH = 100
IDLE_SECONDS_MAX = 600.0
"""How long the job of a deployment may stand still (it waits, or no worker takes it) before its
environment is given free. Rescue after a crash takes a fiftieth of that."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """Records one deployment: in its row, and in the job's steps and artifacts; all fenced."""

    state: AttemptState
    database: Database
    deployment: Deployment
    key: str

    async def phase(
        self, name: PhaseName, status: PhaseStatus, run: Callable[[], Awaitable[PhaseResult]]
    ) -> PhaseResult:
        """The recorded result of a phase; else run the phase, and record its result."""
        step = f"{self.key}:{name}"
        recorded = await recording.find(self.state, step)
        if recorded is not None:
            return PhaseResult.model_validate(recorded.output)
        await self._set_status(DeploymentStatus(status))
        described = conventions.phase(self.deployment.environment, name)
        with within(self.state.tools.tracing, described):
            result = await run()
        await self._keep_log(result)
        await recording.record(
            self.state, step, result.model_dump_json(), result.duration_seconds, kind="phase"
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
        """Record that a phase is about to act; True if an earlier attempt has recorded it."""
        async with self.database.connection() as connection:
            fresh = await steps.begin(
                connection,
                self.state.lease,
                f"{self.key}:{name}",
                attempt=self.state.job.attempt,
                kind="phase",
                effect="unsafe",
            )
        return not fresh

    def canceled(self) -> bool:
        """Whether the attempt is being stopped because a person has canceled the job."""
        return isinstance(self.state.stopped_by, Canceled)

    async def status(self, status: EndStatus, report_text: str, probe: ProbeResult | None) -> None:
        """End the deployment, and wake the job that has waited longest for its environment."""
        await self._set_status(DeploymentStatus(status), report_text, probe)
        await _free(self.database, self.deployment)

    async def _keep_log(self, result: PhaseResult) -> None:
        if not result.output:
            return
        async with self.database.connection() as connection:
            await artifacts.keep_log(
                connection,
                self.state.lease,
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
                    lease=self.state.lease,
                )
            except Conflict as error:
                raise JobsworthError(error.message, error.remedy) from error


async def close_abandoned(database: Database) -> int:
    """End as failed the deployments whose jobs have ended; returns how many.

    A job that was canceled in the middle of a deployment, or whose workers died too often, leaves
    its deployment unfinished: it would hold its environment for ever.
    """
    async with database.transaction() as connection:
        found = await abandoned.lock_ended(connection, ABANDONED_BATCH)
        why = "Its job ended as {status} while it was {at}{because}"
        closed = await _close(connection, found, why)
    await _free(database, *closed)
    return len(closed)


async def close_idle(database: Database, idle_seconds: float = IDLE_SECONDS_MAX) -> int:
    """End as failed the deployments whose jobs have not run for `idle_seconds`; returns how many.

    Such a job waits for a person, a budget, or a worker that does not come, and meanwhile nobody
    else can deploy to the environment.
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
    """Wake the jobs that wait for the environments of these deployments, which have ended.

    Called after the commit that ended them; after a crash in between, the sweep wakes the jobs.
    """
    if not ended:
        return
    async with database.connection() as connection:
        for one in ended:
            await environments.wake_next(connection, one.environment)


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
    """The report: which phases ended, and whether what is live was changed."""
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
