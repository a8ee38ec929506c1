"""`jobsworth migrate`: bring the schema to a revision, or print the SQL that would.

In: the wanted revision. Out: the schema at it, under a lock that other migrations wait for.
"""

import sys

import anyio.to_thread

from db.errors import Conflict, InvalidInput
from db.migrate import BASE, REVISIONS, Migrated, migrate, migration_sql
from worker.cli.database import connection_to, database_url, run_async
from worker.cli.output import emit, emit_json
from worker.settings import load_settings


def run(*, to: str, since: str, sql: bool, as_json: bool) -> None:
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
            # Reached first, so that an unreachable one is told as every command tells it.
            async with connection_to(url, settings):
                pass
            return await anyio.to_thread.run_sync(migrate, url, settings.schema_name, to)

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


# A script means what it says; a person at a terminal may have mistyped.
def _confirm(schema: str) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    print(f"This drops every table of schema {schema}, with all that is in them.", file=sys.stderr)
    print(f"Type {schema} to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != schema:
        raise Conflict("nothing was changed", "type the name of the schema to confirm")


def _name(revision: str | None) -> str:
    return "nothing" if revision is None else f"revision {revision}"
