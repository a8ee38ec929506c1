"""`jobsworth step done, step again`: what a person says of a step that is unsafe to repeat.

In: a job, the name of its step that was begun and not recorded, and whether it happened. Out: the
decision, kept with who made it; the job goes on in the same transaction.
"""

import getpass
import socket
from typing import Any, Literal

from rich.text import Text

from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import Job
from db.steps import unsafe
from worker.cli import ids
from worker.cli.database import run_in_database
from worker.cli.jobs import status_words
from worker.cli.output import emit, emit_json
from worker.cli.payload import read_document
from worker.settings import load_settings


def done(text: str, name: str, *, output: str | None, by: str | None, as_json: bool) -> None:
    _decide(text, name, "done", read_document(output, "the output"), by, as_json=as_json)


def again(text: str, name: str, *, by: str | None, as_json: bool) -> None:
    _decide(text, name, "again", None, by, as_json=as_json)


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
    who = by or f"{getpass.getuser()}@{socket.gethostname()}"

    async def work(conn: Connection) -> Job:
        job_id = await ids.find_job(conn, typed)
        await unsafe.decide(conn, job_id, name, decision, output=output, decided_by=who)
        return await jobs.get_by_id(conn, job_id)

    job = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"job_id": job.id, "step": name, "decision": decision, "job_status": job.status})
        return
    emit(f"step {name} is done" if decision == "done" else f"step {name} runs again")
    emit(Text.assemble(f"job {job.id} is ", status_words(job)))
