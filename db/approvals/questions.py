"""Questions to people: their checks, their canonical hash, and how a job's question is written.

In: a proposal, what is shown with it, and how it is to be decided. Out: rows of `approvals`,
written inside the transaction that parks the job, which holds the job's row.

Invariant: an approval stands for exactly what its hash covers. A question that asks something else
under the same key supersedes the one before, in the transaction that parks for it; decisions about
the old question do not count for the new one.

The transaction that parks a job writes its changed question: it holds the job, locks the current
approval, and supersedes it in the same commit. A vote that waited finds it superseded. The
canonical JSON is written in SQL and in Python, so that psql can edit and approve; a property test
keeps the two equal.
"""

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple, cast
from uuid import UUID

import orjson

from db.documents import to_document, to_text
from db.errors import InvalidInput
from db.ids import uuidv7
from db.pool import Connection, execute, fetch_all
from db.queue.swallowed import Wanted, swallowed

APPROVE = "approve"
REJECT = "reject"
ESCALATE = "escalate"
# Every option but "reject" counts as a yes, so an option that reads like a no is refused.
LOOKS_LIKE_A_NO = frozenset(
    {"no", "nope", "never", "deny", "denied", "decline", "declined", "refuse", "refused"}
    | {"reject", "rejected", "disapprove", "don't", "do not"}
)
DEADLINE_SECONDS_MAX = 10 * 365 * 86_400.0
VOTES_MAX = 100
DIFFERENCE_CHARACTERS_MAX = 100_000
# A transaction waits for the difference, whose time grows with the square of the lines: 0.2 s for
# these, 1.5 s for twice as many.
DIFFERENCE_LINES_MAX = 5_000


@dataclass(frozen=True, slots=True)
class ApprovalEffect:
    """A question to a person, for which the job parks. `shown` is JSON text."""

    key: str
    proposal_text: str
    options: tuple[str, ...]
    shown: str | None
    shown_hash: str
    deadline_seconds: float | None
    on_timeout: str
    votes_needed: int = 1
    asked_by: str | None = None
    self_approval: bool = False
    editable: bool = False
    for_step: str | None = None


class JobApproval(NamedTuple):
    """A question, and the job that asks it."""

    job_id: UUID
    team_id: UUID | None
    thread_id: UUID | None
    run_id: UUID | None
    question: ApprovalEffect


def check_question(
    proposal_text: str,
    options: Sequence[str],
    deadline_seconds: float | None,
    on_timeout: str,
    votes: int = 1,
) -> None:
    """Raise `InvalidInput` if this question cannot be asked."""
    if not proposal_text.strip():
        raise InvalidInput("the proposal is empty", "say what is to be approved")
    if (
        isinstance(options, str)
        or len({each.strip().lower() for each in options}) != len(options)
        or not all(each.strip() == each and each and each.isprintable() for each in options)
    ):
        raise InvalidInput(
            f"the options {options!r} are not distinct names",
            "give each a name of its own that can be printed, without space at its ends",
        )
    if not set(options) - {REJECT}:
        raise InvalidInput(
            "the question has no option that says yes",
            f"name one beside {REJECT!r}, or leave options out: ({APPROVE!r}, {REJECT!r})",
        )
    misleading = [each for each in options if each != REJECT and each.lower() in LOOKS_LIKE_A_NO]
    if misleading:
        raise InvalidInput(
            f"the option {misleading[0]!r} would count as a yes",
            f"leave it out: {REJECT!r} is the no, and is always possible",
        )
    if REJECT not in options:
        raise InvalidInput(
            f"{REJECT!r} is not among the options {', '.join(options)}",
            "a no is always possible: add it",
        )
    if on_timeout not in (*options, ESCALATE):
        raise InvalidInput(
            f"on_timeout={on_timeout!r} is not one of the options {', '.join(options)}",
            f"name one of them, or {ESCALATE}",
        )
    if on_timeout == ESCALATE and ESCALATE not in options and deadline_seconds is None:
        raise InvalidInput(f"on_timeout={ESCALATE!r} needs a deadline", "give deadline_seconds")
    if deadline_seconds is not None and not 0 < deadline_seconds <= DEADLINE_SECONDS_MAX:
        raise InvalidInput(
            f"a deadline in {deadline_seconds} seconds is not possible",
            f"give a number above 0 and at most {DEADLINE_SECONDS_MAX:.0f}, or none",
        )
    if not 1 <= votes <= VOTES_MAX:
        raise InvalidInput(f"{votes} votes cannot be required", f"require 1 to {VOTES_MAX}")


