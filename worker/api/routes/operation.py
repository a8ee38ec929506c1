"""`/queues`, `/workers`, `/environments`, `/deployments` and `/stats`: how the installation does.

In: the name of a queue. Out: rows. Invariant: what belongs to the whole installation is
shown to, and changed by, callers of no team alone.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from db.deployments import deployments, environments
from db.deployments.deployments import Deployment
from db.deployments.environments import EnvironmentState
from db.limits import job_limits
from db.limits.job_limits import LimitUse
from db.money import ledger
from db.money.ledger import DailyUsage
from db.queue import jobs, queues, workers
from db.queue.jobs import Counts
from db.queue.queues import Queue
from db.queue.workers import Worker
from worker.api.access import Access, may
from worker.api.paging import LIMIT, Limit
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
    access: ReadDeployments, environment: str | None = None, limit: Limit = LIMIT
) -> list[Deployment]:
    async with access.reading() as conn:
        return await deployments.get_recent(conn, environment, limit, team_id=access.caller.team_id)


@router.get("/deployments/{deployment_id}", summary="Show one", responses=documented(404))
async def show_deployment(access: ReadDeployments, deployment_id: UUID) -> Deployment:
    async with access.reading() as conn:
        return await deployments.get_by_id(conn, deployment_id)
