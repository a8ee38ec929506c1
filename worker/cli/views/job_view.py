"""How `jobsworth job show` prints a job.

In: an id. Out: the job's row, why it is not running, and everything that belongs to it: steps,
model calls, approvals, deployments, artifacts, the jobs it started and the messages it wrote.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from rich.text import Text

from db.approvals.approvals import Approval
from db.deployments.deployments import Deployment
from db.diagnosis import paperwork
from db.diagnosis.paperwork import JobMessage, Offspring
from db.money import calls as call_records
from db.money.calls import CUT_SHORT, Call
from db.pool import Connection
from db.queue import attempts, jobs
from db.queue.attempts import PastAttempt
from db.queue.jobs import Job, Why
from db.steps import artifacts, steps
from db.steps.artifacts import Artifact
from db.steps.steps import Step
from worker.cli.terminal import ids
from worker.cli.terminal.output import (
    Column,
    compact_json,
    emit,
    emit_facts,
    emit_heading,
    indented_json,
    one_line,
    styled,
)
from worker.cli.terminal.times import ago, span
from worker.cli.terminal.words import approval_status, emit_part, job_status

LINE_CHARACTERS_MAX = 64
DOCUMENT_CHARACTERS_MAX = 2_000

STEPS = [
    Column("STEP", flexible=True),
    Column("KIND"),
    Column("TRY", right=True),
    Column("TOOK", right=True),
    Column("INPUT", flexible=True, optional=True),
    Column("OUTPUT", flexible=True),
]


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job and all its paperwork."""

    job: Job
    why: Why
    attempts: list[PastAttempt]
    steps: list[Step]
    calls: list[Call]
    approvals: list[Approval]
    deployments: list[Deployment]
    artifacts: list[Artifact]
    children: list[Offspring]
    messages: list[JobMessage]


async def read(conn: Connection, job_id: UUID) -> JobFile:
    """Everything about a job."""
    return JobFile(
        job=await jobs.get_by_id(conn, job_id),
        why=await jobs.why(conn, job_id),
        attempts=await attempts.list_for_job(conn, job_id),
        steps=await steps.list_for_job(conn, job_id),
        calls=await call_records.list_calls(conn, job_id),
        approvals=await paperwork.approvals(conn, job_id),
        deployments=await paperwork.deployments(conn, job_id),
        artifacts=await artifacts.list_for_job(conn, job_id),
        children=await paperwork.offspring(conn, job_id),
        messages=await paperwork.messages(conn, job_id),
    )


def emit_job(file: JobFile) -> None:
    """Print it for people."""
    now = datetime.now(UTC)
    _row(file, now)
    _attempts(file.attempts, now)
    emit_part("Steps", STEPS, [step_row(step) for step in file.steps])
    _calls(file.calls)
    _approvals(file.approvals, now)
    _deployments(file.deployments, now)
    _artifacts(file.artifacts)
    _children(file.children, now)
    _messages(file.messages, now)


def _row(file: JobFile, now: datetime) -> None:
    job, why = file.job, file.why
    emit(Text.assemble((f"job {job.id}", "bold"), "  ", job_status(job)))
    open_why = f"{why.detail}\n→ {why.remedy}" if job.finished_at is None else None
    emit_facts(
        [
            ("why", open_why),
            ("error", job.error if job.finished_at or job.failures else None),
            ("mode", job.mode),
            ("queue", f"{job.queue}, priority {job.priority}"),
            ("thread", job.thread_id and str(job.thread_id)),
            ("lane", job.lane if job.lane != str(job.thread_id) else None),
            ("unique key", job.unique_key),
            ("unique until", job.unique_until),
            ("fair key", job.fair_key),
            ("limit key", job.limit_key),
            ("message", job.trigger_message_id and str(job.trigger_message_id)),
            ("superseded by message", job.superseded_by and str(job.superseded_by)),
            ("run", job.run_id and f"{job.run_id}, node {job.node or '-'}"),
            ("request", job.request_id),
            ("parent", job.parent_id and str(job.parent_id)),
            ("created", _time(job.created_at, now)),
            ("due", _time(job.run_at, now) if job.finished_at is None else None),
            ("expires", _time(job.expires_at, now) if job.attempt == 0 else None),
            ("started", _time(job.started_at, now)),
            ("finished", _time(job.finished_at, now)),
            ("tries", _tries(job)),
            ("timeout", span(job.timeout_seconds) or None),
            ("payload", _document(job.payload) if job.payload else None),
            ("result", None if job.result is None else _document(job.result)),
        ]
    )


def _tries(job: Job) -> str:
    failures = f"{job.failures} failed"
    if job.failures_max is not None:
        failures += f" of at most {job.failures_max}"
    return f"{job.attempt} started, {failures}, {job.crashes} crashed"


def _attempts(found: list[PastAttempt], now: datetime) -> None:
    columns = [
        Column("ATTEMPT", right=True),
        Column("ENDED", right=True),
        Column("TOOK", right=True),
        Column("OUTCOME"),
        Column("WORKER", flexible=True),
        Column("ERROR", flexible=True),
    ]
    rows = [
        [
            str(each.attempt),
            ago(each.ended_at, now),
            span((each.ended_at - each.began_at).total_seconds()) if each.began_at else "",
            styled(each.outcome),
            f"{each.host}, process {each.pid}" if each.host else "gone",
            one_line(each.error or ""),
        ]
        for each in found
    ]
    emit_part("Attempts that did not end well", columns, rows)
    last = next((each for each in reversed(found) if each.traceback), None)
    if last is not None:
        emit_heading(f"Traceback of attempt {last.attempt}")
        emit(Text(last.traceback or ""))


