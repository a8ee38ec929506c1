"""`jobsworth user`: users, by the ids of the platform that they come from.

In: an external id. Out: users.
"""

import click

from db.people import users
from db.people.users import User
from db.pool import Connection
from worker.cli.people.named import id_or_name
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, compact_json, emit, emit_facts, emit_json, emit_table

COLUMNS = [Column("ID"), Column("EXTERNAL ID", flexible=True), Column("NAME", flexible=True)]

user = Noun("user", "Users, by the ids of the platform that they come from.")


@user.verb("list", "jobsworth user")
@options.limit(100)
@options.as_json
def list_users(limit: int, as_json: bool) -> None:
    """List users, newest first."""

    async def work(conn: Connection) -> list[User]:
        return await users.list_users(conn, limit=limit)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        rows = [[str(each.id), each.external_id, each.name] for each in found]
        emit_table(COLUMNS, rows, "no users yet\n  → jobsworth user save telegram:4711 --name Ada")


@user.verb("save", "jobsworth user save telegram:4711 --name Ada")
@click.argument("external_id", metavar="EXTERNAL-ID", help="The platform's own id, any text.")
@click.option("--name", metavar="TEXT", help="What people call the user.")
@options.as_json
def save(external_id: str, name: str | None, as_json: bool) -> None:
    """Make a user, or change the given parts of one."""

    async def work(conn: Connection) -> User:
        return await users.save(conn, external_id, name)

    saved = run_in_database(work)
    if as_json:
        emit_json(saved)
    else:
        emit(f"user {saved.external_id} is {saved.id}")


@user.verb("show", "jobsworth user show telegram:4711")
@click.argument("name", metavar="USER", help="The user's external id or id.")
@options.as_json
def show(name: str, as_json: bool) -> None:
    """Show a user."""

    async def work(conn: Connection) -> User:
        return await users.get(conn, id_or_name(name))

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    emit_facts(
        [
            ("user", str(found.id)),
            ("external id", found.external_id),
            ("name", found.name),
            ("metadata", compact_json(found.metadata) if found.metadata else None),
        ]
    )
