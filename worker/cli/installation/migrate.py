"""`jobsworth migrate`: bring the schema to a revision, or print the SQL that would.

In: the wanted revision. Out: the schema at it, under a lock that other migrations wait for.
Invariant: no data is dropped before a person has confirmed it, or while a worker is running.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio.to_thread
import click

from db.errors import Conflict, InvalidInput
from db.migrate import BASE, REVISIONS, Migrated, goes_down, migration_sql
from db.migrate import migrate as migrate_schema
from worker.cli.terminal import options
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import connection_to, database_url, run_async
from worker.cli.terminal.output import emit, emit_json
from worker.settings import Settings, load_settings

T = TypeVar("T")


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
@click.option("--yes", is_flag=True, help="Go down to an older revision without asking.")
@options.as_json
def migrate(to: str, since: str, sql: bool, yes: bool, as_json: bool) -> None:
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
    # Two connections: a person may think for long, and Ctrl-C ends the question at once only
    # outside of the event loop.
    if to != "head" and not yes and _in_database(settings, partial(_goes_down, settings, to)):
        _confirm(settings.schema_name, to)
    migrated = _in_database(settings, partial(_migrate, settings, to))
    if as_json:
        emit_json({"schema": settings.schema_name, "from": migrated.from_, "to": migrated.to})
    elif migrated.from_ == migrated.to:
        emit(f"schema {settings.schema_name} is at {_name(migrated.to)}: nothing to do")
    else:
        emit(
            f"schema {settings.schema_name} went from {_name(migrated.from_)} to "
            f"{_name(migrated.to)}"
        )


def _in_database(settings: Settings, work: Callable[[str], T]) -> T:
    async def connect_and_work() -> T:
        async with database_url(settings) as its_url:
            url = settings.listen_url or its_url
            # Reached first, so that an unreachable one is told as every command tells it.
            async with connection_to(url, settings):
                pass
            return await anyio.to_thread.run_sync(work, url)

    return run_async(connect_and_work)


def _goes_down(settings: Settings, to: str, url: str) -> bool:
    return goes_down(url, settings.schema_name, to, alive_seconds=settings.rescue_seconds)


def _migrate(settings: Settings, to: str, url: str) -> Migrated:
    return migrate_schema(url, settings.schema_name, to, alive_seconds=settings.rescue_seconds)


def _confirm(schema: str, to: str) -> None:
    """Ask the person at the terminal; raises `Conflict` unless the answer is the schema's name."""
    loss = (
        f"every table of schema {schema}, with all data in them"
        if to == BASE
        else f"what the revisions after {to} have added to schema {schema}, with all data in it"
    )
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Conflict(
            f"nothing was changed: this would drop {loss}",
            "add --yes to do it without a terminal, where nobody can be asked",
        )
    print(f"This drops {loss}.", file=sys.stderr)
    print(f"Type {schema} to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != schema:
        raise Conflict("nothing was changed", "type the name of the schema to confirm")


def _name(revision: str | None) -> str:
    return "nothing" if revision is None else f"revision {revision}"