def shown_hash(proposal_text: str, options: Sequence[str], shown: object) -> str:
    """SHA-256 (hex) of the canonical JSON of the proposal, the options and what is shown.

    The SQL function `shown_hash` computes the same for the stored row.
    """
    asked = {"options": list(options), "proposal_text": to_text(proposal_text), "shown": shown}
    return hashlib.sha256(canonical(asked).encode()).hexdigest()


def canonical(value: object) -> str:
    """JSON in its canonical form: keys sorted, no spaces, numbers without exponent or trailing
    zeros.

    The SQL function `canonical` writes the same for what `jsonb` returns: 1e3 is 1000.
    """
    return _canonical(json.loads(to_document(value, "what is shown"), parse_float=Decimal))


def difference(old: tuple[str, object], new: tuple[str, object]) -> str:
    """A readable unified diff between two pairs of proposal and shown value; "" if they are
    equal.
    """
    before, now = _readable(*old), _readable(*new)
    if before == now:
        return ""
    most = DIFFERENCE_LINES_MAX
    lines = list(difflib.unified_diff(before[:most], now[:most], "before", "now", lineterm="", n=2))
    if max(len(before), len(now)) > most:
        lines.insert(0, f"(of {len(before):,} and {len(now):,} lines, the first {most:,} each)")
    return "\n".join(lines)[:DIFFERENCE_CHARACTERS_MAX]


CURRENT: LiteralString = """
select a.id, a.job_id, a.effect_key, a.proposal_text, a.shown, a.status::text,
  coalesce(a.asked_hash, a.shown_hash) as asked_hash
from jsonb_to_recordset(%(rows)s::jsonb) as e (job_id uuid, key text)
cross join lateral (
  select x.id, x.job_id, x.effect_key, x.proposal_text, x.shown, x.status, x.asked_hash,
    x.shown_hash
  from jobsworth.approvals x
  where x.job_id = e.job_id and x.effect_key = e.key and x.superseded_by is null
  for update
) a
"""

SUPERSEDE: LiteralString = """
update jobsworth.approvals a
set superseded_by = e.by, closed_at = coalesce(a.closed_at, now()),
  status = case when a.status in ('pending', 'approved') then 'superseded' else a.status end
from jsonb_to_recordset(%(rows)s::jsonb) as e (id uuid, by uuid)
where a.id = any(array[e.id])
"""

INSERT: LiteralString = """
insert into jobsworth.approvals (
  id, team_id, thread_id, job_id, effect_key, proposal_text, options, shown, shown_hash, deadline,
  on_timeout, votes_needed, asked_by, self_approval, editable, for_step, supersedes, difference)
select e.id, e.team_id, e.thread_id, e.job_id, e.key, e.proposal_text, e.options, e.shown,
  e.shown_hash, now() + e.deadline_seconds * interval '1 second', e.on_timeout, e.votes_needed,
  coalesce(e.asked_by, (select r.actor from jobsworth.runs r where r.id = e.run_id)),
  e.self_approval, e.editable, e.for_step, e.supersedes, e.difference
from jsonb_to_recordset(%(rows)s::jsonb) as e (
  id uuid, team_id uuid, thread_id uuid, job_id uuid, run_id uuid, key text, proposal_text text,
  options text[], shown jsonb, shown_hash text, deadline_seconds float8, on_timeout text,
  votes_needed int, asked_by text, self_approval boolean, editable boolean, for_step text,
  supersedes uuid, difference text)
on conflict do nothing
"""


