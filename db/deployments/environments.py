"""Environments: what is live in each, which deployment occupies it, and the target of a rollback.

In: an environment's name. Out: its state, derived from its deployments (the view
`environment_states`) and never stored beside them; and the deployment that a rollback goes back to.

Invariant: the target of a rollback was healthy in the same environment, and is not the one that is
live. All teams share an environment: what is live there is one deployment, and a team goes back
only from its own.
"""

import re
from typing import Any, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.deployments import deployments
from db.deployments.deployments import Deployment
from db.errors import Conflict, InvalidInput, NotFound
from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val

# The shipped mode whose jobs deploy and roll back (`worker/modes/deploy.py`).
MODE = "deploy"
PREVIOUS = "previous"
# It also matches an id without its dashes, which is therefore taken for a commit.
SHA = re.compile(r"[0-9a-fA-F]{7,64}")


class EnvironmentState(BaseModel):
    """What is recorded as live in an environment, and the deployment under way there.

    `approvals_needed` is that of the last deployment; `current_release` is a directory on
    `current_host`.
    """

    model_config = ConfigDict(frozen=True)

    environment: str
    approvals_needed: int | None
    current_team_id: UUID | None
    current_deployment_id: UUID | None
    current_sha: str | None
    current_release: str | None
    current_host: str | None
    current_since: AwareDatetime | None
    locked_by_team_id: UUID | None
    locked_by_deployment_id: UUID | None
    locked_by_job_id: UUID | None
    locked_since: AwareDatetime | None


class RollbackTarget(BaseModel):
    """The deployment that is live, and the one that a rollback goes back to."""

    model_config = ConfigDict(frozen=True)

    live: Deployment
    target: Deployment


KEEP: LiteralString = """
insert into jobsworth.environments as e (name, approvals_needed, repository)
values (%(name)s, %(approvals_needed)s, %(repository)s)
on conflict on constraint environments_name do update
set approvals_needed = excluded.approvals_needed, repository = excluded.repository,
  updated_at = now()
where (e.approvals_needed, e.repository)
  is distinct from (excluded.approvals_needed, excluded.repository)
"""


async def keep(conn: Connection, name: str, *, approvals_needed: int, repository: str) -> None:
    """Store what deploy.toml says about an environment, if it has changed."""
    values = {"name": name, "approvals_needed": approvals_needed, "repository": repository}
    await execute(conn, KEEP, values)


STATES: LiteralString = """
select s.environment, s.approvals_needed, s.current_team_id, s.current_deployment_id,
  s.current_sha, s.current_release, s.current_host, s.current_since, s.locked_by_team_id,
  s.locked_by_deployment_id, s.locked_by_job_id, s.locked_since
from jobsworth.environment_states s
where %(environment)s::text is null or s.environment = %(environment)s
order by s.environment
"""


async def list_states(conn: Connection, environment: str | None = None) -> list[EnvironmentState]:
    """The states of this environment, or of all that have deployments."""
    return await fetch_all(conn, STATES, {"environment": environment}, EnvironmentState)


def waiting_detail(name: str) -> str:
    """The `waiting_detail` of a job that waits for an environment. The SQL function
    `environment_is_free` reads it.
    """
    return f"environment {name}"


WAKE_NEXT: LiteralString = """
select jobsworth.reconsider(array(
  select j.id
  from jobsworth.reactive_jobs j
  where j.status = 'waiting' and j.waiting_for = 'limit' and j.run_at is null
    and hashtextextended(j.waiting_detail, 0) = hashtextextended(%(detail)s, 0)
    and j.waiting_detail = %(detail)s
  order by j.id
  limit 1))
"""


async def wake_next(conn: Connection, name: str) -> None:
    """After the commit that ended a deployment, let the oldest job that waits for the environment
    go on. A job that another transaction holds right now is left to the sweep.
    """
    await fetch_val(conn, WAKE_NEXT, {"detail": waiting_detail(name)})


BEFORE: LiteralString = """
select d.id
from jobsworth.deployments d
where d.environment = %(environment)s and d.status = 'healthy' and d.rollback_to is null
  and d.id < %(origin)s
order by d.id desc
limit 1
"""


async def find_rollback(
    conn: Connection, environment: str, to: str = PREVIOUS, *, team_id: UUID | None = None
) -> RollbackTarget:
    """The deployment that `to` means: "previous", a deployment's id, or (the start of) a sha.

    The previous deployment is the last healthy one before the one whose commit is live, so a second
    rollback goes further back. Raises `NotFound`, `InvalidInput`, `Conflict` (it is live; or
    another team's deployment is, which this `team_id` cannot replace by going back).
    """
    live = await deployments.current(conn, environment)
    if live is None:
        raise NotFound(
            f"nothing was ever healthy in environment {environment!r}, so there is nothing to go "
            "back to",
            f"deploy something: jobsworth deployment start {environment} SHA",
        )
    if team_id not in (None, live.team_id):
        raise Conflict(
            f"environment {environment!r} runs {live.sha[:12]} of another team (deployment "
            f"{live.id}), so there is nothing of this team's to go back from",
            f"deploy to it instead: jobsworth deployment start {environment} SHA",
        )
    origin = live.rollback_to or live.id
    values = {"environment": environment, "origin": origin}
    if to == PREVIOUS:
        found = await fetch_one(conn, BEFORE, values)
        target_id = None if found is None else found["id"]
    else:
        target_id = await _named(conn, to, values)
    if target_id is None:
        what = "no deployment before it" if to == PREVIOUS else f"no deployment of {to}"
        raise NotFound(
            f"environment {environment!r} runs {live.sha[:12]}, and {what} was healthy there",
            f"choose one: jobsworth deployment list --environment {environment}",
        )
    if target_id == origin:
        raise Conflict(
            f"environment {environment!r} runs {live.sha[:12]} already (deployment {live.id})",
            f"choose another: jobsworth deployment list --environment {environment}",
        )
    return RollbackTarget(live=live, target=await deployments.get_by_id(conn, target_id))


NAMED: LiteralString = """
select coalesce(d.rollback_to, d.id) as id
from jobsworth.deployments d
where d.environment = %(environment)s and d.status = 'healthy'
  and (d.id = %(deployment_id)s::uuid or starts_with(d.sha, %(sha)s))
order by d.id desc
limit 1
"""


async def _named(conn: Connection, to: str, values: dict[str, Any]) -> UUID | None:
    by: dict[str, Any] = {"deployment_id": None, "sha": None}
    if SHA.fullmatch(to):
        by["sha"] = to.lower()
    else:
        try:
            by["deployment_id"] = UUID(to)
        except ValueError:
            raise InvalidInput(
                f"{to!r} is neither a deployment's id nor a commit",
                "write an id, or at least 7 digits of a sha",
            ) from None
    found = await fetch_one(conn, NAMED, {**values, **by})
    return None if found is None else found["id"]
