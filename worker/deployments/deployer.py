"""`job.deploy` and `job.rollback`: a deployment as durable steps of its job.

In: an environment's name, and a commit or the deployment to go back to. Out: the deployment's row
as it ended. Each phase is a step, so a deployment whose worker died goes on where it stood, and no
recorded phase runs twice; the rules for a phase that was begun and not recorded are in
`worker.deployments.pipeline.pipeline`. The outcome is a step too, and all that a replay reads.

Invariant: people are asked before the deployment is recorded, and recording it takes the
environment, so a job that waits for a person holds no environment. The yes is consumed in the same
transaction: there is no deployment without it, and it is not consumed without a deployment.

A job that finds the environment busy waits for a limit named after it; the commit that ends a
deployment lets the oldest such job go on. A release stays on its machine: a worker elsewhere leaves
the deployment to that one, for ten minutes at most. What is live is the newest healthy deployment,
derived and never stored; the symlink is compared with it, and a difference is reported. A
deployment whose job does not run is marked under its lease and closed ten minutes later.
"""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from uuid import UUID

import anyio

from db.approvals import consumption
from db.deployments import deployments, environments
from db.deployments.deployments import Deployment
from db.errors import Conflict, InvalidInput, NotFound
from db.pool import Connection, Database
from db.steps import steps
from worker import events
from worker.approvals import ask
from worker.attempt_state import AttemptState
from worker.deployments import pipeline as engine
from worker.deployments.pipeline.config import Environment
from worker.deployments.pipeline.errors import DeployError, EnvironmentBusy
from worker.deployments.record import IDLE_SECONDS_MAX, DeploymentRecord
from worker.log import get_logger
from worker.outcomes import Fail, Snooze
from worker.steps import steps as recording

BUSY_SECONDS = 3.0

