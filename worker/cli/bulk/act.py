"""An operation on many jobs, as a command: show what it would do, or enqueue it and follow it.

In: a change and a choice. Out: a count and examples, or a job of the mode `bulk_operation`, its id
on stdout and how far it is on stderr.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from rich.text import Text

from db.bulk import batches
from db.bulk.batches import Change, Operation, Preview
from db.bulk.filters import MODE, PROGRESS, JobFilter
from db.errors import Conflict
from db.pool import Connection
from db.queue import jobs, workers
from db.queue.jobs import Job, JobStatus
from db.steps import checkpoints
from worker.cli.bulk.choice import Choice
from worker.cli.terminal import ids
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.enqueue import follow, likely_mode, warn
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import emit, emit_facts, emit_json, emit_table, say, styled
from worker.cli.views.job_rows import COLUMNS, job_row

DONE = {
    Operation.CANCEL: "canceled",
    Operation.RETRY: "run again",
    Operation.RUN_NOW: "run now",
    Operation.MOVE: "moved",
    Operation.REPRIORITIZE: "given that priority",
}


def act_on_many(change: Change, choice: Choice, *, as_json: bool) -> ExitCode:
    """Preview the operation, and unless it is a dry run or no job matches, enqueue it."""
    change.check()

    async def work(conn: Connection) -> ExitCode:
        which = await choice.filter(conn)
        found = await batches.preview(conn, change, which)
        await _notes(conn, change, which, found)
        if choice.dry_run or found.jobs == 0:
            _show(change, found, as_json=as_json)
            return ExitCode.OK
        return await _enqueue(conn, change, which, found, wait=choice.wait, as_json=as_json)

    return run_in_database(work)


async def act_on_one(conn: Connection, change: Change, job_id: UUID) -> Job:
    """Do it with one job, at once. Raises `NotFound`, and `Conflict` with the reason."""
    done = await batches.apply_to_one(conn, change, job_id)
    job = await jobs.get_by_id(conn, job_id)
    if not done.applied:
        why = next(iter(done.refused), "was deleted")
        raise Conflict(f"job {job_id} {why}", f"see how it stands: jobsworth job show {job_id}")
    return job


async def _enqueue(
    conn: Connection,
    change: Change,
    which: JobFilter,
    found: Preview,
    *,
    wait: bool,
    as_json: bool,
) -> ExitCode:
    job_id = await batches.start(conn, change, which, found.jobs)
    if not as_json:
        emit(str(job_id))
        say(f"to be {DONE[change.operation]}: {_jobs(found.jobs)}{_but(found.refused)}")
    if wait:
        job = await follow(conn, job_id, lambda: _progress(conn, job_id, found.jobs))
    else:
        await warn(conn, job_id, MODE)
        job = await jobs.get_by_id(conn, job_id)
        if not as_json:
            say(f"how far it is: jobsworth job show {job_id}")
            say(f"to stop it: jobsworth job cancel {job_id}")
    document: dict[str, object] = {"id": job_id, "jobs": found.jobs, "status": job.status}
    if as_json:
        emit_json(document | ({"result": job.result, "error": job.error} if wait else {}))
    elif wait:
        _tell(change, job)
    return ExitCode.NO if wait and job.status is not JobStatus.DONE else ExitCode.OK


def _tell(change: Change, job: Job) -> None:
    result: dict[str, Any] = job.result or {}
    refused: dict[str, int] = result.get("refused", {})
    facts: list[tuple[str, str | Text | None]] = [("status", styled(job.status))]
    if result:
        facts.append((DONE[change.operation], f"{result['applied']:,}"))
    facts += [(why, f"{n:,}") for why, n in refused.items()]
    emit_facts([*facts, ("error", job.error)])


async def _progress(conn: Connection, job_id: UUID, expected: int) -> str | None:
    saved = await checkpoints.checkpoint_at(conn, PROGRESS, job_id=job_id)
    if saved is None:
        return None
    return f"{saved.state['applied']:,} of about {expected:,}; {saved.state['looked']:,} looked at"


def _show(change: Change, found: Preview, *, as_json: bool) -> None:
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    emit(f"{_jobs(found.jobs)} would be {DONE[change.operation]}{_but(found.refused)}")
    short = ids.short_ids(each.id for each in found.examples)
    if found.examples:
        emit_table(COLUMNS, [job_row(each, short(each.id), now) for each in found.examples], "")


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


def _but(refused: dict[str, int]) -> str:
    if not refused:
        return ""
    return "; not these: " + ", ".join(f"{n:,} ({why})" for why, n in refused.items())


async def _notes(conn: Connection, change: Change, which: JobFilter, found: Preview) -> None:
    """Name what nobody knows: a mode without a job and a worker, a queue without a worker."""
    if which.mode and not found.jobs and not found.refused:
        living = await workers.list_workers(conn)
        if not any(which.mode in worker.modes for worker in living):
            near = await likely_mode(conn, which.mode)
            say(f"note: no job has the mode {which.mode}, and no living worker knows it{near}")
    if change.queue:
        living = await workers.list_workers(conn)
        if not any(change.queue in worker.queues for worker in living):
            say(f"note: no living worker serves the queue {change.queue}")
