"""`/runs`: pieces of agent work, and what they did, made and cost.

In: an id. Out: a run, its steps, files and sums. Invariant: a run of another actor is forbidden
(403), not missing: the caller was told its id by somebody, and learns whom to ask.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel

from db.errors import NotFound
from db.pool import Connection
from db.runs import branches, runs
from db.runs.branches import Fork
from db.runs.runs import Run, RunStats, RunStatus
from db.steps.artifacts import Artifact
from db.steps.steps import Step
from worker.api.access import Access, may
from worker.api.paging import At, Page
from worker.api.problems import Forbidden, documented
from worker.api.routes.jobs import Reason

router = APIRouter(prefix="/runs", tags=["runs"])
Read = Annotated[Access, may("runs:read")]
Write = Annotated[Access, may("runs:write")]


class RunShown(Run):
    """A run with its files."""

    artifacts: list[Artifact]


class NewFork(BaseModel):
    """Where to fork, and what to change: new payloads by node. `dry_run` only says what it would
    read, and what the rest cost the first time.
    """

    node: str | None = None
    step: str | None = None
    changes: dict[str, dict[str, Any]] | None = None
    dry_run: bool = False


class StatusOf(BaseModel):
    """How it stands after the order."""

    id: UUID
    status: RunStatus


@router.get("", summary="List runs, newest first", responses=documented())
async def list_runs(
    access: Read,
    at: At,
    actor: str | None = None,
    status: RunStatus | None = None,
    thread_id: UUID | None = None,
    agent_id: UUID | None = None,
    since: AwareDatetime | None = None,
) -> Page[Run]:
    caller = access.caller
    async with access.reading() as conn:
        found = await runs.list_runs(
            conn,
            actor=actor,
            status=status,
            thread_id=thread_id,
            agent_id=agent_id,
            since=since,
            actors=None if caller.sees_all_runs else caller.actors,
            limit=at.limit,
            before_id=at.before,
            after_id=at.after,
        )
    return at.page(found)


@router.get("/{run_id}", summary="Show a run with its files", responses=documented(404))
async def show_run(access: Read, run_id: UUID) -> RunShown:
    async with _reading(access, run_id) as (conn, run):
        artifacts = await runs.get_artifacts(conn, run_id)
    return RunShown(**dict(run), artifacts=artifacts)


@router.get("/{run_id}/steps", summary="List the steps of a run", responses=documented(404))
async def list_steps(access: Read, run_id: UUID) -> list[Step]:
    async with _reading(access, run_id) as (conn, _):
        return await runs.get_steps(conn, run_id)


@router.get("/{run_id}/artifacts", summary="List the files of a run", responses=documented(404))
async def list_artifacts(access: Read, run_id: UUID) -> list[Artifact]:
    async with _reading(access, run_id) as (conn, _):
        return await runs.get_artifacts(conn, run_id)


@router.get("/{run_id}/stats", summary="Add up what a run took", responses=documented(404))
async def show_stats(access: Read, run_id: UUID) -> RunStats:
    async with _reading(access, run_id) as (conn, _):
        return await runs.stats(conn, run_id)


@router.post(
    "/{run_id}/fork", summary="Fork a run at a node or step", responses=documented(404, 409)
)
async def fork(access: Write, run_id: UUID, new: NewFork) -> Fork:
    async with _reading(access, run_id):
        pass
    async with access.acting() as conn:
        return await branches.fork(
            conn,
            run_id,
            node=new.node,
            step=new.step,
            changes=new.changes,
            created_by=access.caller.name,
            dry_run=new.dry_run,
        )


@router.post("/{run_id}/cancel", summary="Cancel a run", responses=documented(404, 409))
async def cancel(access: Write, run_id: UUID, why: Reason | None = None) -> StatusOf:
    async with _reading(access, run_id):
        pass
    async with access.acting() as conn:
        status = await runs.cancel(conn, run_id, (why or Reason()).reason)
    return StatusOf(id=run_id, status=status)


@asynccontextmanager
async def _reading(access: Access, run_id: UUID) -> AsyncGenerator[tuple[Connection, Run]]:
    found = False
    try:
        async with access.reading() as conn:
            run = await runs.get(conn, run_id)
            found = True
            if not access.caller.sees_all_runs and run.actor not in access.caller.actors:
                raise _of_another(run_id)
            yield conn, run
    except NotFound as error:
        if not found and await access.exists(lambda conn: runs.get(conn, run_id)):
            raise _of_another(run_id) from error
        raise


def _of_another(run_id: UUID) -> Forbidden:
    return Forbidden(
        f"run {run_id} is of another actor", "use a token of that actor, or one with runs:any"
    )
