"""`jobsworth job`: the queue as an operator sees and steers it.

In: filters and ids. Out: rows, one reason, or a changed status.
"""

from datetime import UTC, datetime
from textwrap import indent
from uuid import UUID

import click
from rich.text import Text

from db.bulk.batches import Change, Operation
from db.errors import Conflict
from db.pool import Connection, Database
from db.queue import jobs
from db.queue.jobs import EnqueueOptions, Job, JobStatus, WaitReason
from db.queue.unique_options import OnConflict, UniqueUntil
from worker.cli.bulk.act import act_on_many, act_on_one
from worker.cli.bulk.choice import Choice, one_or_many
from worker.cli.terminal import ids, names, options, times
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database, write_in_database
from worker.cli.terminal.enqueue import enqueue_job
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import emit, emit_json, emit_table, say, styled
from worker.cli.terminal.payload import read_payload
from worker.cli.terminal.words import job_status
from worker.cli.views.job_rows import COLUMNS, job_row

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
    emit_table(COLUMNS, [job_row(each, short(each.id), now) for each in found], none)
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


@job.verb("follow", "jobsworth job follow 0123456789ab")
@options.job_id
def follow_job(job: str) -> ExitCode:
    """Tell what becomes of a job until it has ended: states, attempts, steps.

    The exit code is 0 if it is done, 1 if it failed or was canceled.
    """
    from worker.cli.views import job_course

    typed = ids.typed_job(job)

    async def work(database: Database) -> Job:
        async with database.connection() as conn:
            job_id = await ids.find_job(conn, typed)
        return await job_course.follow(database, job_id)

    return ExitCode.OK if write_in_database(work).status is JobStatus.DONE else ExitCode.NO


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
    "jobsworth enqueue index @page.json --unique-key page-7 --debounce 10s",
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
    "--unique-until",
    type=click.Choice(["end", "start"]),
    help="Until when it holds its key.  [default: end]",
)
@click.option("--unique-for", metavar="SPAN", help="It holds its key for so long in any case.")
@click.option(
    "--on-conflict",
    type=click.Choice(["return", "replace", "reject"]),
    help="When another job holds the key: return it, replace what it does unless it has started,"
    " or fail.  [default: return]",
)
@click.option("--debounce", metavar="SPAN", help="Run when no call with the key came for so long.")
@click.option("--debounce-max", metavar="SPAN", help="And at the latest so long after the first.")
@click.option(
    "--failures-max", type=click.INT, metavar="N", help="It has failed for good after N failures."
)
@click.option("--timeout", metavar="SPAN", help="The longest an attempt may take, like 5m.")
@click.option("--request-id", metavar="REQUEST", help="The request that it works for.")
@click.option("--session", metavar="UUID", help="The session that it belongs to.")
@click.option("--agent", metavar="UUID", help="The agent that it is for.")
@click.option("--limit-key", metavar="KEY", help="Its key for limits per key (`job-limit`).")
@click.option("--fair-key", metavar="KEY", help="Whose turn it is.  [default: the team]")
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
    unique_until: UniqueUntil | None,
    unique_for: str | None,
    on_conflict: OnConflict | None,
    debounce: str | None,
    debounce_max: str | None,
    failures_max: int | None,
    timeout: str | None,
    request_id: str | None,
    session: str | None,
    agent: str | None,
    limit_key: str | None,
    limit_weight: int | None,
    fair_key: str | None,
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
        "unique_until": unique_until,
        "unique_seconds": _span(unique_for, "--unique-for"),
        "on_conflict": on_conflict,
        "debounce_seconds": _span(debounce, "--debounce"),
        "debounce_max_seconds": _span(debounce_max, "--debounce-max"),
        "failures_max": failures_max,
        "timeout_seconds": _span(timeout, "--timeout"),
        "request_id": request_id,
        "session_id": ids.optional_id("session", session),
        "agent_id": ids.optional_id("agent", agent),
        "limit_key": limit_key,
        "limit_weight": limit_weight,
        "fair_key": fair_key,
    }
    return enqueue_job(mode, read_payload(payload), chosen, after=after, wait=wait, as_json=as_json)


