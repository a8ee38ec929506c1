"""One operation on all jobs that a filter matches: what it would do, and the job that does it.

In: the filter of the page of jobs, and an operation. Out: a count with examples; a job that begins
a little later, so that a cancel of it undoes everything until then; how far it is. Invariant: the
operation of a visitor of one team is for that team's jobs alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Response

from db.bulk import batches
from db.bulk.batches import Change, Operation
from db.bulk.filters import MODE, PROGRESS, JobFilter
from db.errors import Conflict, InvalidInput
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import Job, JobStatus
from db.steps import checkpoints
from worker.cli.terminal.ids import find_job, typed_job
from worker.cli.terminal.words import count
from worker.dashboard.door import Visitor
from worker.dashboard.frame import Frame, Said, answer
from worker.dashboard.pages.filters import NAMES, asked_of, filter_of

# As long as one needs to see what one has done.
UNDO_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Verb:
    """An operation in words: on its button, of its jobs beforehand and afterwards."""

    operation: Operation
    word: str
    would: str
    done: str
    kind: str


VERBS = {
    "retry": Verb(Operation.RETRY, "Retry", "would run again", "run again", "yes"),
    "run-now": Verb(Operation.RUN_NOW, "Run now", "would run now", "run now", "yes"),
    "cancel": Verb(Operation.CANCEL, "Cancel", "would be canceled", "canceled", "no"),
}


@dataclass(frozen=True, slots=True)
class Course:
    """How far an operation is, as its job shows it. `which`: the address of the jobs it is for."""

    verb: str
    applied: int
    looked: int
    expected: int
    refused: dict[str, int]
    which: str
    is_undoable: bool


async def page(conn: Connection, frame: Frame) -> Response:
    verb = _verb(frame.query.get("do", ""))
    which = await filter_of(conn, frame.query, frame.now)
    found = await batches.preview(conn, _change(verb, frame.who), which)
    kept = {name: value for name, value in frame.query.items() if name in NAMES}
    return answer(
        frame,
        "bulk.html",
        page="jobs",
        asking=0,
        name=frame.query["do"],
        verb=verb,
        preview=found,
        kept=kept,
        back=frame.url("jobs", **kept),
        undo_seconds=UNDO_SECONDS,
    )


async def start(visitor: Visitor, frame: Frame, fields: Mapping[str, str]) -> Said:
    """Enqueue it. What matches is counted again: the page may be old."""
    verb = _verb(fields.get("do", ""))
    given = {name: value for name, value in fields.items() if name in NAMES and value.strip()}
    which = await filter_of(visitor.conn, given, frame.now)
    if visitor.team_id is not None:
        which = which.model_copy(update={"team_id": visitor.team_id})
    change = _change(verb, visitor.who)
    found = await batches.preview(visitor.conn, change, which)
    if not found.jobs:
        raise Conflict("no job matches any more that this can be done with", "look again")
    job_id = await batches.start(
        visitor.conn,
        change,
        which,
        found.jobs,
        team_id=visitor.team_id,
        delay_seconds=UNDO_SECONDS,
    )
    jobs_word = count(found.jobs, "job")
    return Said(
        f"{verb.word}: {jobs_word}. It begins in {UNDO_SECONDS:g} s; undo it until then.",
        to=frame.url("jobs", job_id),
    )


async def undo(conn: Connection, frame: Frame, job: str) -> str:
    """Cancel the operation; returns what to say about what it had done already."""
    job_id = await find_job(conn, typed_job(job))
    status = await jobs.cancel(conn, job_id, f"undone by {frame.who}")
    found = await jobs.get_by_id(conn, job_id)
    if status is JobStatus.CANCELED and found.started_at is None:
        return "Undone: it had not begun, and no job was touched."
    if found.finished_at is not None and status is not JobStatus.CANCELED:
        return "It had ended already."
    return "It had begun: it stops now, and what it did stays."


async def course(conn: Connection, frame: Frame, job: Job) -> Course | None:
    """How far this job is, if it is such an operation."""
    verb = next((v for v in VERBS.values() if v.operation == job.payload.get("operation")), None)
    if job.mode != MODE or verb is None:
        return None
    saved = await checkpoints.checkpoint_at(conn, PROGRESS, job_id=job.id)
    state: Mapping[str, Any] = saved.state if saved else {}
    applied = int(state.get("applied", 0))
    return Course(
        verb.done,
        applied,
        int(state.get("looked", 0)),
        max(applied, int(job.payload.get("expected") or 0)),
        dict(state.get("refused") or {}),
        frame.url("jobs", **_address(job)),
        job.started_at is None and job.finished_at is None,
    )


def _address(job: Job) -> dict[str, str]:
    try:
        return asked_of(JobFilter.model_validate(job.payload.get("filter")))
    except ValueError:
        return {}


def _verb(name: str) -> Verb:
    if name not in VERBS:
        raise InvalidInput(f"{name!r} is nothing to do", f"choose one of {', '.join(VERBS)}")
    return VERBS[name]


def _change(verb: Verb, who: str) -> Change:
    return Change(verb.operation, f"canceled by {who}")
