"""`jobsworth signal send`: tell a job what it waits for.

In: a job, the signal's name and its payload. Out: the signal, kept until the job takes it.
"""

import click
from rich.text import Text

from db.pool import Database
from db.queue import jobs, signals
from db.queue.jobs import Job
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import write_in_database
from worker.cli.terminal.output import emit, emit_json
from worker.cli.terminal.payload import read_document
from worker.cli.terminal.words import job_status

signal = Noun("signal", "Signals: messages that jobs wait for.", default=None)


@signal.verb("send", """jobsworth signal send 0123456789ab paid '{"invoice": 17}'""")
@options.job_id
@click.argument("name", metavar="NAME", help="The name that the job waits for.")
@click.argument("payload", required=False, help="Any JSON for the job; by default null.")
@options.as_json
def send(job: str, name: str, payload: str | None, as_json: bool) -> None:
    """Send a signal to a job. A job that waits for it goes on; one that will wait finds it."""
    typed = ids.typed_job(job)
    document = read_document(payload, "the payload")

    async def work(database: Database) -> Job:
        async with database.connection() as conn:
            job_id = await ids.find_job(conn, typed)
        await signals.send(database, job_id, name, document)
        async with database.connection() as conn:
            return await jobs.get_by_id(conn, job_id)

    found = write_in_database(work)
    if as_json:
        emit_json({"id": found.id, "status": found.status, "waiting_for": found.waiting_for})
    else:
        emit(Text.assemble(f"signal {name} is sent; job {found.id} is ", job_status(found)))
