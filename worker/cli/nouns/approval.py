"""`jobsworth approval`: proposals of jobs, and the decisions of people.

In: ids, an option, a comment. Out: a proposal and exactly what is shown with it; a decision, which
resumes the waiting job in the same transaction, or the reason why it does not count.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from db.approvals import approvals
from db.approvals.approvals import APPROVE, REJECT, Approval, ApprovalStatus, Vote
from db.approvals.questions import ESCALATE
from db.diagnosis import paperwork
from db.documents import parse_document
from db.errors import Conflict, InvalidInput
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import Job
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import (
    Column,
    emit,
    emit_facts,
    emit_json,
    emit_table,
    indented_json,
    say,
    styled,
)
from worker.cli.terminal.times import ago
from worker.cli.terminal.words import approval_status, job_status, user_name

CHANNEL = "cli"
SEEN_CHARACTERS = 12
SEEN_CHARACTERS_MIN = 8


approval = Noun("approval", "Approvals: proposals of jobs that people decide on.")


@approval.verb("list", "jobsworth approval", "jobsworth approval list --all")
@click.option("--all", "everything", is_flag=True, help="Decided ones too, newest first.")
@options.limit(100)
@options.as_json
def list_approvals(everything: bool, limit: int, as_json: bool) -> None:
    """List the proposals that wait for a decision, oldest first."""

    async def work(conn: Connection) -> list[Approval]:
        if everything:
            return await paperwork.latest_approvals(conn, limit)
        return await approvals.get_pending(conn, limit)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    short = ids.short_ids(each.id for each in found)
    columns = [
        Column("ID"),
        Column("STATUS"),
        Column("ASKED", right=True),
        Column("BY", optional=True),
        Column("OPTIONS", flexible=True),
        Column("PROPOSAL", flexible=True),
    ]
    rows = [
        [
            short(each.id),
            _status(each, now),
            ago(each.created_at, now),
            each.asked_by or "",
            ", ".join(each.options),
            each.proposal_text,
        ]
        for each in found
    ]
    emit_table(columns, rows, "no approvals yet" if everything else "nothing waits for a decision")
    if found and not everything:
        say("see what is shown with one: jobsworth approval show ID")


@approval.verb("show", "jobsworth approval show 0123456789ab")
@options.approval_id
@options.as_json
def show_approval(approval: str, as_json: bool) -> None:
    """Show an approval with its proposal, what is shown with it, its votes and its decision."""
    typed = ids.typed_approval(approval)

    async def work(conn: Connection) -> tuple[Approval, list[Vote]]:
        approval_id = await ids.find_approval(conn, typed)
        return await approvals.get_by_id(conn, approval_id), await approvals.votes(
            conn, approval_id
        )

    found, votes = run_in_database(work)
    if as_json:
        emit_json({**found.model_dump(), "votes": votes})
        return
    now = datetime.now(UTC)
    is_open = found.status is ApprovalStatus.PENDING
    emit(Text.assemble((f"approval {found.id}", "bold"), "  ", _status(found, now)))
    emit_facts(
        [
            ("proposal", found.proposal_text),
            ("shown", None if found.shown is None else _shown(found.shown)),
            ("edited", None if found.edited_hash is None else _shown(found.edited)),
            ("hash", found.document_hash),
            ("options", ", ".join(found.options)),
            (
                "editable",
                "yes, with: jobsworth approve … --edit JSON"
                if is_open and found.editable
                else None,
            ),
            ("asked by", _asker(found)),
            ("job", found.job_id and str(found.job_id)),
            ("thread", found.thread_id and str(found.thread_id)),
            ("asked", ago(found.created_at, now)),
            ("deadline", _deadline(found, now) if is_open else None),
            ("escalated", found.escalated_at and ago(found.escalated_at, now)),
            ("votes", _votes(found, votes, now)),
            ("decided", _decision(found, now)),
            ("comment", found.comment),
            ("used by", _consumption(found, now)),
            ("replaces", found.supersedes and str(found.supersedes)),
            ("difference", found.difference),
            ("replaced by", found.superseded_by and str(found.superseded_by)),
        ]
    )
    if is_open:
        seen = found.document_hash[:SEEN_CHARACTERS]
        say(f"to approve exactly this: jobsworth approve {found.id} --seen {seen}")
        say(f"to reject it: jobsworth reject {found.id}")


@approval.verb(
    "approve",
    "jobsworth approve 0123456789ab --comment 'go ahead'",
    "jobsworth approve 0123456789ab --edit @shorter.json",
)
@options.approval_id
@click.option(
    "--option",
    metavar="OPTION",
    help="The option to choose, where there are several ways to say yes.",
)
@options.comment
@options.by
@click.option(
    "--edit", metavar="JSON", help="Approve this document instead of the one shown; or @FILE."
)
@click.option(
    "--seen", metavar="HASH", help="Approve only if the document shown still has this hash."
)
@options.as_json
def approve(
    approval: str,
    option: str | None,
    comment: str | None,
    by: str | None,
    edit: str | None,
    seen: str | None,
    as_json: bool,
) -> None:
    """Approve a proposal; the job that waits goes on."""
    edited = None if edit is None else _document(edit)
    _decide(approval, option, comment, by, edited=edited, seen=seen, as_json=as_json)


@approval.verb("reject", "jobsworth reject 0123456789ab --comment 'too early'")
@options.approval_id
@options.comment
@options.by
@options.as_json
def reject(approval: str, comment: str | None, by: str | None, as_json: bool) -> None:
    """Reject a proposal; the job that waits goes on with a no."""
    _decide(approval, REJECT, comment, by, as_json=as_json)


def _decide(
    text: str,
    option: str | None,
    comment: str | None,
    by: str | None,
    *,
    edited: object = None,
    seen: str | None = None,
    as_json: bool,
) -> None:
    typed = ids.typed_approval(text)
    # Without the machine: a user with two machines has one vote.
    who = by or user_name()

    async def work(conn: Connection) -> tuple[Approval, Job | None]:
        approval_id = await ids.find_approval(conn, typed)
        asked = await approvals.get_by_id(conn, approval_id)
        chosen = option or _yes(asked)
        if chosen != REJECT and asked.superseded_by is None:
            _require_seen(asked, seen)
        resolution = await approvals.resolve(
            conn,
            approval_id,
            chosen,
            who,
            CHANNEL,
            comment,
            edited=edited,
            seen_hash=asked.document_hash,
        )
        if resolution.status is ApprovalStatus.SUPERSEDED and asked.superseded_by is not None:
            raise Conflict(
                f"approval {approval_id} was replaced by another one",
                f"see it: jobsworth approval show {asked.superseded_by}",
            )
        resolution.require_accepted()
        decided = await approvals.get_by_id(conn, approval_id)
        job = None if decided.job_id is None else await jobs.get_by_id(conn, decided.job_id)
        return decided, job

    decided, job = run_in_database(work)
    if as_json:
        emit_json({"approval": decided, "job_status": None if job is None else job.status})
        return
    emit(Text.assemble(f"approval {decided.id} is ", approval_status(decided)))
    if decided.status is ApprovalStatus.PENDING:
        emit(f"your vote counts; {decided.votes_needed} are needed in all")
    if job is not None:
        emit(Text.assemble(f"job {job.id} is ", job_status(job)))


def _yes(asked: Approval) -> str:
    """The only way to say yes; for a decided one any way, because each comes too late."""
    if APPROVE in asked.options:
        return APPROVE
    others = [option for option in asked.options if option != REJECT]
    if len(others) == 1 or (others and asked.status is not ApprovalStatus.PENDING):
        return others[0]
    raise InvalidInput(
        f"approval {asked.id} has several ways to say yes: {', '.join(others)}",
        f"choose one: jobsworth approve {asked.id} --option {others[0] if others else REJECT}",
    )


def _require_seen(asked: Approval, seen: str | None) -> None:
    """Refuse a yes for a document other than the one that its person has seen."""
    how = f"read it again: jobsworth approval show {asked.id}"
    if seen is None:
        if asked.edited_hash is not None and asked.status is ApprovalStatus.PENDING:
            raise Conflict(f"approval {asked.id} was edited after it was asked", how)
    elif len(seen) < SEEN_CHARACTERS_MIN:
        raise InvalidInput(
            f"--seen {seen!r} is too short to tell versions apart",
            f"give at least {SEEN_CHARACTERS_MIN} characters of the hash",
        )
    elif not asked.document_hash.startswith(seen.lower()):
        raise Conflict(f"approval {asked.id} does not show what you have seen, or no longer", how)


def _status(found: Approval, now: datetime) -> Text:
    if found.status is ApprovalStatus.PENDING and found.deadline is not None:
        return styled(found.status, f", due {ago(found.deadline, now)}")
    return approval_status(found)


def _deadline(found: Approval, now: datetime) -> str | None:
    if found.deadline is None:
        return None
    when = f"{found.deadline.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {ago(found.deadline, now)}"
    then = found.on_timeout
    if then == ESCALATE and ESCALATE not in found.options:
        then = REJECT if found.escalated_at else "escalate, with as much time again"
    elif found.edited_hash is not None:
        then = REJECT
    return f"{when}; then: {then}"


def _decision(found: Approval, now: datetime) -> str | None:
    if found.decided_by is None:
        return None
    who = f"{found.decided_by} ({found.channel})"
    return f"{found.chosen_option}, by {who}, {ago(found.decided_at, now)}"


def _asker(found: Approval) -> str | None:
    if found.asked_by is None:
        return None
    return found.asked_by + (" (who may approve it)" if found.self_approval else "")


def _votes(found: Approval, votes: list[Vote], now: datetime) -> str | None:
    if found.votes_needed == 1 and len(votes) < 2:
        return None
    lines = [f"{found.votes_needed} needed for the same option"]
    for vote in votes:
        old = "" if vote.voted_hash in (None, found.document_hash) else ", before it was edited"
        said = f": {vote.comment}" if vote.comment else ""
        lines.append(
            f"{vote.option}, by {vote.decided_by} ({vote.channel}), "
            f"{ago(vote.decided_at, now)}{old}{said}"
        )
    return "\n".join(lines)


def _consumption(found: Approval, now: datetime) -> str | None:
    if found.consumed_at is not None:
        is_own = found.consumed_by == found.effect_key
        what = "the job" if is_own else f"step {found.consumed_by}"
        return f"{what}, {ago(found.consumed_at, now)}: it is too late for a no"
    return found.for_step and f"step {found.for_step} only, not yet"


def _document(text: str) -> Any:
    """The JSON that was given, or the JSON in the file given as @FILE."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(
                f"{text[1:]} cannot be read: {_reason(error)}", "name a text file"
            ) from error
    document = parse_document(
        text,
        "the edited document",
        "give the document to approve instead of the one shown, as JSON",
    )
    if document is None:
        raise InvalidInput("the edited document is null", "give the document to approve instead")
    return document


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    return f"it is not UTF-8 text: byte {error.start + 1}"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else indented_json(value)
