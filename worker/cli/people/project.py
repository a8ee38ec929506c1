"""`jobsworth project`: what sessions and runs are for.

In: a project's name. Out: projects.
"""

import click

from db.people import projects
from db.people.projects import Project
from db.pool import Connection
from worker.cli.people import named
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit, emit_json, emit_table

COLUMNS = [Column("ID"), Column("NAME", flexible=True), Column("DESCRIPTION", flexible=True)]

project = Noun("project", "Projects: what sessions and runs are for.")


@project.verb("list", "jobsworth project --team research")
@named.team_option
@options.as_json
def list_projects(team: str | None, as_json: bool) -> None:
    """List projects."""

    async def work(conn: Connection) -> list[Project]:
        return await projects.list_projects(conn, await named.team_id(conn, team))

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        rows = [[str(each.id), each.name, each.description] for each in found]
        emit_table(COLUMNS, rows, "no projects yet\n  → jobsworth project save launch")


@project.verb("save", "jobsworth project save launch --team research")
@click.argument("name", metavar="NAME", help="The project's name.")
@named.team_option
@click.option("--description", metavar="TEXT", help="What it is about.")
@options.as_json
def save(name: str, team: str | None, description: str | None, as_json: bool) -> None:
    """Make a project, or describe one anew."""

    async def work(conn: Connection) -> Project:
        return await projects.save(conn, name, await named.team_id(conn, team), description)

    saved = run_in_database(work)
    if as_json:
        emit_json(saved)
    else:
        emit(f"project {saved.name} is {saved.id}")
