"""Teams, and who is in them.

In: a name and an owner. Out: a team whose owner is in it. Invariant, kept by triggers: a team's
owner is one of its members, with the role of an owner.
"""

from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import InvalidInput, shown
from db.people.naming import check_name, existing, id_or_name
from db.pool import execute, fetch_all, fetch_one


class TeamRole(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


class Team(BaseModel):
    """A row of `teams`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    name: str
    owner_id: UUID
    metadata: dict[str, Any]
    created_at: AwareDatetime
    updated_at: AwareDatetime


class Member(BaseModel):
    """A user in a team."""

    model_config = ConfigDict(frozen=True)

    team_id: UUID
    user_id: UUID
    external_id: str | None
    name: str | None
    role: TeamRole
    created_at: AwareDatetime


TEAM_COLUMNS: LiteralString = """
  t.id, t.name, t.owner_id, t.metadata, t.created_at, t.updated_at
"""

SAVE: LiteralString = (
    """
insert into jobsworth.teams as t (name, owner_id)
values (%(name)s, %(owner_id)s)
on conflict on constraint one_team_per_name do update set owner_id = excluded.owner_id
returning """
    + TEAM_COLUMNS
)


async def save(conn: AsyncConnection[Any], name: str, owner_id: UUID) -> Team:
    """The team of this name, created or given to this owner; an owner before stays in it.

    Raises `InvalidInput` for an empty name, `Refused` for an owner who does not exist.
    """
    values = {"name": check_name("team", name), "owner_id": owner_id}
    saved = await fetch_one(conn, SAVE, values, Team)
    assert saved is not None
    return saved


GET: LiteralString = (
    "select "
    + TEAM_COLUMNS
    + """
from jobsworth.teams t
where t.id = %(id)s or t.name = %(name)s
"""
)


async def get(conn: AsyncConnection[Any], team: UUID | str) -> Team:
    """The team with this id, or this name (a text). Raises `NotFound`."""
    return existing(await fetch_one(conn, GET, id_or_name(team), Team), "team", team)


LIST: LiteralString = (
    "select "
    + TEAM_COLUMNS
    + """
from jobsworth.teams t
order by t.name
"""
)


async def list_teams(conn: AsyncConnection[Any]) -> list[Team]:
    """All teams, by name."""
    return await fetch_all(conn, LIST, None, Team)


PUT_IN: LiteralString = """
insert into jobsworth.team_memberships as m (team_id, user_id, role)
values (%(team_id)s, %(user_id)s, %(role)s::jobsworth.team_role)
on conflict (team_id, user_id) do update set role = excluded.role
"""


async def put_in(
    conn: AsyncConnection[Any], team_id: UUID, user_id: UUID, role: TeamRole | str = "member"
) -> None:
    """Put a user into a team, or give one who is in it another role.

    Raises `InvalidInput` for an unknown role, `Refused` for the team's owner (give the team another
    one first), and for a team or user that does not exist.
    """
    if role not in list(TeamRole):
        raise InvalidInput(f"role {shown(role)} is unknown", f"give one of {', '.join(TeamRole)}")
    values = {"team_id": team_id, "user_id": user_id, "role": str(role)}
    await execute(conn, PUT_IN, values)


TAKE_OUT: LiteralString = """
delete from jobsworth.team_memberships m
where m.team_id = %(team_id)s and m.user_id = %(user_id)s
"""


async def take_out(conn: AsyncConnection[Any], team_id: UUID, user_id: UUID) -> bool:
    """Take a user out of a team; whether it was in it. Raises `Refused` for the team's owner."""
    values = {"team_id": team_id, "user_id": user_id}
    return await execute(conn, TAKE_OUT, values) > 0


MEMBERS: LiteralString = """
select m.team_id, m.user_id, u.external_id, u.name, m.role, m.created_at
from jobsworth.team_memberships m
join jobsworth.users u on u.id = m.user_id
where m.team_id = %(team_id)s
order by m.role, m.created_at, m.user_id
"""


async def members(conn: AsyncConnection[Any], team_id: UUID) -> list[Member]:
    """Who is in a team: owners first, viewers last."""
    return await fetch_all(conn, MEMBERS, {"team_id": team_id}, Member)
