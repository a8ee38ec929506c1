"""`jobsworth worker`: start a worker, or list those that live.

In: settings, and the command line's overrides. Out: the exit code of the daemon; or the workers.
`jobsworth worker` alone is `jobsworth worker run`.
"""

import os
import sys
from typing import Any

import click

from db.diagnosis import fitness
from db.pool import Connection
from db.queue import workers
from db.queue.workers import Worker
from worker.cli.terminal import collector, names, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import emit, emit_json
from worker.cli.terminal.words import worker_state
from worker.cli.views.tables import emit_workers
from worker.settings import Settings, SettingsError, load_settings

worker = Noun(
    "worker", "Workers: daemons that run jobs. `jobsworth worker` starts one.", default="run"
)


@worker.verb("run", "JOBSWORTH_HANDLERS=myjobs jobsworth worker", "jobsworth worker --slots 10")
@click.option(
    "--handlers",
    metavar="MODULES",
    help="Modules with your handlers, instead of JOBSWORTH_HANDLERS.",
)
@click.option(
    "--queues",
    metavar="QUEUES",
    shell_complete=names.queues,
    help="Queues to serve, instead of JOBSWORTH_QUEUES.",
)
@click.option(
    "--slots",
    type=options.WholeNumber(1),
    help="Jobs to run at the same time, instead of JOBSWORTH_SLOTS.",
)
def run(handlers: str | None, queues: str | None, slots: int | None) -> int:
    """Run jobs until SIGTERM, SIGHUP or Ctrl-C; a second one stops at once."""
    from worker.log import configure_logging

    settings = _settings(handlers=handlers, queues=queues, slots=slots)
    # A descriptor of its own: a handler may close the usual one, whose number PostgreSQL's next
    # connection would take.
    own_stderr = os.fdopen(os.dup(sys.stderr.fileno()), "wb")
    configure_logging(settings.log_level, settings.log_format, own_stderr)
    # Imported after the settings are read: a wrong setting is told at once, not a second later.
    from worker.daemon import daemon, loop

    collector.restore()
    return loop.run(lambda: daemon.run(settings))


@worker.verb("list", "jobsworth worker list")
@options.as_json
def list_workers(as_json: bool) -> None:
    """List the workers: their state, jobs, slots, last heartbeat, queues and modes."""
    settings = load_settings()

    async def work(conn: Connection) -> list[Worker]:
        return await workers.list_workers(conn)

    found = run_in_database(work, settings)
    if as_json:
        states = [worker_state(each, settings.rescue_seconds) for each in found]
        emit_json(
            [
                {**each.model_dump(), "state": state}
                for each, state in zip(found, states, strict=True)
            ]
        )
    else:
        emit_workers(found, settings.rescue_seconds)


@worker.verb("grant", "jobsworth worker grant app")
@click.argument("role", metavar="ROLE", help="The database role of the workers.")
def grant(role: str) -> None:
    """Give a database role the rights that a worker needs; run it as the schema's owner."""
    settings = load_settings()

    async def work(conn: Connection) -> None:
        await fitness.grant(conn, role)

    run_in_database(work, settings)
    emit(f"role {role} may work in schema {settings.schema_name}")


def _settings(**overrides: Any) -> Settings:
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return load_settings(**given)
    except SettingsError as error:
        # A log collector gets a record of it; at a terminal the explanation is enough.
        if not sys.stderr.isatty():
            from worker import events
            from worker.log import configure_logging, get_logger

            configure_logging()
            problems = [str(problem) for problem in error.problems]
            get_logger().error(events.SETTINGS_REFUSED, problems=problems)
        raise
