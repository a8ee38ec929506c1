"""`jobsworth step`: the steps of a job, and what a person says of an unsafe one.

In: a job, the name of a step that was begun and not recorded, and whether it happened. Out: the
decision, kept with the name of its person; the job goes on in the same transaction.
"""

from typing import Any, Literal

import click
from rich.text import Text

from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import Job
from db.steps import steps, unsafe
from db.steps.steps import Step
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import emit, emit_json, emit_table
from worker.cli.terminal.payload import read_document
from worker.cli.terminal.words import job_status, user_and_host
from worker.cli.views import job_view

step = Noun("step", "Steps: named, durable pieces of a job.", default=None)


@step.verb("list", "jobsworth step list 0123456789ab")
@options.job_id
@options.as_json
def list_steps(job: str, as_json: bool) -> None:
    """List the steps of a job, in the order they began."""
    typed = ids.typed_job(job)

    async def work(conn: Connection) -> list[Step]:
        return await steps.list_for_job(conn, await ids.find_job(conn, typed))

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        rows = [job_view.step_row(each) for each in found]
        emit_table(job_view.STEPS, rows, "the job has no steps yet")


@step.verb("done", """jobsworth step done 0123456789ab pay --output '{"receipt": 17}'""")
@options.job_id
@options.step_name
@click.option("--output", metavar="JSON", help="What the step returns.  [default: null]")
@options.by
@options.as_json
def done(job: str, step: str, output: str | None, by: str | None, as_json: bool) -> None:
    """Say that an unsafe step happened: the job goes on after it."""
    _decide(job, step, "done", read_document(output, "the output"), by, as_json=as_json)


@step.verb("again", "jobsworth step again 0123456789ab pay")
@options.job_id
@options.step_name
@options.by
@options.as_json
def again(job: str, step: str, by: str | None, as_json: bool) -> None:
    """Say that an unsafe step did not happen: the job runs it again."""
    _decide(job, step, "again", None, by, as_json=as_json)


def _decide(
    text: str,
    name: str,
    decision: Literal["done", "again"],
    output: Any,
    by: str | None,
    *,
    as_json: bool,
) -> None:
    typed = ids.typed_job(text)
    who = by or user_and_host()

    async def work(conn: Connection) -> Job:
        job_id = await ids.find_job(conn, typed)
        await unsafe.decide(conn, job_id, name, decision, output=output, decided_by=who)
        return await jobs.get_by_id(conn, job_id)

    job = run_in_database(work)
    if as_json:
        emit_json({"job_id": job.id, "step": name, "decision": decision, "job_status": job.status})
        return
    emit(f"step {name} is done" if decision == "done" else f"step {name} runs again")
    emit(Text.assemble(f"job {job.id} is ", job_status(job)))