log = get_logger()


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be deployed where; a rollback names what it goes back from and to."""

    environment: Environment
    sha: str
    rollback_of: UUID | None = None
    rollback_to: UUID | None = None
    back_from: str | None = None
    """Of a rollback: the sha that is live."""


@dataclass(frozen=True, slots=True)
class Consent:
    """A yes that is not consumed yet, and the fingerprint of the proposal that it is for."""

    approval_id: UUID
    fingerprint: str


Ordering = Callable[[Environment], Awaitable[Order]]


class Deployer:
    """Deploys for all jobs of this worker. deploy.toml is read anew for each deployment."""

    def __init__(
        self, database: Database, file: Path | None, releases_dir: Path, output_bytes_max: int
    ) -> None:
        self._database = database
        self._file = file
        self._releases_dir = releases_dir
        self._output_bytes_max = output_bytes_max
        self._host = socket.gethostname()

    async def deploy(
        self, state: AttemptState, environment_name: str, sha: str, key: str
    ) -> Deployment:
        """Deploy `sha`, or go on with that; returns the deployment as it ended.

        Raises `Fail` for an order that cannot be carried out, and when it is rejected.
        """

        async def order(environment: Environment) -> Order:
            full_sha = await recording.run(
                state,
                f"{key}:sha",
                engine.resolve_sha,
                (environment.repository, sha, self._releases_dir),
                {},
                any_input=True,  # deploy.toml may change meanwhile
            )
            return Order(environment, full_sha)

        return await self._carry_out(state, environment_name, key, order)

    async def roll_back(
        self, state: AttemptState, environment_name: str, to: str, key: str
    ) -> Deployment:
        """Put live again what was healthy before, or go on with that: see `find_rollback` for `to`.

        Its release is switched to as it is if it is still on this machine; otherwise its commit is
        built again. Raises `Fail` for an order that cannot be carried out, and when it is rejected.
        """

        async def find(environment_name: str, to: str) -> dict[str, str]:
            return await self._find_target(environment_name, to, state.job.team_id)

        async def order(environment: Environment) -> Order:
            found = await recording.run(state, f"{key}:target", find, (environment.name, to), {})
            back = (UUID(found["rollback_of"]), UUID(found["rollback_to"]))
            return Order(environment, found["sha"], *back, found["back_from"])

        return await self._carry_out(state, environment_name, key, order)

    async def _carry_out(
        self, state: AttemptState, environment_name: str, key: str, ordering: Ordering
    ) -> Deployment:
        recorded = await recording.find(state, key)
        if recorded is not None:
            return Deployment.model_validate(recorded.output)
        try:
            environment = self._environment(environment_name)
            # A missing secret is reported before anything is done.
            engine.masker_of(environment)
            order = await ordering(environment)
            deployment = await self._begun(state, order, key)
            if deployment.finished_at is None:
                deployment = await self._ship(state, order, deployment, key)
        except Conflict:
            await self._stand_in_line(state, environment_name)
        except EnvironmentBusy as busy:
            await self._pause(state, busy.message, key)
        except DeployError as error:
            if error.retriable:
                raise
            raise Fail(str(error)) from error
        await recording.record(state, key, deployment.model_dump_json(), 0.0, kind="deploy")
        return deployment

    def _environment(self, name: str) -> Environment:
        if self._file is None:
            raise Fail(
                f"there is no deploy.toml, so no environment {name!r}"
                " (write one in the worker's folder, or set JOBSWORTH_DEPLOY_FILE)"
            )
        return engine.find_environment(engine.load_environments(self._file), name)

    async def _find_target(
        self, environment_name: str, to: str, team_id: UUID | None
    ) -> dict[str, str]:
        try:
            async with self._database.connection() as connection:
                found = await environments.find_rollback(
                    connection, environment_name, to, team_id=team_id
                )
        except (NotFound, Conflict, InvalidInput) as error:
            raise Fail(str(error)) from error
        return {
            "sha": found.target.sha,
            "back_from": found.live.sha,
            "rollback_of": str(found.live.id),
            "rollback_to": str(found.target.id),
        }

    async def _begun(self, state: AttemptState, order: Order, key: str) -> Deployment:
        """The deployment's row: as an earlier attempt began it, or begun now, with consent."""
        proposal = engine.propose(order.environment, order.sha, order.back_from)
        async with self._database.connection() as connection:
            begun = await deployments.get_for_step(connection, state.job.id, key)
        if begun is None:
            consent = await self._consent(state, order, proposal, key)
            return await self._begin(state, order, consent, key)
        if begun.finished_at is None:
            await self._require_same(state, proposal, key)
        return begun

    async def _consent(
        self, state: AttemptState, order: Order, proposal: engine.Proposal, key: str
    ) -> Consent | None:
        """The yes of as many people as the environment asks for; parks until they have decided.

        None if the environment asks for nobody's. Raises `Fail` on a no.
        """
        if order.environment.approvals == 0:
            return None
        async with self._database.connection() as connection:
            times = await deployments.times_before(connection, state.job.id, key)
        decision = await ask.ask(
            state,
            proposal.text,
            shows=proposal.shows,
            # A yes is for one deployment: a job that a person has run again asks again.
            name=f"{key} again {times}" if times else key,
            votes=order.environment.approvals,
            for_step=key,
        )
        if not decision.approved or decision.approval_id is None:
            by = f" by {decision.decided_by}" if decision.decided_by else ""
            said = f": {decision.comment}" if decision.comment else ""
            raise Fail(f"{proposal.text[:-1]} was refused{by}{said}")
        return Consent(decision.approval_id, proposal.fingerprint)

    async def _require_same(self, state: AttemptState, proposal: engine.Proposal, key: str) -> None:
        """Raise `Fail` if deploy.toml has changed since people agreed, until the switch begins.

        From the switch on the deployment must go on, because only that can roll it back.
        """
        agreed = await recording.find(state, f"{key}:plan")
        if agreed is None or agreed.output == proposal.fingerprint:
            return
        async with self._database.connection() as connection:
            begun = {step.name for step in await steps.list_for_job(connection, state.job.id)}
        if f"{key}:switch" not in begun:
            raise Fail(
                "deploy.toml has changed since this deployment was approved; nothing was switched:"
                " deploy again to ask for approval of what it says now"
            )

    async def _begin(
        self, state: AttemptState, order: Order, consent: Consent | None, key: str
    ) -> Deployment:
        """Record the deployment, which takes its environment; raises `Conflict` if it is taken."""
        environment = order.environment
        repository = engine.without_password(environment.repository)
        async with self._database.transaction() as connection:
            if consent is not None:
                await _consume(connection, state, consent, key)
            await steps.begin(
                connection, state.lease, key, attempt=state.job.attempt, kind="deploy"
            )
            begun = await deployments.create(
                connection,
                environment=environment.name,
                sha=order.sha,
                repository=repository,
                host=self._host,
                rollback_of=order.rollback_of,
                rollback_to=order.rollback_to,
                step_name=key,
                team_id=state.job.team_id,
                lease=state.lease,
            )
            # Only now that the environment is taken is it certain what is live there.
            live = await deployments.current(connection, environment.name)
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
            )
        return begun

    async def _ship(
        self, state: AttemptState, order: Order, deployment: Deployment, key: str
    ) -> Deployment:
        release = await self._release(state, deployment, key)
        back = order.back_from
        report = await engine.deploy(
            order.environment,
            deployment.sha,
            DeploymentRecord(state, self._database, deployment, key),
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

    async def _release(self, state: AttemptState, deployment: Deployment, key: str) -> Path:
        """The directory that is to be live; recorded, so that a later attempt uses the same.

        A rollback uses the release of its target if that is on this machine; it is looked for only
        now, when no other deployment can prune it. What an earlier attempt exported stays where it
        is; parks if that is another machine.
        """
        if deployment.release is not None:
            release = Path(deployment.release)
            if deployment.host in (None, self._host) or await anyio.Path(release).is_dir():
                return release
            if await recording.find(state, f"{key}:export") is not None:
                begun = f"deployment {deployment.id} was begun on {deployment.host}"
                await self._pause(state, f"{begun}, where its release is", key)
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
                lease=state.lease,
            )
        return release

    async def _stand_in_line(self, state: AttemptState, environment_name: str) -> NoReturn:
        """Park until the other deployment of this environment has ended, which wakes this job."""
        async with self._database.connection() as connection:
            states = await environments.list_states(connection, environment_name)
        if any(one.locked_by_job_id == state.job.id for one in states):
            raise Fail(
                f"another deployment of this very job holds environment {environment_name}"
                " (begin the next after it has ended, and give each the same name in every attempt)"
            )
        detail = environments.waiting_detail(environment_name)
        raise state.park("limit", detail=detail)

    async def _pause(self, state: AttemptState, why: str, key: str) -> NoReturn:
        """Park for a while: a worker elsewhere or an earlier command may still end the deployment.

        Raises `Fail` after `IDLE_SECONDS_MAX`, because the environment is held meanwhile.
        """
        waited_seconds = await recording.waited_seconds(state, f"{key}:pause", "phase")
        if waited_seconds > IDLE_SECONDS_MAX:
            raise Fail(
                f"{why}; that has not changed for {waited_seconds:.0f} s"
                " (look what is live there, then deploy again)"
            )
        raise state.park("timer", detail=why, after_seconds=BUSY_SECONDS)

    def _own_release(self, deployment: Deployment) -> Path:
        return engine.release_path(
            self._releases_dir, deployment.environment, deployment.sha, deployment.id
        )


async def _consume(connection: Connection, state: AttemptState, consent: Consent, key: str) -> None:
    """Consume the yes for the deployment that begins in this transaction, and record its proposal.

    Until this commits, a no counts; from then on it comes too late.
    """
    try:
        await consumption.consume(connection, state.lease, consent.approval_id, key)
    except Conflict as error:
        raise Snooze(0.0) from error  # somebody has just said no: look again
    await steps.record(
        connection,
        state.lease,
        f"{key}:plan",
        f'"{consent.fingerprint}"',
        attempt=state.job.attempt,
        kind="phase",
    )
