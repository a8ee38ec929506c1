"""`jobsworth serve`: the API and the dashboard alone, without a worker.

In: an address, and settings. Out: an open port until SIGTERM or Ctrl-C. Invariant: without a token
it answers requests of this machine alone, and says so at the start.
"""

import signal
import sys

import anyio
import click

from db.people import tokens
from db.pool import Database
from worker.cli.terminal import options
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import pooled, run_async
from worker.cli.terminal.output import emit, say
from worker.settings import load_settings

CONNECTIONS_MAX = 10
NO_TOKEN = (
    "no token was issued yet, so only requests of this machine are answered, without one\n"
    "  → jobsworth token issue NAME --scope '*'"
)


@click.command("serve", cls=Verb, examples=["jobsworth serve", "jobsworth serve --port 8480"])
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", help="Address to listen at, like 0.0.0.0."
)
@click.option(
    "--port",
    type=options.WholeNumber(0, 65_535),
    default=8480,
    help="Port to listen at; 0 takes any free one.",
)
@click.option("--base-path", metavar="PATH", default="", help="Serve under this path, like /jobs.")
@click.option("--read-only", is_flag=True, help="Refuse every order.")
def serve(host: str, port: int, base_path: str, read_only: bool) -> None:
    """Serve the HTTP API and the dashboard until SIGTERM or Ctrl-C."""
    from worker.log import configure_logging

    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format, sys.stderr.buffer)

    async def work() -> None:
        async with pooled(settings, CONNECTIONS_MAX) as database:
            await _serve(database, host, port, base_path, read_only)

    run_async(work)


async def _serve(database: Database, host: str, port: int, base_path: str, read_only: bool) -> None:
    # Only here: FastAPI and uvicorn take memory.
    from worker.web.face import app_for
    from worker.web.server import listen
    from worker.web.server import serve as serve_app

    listener = await listen(host, port)
    async with database.connection() as conn:
        if not await tokens.any_issued(conn):
            say(NO_TOKEN)
    app = app_for(database, base_path=base_path, read_only=read_only)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            url = await tasks.start(serve_app, listener, app)
            emit(f"{url}/{base_path.strip('/')}")
            async for _ in signals:
                break
            tasks.cancel_scope.cancel()
