"""Deployments: what runs in each environment, how it came there, and another one.

In: an environment, if one is chosen. Out: its state, and its newest deployments with their reports
and probes; a job that deploys a commit, or goes back to what was healthy there.
"""

from collections.abc import Mapping

from fastapi import Response

from db.deployments import deployments, environments
from db.deployments.environments import MODE, PREVIOUS, EnvironmentState, RollbackTarget
from db.errors import Conflict, InvalidInput, NotFound
from db.pool import Connection
from db.queue import jobs
from worker.dashboard.door import Visitor
from worker.dashboard.frame import Frame, Said, answer

LIMIT = 50


async def page(conn: Connection, frame: Frame) -> Response:
    environment = frame.query.get("environment")
    states = await environments.list_states(conn)
    return answer(
        frame,
        "deployments.html",
        page="deployments",
        asking=0,
        states=[(each, await _target(conn, each)) for each in states],
        environment=environment,
        rows=await deployments.get_recent(conn, environment, LIMIT),
    )


async def act(visitor: Visitor, frame: Frame, action: str, fields: Mapping[str, str]) -> Said:
    """Enqueue the job. Raises `NotFound` and `Conflict` where there is nothing to go back to."""
    environment = fields.get("environment", "").strip()
    if not environment:
        raise InvalidInput("no environment is named", "name one of deploy.toml")
    payload = {"environment": environment}
    match action:
        case "rollback":
            to = fields.get("to") or PREVIOUS
            found = await environments.find_rollback(
                visitor.conn, environment, to, team_id=visitor.team_id
            )
            payload["rollback_to"] = str(found.target.id)
            said = f"{environment}: from {found.live.sha[:12]} back to {found.target.sha[:12]}."
        case "deploy":
            commit = fields.get("commit", "").strip()
            if not commit:
                raise InvalidInput("no commit is named", "give a SHA, a branch or a tag")
            payload["sha"] = commit
            said = f"{environment}: to {commit}."
        case _:
            raise NotFound(f"there is no action {action!r}", "choose one of the page's buttons")
    made = await jobs.enqueue(visitor.conn, MODE, payload, team_id=visitor.team_id)
    return Said(f"{said} This job does it.", to=frame.url("jobs", made.job_id))


async def _target(conn: Connection, state: EnvironmentState) -> RollbackTarget | None:
    try:
        return await environments.find_rollback(conn, state.environment)
    except (NotFound, Conflict):
        return None
