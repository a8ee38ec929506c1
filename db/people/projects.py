"""Projects: what sessions and runs are for.

In: a name, and a team or none. Out: a row of `projects`.
"""

from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.documents import to_text
from db.people.naming import check_name, existing_in_team, id_or_name
from db.pool import fetch_all, fetch_one


class Project(BaseModel):
    """A row of `projects`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    name: str
    description: str | None
    metadata: dict[str, Any]
    created_at: AwareDatetime
    updated_at: AwareDatetime


PROJECT_COLUMNS: LiteralString = """
  p.id, p.team_id, p.name, p.description, p.metadata, p.created_at, p.updated_at
"""

SAVE: LiteralString = (
    """
insert into jobsworth.projects as p (team_id, name, description)
values (%(team_id)s, %(name)s, %(description)s)
on conflict on constraint one_project_per_name do update
set description = coalesce(excluded.description, p.description)
returning """
    + PROJECT_COLUMNS
)


async def save(
    conn: AsyncConnection[Any],
    name: str,
    team_id: UUID | None = None,
    description: str | None = None,
) -> Project:
    """The project of this name in this team, created or described anew."""
    values = {
        "team_id": team_id,
        "name": check_name("project", name),
        "description": None if description is None else to_text(description),
    }
    saved = await fetch_one(conn, SAVE, values, Project)
    assert saved is not None
    return saved


GET: LiteralString = (
    "select "
    + PROJECT_COLUMNS
    + """
from jobsworth.projects p
where p.id = %(id)s or p.name = %(name)s and p.team_id is not distinct from %(team_id)s::uuid
"""
)


async def get(
    conn: AsyncConnection[Any], project: UUID | str, team_id: UUID | None = None
) -> Project:
    """The project with this id, or this name (a text) in this team. Raises `NotFound`."""
    values = {**id_or_name(project), "team_id": team_id}
    found = await fetch_one(conn, GET, values, Project)
    return existing_in_team(found, "project", project, team_id)


LIST: LiteralString = (
    "select "
    + PROJECT_COLUMNS
    + """
from jobsworth.projects p
where %(team_id)s::uuid is null or p.team_id = %(team_id)s::uuid
order by p.name, p.team_id
"""
)


async def list_projects(conn: AsyncConnection[Any], team_id: UUID | None = None) -> list[Project]:
    """All projects, or those of one team, by name."""
    return await fetch_all(conn, LIST, {"team_id": team_id}, Project)
