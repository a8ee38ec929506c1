"""Environments: what is live where, who holds it, and where one can go back to.

In: an environment's name. Out: its state, derived from its deployments (the view
`environment_states`), never stored beside them; and the deployment that a roll back leads to.

Invariant: one goes back only to what was healthy in that very environment, and never to what is
live already.
"""

import re
from typing import Any, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.deployments import deployments
from db.deployments.deployments import Deployment
from db.errors import Conflict, InvalidInput, NotFound
from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val

PREVIOUS = "previous"
SHA = re.compile(r"[0-9a-fA-F]{7,64}")
"""An id without its dashes is taken for one: write the dashes."""


class EnvironmentState(BaseModel):
    """What is live in an environment by the books, and which deployment is under way there.

    `approvals_needed` is as at the last deployment; `current_release` a directory on
    `current_host`.
    """

    model_config = ConfigDict(frozen=True)

    team_id: UUID | None
    environment: str
    approvals_needed: int | None
    current_deployment_id: UUID | None
    current_sha: str | None
    current_release: str | None
    current_host: str | None
    current_since: AwareDatetime | None
    locked_by_deployment_id: UUID | None
    locked_by_job_id: UUID | None
    locked_since: AwareDatetime | None


class RollbackTarget(BaseModel):
    """Where one goes back from and to."""

    model_config = ConfigDict(frozen=True)

    live: Deployment
    target: Deployment


KEEP: LiteralString = """
insert into jobsworth.environments as e (team_id, name, approvals_needed, repository)
values (%(team_id)s, %(name)s, %(approvals_needed)s, %(repository)s)
on conflict on constraint environments_name do update
set approvals_needed = excluded.approvals_needed, repository = excluded.repository,
  updated_at = now()
where (e.approvals_needed, e.repository)
  is distinct from (excluded.approvals_needed, excluded.repository)
"""


async def keep(
    conn: Connection, name: str, *, approvals_needed: int, repository: str, team_id: UUID | None
) -> None:
    """Write down what deploy.toml says of an environment, if that has changed."""
    values = {
        "team_id": team_id,
        "name": name,
        "approvals_needed": approvals_needed,
        "repository": repository,
    }
    await execute(conn, KEEP, values)


STATES: LiteralString = """
select s.team_id, s.environment, s.approvals_needed, s.current_deployment_id, s.current_sha,
  s.current_release, s.current_host, s.current_since, s.locked_by_deployment_id,
  s.locked_by_job_id, s.locked_since
from jobsworth.environment_states s
where %(environment)s::text is null or s.environment = %(environment)s
order by s.environment, s.team_id nulls first
"""


async def list_states(conn: Connection, environment: str | None = None) -> list[EnvironmentState]:
    """The state of every environment that anything was deployed to, of every team."""
    return await fetch_all(conn, STATES, {"environment": environment}, EnvironmentState)


def waiting_detail(name: str) -> str:
    """What a job says that waits for its turn there; `jobsworth.environment_is_free` reads it."""
    return f"environment {name}"


WAKE_NEXT: LiteralString = """
select jobsworth.reconsider(array(
  select j.id
  from jobsworth.reactive_jobs j
  where j.status = 'waiting' and j.waiting_for = 'limit' and j.waiting_detail = %(detail)s
    and j.team_id is not distinct from %(team_id)s::uuid
  order by j.id
  limit 1))
"""


async def wake_next(conn: Connection, name: str, *, team_id: UUID | None = None) -> None:
    """After the commit that ended a deployment there: let the oldest job that waits for it go on.

    One that somebody holds right now is left to the sweep.
    """
    await fetch_val(conn, WAKE_NEXT, {"detail": waiting_detail(name), "team_id": team_id})


BEFORE: LiteralString = """
select d.id
from jobsworth.deployments d
where d.environment = %(environment)s and d.team_id is not distinct from %(team_id)s::uuid
  and d.status = 'healthy' and d.rollback_to is null and d.id < %(origin)s
order by d.id desc
limit 1
"""


async def find_rollback(
    conn: Connection, environment: str, to: str = PREVIOUS, *, team_id: UUID | None = None
) -> RollbackTarget:
    """Which deployment `to` means: "previous", a deployment's id, or (the start of) a sha.

    The previous one is the healthy one before that whose commit is live: going back twice goes
    further back, not forth again. Raises `NotFound`, `InvalidInput`, `Conflict` (it is live).
    """
    live = await deployments.current(conn, environment, team_id=team_id)
    if live is None:
        raise NotFound(
            f"nothing was ever healthy in environment {environment!r}, so there is nothing to go "
            "back to",
            f"deploy something: jobsworth deployment start {environment} SHA",
        )
    origin = live.rollback_to or live.id
    values = {"environment": environment, "team_id": team_id, "origin": origin}
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
where d.environment = %(environment)s and d.team_id is not distinct from %(team_id)s::uuid
  and d.status = 'healthy'
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
