"""`job.deploy` and `job.rollback`: a deployment as durable steps of its job.

In: an environment's name, and a commit or the deployment to go back to. Out: the deployment's row
as it ended. Each phase is a step, so a deployment whose worker died goes on where it stood, and no
recorded phase runs twice; the rules for a phase that was begun and not recorded are in
`worker.deployments.pipeline.pipeline`. The whole outcome is a step too: a replay looks at nothing
else.

Invariant: persons are asked before the deployment is recorded, and recording it is what takes the
environment. So nobody who waits for a person holds one. Their yes is consumed in that same
transaction: no deployment without it, and none of it left without a deployment.
"""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from uuid import UUID

import anyio

from db.approvals import consumption
from db.deployments import deployments, environments
from db.deployments.deployments import Deployment
from db.errors import Conflict, InvalidInput, NotFound
from db.pool import Connection, Database
from db.steps import steps
from worker import events
from worker.deployments import pipeline as engine
from worker.deployments.pipeline.config import Environment
from worker.deployments.pipeline.errors import DeployError, EnvironmentBusy
from worker.deployments.record import IDLE_SECONDS_MAX, DeploymentRecord
from worker.log import get_logger
from worker.outcomes import Fail, Parked, ParkSignal, Snooze
from worker.steps import steps as recording

if TYPE_CHECKING:
    from worker.job import Job

BUSY_SECONDS = 3.0