def step_row(step: Step) -> list[str | Text | None]:
    """A row of a table with the columns `STEPS`."""
    return [step.name, step.kind, str(step.attempt), _took(step), _input(step), _output(step)]


def _took(step: Step) -> str:
    if step.finished_at is None and step.failed_at is not None:
        return f"{span((step.failed_at - step.started_at).total_seconds())}, failed"
    if step.finished_at is None:
        return "unfinished"
    return span((step.finished_at - step.started_at).total_seconds())


def _input(step: Step) -> str | None:
    """The arguments, as they stand in a call: `1, by=10`."""
    match step.input:
        case [[*args], {**kwargs}]:
            named = [f"{name}={compact_json(value)}" for name, value in kwargs.items()]
            return one_line(", ".join([*map(compact_json, args), *named]))
        case {"cut": str(beginning)}:
            return one_line(beginning)
        case _:
            return None


def _output(step: Step) -> str | None:
    return step.error if step.finished_at is None else one_line(compact_json(step.output))


def _status(call: Call) -> str:
    """The status; and why the answer has no end, if it has none."""
    short = call.finish_reason if call.finish_reason in CUT_SHORT else None
    return call.status if short is None else f"{call.status}, cut short: {short}"


def _calls(found: list[Call]) -> None:
    columns = [
        Column("CALL", flexible=True),
        Column("MODEL", flexible=True),
        Column("STATUS"),
        Column("IN", right=True),
        Column("OUT", right=True),
        Column("COST", right=True),
        Column("TOOK", right=True),
    ]
    rows = [
        [
            call.step_name,
            _model(call),
            _status(call),
            _count(call.input_tokens),
            _count(call.output_tokens),
            "?" if call.cost is None else f"{call.cost:f}",
            "" if call.latency_ms is None else span(call.latency_ms / 1000),
        ]
        for call in found
    ]
    emit_part("Model calls", columns, rows)
    emit_facts([(call.step_name or "", _bounded(call.error)) for call in found if call.error])


def _approvals(found: list[Approval], now: datetime) -> None:
    columns = [
        Column("APPROVAL"),
        Column("STATUS"),
        Column("BY", flexible=True),
        Column("ASKED", right=True),
        Column("PROPOSAL", flexible=True),
    ]
    short = ids.short_ids(each.id for each in found)
    rows = [
        [
            short(each.id),
            approval_status(each),
            each.decided_by,
            ago(each.created_at, now),
            each.proposal_text,
        ]
        for each in found
    ]
    emit_part("Approvals", columns, rows)


def _deployments(found: list[Deployment], now: datetime) -> None:
    from worker.deployments.pipeline import gist  # costs a fifth of a second, and few jobs deploy

    columns = [
        Column("ENVIRONMENT"),
        Column("COMMIT"),
        Column("STATUS"),
        Column("STARTED", right=True),
        Column("REPORT", flexible=True),
    ]
    rows = [
        [
            each.environment,
            each.sha[:12],
            styled(each.status),
            ago(each.created_at, now),
            gist(each.report_text),
        ]
        for each in found
    ]
    emit_part("Deployments", columns, rows)


def _artifacts(found: list[Artifact]) -> None:
    columns = [
        Column("ARTIFACT", flexible=True),
        Column("TYPE", flexible=True),
        Column("BYTES", right=True),
        Column("SHA-256 OR ADDRESS", flexible=True),
    ]
    rows = [
        [each.name, each.media_type, _count(each.bytes), each.sha256 or each.uri] for each in found
    ]
    emit_part("Artifacts", columns, rows)


def _children(found: list[Offspring], now: datetime) -> None:
    columns = [
        Column("JOB"),
        Column("KIND"),
        Column("MODE", flexible=True),
        Column("STATUS"),
        Column("RESULT", flexible=True),
    ]
    short = ids.short_ids(each.id for each in found)
    rows = [
        [
            short(each.id),
            "child" if each.is_child else "follow-up",
            each.mode,
            styled(each.status, f": {each.waiting_for}" if each.waiting_for else ""),
            each.error or ("" if each.result is None else one_line(compact_json(each.result))),
        ]
        for each in found
    ]
    emit_part("Jobs it started", columns, rows)


def _messages(found: list[JobMessage], now: datetime) -> None:
    if not found:
        return
    emit_heading("Messages it wrote")
    for message in found:
        emit(Text(f"{message.role}, {ago(message.created_at, now)}", style="dim"))
        emit_facts([("", _bounded(message.text))])


def _time(instant: datetime | None, now: datetime) -> str | None:
    if instant is None:
        return None
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {ago(instant, now)}"


def _document(value: Any) -> str:
    line = compact_json(value)
    return line if len(line) <= LINE_CHARACTERS_MAX else _bounded(indented_json(value))


def _bounded(text: str) -> str:
    if len(text) <= DOCUMENT_CHARACTERS_MAX:
        return text
    return f"{text[:DOCUMENT_CHARACTERS_MAX]}…\n({len(text):,} characters; whole with --json)"


def _model(call: Call) -> str:
    """The model that was asked, and what differs: who answered, in which tier."""
    answered = f"answered by {call.answered_model}" if call.answered_model else None
    return ", ".join(filter(None, [f"{call.provider}:{call.model}", answered, call.tier]))


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
