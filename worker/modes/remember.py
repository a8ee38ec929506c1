"""remember: extract from a thread what people stated, and remember it.

In: a thread, or what a finished run dealt with of it. Out: memories with a type, their evidence and
a confidence. Invariant: of a message, one version of the extractor remembers once, however often
and by how many jobs it is read; a later statement supersedes an earlier one of the same person
about the same subject, and nothing is deleted.
"""

from functools import partial
from typing import Any
from uuid import UUID

from db.errors import NotFound
from db.memory import extracted
from db.memory.extracted import Origin, Said
from db.pool import Connection
from db.runs import runs
from worker.handlers import handler
from worker.job import Job
from worker.modes import conversation, model
from worker.modes.extraction import Extracted, grounded, quote_messages
from worker.modes.requests import Request
from worker.outcomes import Fail

# Another one reads every message again: change it if what is extracted shall be another.
EXTRACTOR = "remember-1"
MESSAGES_MAX = 50


@handler("remember", shipped=True)
async def remember(job: Job, run: UUID | None = None) -> dict[str, Any]:
    """Have the model extract statements from the job's thread, and remember those it can show.

    `run`: only from the messages that this run dealt with; it must have finished.
    """
    if job.thread_id is None:
        raise Fail("a remember job needs a thread: enqueue it with thread_id")
    origin = Origin(job.id, job.thread_id, job.team_id, job.agent_id, EXTRACTOR)
    read = await job.step("read", partial(_read, job, origin), None if run is None else str(run))
    said = [Said.model_validate(one) for one in read]
    if not said:
        return {"messages": 0, "remembered": 0}
    quotation = quote_messages([one.text for one in said])
    made = await model.ask(job, Request("remember", (("user", quotation),)), Extracted)
    stated, dropped = grounded(made.output, said)

    async def keep(connection: Connection) -> dict[str, int]:
        return dict(await extracted.keep(connection, origin, stated))

    counts = await job.transaction("keep", keep)
    return {"messages": len(said), **counts, "dropped": dropped}


async def _read(job: Job, origin: Origin, run: str | None) -> list[dict[str, str]]:
    run_id = None if run is None else UUID(run)
    async with job.database.connection() as connection:
        if run_id is not None:
            await _check_finished(connection, origin, run_id)
        said = await extracted.unread(connection, origin, run_id=run_id, limit=MESSAGES_MAX)
    return [
        {"id": str(one.id), "text": conversation.clip(one.text), "person": one.person}
        for one in said
        if one.text.strip()
    ]


async def _check_finished(connection: Connection, origin: Origin, run_id: UUID) -> None:
    try:
        run = await runs.get(connection, run_id)
    except NotFound as error:
        raise Fail(str(error)) from error
    if run.team_id != origin.team_id:
        raise Fail(f"run {run_id} is not of the job's team")
    if run.finished_at is None:
        raise Fail(f"run {run_id} is {run.status}: enqueue this job once the run has finished")
