"""`jobsworth job`: the queue as an operator sees and steers it.

In: filters and ids. Out: rows, one reason, or a changed status.
"""

from datetime import UTC, datetime
from textwrap import indent
from uuid import UUID

import click
from rich.text import Text

from db.errors import Conflict
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import EnqueueOptions, Job, JobStatus, WaitReason
from worker.cli.terminal import ids, names, options, times
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.enqueue import enqueue_job
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import Column, emit, emit_json, emit_table, one_line, say, styled
from worker.cli.terminal.payload import read_payload
from worker.cli.terminal.times import age, ago
from worker.cli.terminal.words import job_status

COLUMNS = [
    Column("ID"),
    Column("MODE", flexible=True),
    Column("STATUS"),
    Column("AGE", right=True),
    Column("DETAIL", flexible=True),
]

job = Noun("job", "Jobs: pieces of work in the queue.")


@job.verb("list", "jobsworth jobs --status waiting", "jobsworth jobs --waiting-for approval --json")
@options.choice("--status", metavar="STATUS", words=JobStatus, help="Only jobs of this status")
@click.option("--mode", metavar="MODE", shell_complete=names.modes, help="Only jobs of this mode.")
@click.option(
    "--queue", metavar="QUEUE", shell_complete=names.queues, help="Only jobs in this queue."
)
@options.choice(
    "--waiting-for", metavar="REASON", words=WaitReason, help="Only jobs that wait for this"
)
@click.option("--thread", metavar="UUID", help="Only jobs of this chat thread.")
@click.option("--request-id", metavar="REQUEST", help="Only jobs of this request.")
@options.limit(30)
@options.as_json
def list_jobs(
    status: str | None,
    mode: str | None,
    queue: str | None,
    waiting_for: str | None,
    thread: str | None,
    request_id: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    thread_id = None if thread is None else ids.whole_id(thread, "--thread")

    async def work(conn: Connection) -> list[Job]:
        return await jobs.list_jobs(
            conn,
            status=JobStatus(status) if status else None,
            mode=mode,
            queue=queue,
            thread_id=thread_id,
            waiting_for=WaitReason(waiting_for) if waiting_for else None,
            request_id=request_id,
            limit=limit,
        )

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    short = ids.short_ids(each.id for each in found)
    filtered = any((status, mode, queue, waiting_for, thread, request_id))
    none = "no such jobs" if filtered else "no jobs yet\n  → jobsworth enqueue MODE '{…}'"
    emit_table(COLUMNS, [_row(each, short(each.id), now) for each in found], none)
    if len(found) == limit:
        say(f"these are the newest {limit}; for more: --limit")


@job.verb("show", "jobsworth job show 0123456789ab")
@options.job_id
@options.as_json
def show_job(job: str, as_json: bool) -> None:
    """Show a job with its steps, model calls, approvals, artifacts, children and messages."""
    from worker.cli.views import job_view  # takes 100 ms: models of all that belongs to a job

    typed = ids.typed_job(job)

    async def work(conn: Connection) -> job_view.JobFile:
        return await job_view.read(conn, await ids.find_job(conn, typed))

    file = run_in_database(work)
    if as_json:
        emit_json(file)
    else:
        job_view.emit_job(file)


@job.verb("calls", "jobsworth job calls 0123456789ab")
@options.job_id
@options.as_json
def show_calls(job: str, as_json: bool) -> None:
    """Show what models were asked in a job, and what they said."""
    from worker.cli.views import call_view

    typed = ids.typed_job(job)

    async def work(conn: Connection) -> list[call_view.Exchange]:
        return await call_view.read(conn, await ids.find_job(conn, typed))

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    elif found:
        call_view.emit_exchanges(found)
    else:
        say("the job has called no model")


@job.verb("why", "jobsworth why 0123456789ab")
@options.job_id
@options.as_json
def why(job: str, as_json: bool) -> None:
    """Say why a job is not running, and the one thing that would unblock it."""
    typed = ids.typed_job(job)

    async def work(conn: Connection) -> tuple[UUID, jobs.Why]:
        job_id = await ids.find_job(conn, typed)
        return job_id, await jobs.why(conn, job_id)

    job_id, reason = run_in_database(work)
    if as_json:
        emit_json({"id": job_id, **reason.model_dump()})
        return
    more = f": {reason.reason}" if reason.reason != reason.status else ""
    emit(Text.assemble(f"job {job_id} is ", styled(reason.status, more)))
    emit(indent(reason.detail, "  "))
    emit(f"  → {reason.remedy}")


@job.verb(
    "enqueue",
    """jobsworth enqueue greet '{"name": "Ada"}' --wait""",
    "jobsworth enqueue report @payload.json --delay 1h30m --priority 1",
)
@click.argument(
    "mode",
    metavar="MODE",
    shell_complete=names.modes,
    help="The mode of the job, which says which handler runs it.",
)
@click.argument(
    "payload",
    required=False,
    help="The handler's arguments: a JSON object, @FILE, or - for stdin.",
)
@click.option(
    "--queue",
    metavar="QUEUE",
    default="default",
    shell_complete=names.queues,
    help="The queue to put it into.",
)
@click.option("--priority", type=click.INT, metavar="N", default=3, help="1 (urgent) to 4.")
@click.option("--run-at", metavar="TIME", help="Not before, like 2026-02-01T09:00+01:00.")
@click.option("--delay", metavar="SPAN", help="Not before this much time has passed, like 1h30m.")
@click.option("--expires-in", metavar="SPAN", help="Canceled unless it starts within, like 10m.")
@click.option("--thread", metavar="UUID", help="The chat thread it belongs to.")
@click.option(
    "--lane",
    metavar="LANE",
    help='Jobs of a lane run one at a time, in order; "" is none.  [default: the thread]',
)
@click.option("--unique-key", metavar="KEY", help="At most one open job has this key.")
@click.option(
    "--failures-max", type=click.INT, metavar="N", help="It has failed for good after N failures."
)
@click.option("--timeout", metavar="SPAN", help="The longest an attempt may take, like 5m.")
@click.option("--request-id", metavar="REQUEST", help="The request that it works for.")
@click.option("--limit-key", metavar="KEY", help="Its key for limits per key (`job-limit`).")
@click.option(
    "--limit-weight", type=click.INT, metavar="N", help="How much of a rate its start takes."
)
@click.option(
    "--after",
    metavar="ID",
    multiple=True,
    shell_complete=names.jobs,
    help="Run after this job is done; may be given several times.",
)
@options.wait("done")
@options.as_json
def enqueue(
    mode: str,
    payload: str | None,
    queue: str,
    priority: int,
    run_at: str | None,
    delay: str | None,
    expires_in: str | None,
    thread: str | None,
    lane: str | None,
    unique_key: str | None,
    failures_max: int | None,
    timeout: str | None,
    request_id: str | None,
    limit_key: str | None,
    limit_weight: int | None,
    after: tuple[str, ...],
    wait: bool,
    as_json: bool,
) -> ExitCode:
    """Enqueue a job and print its id."""
    chosen: EnqueueOptions = {
        "queue": queue,
        "priority": priority,
        "run_at": None if run_at is None else times.parse_instant(run_at, "--run-at"),
        "delay": _span(delay, "--delay"),
        "expires_in": _span(expires_in, "--expires-in"),
        "thread_id": None if thread is None else ids.whole_id(thread, "--thread"),
        "lane": lane,
        "unique_key": unique_key,
        "failures_max": failures_max,
        "timeout_seconds": _span(timeout, "--timeout"),
        "request_id": request_id,
        "limit_key": limit_key,
        "limit_weight": limit_weight,
    }
    return enqueue_job(mode, read_payload(payload), chosen, after=after, wait=wait, as_json=as_json)


@job.verb("cancel", "jobsworth job cancel 0123456789ab --reason 'not needed any more'")
@options.job_id
@options.reason
@options.as_json
def cancel(job: str, reason: str, as_json: bool) -> None:
    """Cancel a job: now, or as soon as it stops if it is running."""
    typed = ids.typed_job(job)

    async def work(conn: Connection) -> Job:
        job_id = await ids.find_job(conn, typed)
        before = await jobs.get_by_id(conn, job_id)
        if before.finished_at is not None:
            raise _has_ended(before)
        status = await jobs.cancel(conn, job_id, reason)
        after = await jobs.get_by_id(conn, job_id)
        if status in (JobStatus.DONE, JobStatus.FAILED):
            raise _has_ended(after)
        return after

    found = run_in_database(work)
    if as_json:
        document = {"id": found.id, "status": found.status}
        emit_json({**document, "cancel_requested": found.cancel_requested})
    elif found.status is JobStatus.CANCELED:
        emit(Text.assemble(f"job {found.id} is ", styled("canceled")))
    else:
        emit(f"job {found.id} is {found.status}: it is told to stop, and canceled when it has")


@job.verb("retry", "jobsworth job retry 0123456789ab")
@options.job_id
@options.as_json
def retry(job: str, as_json: bool) -> None:
    """Run a failed or canceled job again; one that waits for its next try runs now."""
    typed = ids.typed_job(job)

    async def work(conn: Connection) -> Job:
        job_id = await ids.find_job(conn, typed)
        await jobs.retry(conn, job_id)
        return await jobs.get_by_id(conn, job_id)

    _tell(run_in_database(work), as_json=as_json)


@job.verb("run-now", "jobsworth job run-now 0123456789ab")
@options.job_id
@options.as_json
def run_now(job: str, as_json: bool) -> None:
    """Run a job now that waits for its time: scheduled, delayed or about to be retried."""
    typed = ids.typed_job(job)

    async def work(conn: Connection) -> Job:
        job_id = await ids.find_job(conn, typed)
        await jobs.run_now(conn, job_id)
        return await jobs.get_by_id(conn, job_id)

    _tell(run_in_database(work), as_json=as_json)


def _span(text: str | None, option: str) -> float | None:
    return None if text is None else times.parse_duration(text, option)


def _tell(found: Job, *, as_json: bool) -> None:
    if as_json:
        emit_json({"id": found.id, "status": found.status, "waiting_for": found.waiting_for})
    else:
        emit(Text.assemble(f"job {found.id} is ", job_status(found)))


def _row(found: Job, shown_id: str, now: datetime) -> list[str | Text | None]:
    status = job_status(found)
    return [shown_id, found.mode, status, age(found.created_at, now), _detail(found, now)]


def _detail(found: Job, now: datetime) -> str:
    if found.status in (JobStatus.FAILED, JobStatus.CANCELED):
        return one_line(found.error or "")
    if found.status is JobStatus.WAITING and found.waiting_for is WaitReason.TIMER:
        failed = f", failed {found.failures}×" if found.failures else ""
        return f"due {ago(found.run_at, now)}{failed}"
    if found.status is JobStatus.WAITING and found.waiting_for is WaitReason.HANDLER:
        return "no living worker knows this mode"
    if found.status is JobStatus.WAITING:
        return one_line(found.waiting_detail or "")
    if found.status is JobStatus.RUNNING:
        return f"attempt {found.attempt}, since {ago(found.started_at, now)}"
    return "" if found.queue == "default" else f"queue {found.queue}"


def _has_ended(found: Job) -> Conflict:
    return Conflict(
        f"job {found.id} is {found.status} already: there is nothing to cancel",
        f"see what it did: jobsworth job show {found.id}",
    )
