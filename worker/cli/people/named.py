"""Teams, users and agents as people type them: an id, or a name.

In: what was typed. Out: the row's id. Raises `NotFound`.
"""

from uuid import UUID

import click

from db.people import agents, projects, teams, users
from db.pool import Connection

team_option = click.option("--team", metavar="TEAM", help="Of this team: its name or id.")


def id_or_name(text: str) -> UUID | str:
    """The id, if it is one; else the name."""
    try:
        return UUID(text)
    except ValueError:
        return text


async def team_id(conn: Connection, text: str | None) -> UUID | None:
    """The id of a team, if one was named."""
    return None if text is None else (await teams.get(conn, id_or_name(text))).id


async def user_id(conn: Connection, text: str | None) -> UUID | None:
    """The id of a user, if one was named."""
    return None if text is None else (await users.get(conn, id_or_name(text))).id


async def agent_id(conn: Connection, text: str | None, team: UUID | None) -> UUID | None:
    """The id of an agent of this team, if one was named."""
    return None if text is None else (await agents.get(conn, id_or_name(text), team)).id


async def project_id(conn: Connection, text: str | None, team: UUID | None) -> UUID | None:
    """The id of a project of this team, if one was named."""
    return None if text is None else (await projects.get(conn, id_or_name(text), team)).id
