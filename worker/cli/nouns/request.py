"""`jobsworth request show`: everything that belongs to one request.

In: a request id. Out: its messages, its jobs and what these made, oldest first.
"""

from datetime import UTC, datetime

import click

from db.diagnosis import requests
from db.diagnosis.requests import Traced
from db.errors import shown
from db.pool import Connection
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import Column, emit_json, emit_table, one_line
from worker.cli.terminal.times import ago

COLUMNS = [
    Column("KIND"),
    Column("ID"),
    Column("AGE", right=True),
    Column("BY JOB"),
    Column("WHAT", flexible=True),
]

request = Noun("request", "Requests: what came of one message or call.", default=None)


@request.verb("show", "jobsworth request show order-17")
@click.argument("request_id", metavar="REQUEST", help="The request id of a message or a job.")
@options.as_json
def show_request(request_id: str, as_json: bool) -> ExitCode:
    """Show the messages, jobs, runs, approvals, files and model calls of a request.

    Oldest first.
    """

    async def work(conn: Connection) -> list[Traced]:
        return await requests.of_request(conn, request_id)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        now = datetime.now(UTC)
        job_ids = [each.job_id for each in found if each.job_id]
        short = ids.short_ids([*(each.id for each in found), *job_ids])
        rows = [
            [
                each.kind,
                short(each.id),
                ago(each.at, now),
                each.job_id and short(each.job_id),
                one_line(each.what),
            ]
            for each in found
        ]
        emit_table(COLUMNS, rows, f"nothing belongs to a request {shown(request_id)}")
    return ExitCode.OK
