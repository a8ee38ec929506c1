"""`/memories` and `/agents`: what is remembered, and who the agents are.

In: an id. Out: memories and their successors; agents. Invariant: a memory is superseded by one
of the caller's own.
"""

from functools import cache
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from db.errors import Conflict
from db.memory import spaces, status
from db.memory.status import Memory, MemoryStatus, MemoryType
from db.people import agents
from db.people.agents import Agent
from worker.api.access import Access, Seen, may
from worker.api.paging import At
from worker.api.problems import documented
from worker.memory import recall
from worker.memory.choice import offline_embedder, space_of
from worker.memory.embedders import HashingEmbedder
from worker.memory.ranking import Recalled, Weights
from worker.memory.semantic.embedder import SemanticEmbedder
from worker.settings import load_settings, load_settings_despite_unknown_names

router = APIRouter(tags=["memory"])
SEARCH_MAX = 100
QUERY_MAX = 10_000
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
    at: At,
    wanted: Annotated[MemoryStatus | None, Query(alias="status")] = None,
    types: Annotated[list[MemoryType] | None, Query(alias="type")] = None,
    agent_id: UUID | None = None,
) -> list[Memory]:
    async with access.reading() as conn:
        return await status.list_memories(
            conn,
            status=wanted,
            types=types,
            agent_id=agent_id,
            before_id=at.before,
            after_id=at.after,
            limit=at.limit,
        )


@router.get("/memories/search", summary="Search memories by meaning", responses=documented(409))
async def search(
    access: Read,
    q: Annotated[str, Query(min_length=1, max_length=QUERY_MAX, description="what to look for")],
    types: Annotated[list[MemoryType] | None, Query(alias="type")] = None,
    agent_id: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=SEARCH_MAX)] = 20,
) -> list[Recalled]:
    """As a job's `recall` ranks them, best first; `parts` add up to `score`."""
    settings = load_settings_despite_unknown_names() or load_settings()
    if settings.embedder_url is not None:
        raise Conflict(
            "the workers' embedder is an endpoint: it is paid for, and only a job may spend money",
            "recall in a job, or search on the command line: jobsworth memory search",
        )
    # Spaces are of no team, so a team's role sees none.
    async with access.acting() as conn:
        space = await spaces.find(conn, space_of(settings))
    if space is None:
        return []
    [vector] = await _embedder().embed([q])
    team_id = access.caller.team_id
    scope = {"team_id": team_id, "any_team": team_id is None, "types": types, "agent_id": agent_id}
    async with access.reading() as conn:
        return await recall.search(conn, space, vector, q, limit, Weights(), scope)


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


@cache
def _embedder() -> HashingEmbedder | SemanticEmbedder:
    # A model is loaded once, with the first search.
    return offline_embedder(load_settings_despite_unknown_names() or load_settings())


def _memory(memory_id: UUID) -> Seen:
    return lambda conn: status.get(conn, memory_id)
