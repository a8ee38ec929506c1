"""`/memories` and `/agents`: what is remembered, and who the agents are.

In: an id. Out: memories and their successors; agents. Invariant: a memory is superseded by one
of the caller's own.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from db.memory import status
from db.memory.status import Memory, MemoryStatus, MemoryType
from db.people import agents
from db.people.agents import Agent
from worker.api.access import Access, Seen, may
from worker.api.paging import LIMIT, Limit
from worker.api.problems import documented

router = APIRouter(tags=["memory"])
Read = Annotated[Access, may("memories:read")]
Write = Annotated[Access, may("memories:write")]
ReadAgents = Annotated[Access, may("agents:read")]


class Successor(BaseModel):
    model_config = ConfigDict(extra="forbid")

    successor_id: UUID


class Retraction(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(default=None, max_length=10_000)


@router.get("/memories", summary="List memories, latest first", responses=documented())
async def list_memories(
    access: Read,
    wanted: Annotated[MemoryStatus | None, Query(alias="status")] = None,
    types: Annotated[list[MemoryType] | None, Query(alias="type")] = None,
    agent_id: UUID | None = None,
    before: Annotated[UUID | None, Query(description="older than this id")] = None,
    limit: Limit = LIMIT,
) -> list[Memory]:
    async with access.reading() as conn:
        return await status.list_memories(
            conn, status=wanted, types=types, agent_id=agent_id, before_id=before, limit=limit
        )


@router.get("/memories/{memory_id}", summary="Show a memory", responses=documented(404))
async def show_memory(access: Read, memory_id: UUID) -> Memory:
    async with access.reading() as conn:
        return await status.get(conn, memory_id)


@router.post(
    "/memories/{memory_id}/supersede",
    summary="Let another memory take its place",
    responses=documented(404, 409),
)
async def supersede(access: Write, memory_id: UUID, by: Successor) -> Memory:
    async with access.acting(_memory(memory_id), _memory(by.successor_id)) as conn:
        await status.supersede(conn, memory_id, by.successor_id)
        return await status.get(conn, memory_id)


@router.post(
    "/memories/{memory_id}/retract",
    summary="Recall a memory no more",
    responses=documented(404, 409),
)
async def retract(access: Write, memory_id: UUID, why: Retraction | None = None) -> Memory:
    async with access.acting(_memory(memory_id)) as conn:
        await status.retract(conn, memory_id, (why or Retraction()).reason)
        return await status.get(conn, memory_id)


@router.get("/agents", summary="List agents", responses=documented())
async def list_agents(access: ReadAgents) -> list[Agent]:
    async with access.reading() as conn:
        return await agents.list_agents(conn, access.caller.team_id)


@router.get("/agents/{agent_id}", summary="Show an agent", responses=documented(404))
async def show_agent(access: ReadAgents, agent_id: UUID) -> Agent:
    async with access.reading() as conn:
        return await agents.get(conn, agent_id)


def _memory(memory_id: UUID) -> Seen:
    return lambda conn: status.get(conn, memory_id)
