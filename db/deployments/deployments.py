"""Deployments: one row each, from building to healthy, rolled back or failed.

In: a commit and an environment, and how each phase ended. Out: the deployment's row, committed
phase by phase, so that a later attempt knows how far it came.

Invariant, kept by the database: one unfinished deployment per environment, no move backwards, and
healthy only with a recorded probe that passed. With a lease, a write is also fenced: an attempt
that has lost its job cannot change the deployment.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit
from db.documents import to_document, to_text
from db.errors import Conflict, InvalidInput, NotFound
from db.fence import FENCED, Lease, hold
from db.pool import Connection, fetch_all, fetch_one, fetch_val

CREATE_TRIES_MAX = 5
LIMIT_MAX = 1_000


class DeploymentStatus(StrEnum):
    BUILDING = "building"
    TESTING = "testing"
    DEPLOYING = "deploying"
    HEALTHY = "healthy"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether a deployment in this status has ended."""
        return self in _FINAL


_FINAL = (DeploymentStatus.HEALTHY, DeploymentStatus.ROLLED_BACK, DeploymentStatus.FAILED)


class Deployment(BaseModel):
    """A row of `deployments`; `probe` is the recorded result, `{"passed": bool, …}`.

    `release` is a directory on `host`. A rollback names the deployment it replaces (`rollback_of`)
    and the healthy one whose commit it makes live again (`rollback_to`).
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    job_id: UUID | None
    step_name: str | None
    environment: str
    repository: str | None
    sha: str
    branch: str | None
    status: DeploymentStatus
    release: str | None
    report_text: str | None
    probe: dict[str, Any] | None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    finished_at: AwareDatetime | None
    host: str | None
    rollback_of: UUID | None
    rollback_to: UUID | None


DEPLOYMENT_COLUMNS: LiteralString = """
  d.id, d.team_id, d.job_id, d.step_name, d.environment, d.repository, d.sha, d.branch,
  d.status, d.release, d.report_text, d.probe, d.created_at, d.updated_at, d.finished_at, d.host,
  d.rollback_of, d.rollback_to
"""

CREATE: LiteralString = (
    FENCED
    + """
insert into jobsworth.deployments as d (
  team_id, job_id, step_name, environment, repository, sha, branch, release, host, rollback_of,
  rollback_to)
select %(team_id)s::uuid, %(job_id)s::uuid, %(step_name)s::text, %(environment)s::text,
  %(repository)s::text, %(sha)s::text, %(branch)s::text, %(release)s::text, %(host)s::text,
  %(rollback_of)s::uuid, %(rollback_to)s::uuid
where %(lease_no)s::bigint is null or exists (select 1 from fence)
on conflict do nothing
returning """
    + DEPLOYMENT_COLUMNS
)


async def create(
    conn: Connection,
    *,
    environment: str,
    sha: str,
    repository: str | None = None,
    branch: str | None = None,
    release: str | None = None,
    host: str | None = None,
    rollback_of: UUID | None = None,
    rollback_to: UUID | None = None,
    job_id: UUID | None = None,
    step_name: str | None = None,
    team_id: UUID | None = None,
    lease: Lease | None = None,
) -> Deployment:
    """Begin a deployment, as building; committed on return.

    With `lease`, `job_id` is that of the lease. A step of a job has one deployment: a second call
    for the step returns the first call's deployment. Raises `Conflict` naming the unfinished
    deployment that occupies the environment, `LeaseLost`, `InvalidInput`.
    """
    if not environment or not sha:
        raise InvalidInput("a deployment needs an environment and a sha", "name both")
    job_id = lease.job_id if lease else job_id
    values = {
        **_lease_values(lease),
        "job_id": job_id,
        "team_id": team_id,
        "step_name": step_name,
        "environment": environment,
        "repository": repository,
        "sha": sha,
        "branch": branch,
        "release": release,
        "host": host,
        "rollback_of": rollback_of,
        "rollback_to": rollback_to,
    }
    for _ in range(CREATE_TRIES_MAX):
        created = await fetch_one(conn, CREATE, values, Deployment)
        if created is None and lease is not None:
            await hold(conn, lease)
        created = created or await _of_step(conn, job_id, step_name)
        if created is not None:
            return created
        unfinished = await _unfinished(conn, environment)
        if unfinished is not None:
            raise Conflict(
                f"environment {environment} is busy: deployment {unfinished.id} of "
                f"{unfinished.sha[:12]} is {unfinished.status}"
                + (f" (job {unfinished.job_id})" if unfinished.job_id else ""),
                "wait until that one ends; list them: jobsworth deployment list",
            )
        # It ended between our insert and our look.
    raise Conflict(f"environment {environment} is occupied again and again", "try again")


UPDATE: LiteralString = (
    FENCED
    + """
