"""`jobsworth psql`: PostgreSQL's own shell, on the database of the settings.

In: arguments for psql. Out: its exit code. The embedded database runs meanwhile, and brings a psql
along; elsewhere the one on the PATH is taken, else the bundled one.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.server.embedded import Embedded
from worker.cli.database import connection_to, database_url, run_async
from worker.settings import load_settings


def run(arguments: Sequence[str]) -> int:
    settings = load_settings()

    async def open_shell() -> int:
        async with database_url(settings) as url:
            async with connection_to(url, settings):
                pass  # an unreachable database is explained in our words
            program = shutil.which("psql") or Embedded(settings.data_dir).bin("psql")
            return await anyio.to_thread.run_sync(_shell, program, url, arguments)

    return run_async(open_shell)


def _shell(program: str | Path, url: str, arguments: Sequence[str]) -> int:
    # The password goes by the environment: a command line can be read by everybody.
    parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    password = parts.pop("password", None)
    secret = {} if password is None else {"PGPASSWORD": password}
    command = [str(program), *arguments, make_conninfo("", **parts)]
    return subprocess.run(command, env=os.environ | secret, check=False).returncode
