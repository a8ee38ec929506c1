"""`/queues`, `/workers`, `/environments`, `/deployments` and `/stats`: how the installation does.

In: the name of a queue. Out: rows. Invariant: what belongs to the whole installation is
shown to, and changed by, callers of no team alone.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from db.deployments import deployments, environments
from db.deployments.deployments import Deployment
from db.deployments.environments import EnvironmentState
from db.limits import job_limits
from db.limits.job_limits import JobLimit, LimitUse, Per
from db.money import ledger
from db.money.ledger import DailyUsage
from db.queue import jobs, queues, workers
from db.queue.jobs import Counts
from db.queue.queues import Queue
from db.queue.workers import Worker
from worker.api.access import Access, may
from worker.api.paging import At
from worker.api.problems import documented

router = APIRouter(tags=["operation"])
ReadQueues = Annotated[Access, may("queues:read")]
WriteQueues = Annotated[Access, may("queues:write")]
ReadWorkers = Annotated[Access, may("workers:read")]
ReadDeployments = Annotated[Access, may("deployments:read")]
ReadStats = Annotated[Access, may("stats:read")]


class QueuesShown(BaseModel):
    """Queues that were ever paused, and limits of jobs with what they let through now."""

    queues: list[Queue]
    limits: list[LimitUse]


class SetJobLimit(BaseModel):
    """How many jobs of a queue or a mode run at once (`slots`), or start in a time (`rate` in
    `per_seconds`); with `per`, for each team or key. What is left out stays as it is.
    """

    model_config = ConfigDict(extra="forbid")

    queue: str | None = None
    mode: str | None = None
    per: Per | None = None
    slots: int | None = None
    rate: int | None = None
    per_seconds: float | None = None
    burst: int | None = None


class Stats(BaseModel):
    """The unfinished jobs, and what was spent today (UTC)."""

    jobs: Counts
    today: DailyUsage


@router.get("/stats", summary="Count unfinished jobs and today's spending", responses=documented())
async def show_stats(access: ReadStats) -> Stats:
    async with access.reading() as conn:
        spent = await ledger.get_daily_usage(conn, team_id=access.caller.team_id)
        return Stats(jobs=await jobs.counts(conn), today=spent)


@router.get("/queues", summary="List queues, and limits of jobs", responses=documented())
async def list_queues(access: ReadQueues) -> QueuesShown:
    access.caller.require_installation()
    async with access.reading() as conn:
        return QueuesShown(
            queues=await queues.list_all(conn), limits=await job_limits.list_all(conn)
        )


@router.post("/queues/{name}/pause", summary="Pause a queue", responses=documented())
async def pause(access: WriteQueues, name: str) -> Queue:
    """No job of it starts any more; running ones go on."""
    access.caller.require_installation()
    async with access.acting() as conn:
        return await queues.pause(conn, name)


@router.post("/queues/{name}/resume", summary="Resume a queue", responses=documented())
async def resume(access: WriteQueues, name: str) -> Queue:
    access.caller.require_installation()
    async with access.acting() as conn:
        return await queues.resume(conn, name)


@router.put("/queues/limits/{name}", summary="Set a limit of jobs", responses=documented(409))
async def set_job_limit(access: WriteQueues, name: str, new: SetJobLimit) -> JobLimit:
    """Adds it, or changes the one of that name; jobs that run already count for it."""
    access.caller.require_installation()
    async with access.acting() as conn:
        return await job_limits.set_limit(conn, name, **dict(new))


@router.delete(
    "/queues/limits/{name}",
    summary="Remove a limit of jobs",
    status_code=204,
    responses=documented(404),
)
async def remove_job_limit(access: WriteQueues, name: str) -> None:
    """What it held up goes on."""
    access.caller.require_installation()
    async with access.acting() as conn:
        await job_limits.remove(conn, name)


@router.get("/workers", summary="List workers", responses=documented())
async def list_workers(access: ReadWorkers) -> list[Worker]:
    access.caller.require_installation()
    async with access.reading() as conn:
        return await workers.list_workers(conn)


@router.get("/environments", summary="Show what is live in each", responses=documented())
async def list_environments(access: ReadDeployments) -> list[EnvironmentState]:
    async with access.reading() as conn:
        return await environments.list_states(conn)


@router.get("/deployments", summary="List deployments, newest first", responses=documented())
async def list_deployments(
    access: ReadDeployments, at: At, environment: str | None = None
) -> list[Deployment]:
    async with access.reading() as conn:
        return await deployments.get_recent(
            conn,
            environment,
            at.limit,
            team_id=access.caller.team_id,
            before_id=at.before,
            after_id=at.after,
        )


@router.get("/deployments/{deployment_id}", summary="Show one", responses=documented(404))
async def show_deployment(access: ReadDeployments, deployment_id: UUID) -> Deployment:
    async with access.reading() as conn:
        return await deployments.get_by_id(conn, deployment_id)