@job.verb(
    "cancel",
    "jobsworth job cancel 0123456789ab --reason 'not needed any more'",
    "jobsworth job cancel --mode answer --waiting-for timer --dry-run",
)
@one_or_many
@options.reason
@options.as_json
def cancel(choice: Choice, reason: str, as_json: bool) -> ExitCode | None:
    """Cancel a job, or all that a filter finds: now, or as soon as it stops if it is running."""
    typed = choice.typed_id()
    if typed is None:
        return act_on_many(Change(Operation.CANCEL, reason), choice, as_json=as_json)

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
    return None


@job.verb(
    "retry",
    "jobsworth job retry 0123456789ab",
    "jobsworth job retry --mode answer --since 1h --error 'rate limit'",
)
@one_or_many
@options.as_json
def retry(choice: Choice, as_json: bool) -> ExitCode | None:
    """Run failed or canceled jobs again; one that waits for its next try runs now."""
    typed = choice.typed_id()
    if typed is None:
        return act_on_many(Change(Operation.RETRY), choice, as_json=as_json)

    async def work(conn: Connection) -> Job:
        job_id = await ids.find_job(conn, typed)
        await jobs.retry(conn, job_id)
        return await jobs.get_by_id(conn, job_id)

    _tell(run_in_database(work), as_json=as_json)
    return None


@job.verb(
    "run-now", "jobsworth job run-now 0123456789ab", "jobsworth job run-now --mode report --wait"
)
@one_or_many
@options.as_json
def run_now(choice: Choice, as_json: bool) -> ExitCode | None:
    """Run jobs now that wait for their time: scheduled, delayed or about to be retried."""
    typed = choice.typed_id()
    if typed is None:
        return act_on_many(Change(Operation.RUN_NOW), choice, as_json=as_json)

    async def work(conn: Connection) -> Job:
        job_id = await ids.find_job(conn, typed)
        await jobs.run_now(conn, job_id)
        return await jobs.get_by_id(conn, job_id)

    _tell(run_in_database(work), as_json=as_json)
    return None


@job.verb(
    "move",
    "jobsworth job move 0123456789ab --to urgent",
    "jobsworth job move --queue default --mode report --to reports",
)
@one_or_many
@click.option("--to", metavar="QUEUE", required=True, help="The queue to put them into.")
@options.as_json
def move(choice: Choice, to: str, as_json: bool) -> ExitCode | None:
    """Move jobs that have not begun into another queue, behind those that are there."""
    return _change(Change(Operation.MOVE, queue=to), choice, as_json=as_json)


@job.verb(
    "reprioritize",
    "jobsworth job reprioritize 0123456789ab --to 1",
    "jobsworth job reprioritize --mode report --to 4",
)
@one_or_many
@click.option("--to", type=click.INT, metavar="N", required=True, help="1 (urgent) to 4.")
@options.as_json
def reprioritize(choice: Choice, to: int, as_json: bool) -> ExitCode | None:
    """Give jobs that have not begun another priority."""
    return _change(Change(Operation.REPRIORITIZE, priority=to), choice, as_json=as_json)


def _change(change: Change, choice: Choice, *, as_json: bool) -> ExitCode | None:
    typed = choice.typed_id()
    if typed is None:
        return act_on_many(change, choice, as_json=as_json)
    change.check()

    async def work(conn: Connection) -> Job:
        return await act_on_one(conn, change, await ids.find_job(conn, typed))

    found = run_in_database(work)
    if as_json:
        emit_json({"id": found.id, "queue": found.queue, "priority": found.priority})
    else:
        emit(f"job {found.id} is in the queue {found.queue}, with priority {found.priority}")
    return None


def _span(text: str | None, option: str) -> float | None:
    return None if text is None else times.parse_duration(text, option)


def _tell(found: Job, *, as_json: bool) -> None:
    if as_json:
        emit_json({"id": found.id, "status": found.status, "waiting_for": found.waiting_for})
    else:
        emit(Text.assemble(f"job {found.id} is ", job_status(found)))


def _has_ended(found: Job) -> Conflict:
    return Conflict(
        f"job {found.id} is {found.status} already: there is nothing to cancel",
        f"see what it did: jobsworth job show {found.id}",
    )
