"""`jobsworth roles`: the database roles of an installation.

In: a connection as the owner of the schema. Out: the roles, and what each may do.
"""

from collections.abc import Awaitable, Callable

from db.people import roles
from db.people.roles import Role
from db.pool import Connection
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit_json, emit_table

COLUMNS = [Column("ROLE"), Column("THERE"), Column("MAY", flexible=True)]

noun = Noun("roles", "Database roles: who may do what, and whose rows they see.")


@noun.verb("list", "jobsworth roles")
@options.as_json
def list_roles(as_json: bool) -> None:
    """List the roles, and what each may do."""
    _show(roles.list_roles, as_json)


@noun.verb("create", "jobsworth roles create")
@options.as_json
def create(as_json: bool) -> None:
    """Create the roles, without logins; make your logins members: grant jobsworth_api to web.

    From then on row-level security is forced: the owner of the tables sees every row by a policy of
    its own, and pg_dump as this owner needs --enable-row-security.
    """
    _show(roles.create, as_json)


def _show(work: Callable[[Connection], Awaitable[list[Role]]], as_json: bool) -> None:
    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    rows = [[each.name, "yes" if each.exists else "no", each.may] for each in found]
    emit_table(COLUMNS, rows, "")