update jobsworth.deployments d
set status = %(status)s::jobsworth.deployment_status,
  report_text = coalesce(%(report_text)s, d.report_text),
  probe = coalesce(%(probe)s::jsonb, d.probe), release = coalesce(%(release)s, d.release),
  host = coalesce(%(host)s, d.host),
  finished_at = case when %(is_final)s then coalesce(d.finished_at, now()) end
where d.id = %(deployment_id)s
  and (%(lease_no)s::bigint is null or d.job_id = (select f.id from fence f))
returning """
    + DEPLOYMENT_COLUMNS
)


async def update_status(
    conn: Connection,
    deployment_id: UUID,
    status: DeploymentStatus,
    *,
    report_text: str | None = None,
    probe: Mapping[str, Any] | None = None,
    release: str | None = None,
    host: str | None = None,
    lease: Lease | None = None,
) -> Deployment:
    """Set a deployment's status; fields that are None stay as they were. Committed on return.

    The same status again is allowed, to add a report or a release. With `lease`, the deployment
    must belong to that job. Raises `Conflict` (the move is not allowed), `InvalidInput` (healthy
    without a passing probe), `LeaseLost`, `NotFound`.
    """
    if probe is not None and type(probe.get("passed")) is not bool:
        raise InvalidInput("a probe result needs 'passed', true or false", "add whether it passed")
    if status is DeploymentStatus.HEALTHY and not (probe or {}).get("passed"):
        raise InvalidInput(
            f"deployment {deployment_id} cannot be healthy without a probe that passed",
            "probe it and give the result",
        )
    values = {
        **_lease_values(lease),
        "deployment_id": deployment_id,
        "status": status,
        "is_final": status.is_final,
        "report_text": None if report_text is None else to_text(report_text),
        "probe": None if probe is None else to_document(dict(probe), "the probe result"),
        "release": release,
        "host": host,
    }
    try:
        updated = await fetch_one(conn, UPDATE, values, Deployment)
    except InvalidInput as refused:
        raise Conflict(refused.message, refused.remedy) from refused
    if updated is not None:
        return updated
    if lease is not None:
        await hold(conn, lease)
        found = await get_by_id(conn, deployment_id)
        raise Conflict(
            f"deployment {deployment_id} belongs to job {found.job_id}, not to {lease.job_id}",
            "update it from the job that began it",
        )
    raise _not_found(deployment_id)


BY_ID: LiteralString = (
    "select "
    + DEPLOYMENT_COLUMNS
    + """
from jobsworth.deployments d
where d.id = %(deployment_id)s
"""
)


async def get_by_id(conn: Connection, deployment_id: UUID) -> Deployment:
    """One deployment. Raises `NotFound`."""
    found = await fetch_one(conn, BY_ID, {"deployment_id": deployment_id}, Deployment)
    if found is None:
        raise _not_found(deployment_id)
    return found


OF_STEP: LiteralString = (
    "select "
    + DEPLOYMENT_COLUMNS
    + """
