"""`jobsworth approvals, approve, reject`: what people are asked, and what they decide.

In: ids, an option, a comment. Out: what is asked and exactly what is shown with it; a decision that
resumes the waiting job in the same transaction, or says why it does not count.
"""

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from db.approvals import approvals
from db.approvals.approvals import APPROVE, REJECT, Approval, ApprovalStatus, Vote
from db.approvals.questions import ESCALATE
from db.diagnosis import paperwork
from db.errors import Conflict, InvalidInput
from db.pool import Connection
from db.queue import jobs
from db.queue.jobs import Job
from worker.cli import ids
from worker.cli.database import run_in_database
from worker.cli.jobs import status_words
from worker.cli.output import (
    Column,
    emit,
    emit_facts,
    emit_json,
    emit_table,
    indented_json,
    say,
    styled,
)
from worker.cli.times import ago
from worker.settings import load_settings

CHANNEL = "cli"
SEEN_CHARACTERS = 12
SEEN_CHARACTERS_MIN = 8


def list_approvals(*, everything: bool, limit: int, as_json: bool) -> None:
    async def work(conn: Connection) -> list[Approval]:
        if everything:
            return await paperwork.latest_approvals(conn, limit)
        return await approvals.get_pending(conn, limit)

    found = run_in_database(load_settings(), work)
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
    emit_table(columns, rows, "no approvals" if everything else "nothing waits for a decision")
    if found and not everything:
        say("all that is shown with one: jobsworth approvals ID")


def show(text: str, *, as_json: bool) -> None:
    typed = ids.typed_approval(text)

    async def work(conn: Connection) -> tuple[Approval, list[Vote]]:
        approval_id = await ids.find_approval(conn, typed)
        return await approvals.get_by_id(conn, approval_id), await approvals.votes(
            conn, approval_id
        )

    found, votes = run_in_database(load_settings(), work)
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
            ("editable", "yes: approve it with --edit" if is_open and found.editable else None),
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
        say(f"yes to exactly this: jobsworth approve {found.id} --seen {seen}")
        say(f"no: jobsworth reject {found.id}")


def approve(
    text: str,
    *,
    option: str | None,
    comment: str | None,
    by: str | None,
    edit: str | None,
    seen: str | None,
    as_json: bool,
) -> None:
    edited = None if edit is None else _document(edit)
    _decide(text, option, comment, by, edited=edited, seen=seen, as_json=as_json)


def reject(text: str, *, comment: str | None, by: str | None, as_json: bool) -> None:
    _decide(text, REJECT, comment, by, as_json=as_json)


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
    # Not from which machine: somebody with two is still one person.
    who = by or getpass.getuser()

    async def work(conn: Connection) -> tuple[Approval, Job | None]:
        approval_id = await ids.find_approval(conn, typed)
        asked = await approvals.get_by_id(conn, approval_id)
        chosen = option or _only_yes(asked)
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
                f"approval {approval_id} is superseded: something else is asked instead",
                f"see what: jobsworth approvals {asked.superseded_by}",
            )
        resolution.require_accepted()
        decided = await approvals.get_by_id(conn, approval_id)
        job = None if decided.job_id is None else await jobs.get_by_id(conn, decided.job_id)
        return decided, job

    decided, job = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"approval": decided, "job_status": None if job is None else job.status})
        return
    emit(Text.assemble(f"approval {decided.id} is ", approval_words(decided)))
    if decided.status is ApprovalStatus.PENDING:
        emit(f"your yes counts; it needs {decided.votes_needed} in all")
    if job is not None:
        emit(Text.assemble(f"job {job.id} is ", status_words(job)))


def approval_words(found: Approval) -> Text:
    """An approval's status, and the choice if it was not simply yes or no."""
    plain = found.chosen_option in (None, APPROVE, REJECT)
    return styled(found.status, "" if plain else f" ({found.chosen_option})")


def _only_yes(asked: Approval) -> str:
    if APPROVE in asked.options:
        return APPROVE
    others = [option for option in asked.options if option != REJECT]
    if len(others) == 1:
        return others[0]
    raise InvalidInput(
        f"approval {asked.id} has several ways to say yes: {', '.join(others)}",
        f"choose one: jobsworth approve {asked.id} --option {others[0] if others else REJECT}",
    )


def _require_seen(asked: Approval, seen: str | None) -> None:
    """A yes is for what its person has seen: where that may have changed, they say which."""
    how = f"read it again: jobsworth approvals {asked.id}"
    if seen is None:
        if asked.edited_hash is not None and asked.status is ApprovalStatus.PENDING:
            raise Conflict(f"approval {asked.id} was edited after it was asked", how)
    elif len(seen) < SEEN_CHARACTERS_MIN:
        raise InvalidInput(
            f"--seen {seen!r} is too short to tell versions apart",
            f"give at least {SEEN_CHARACTERS_MIN} characters of the hash",
        )
    elif not asked.document_hash.startswith(seen.lower()):
        raise Conflict(f"approval {asked.id} is not, or no longer, what you have seen", how)


def _status(found: Approval, now: datetime) -> Text:
    if found.status is ApprovalStatus.PENDING and found.deadline is not None:
        return styled(found.status, f", due {ago(found.deadline, now)}")
    return approval_words(found)


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
        what = "the question itself" if is_own else f"step {found.consumed_by}"
        return f"{what}, {ago(found.consumed_at, now)}: a no comes too late"
    return found.for_step and f"only by step {found.for_step}, not yet"


def _document(text: str) -> Any:
    """The JSON that was given, or that in a file given as @FILE."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{text[1:]} cannot be read: {error}", "name a text file") from error
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidInput(
            f"the edited document is not JSON: {error}",
            "give what is to be approved instead of what is shown, as JSON",
        ) from error
    if document is None:
        raise InvalidInput("the edited document is null", "give what is to be approved instead")
    return document


def _shown(value: object) -> str:
    return value if isinstance(value, str) else indented_json(value)
