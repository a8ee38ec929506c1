"""`jobsworth migrate`: bring the schema to a revision, or print the SQL that would.

In: a revision. Out: the schema at that revision; other migrations wait meanwhile.
"""

import sys

import anyio.to_thread
import click

from db.errors import Conflict, InvalidInput
from db.migrate import BASE, REVISIONS, Migrated, migration_sql
from db.migrate import migrate as migrate_schema
from worker.cli.terminal import options
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import connection_to, database_url, run_async
from worker.cli.terminal.output import emit, emit_json
from worker.settings import load_settings


@click.command(
    "migrate", cls=Verb, examples=["jobsworth migrate", "jobsworth migrate --sql > schema.sql"]
)
@click.option(
    "--to", metavar="REV", default="head", help="The revision to go to: head, base or its number."
)
@click.option("--sql", is_flag=True, help="Only print the SQL, for psql.")
@click.option(
    "--since", metavar="REV", default="base", help="With --sql: the revision to start from."
)
@options.as_json
def migrate(to: str, since: str, sql: bool, as_json: bool) -> None:
    """Bring the schema of the database to this version, or to another revision."""
    for revision in (to, since):
        if revision not in ("head", BASE, *REVISIONS):
            raise InvalidInput(
                f"there is no revision {revision!r}",
                f"use head, {BASE} or one of: {', '.join(REVISIONS)}",
            )
    settings = load_settings()
    if sql:
        emit(migration_sql(settings.schema_name, to, since).rstrip())
        return
    if to == BASE:
        _confirm(settings.schema_name)

    async def work() -> Migrated:
        async with database_url(settings) as url:
            # Connect first, so that an unreachable database is told as every command tells it.
            async with connection_to(url, settings):
                pass
            return await anyio.to_thread.run_sync(migrate_schema, url, settings.schema_name, to)

    migrated = run_async(work)
    if as_json:
        emit_json({"schema": settings.schema_name, "from": migrated.from_, "to": migrated.to})
    elif migrated.from_ == migrated.to:
        emit(f"schema {settings.schema_name} is at {_name(migrated.to)}: nothing to do")
    else:
        emit(
            f"schema {settings.schema_name} went from {_name(migrated.from_)} to "
            f"{_name(migrated.to)}"
        )


# Only a person is asked: a script does not mistype.
def _confirm(schema: str) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    print(f"This drops every table of schema {schema}, with all that is in them.", file=sys.stderr)
    print(f"Type {schema} to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != schema:
        raise Conflict("nothing was changed", "type the name of the schema to confirm")


def _name(revision: str | None) -> str:
    return "nothing" if revision is None else f"revision {revision}"
