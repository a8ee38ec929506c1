"""`jobsworth artifact`: the files of jobs and runs.

In: a job or a run; or a file's id, or its name there. Out: a list; or the content, to a file or to
stdout.
"""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import click

from db.errors import InvalidInput, NotFound
from db.pool import Connection
from db.runs import runs
from db.steps import artifacts
from db.steps.artifacts import Artifact
from worker.cli.terminal import ids, names, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit, emit_json, emit_table, one_line
from worker.cli.terminal.times import ago

COLUMNS = [
    Column("FILE"),
    Column("NAME", flexible=True),
    Column("TYPE", optional=True),
    Column("BYTES", right=True),
    Column("AGE", right=True, optional=True),
    Column("STEP", flexible=True, optional=True),
]
OF_JOB = click.option(
    "--job", metavar="ID", shell_complete=names.jobs, help="Of this job, like 0123456789ab."
)
OF_RUN = click.option(
    "--run", metavar="ID", shell_complete=names.runs, help="Of this run, with all its jobs."
)

artifact = Noun("artifact", "Files that jobs made, or that were saved for runs.")


@artifact.verb("list", "jobsworth artifact list --job 0123456789ab")
@OF_JOB
@OF_RUN
@options.as_json
def list_artifacts(job: str | None, run: str | None, as_json: bool) -> None:
    """List the files of a job or a run, with type, size and the step that made them."""

    async def work(conn: Connection) -> list[Artifact]:
        return await _files(conn, job, run)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    rows = [
        [
            str(each.id),
            one_line(each.name),
            one_line(each.media_type),
            "elsewhere" if each.bytes is None else f"{each.bytes:,}",
            ago(each.created_at, now),
            each.step_name and one_line(each.step_name),
        ]
        for each in found
    ]
    emit_table(COLUMNS, rows, "it has no files")


@artifact.verb(
    "get",
    "jobsworth artifact get chart.png --job 0123456789ab",
    "jobsworth artifact get 01890a5d-ac96-774b-bcce-b302099a8057 --output chart.png",
)
@click.argument(
    "file", metavar="FILE", help="The whole id of the file; with --job or --run, its name."
)
@OF_JOB
@OF_RUN
@click.option(
    "--output",
    metavar="PATH",
    type=options.FilePath(dir_okay=False),
    help="Write it there; a file that is there already is kept.  [default: stdout]",
)
def get(file: str, job: str | None, run: str | None, output: str | None) -> None:
    """Write the content of a file to stdout, or of one that is elsewhere its address."""

    async def work(conn: Connection) -> tuple[Artifact, bytes | None]:
        found = await artifacts.get(conn, await _chosen(conn, file, job, run))
        return found, await artifacts.content(conn, found.id)

    found, content = run_in_database(work)
    if content is None:
        emit(str(found.uri))
    elif output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        _write(Path(output), content)
        emit(f"{output} has {len(content):,} bytes, sha256 {found.sha256}")


async def _files(conn: Connection, job: str | None, run: str | None) -> list[Artifact]:
    if (job is None) == (run is None):
        raise InvalidInput("whose files are meant?", "give either --job or --run")
    if job is not None:
        return await artifacts.list_for_job(conn, await ids.find_job(conn, ids.typed_job(job)))
    run_id = await ids.find_run(conn, ids.typed_run(run or ""))
    return await runs.get_artifacts(conn, run_id)


async def _chosen(conn: Connection, file: str, job: str | None, run: str | None) -> UUID:
    if job is None and run is None:
        return ids.whole_id(file, "FILE")
    named = [each for each in await _files(conn, job, run) if file in (each.name, str(each.id))]
    if not named:
        raise NotFound(
            f"there is no file {file!r}",
            f"list them: jobsworth artifact list {f'--job {job}' if job else f'--run {run}'}",
        )
    return named[-1].id  # of several jobs' files the newest


def _write(path: Path, content: bytes) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(content)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror}", "name a new file in a folder of yours"
        ) from error