from jobsworth.deployments d
where d.job_id = %(job_id)s and d.step_name = %(step_name)s
"""
)


async def get_for_step(conn: Connection, job_id: UUID, step_name: str) -> Deployment | None:
    """The deployment that this step of this job began, in any attempt."""
    return await fetch_one(conn, OF_STEP, {"job_id": job_id, "step_name": step_name}, Deployment)


TIMES: LiteralString = """
select count(*)
from jobsworth.deployments d
where d.job_id = %(job_id)s and starts_with(d.step_name, %(step_name)s || ' before ')
"""


async def times_before(conn: Connection, job_id: UUID, step_name: str) -> int:
    """How many deployments this step began before a person retried its job."""
    return await fetch_val(conn, TIMES, {"job_id": job_id, "step_name": step_name})


RECENT: LiteralString = (
    "select "
    + DEPLOYMENT_COLUMNS
    + """
from jobsworth.deployments d
where (%(environment)s::text is null or d.environment = %(environment)s)
  and (%(team_id)s::uuid is null or d.team_id = %(team_id)s)
  and (%(before_id)s::uuid is null or d.id < %(before_id)s)
  and (%(after_id)s::uuid is null or d.id > %(after_id)s)
"""
)
NEWEST: LiteralString = "order by d.id desc limit %(limit)s"
OLDEST: LiteralString = "order by d.id limit %(limit)s"


async def get_recent(
    conn: Connection,
    environment: str | None = None,
    limit: int = 20,
    *,
    team_id: UUID | None = None,
    before_id: UUID | None = None,
    after_id: UUID | None = None,
) -> list[Deployment]:
    """The latest deployments, newest first, of one environment and team, or of all; at most
    `limit`, which is 1 to 1,000. With `after_id`, those that follow it.
    """
    check_limit(limit, LIMIT_MAX, "ask for fewer deployments")
    values = {
        "environment": environment,
        "team_id": team_id,
        "before_id": before_id,
        "after_id": after_id,
        "limit": limit,
    }
    if after_id is None:
        return await fetch_all(conn, RECENT + NEWEST, values, Deployment)
    return (await fetch_all(conn, RECENT + OLDEST, values, Deployment))[::-1]


LATEST: LiteralString = (
    "select "
    + DEPLOYMENT_COLUMNS
    + """
from jobsworth.deployments d
where d.environment = %(environment)s
  and (%(status)s::jobsworth.deployment_status is null or d.status = %(status)s)
order by d.id desc
limit 1
"""
)


async def get_latest(conn: Connection, environment: str) -> Deployment | None:
    """The newest deployment to an environment, in any status."""
    values = {"environment": environment, "status": None}
    return await fetch_one(conn, LATEST, values, Deployment)


async def current(conn: Connection, environment: str) -> Deployment | None:
    """The newest healthy deployment to an environment, of any team: the one that runs there."""
    values = {"environment": environment, "status": DeploymentStatus.HEALTHY}
    return await fetch_one(conn, LATEST, values, Deployment)


UNFINISHED: LiteralString = (
    "select "
    + DEPLOYMENT_COLUMNS
    + """
from jobsworth.deployments d
where d.environment = %(environment)s and d.finished_at is null
"""
)


async def _unfinished(conn: Connection, environment: str) -> Deployment | None:
    return await fetch_one(conn, UNFINISHED, {"environment": environment}, Deployment)


async def _of_step(
    conn: Connection, job_id: UUID | None, step_name: str | None
) -> Deployment | None:
    if job_id is None or step_name is None:
        return None
    return await get_for_step(conn, job_id, step_name)


def _lease_values(lease: Lease | None) -> dict[str, Any]:
    return dict.fromkeys(Lease._fields) if lease is None else lease._asdict()


def _not_found(deployment_id: UUID) -> NotFound:
    return NotFound(
        f"there is no deployment {deployment_id}", "list them: jobsworth deployment list"
    )
