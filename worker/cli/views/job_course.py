"""How `jobsworth job follow` tells the course of a job.

In: a job's id. Out: a line for each change of its state, for each attempt that did not end well and
for each step, as they come. Invariant: nothing is told twice, and nothing of what the database
keeps is left out, however seldom it is looked at.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import anyio
from psycopg import AsyncConnection
from rich.text import Text

from db.pool import Connection, Database
from db.queue import attempts, jobs
from db.queue.attempts import PastAttempt
from db.queue.jobs import Job, Why
from db.safe_write import write_safely
from db.steps import steps
from db.steps.steps import Step
from worker.cli.terminal.output import clean, emit, one_line, styled
from worker.cli.terminal.times import ago, span
from worker.cli.terminal.words import job_status

LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Look:
    """A job as it stands, and its paperwork."""

    job: Job
    why: Why
    attempts: list[PastAttempt]
    steps: list[Step]


@dataclass(slots=True)
class Told:
    """What was told already."""

    state: tuple[object, ...] = ()
    lines: set[tuple[object, ...]] = field(default_factory=set[tuple[object, ...]])

    def news(self, look: Look) -> list[Text]:
        """The lines to tell now, in the order in which it happened."""
        fresh = [
            (each.ended_at, _attempt(each))
            for each in look.attempts
            if self._is_new("attempt", each.attempt, each.outcome, each.ended_at)
        ]
        for step in look.steps:
            ended = step.finished_at or step.failed_at
            if self._is_new("step", step.name, step.attempt, step.finished_at, step.failed_at):
                fresh.append((ended or step.started_at, _step(step)))
        fresh.sort(key=lambda line: line[0])
        told = [line for _, line in fresh]
        job, why = look.job, look.why
        state = (job.status, job.waiting_for, job.attempt, why.reason, job.run_at)
        if state != self.state:
            self.state = state
            told.append(_state(job, why))
        return told

    def _is_new(self, *line: object) -> bool:
        if line in self.lines:
            return False
        self.lines.add(line)
        return True


async def follow(database: Database, job_id: UUID) -> Job:
    """Tell what becomes of a job until it has ended, and return it."""

    async def look(given: AsyncConnection[Any]) -> Look:
        conn = cast(Connection, given)  # of the pool
        return Look(
            await jobs.get_by_id(conn, job_id),
            await jobs.why(conn, job_id),
            await attempts.list_for_job(conn, job_id),
            await steps.list_for_job(conn, job_id),
        )

    told = Told()
    while True:
        found = await write_safely(database, look)  # a look is harmless twice, too
        for line in told.news(found):
            emit(line)
        if found.job.finished_at is not None:
            return found.job
        await anyio.sleep(LOOK_SECONDS)


def _line(at: datetime, *parts: Any) -> Text:
    return Text.assemble((f"{at.astimezone():%H:%M:%S} ", "dim"), *parts)


def _state(job: Job, why: Why) -> Text:
    now = datetime.now(UTC)
    parts: list[Any] = [job_status(job)]
    if job.finished_at is not None:
        if job.error:
            parts.append(f"  {one_line(clean(job.error))}")
        return _line(job.finished_at, *parts)
    if job.run_at and job.status == "waiting":
        parts.append(f"  until {ago(job.run_at, now)}")
    parts.append(f"  {one_line(clean(why.detail))}")
    return _line(now, *parts)


def _attempt(each: PastAttempt) -> Text:
    where = f" on {clean(each.host)}" if each.host else ""
    began = each.began_at
    took = f" after {span((each.ended_at - began).total_seconds())}" if began else ""
    error = f"  {one_line(clean(each.error))}" if each.error else ""
    return _line(
        each.ended_at, f"attempt {each.attempt} ", styled(each.outcome), where, took, error
    )


def _step(step: Step) -> Text:
    ended = step.finished_at or step.failed_at
    name = f"step {one_line(clean(step.name))} "
    if ended is None:
        return _line(step.started_at, name, styled("running"))
    word = "done" if step.finished_at else "failed"
    error = f"  {one_line(clean(step.error))}" if step.error and not step.finished_at else ""
    return _line(
        ended, name, styled(word), f" in {span((ended - step.started_at).total_seconds())}", error
    )