async def write(conn: Connection, approvals: Sequence[JobApproval]) -> None:
    """Write these questions in the transaction that parks their jobs, whose rows it holds.

    A question that stands already (a later attempt repeats it) is ignored. One that has changed, or
    whose predecessor was closed by its job's end, supersedes the one before.
    """
    # Locked first, judged after: a vote locks the job's row, too, before it decides one of these.
    keys = [{"job_id": one.job_id, "key": one.question.key} for one in approvals]
    found = await fetch_all(conn, CURRENT, {"rows": _encode(keys)})
    current = {(row["job_id"], row["effect_key"]): row for row in found}
    fresh: list[dict[str, Any]] = []
    replaced: list[dict[str, Any]] = []
    for one in approvals:
        before = current.get((one.job_id, one.question.key))
        if before is not None and _stands(before, one.question):
            continue
        row = _row(one)
        if before is not None:
            row |= {"supersedes": before["id"], "difference": _changed(before, one.question)}
            replaced.append({"id": before["id"], "by": row["id"]})
        fresh.append(row)
    if replaced:
        await execute(conn, SUPERSEDE, {"rows": _encode(replaced)})
    if fresh:
        written = await execute(conn, INSERT, {"rows": _encode(fresh)})
        keys = [Wanted("approvals", row["job_id"], row["key"]) for row in fresh]
        if written < len(fresh) and (error := await swallowed(conn, keys)):
            raise error


def _stands(before: dict[str, Any], question: ApprovalEffect) -> bool:
    return before["status"] != "superseded" and before["asked_hash"] == question.shown_hash


def _row(one: JobApproval) -> dict[str, Any]:
    question = one.question
    return {
        "id": uuidv7(),
        "team_id": one.team_id,
        "thread_id": one.thread_id,
        "job_id": one.job_id,
        "run_id": one.run_id,
        "key": question.key,
        "proposal_text": question.proposal_text,
        "options": question.options,
        "shown": orjson.Fragment(question.shown) if question.shown else None,
        "shown_hash": question.shown_hash,
        "deadline_seconds": question.deadline_seconds,
        "on_timeout": question.on_timeout,
        "votes_needed": question.votes_needed,
        "asked_by": question.asked_by,
        "self_approval": question.self_approval,
        "editable": question.editable,
        "for_step": question.for_step,
    }


def _changed(before: dict[str, Any], question: ApprovalEffect) -> str | None:
    shown = None if question.shown is None else json.loads(question.shown)
    old = (before["proposal_text"], before["shown"])
    return difference(old, (question.proposal_text, shown)) or None


def _readable(proposal_text: str, shown: object) -> list[str]:
    if shown is None:
        return proposal_text.splitlines()
    text = (
        shown
        if isinstance(shown, str)
        else json.dumps(shown, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    )
    return [*proposal_text.splitlines(), *text.splitlines()]


def _canonical(value: Any) -> str:
    match value:
        case dict():
            members = cast(dict[str, Any], value).items()
            return "{" + ",".join(f"{_text(k)}:{_canonical(v)}" for k, v in sorted(members)) + "}"
        case list():
            return "[" + ",".join(map(_canonical, cast(list[Any], value))) + "]"
        case Decimal():
            # As PostgreSQL prints a numeric without trailing zeros; it has no negative zero.
            plain = f"{value:f}"
            trimmed = plain.rstrip("0").rstrip(".") if "." in plain else plain
            return "0" if trimmed == "-0" else trimmed
        case _:
            return _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _encode(rows: list[dict[str, Any]]) -> str:
    try:
        return orjson.dumps(rows).decode()
    except orjson.JSONEncodeError as error:
        raise InvalidInput(f"an approval cannot be written: {error}", "use Unicode text") from error