log = get_logger()


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be shipped where; `rollback_of` and `rollback_to` if it is to go back."""

    environment: Environment
    sha: str
    rollback_of: UUID | None = None
    rollback_to: UUID | None = None
    back_from: str | None = None
    """The sha that is live, if it is to go back."""


@dataclass(frozen=True, slots=True)
class Consent:
    """A yes that is not consumed yet, and the fingerprint of what it is for."""

    approval_id: UUID
    fingerprint: str


Ordering = Callable[[Environment], Awaitable[Order]]


class Deployer:
    """Ships for all jobs of this worker. The file is read anew for each deployment."""

    def __init__(
        self, database: Database, file: Path | None, releases_dir: Path, output_bytes_max: int
    ) -> None:
        self._database = database
        self._file = file
        self._releases_dir = releases_dir
        self._output_bytes_max = output_bytes_max
        self._host = socket.gethostname()

    async def deploy(self, job: "Job", environment_name: str, sha: str, key: str) -> Deployment:
        """Ship `sha`, or go on shipping it. A mistake in the order fails the job for good."""

        async def order(environment: Environment) -> Order:
            full_sha = await job.step(
                f"{key}:sha",
                engine.resolve_sha,
                environment.repository,
                sha,
                self._releases_dir,
                any_input=True,  # the file may change while it ships
            )
            return Order(environment, full_sha)

        return await self._carry_out(job, environment_name, key, order)

    async def roll_back(self, job: "Job", environment_name: str, to: str, key: str) -> Deployment:
        """Put live again what was healthy before, or go on doing so: see `find_rollback` for `to`.

        Its release is switched to as it stands if it is still on this machine; otherwise its commit
        is built again. A mistake in the order fails the job for good.
        """

        async def order(environment: Environment) -> Order:
            found = await job.step(f"{key}:target", self._find_target, job, environment.name, to)
            back = (UUID(found["rollback_of"]), UUID(found["rollback_to"]))
            return Order(environment, found["sha"], *back, found["back_from"])

        return await self._carry_out(job, environment_name, key, order)

    async def _carry_out(
        self, job: "Job", environment_name: str, key: str, ordering: Ordering
    ) -> Deployment:
        found, outcome = await recording.read(job, key)
        if found:
            return Deployment.model_validate(outcome)
        try:
            environment = self._environment(environment_name)
            engine.masker_of(
                environment
            )  # a secret that is missing is told before anything is done
            order = await ordering(environment)
            deployment = await self._begun(job, order, key)
            if deployment.finished_at is None:
                deployment = await self._ship(job, order, deployment, key)
        except Conflict:
            await self._stand_in_line(job, environment_name)
        except EnvironmentBusy as busy:
            await self._pause(job, busy.message, key)
        except DeployError as error:
            if error.retriable:
                raise
            raise Fail(str(error)) from error
        await recording.record(job, key, deployment.model_dump_json(), 0.0, kind="deploy")
        return deployment

    def _environment(self, name: str) -> Environment:
        if self._file is None:
            raise Fail(
                f"there is no deploy.toml, so no environment {name!r}"
                " (write one in the worker's folder, or set JOBSWORTH_DEPLOY_FILE)"
            )
        return engine.find_environment(engine.load_environments(self._file), name)

    async def _find_target(self, job: "Job", environment_name: str, to: str) -> dict[str, str]:
        try:
            async with self._database.connection() as connection:
                found = await environments.find_rollback(
                    connection, environment_name, to, team_id=job.team_id
                )
        except (NotFound, Conflict, InvalidInput) as error:
            raise Fail(str(error)) from error
        return {
            "sha": found.target.sha,
            "back_from": found.live.sha,
            "rollback_of": str(found.live.id),
            "rollback_to": str(found.target.id),
        }

    async def _begun(self, job: "Job", order: Order, key: str) -> Deployment:
        """The deployment's row, as an earlier attempt began it, or begun now with consent."""
        proposal = engine.propose(order.environment, order.sha, order.back_from)
        async with self._database.connection() as connection:
            begun = await deployments.get_for_step(connection, job.id, key)
        if begun is None:
            consent = await self._consent(job, order, proposal, key)
            return await self._begin(job, order, consent, key)
        if begun.finished_at is None:
            await self._require_same(job, proposal, key)
        return begun

    async def _consent(
        self, job: "Job", order: Order, proposal: engine.Proposal, key: str
    ) -> Consent | None:
        """Parks until enough persons have decided; a no fails the job for good."""
        if order.environment.approvals == 0:
            return None
        async with self._database.connection() as connection:
            times = await deployments.times_before(connection, job.id, key)
        decision = await job.ask(
            proposal.text,
            shows=proposal.shows,
            # One yes is for one deployment: a job that a person runs again asks again.
            name=f"{key} again {times}" if times else key,
            votes=order.environment.approvals,
            for_step=key,
        )
        if not decision.approved or decision.approval_id is None:
            by = f" by {decision.decided_by}" if decision.decided_by else ""
            said = f": {decision.comment}" if decision.comment else ""
            raise Fail(f"{proposal.text[:-1]} was refused{by}{said}")
        return Consent(decision.approval_id, proposal.fingerprint)

    async def _require_same(self, job: "Job", proposal: engine.Proposal, key: str) -> None:
        """What was agreed to is what goes on. From the switch on it has to, or nobody goes back."""
        agreed, fingerprint = await recording.read(job, f"{key}:plan")
        if not agreed or fingerprint == proposal.fingerprint:
            return
        async with self._database.connection() as connection:
            begun = {step.name for step in await steps.list_for_job(connection, job.id)}
        if f"{key}:switch" not in begun:
            raise Fail(
                "deploy.toml says otherwise now than when this deployment was agreed to;"
                " nothing was switched: deploy again to ask for consent to what it says now"
            )

    async def _begin(
        self, job: "Job", order: Order, consent: Consent | None, key: str
    ) -> Deployment:
        environment = order.environment
        repository = engine.without_password(environment.repository)
        async with self._database.transaction() as connection:
            if consent is not None:
                await _spend(connection, job, consent, key)
            await steps.begin(connection, job.lease, key, attempt=job.attempt, kind="deploy")
            begun = await deployments.create(
                connection,
                environment=environment.name,
                sha=order.sha,
                repository=repository,
                host=self._host,
                rollback_of=order.rollback_of,
                rollback_to=order.rollback_to,
                step_name=key,
                team_id=job.team_id,
                lease=job.lease,
            )
            # The environment is ours now; only now can it be said what is live there.
            live = await deployments.current(connection, environment.name, team_id=job.team_id)
            if order.rollback_of not in (None, live and live.id):
                raise Fail(
                    f"environment {environment.name} has moved on since this was asked for: "
                    f"{live.sha[:12] if live else 'nothing'} is live there; look, and ask again"
                )
            await environments.keep(
                connection,
                environment.name,
                approvals_needed=environment.approvals,
                repository=repository,
                team_id=job.team_id,
            )
        return begun

    async def _ship(self, job: "Job", order: Order, deployment: Deployment, key: str) -> Deployment:
        release = await self._release(job, deployment, key)
        back = order.back_from
        report = await engine.deploy(
            order.environment,
            deployment.sha,
            DeploymentRecord(job, self._database, deployment, key),
            deployment_id=deployment.id,
            releases_dir=self._releases_dir,
            output_bytes_max=self._output_bytes_max,
            release=release,
            notes=() if back is None else (f"{engine.ASKED_FOR}go back from {back[:12]}",),
        )
        tell = log.info if report.status == "healthy" else log.error
        tell(
            events.DEPLOYMENT_ENDED,
            environment=order.environment.name,
            sha=deployment.sha,
            status=report.status,
            live=report.live,
        )
        async with self._database.connection() as connection:
            return await deployments.get_by_id(connection, deployment.id)

    async def _release(self, job: "Job", deployment: Deployment, key: str) -> Path:
        """The directory that is to be live. Written down, so that a later attempt means the same.

        That of the deployment one goes back to, if it is here; looked for only now, when no other
        deployment can prune it. What an earlier attempt exported stays where it is; parks if that
        is another machine.
        """
        if deployment.release is not None:
            release = Path(deployment.release)
            if deployment.host in (None, self._host) or await anyio.Path(release).is_dir():
                return release
            exported, _ = await recording.read(job, f"{key}:export")
            if exported:
                begun = f"deployment {deployment.id} was begun on {deployment.host}"
                await self._pause(job, f"{begun}, where its release is", key)
        release = self._own_release(deployment)
        async with self._database.connection() as connection:
            if deployment.rollback_to is not None:
                target = await deployments.get_by_id(connection, deployment.rollback_to)
                earlier = Path(target.release) if target.release else self._own_release(target)
                if target.host in (None, self._host) and earlier.is_dir():
                    release = earlier
            await deployments.update_status(
                connection,
                deployment.id,
                deployment.status,
                release=str(release),
                host=self._host,
                lease=job.lease,
            )
        return release

    async def _stand_in_line(self, job: "Job", environment_name: str) -> NoReturn:
        """Somebody else ships there, whose end wakes the next; no slot is held, no try burnt."""
        async with self._database.connection() as connection:
            states = await environments.list_states(connection, environment_name)
        if any(state.locked_by_job_id == job.id for state in states):
            raise Fail(
                f"another deployment of this very job holds environment {environment_name}"
                " (let it end before you begin the next, and name each the same in every attempt)"
            )
        detail = environments.waiting_detail(environment_name)
        raise ParkSignal(Parked("limit", detail, None, tuple(job.effects)))

    async def _pause(self, job: "Job", why: str, key: str) -> NoReturn:
        """Look again in a while, for what a worker elsewhere or an earlier command may yet end; but
        not for ever, since the environment is held."""
        waited_seconds = await recording.waited_seconds(job, f"{key}:pause", "phase")
        if waited_seconds > IDLE_SECONDS_MAX:
            raise Fail(
                f"{why}; that has not changed for {waited_seconds:.0f} s"
                " (look what is live there, then deploy again)"
            )
        raise ParkSignal(Parked("timer", why, BUSY_SECONDS, tuple(job.effects)))

    def _own_release(self, deployment: Deployment) -> Path:
        return engine.release_path(
            self._releases_dir, deployment.environment, deployment.sha, deployment.id
        )


async def _spend(connection: Connection, job: "Job", consent: Consent, key: str) -> None:
    """Consume the yes for the deployment that begins in this transaction, and note to what it was.

    Until this commits, a no counts; then the environment is held, and it comes too late.
    """
    try:
        await consumption.consume(connection, job.lease, consent.approval_id, key)
    except Conflict as error:
        raise Snooze(0.0) from error  # somebody said no just now: look again
    await steps.record(
        connection,
        job.lease,
        f"{key}:plan",
        f'"{consent.fingerprint}"',
        attempt=job.attempt,
        kind="phase",
    )
