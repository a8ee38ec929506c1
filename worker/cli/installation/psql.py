"""`jobsworth psql`: PostgreSQL's own shell, on the database of the settings.

In: arguments for psql. Out: its exit code. The psql on the PATH is used, else the one that comes
with the embedded database, which runs meanwhile.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread
import click
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.server.embedded import Embedded
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import connection_to, database_url, run_async
from worker.settings import load_settings


@click.command(
    "psql",
    cls=Verb,
    examples=["jobsworth psql -c 'select count(*) from jobsworth.reactive_jobs'"],
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument(
    "arguments",
    metavar="[ARGUMENTS]...",
    nargs=-1,
    type=click.UNPROCESSED,
    help="Passed on to psql.",
)
def psql(arguments: tuple[str, ...]) -> int:
    """Open psql on the database, the embedded one too."""
    settings = load_settings()

    async def open_shell() -> int:
        async with database_url(settings) as url:
            async with connection_to(url, settings):
                pass  # an unreachable database is explained in our words
            program = shutil.which("psql") or Embedded(settings.data_dir).bin("psql")
            embedded = settings.database_url is None
            return await anyio.to_thread.run_sync(_shell, program, url, arguments, embedded)

    return run_async(open_shell)


def _shell(program: str | Path, url: str, arguments: Sequence[str], embedded: bool) -> int:
    # The password is passed in the environment: every user can read a command line.
    parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    password = parts.pop("password", None)
    surroundings = dict(os.environ)
    if embedded:
        # An older psql does not know every option that keeps the environment out.
        parts = {name: parts[name] for name in ("user", "host", "port", "dbname")}
        surroundings = {k: v for k, v in surroundings.items() if not k.startswith("PG")}
    secret = {} if password is None else {"PGPASSWORD": password}
    command = [str(program), *arguments, make_conninfo("", **parts)]
    return subprocess.run(command, env=surroundings | secret, check=False).returncode
