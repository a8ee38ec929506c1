"""Agents: what makes one different from another.

In: a name, a team (or none: the installation's), and the agent's ways. Out: a row of `agents`, with
the skills that it has in effect.
"""

from typing import Any, LiteralString, TypedDict, Unpack
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_options
from db.documents import to_payload, to_text
from db.people.naming import check_name, existing_in_team
from db.pool import fetch_all, fetch_one


class Agent(BaseModel):
    """A row of `agents`.

    model: `provider:model`, None for the worker's. skills: what it can do in effect, those that it
    shares and those of its own without the disabled ones. similarity_weight, recency_weight,
    importance_weight (0 to 1,000) and half_life_seconds: how it weighs memories; None: as all do.
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    name: str
    model: str | None
    personality: str | None
    instructions: str | None
    skills_shared: list[str]
    skills_private: list[str]
    skills_disabled: list[str]
    skills: list[str]
    similarity_weight: float | None
    recency_weight: float | None
    importance_weight: float | None
    half_life_seconds: float | None
    metadata: dict[str, Any]
    created_at: AwareDatetime
    updated_at: AwareDatetime


class AgentWays(TypedDict, total=False):
    """What `save` sets; what is left out stays. `Agent` explains them."""

    model: str | None
    personality: str | None
    instructions: str | None
    skills_shared: list[str]
    skills_private: list[str]
    skills_disabled: list[str]
    similarity_weight: float | None
    recency_weight: float | None
    importance_weight: float | None
    half_life_seconds: float | None
    metadata: dict[str, Any]


AGENT_COLUMNS: LiteralString = """
  a.id, a.team_id, a.name, a.model, a.personality, a.instructions, a.skills_shared,
  a.skills_private, a.skills_disabled, a.skills, a.similarity_weight, a.recency_weight,
  a.importance_weight, a.half_life_seconds, a.metadata, a.created_at, a.updated_at
"""

SAVE: LiteralString = (
    """
insert into jobsworth.agents as a (
  team_id, name, model, personality, instructions, skills_shared, skills_private, skills_disabled,
  similarity_weight, recency_weight, importance_weight, half_life_seconds, metadata)
values (%(team_id)s, %(name)s, %(model)s, %(personality)s, %(instructions)s,
  coalesce(%(skills_shared)s::text[], '{}'), coalesce(%(skills_private)s::text[], '{}'),
  coalesce(%(skills_disabled)s::text[], '{}'), %(similarity_weight)s, %(recency_weight)s,
  %(importance_weight)s, %(half_life_seconds)s, coalesce(%(metadata)s::jsonb, '{}'))
on conflict on constraint one_agent_per_name do update
set model = case when 'model' = any(%(given)s) then excluded.model else a.model end,
  personality =
    case when 'personality' = any(%(given)s) then excluded.personality else a.personality end,
  instructions =
    case when 'instructions' = any(%(given)s) then excluded.instructions else a.instructions end,
  skills_shared = coalesce(%(skills_shared)s::text[], a.skills_shared),
  skills_private = coalesce(%(skills_private)s::text[], a.skills_private),
  skills_disabled = coalesce(%(skills_disabled)s::text[], a.skills_disabled),
  similarity_weight = case when 'similarity_weight' = any(%(given)s)
    then excluded.similarity_weight else a.similarity_weight end,
  recency_weight = case when 'recency_weight' = any(%(given)s)
    then excluded.recency_weight else a.recency_weight end,
  importance_weight = case when 'importance_weight' = any(%(given)s)
    then excluded.importance_weight else a.importance_weight end,
  half_life_seconds = case when 'half_life_seconds' = any(%(given)s)
    then excluded.half_life_seconds else a.half_life_seconds end,
  metadata = coalesce(%(metadata)s::jsonb, a.metadata)
returning """
    + AGENT_COLUMNS
)


async def save(
    conn: AsyncConnection[Any], name: str, team_id: UUID | None = None, **ways: Unpack[AgentWays]
) -> Agent:
    """The agent of this name in this team, created or changed as given.

    Raises `InvalidInput` for an unknown option and for skills that are not a list of texts, and
    `Refused` for a weight out of its bounds.
    """
    check_options("save", ways, AgentWays.__annotations__)
    values: dict[str, Any] = dict.fromkeys(AgentWays.__annotations__)
    for key, value in ways.items():
        if key.startswith("skills_"):
            values[key] = _skills(key, value)
        elif key == "metadata":
            values[key] = to_payload(value, "the metadata of an agent")
        else:
            values[key] = to_text(value) if isinstance(value, str) else value
    values.update(name=check_name("agent", name), team_id=team_id, given=list(ways))
    saved = await fetch_one(conn, SAVE, values, Agent)
    assert saved is not None
    return saved


GET: LiteralString = (
    "select "
    + AGENT_COLUMNS
    + """
from jobsworth.agents a
where a.id = %(id)s
"""
)


async def find(conn: AsyncConnection[Any], agent_id: UUID) -> Agent | None:
    """The agent with this id, if there is one: jobs may name agents that no table knows."""
    return await fetch_one(conn, GET, {"id": agent_id}, Agent)


GET_BY_NAME: LiteralString = (
    "select "
    + AGENT_COLUMNS
    + """
from jobsworth.agents a
where a.name = %(name)s and a.team_id is not distinct from %(team_id)s::uuid
"""
)


async def get(conn: AsyncConnection[Any], agent: UUID | str, team_id: UUID | None = None) -> Agent:
    """The agent with this id, or this name (a text) in this team. Raises `NotFound`."""
    if isinstance(agent, UUID):
        found = await find(conn, agent)
    else:
        values = {"name": agent, "team_id": team_id}
        found = await fetch_one(conn, GET_BY_NAME, values, Agent)
    return existing_in_team(found, "agent", agent, team_id)


LIST: LiteralString = (
    "select "
    + AGENT_COLUMNS
    + """
from jobsworth.agents a
where %(team_id)s::uuid is null or a.team_id = %(team_id)s::uuid
order by a.name, a.team_id
"""
)


async def list_agents(conn: AsyncConnection[Any], team_id: UUID | None = None) -> list[Agent]:
    """All agents, or those of one team, by name."""
    return await fetch_all(conn, LIST, {"team_id": team_id}, Agent)


def _skills(thing: str, value: object) -> list[str]:
    given: list[object] = list(value) if isinstance(value, list | tuple) else [None]  # pyright: ignore[reportUnknownArgumentType]
    return [check_name(f"{thing}: skill", each) for each in given]
