"""`jobsworth team`: teams, and who is in them.

In: a team's name or id, and users by their ids or external ids. Out: teams, members.
"""

import click

from db.people import teams, users
from db.people.teams import Member, Team, TeamRole
from db.pool import Connection
from worker.cli.people.named import id_or_name
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit, emit_json, emit_table

COLUMNS = [Column("ID"), Column("NAME", flexible=True), Column("OWNER", optional=True)]
MEMBERS = [Column("USER"), Column("EXTERNAL ID", flexible=True), Column("NAME"), Column("ROLE")]
NONE = "no teams yet\n  → jobsworth user save ada; jobsworth team save research --owner ada"

team = Noun("team", "Teams, and who is in them.")
team_name = click.argument("name", metavar="TEAM", help="The team's name or id.")
user_name = click.argument("user", metavar="USER", help="The user's external id or id.")


@team.verb("list", "jobsworth team")
@options.as_json
def list_teams(as_json: bool) -> None:
    """List teams."""

    async def work(conn: Connection) -> list[Team]:
        return await teams.list_teams(conn)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        emit_table(COLUMNS, [[str(t.id), t.name, str(t.owner_id)] for t in found], NONE)


@team.verb("save", "jobsworth team save research --owner ada")
@click.argument("name", metavar="NAME", help="The team's name.")
@click.option(
    "--owner", metavar="USER", required=True, help="Who owns it: an external id or an id."
)
@options.as_json
def save(name: str, owner: str, as_json: bool) -> None:
    """Make a team, or give one another owner; the owner before stays in it."""

    async def work(conn: Connection) -> Team:
        return await teams.save(conn, name, (await users.get(conn, id_or_name(owner))).id)

    saved = run_in_database(work)
    if as_json:
        emit_json(saved)
    else:
        emit(f"team {saved.name} is {saved.id}")


@team.verb("show", "jobsworth team show research")
@team_name
@options.as_json
def show(name: str, as_json: bool) -> None:
    """Show who is in a team."""

    async def work(conn: Connection) -> tuple[Team, list[Member]]:
        found = await teams.get(conn, id_or_name(name))
        return found, await teams.members(conn, found.id)

    found, members = run_in_database(work)
    if as_json:
        emit_json({**found.model_dump(mode="json"), "members": members})
        return
    emit(f"team {found.name} is {found.id}")
    emit_table(MEMBERS, [[str(m.user_id), m.external_id, m.name, m.role] for m in members], "")


@team.verb("add", "jobsworth team add research grace --role admin")
@team_name
@user_name
@options.choice("--role", words=TeamRole, default=TeamRole.MEMBER.value, help="As what")
def add(name: str, user: str, role: str) -> None:
    """Put a user into a team, or give one who is in it another role."""

    async def work(conn: Connection) -> None:
        found = await teams.get(conn, id_or_name(name))
        await teams.put_in(conn, found.id, (await users.get(conn, id_or_name(user))).id, role)

    run_in_database(work)
    emit(f"{user} is in team {name} as {role}")


@team.verb("remove", "jobsworth team remove research grace")
@team_name
@user_name
def remove(name: str, user: str) -> None:
    """Take a user out of a team."""

    async def work(conn: Connection) -> bool:
        found = await teams.get(conn, id_or_name(name))
        return await teams.take_out(conn, found.id, (await users.get(conn, id_or_name(user))).id)

    removed = run_in_database(work)
    emit(f"{user} is no longer in team {name}" if removed else f"{user} was not in team {name}")
