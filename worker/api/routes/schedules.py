"""`/schedules`: jobs that are enqueued again and again.

In: a name, its times and its job. Out: schedules, and what became of their times.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from db.people import agents
from db.schedules import schedules
from db.schedules.schedules import Firing, NewSchedule, Schedule
from worker.api.access import Access, Seen, may
from worker.api.modes import check_mode
from worker.api.paging import LIMIT, Limit
from worker.api.problems import documented

router = APIRouter(prefix="/schedules", tags=["schedules"])
Read = Annotated[Access, may("schedules:read")]
Write = Annotated[Access, may("schedules:write")]


class SetSchedule(BaseModel):
    """Exactly one of cron, every_seconds and at says when."""

    model_config = ConfigDict(extra="forbid")

    mode: str
    payload: dict[str, Any] = {}
    cron: str | None = Field(None, examples=["0 7 * * *"])
    every_seconds: float | None = None
    at: AwareDatetime | None = None
    time_zone: str = "UTC"
    queue: str = "default"
    priority: int = Field(3, ge=1, le=4)
    agent_id: UUID | None = None


@router.get("", summary="List schedules", responses=documented())
async def list_schedules(access: Read) -> list[Schedule]:
    async with access.reading() as conn:
        return await schedules.list_all(conn)


@router.put("/{name}", summary="Set a schedule", responses=documented(404, 409))
async def set_schedule(access: Write, name: str, new: SetSchedule) -> Schedule:
    """Adds it, or changes the one of that name."""
    check_mode(access.caller, new.mode)
    team_id = access.caller.team_id
    given = new.model_dump(exclude={"every_seconds"})
    wanted = NewSchedule(name, every=new.every_seconds, team_id=team_id, **given)
    seen: list[Seen] = []
    if (agent_id := new.agent_id) is not None:
        seen.append(lambda conn: agents.get(conn, agent_id))
    async with access.acting(*seen) as conn:
        await schedules.add(conn, wanted, replace=True)
        return await schedules.get(conn, name, team_id)


@router.get("/{name}/firings", summary="List what became of its times", responses=documented(404))
async def list_firings(access: Read, name: str, limit: Limit = LIMIT) -> list[Firing]:
    async with access.reading() as conn:
        found = await schedules.get(conn, name, access.caller.team_id)
        return await schedules.firings(conn, found.id, limit)


@router.post("/{name}/pause", summary="Pause a schedule", responses=documented(404))
async def pause(access: Write, name: str) -> Schedule:
    team_id = access.caller.team_id
    async with access.acting() as conn:
        await schedules.pause(conn, name, team_id)
        return await schedules.get(conn, name, team_id)


@router.post("/{name}/resume", summary="Resume a schedule", responses=documented(404))
async def resume(access: Write, name: str) -> Schedule:
    team_id = access.caller.team_id
    async with access.acting() as conn:
        await schedules.resume(conn, name, team_id)
        return await schedules.get(conn, name, team_id)


@router.delete("/{name}", summary="Remove a schedule", status_code=204, responses=documented(404))
async def remove(access: Write, name: str) -> None:
    async with access.acting() as conn:
        await schedules.remove(conn, name, access.caller.team_id)
