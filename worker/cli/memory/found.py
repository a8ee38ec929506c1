"""One memory, as a person names it and as it is shown.

In: an id, or the end of one. Out: the memory with its evidence, and which one took whose place.
"""

from uuid import UUID

from db.memory import status
from db.memory.status import Memory
from db.pool import Connection
from worker.cli.terminal import ids
from worker.cli.terminal.ids import TypedId
from worker.cli.terminal.output import emit_facts, say


async def find_memory(conn: Connection, typed: TypedId) -> UUID:
    """The id of a memory; if only its end was typed, of one of the latest."""
    if len(typed.digits) == ids.UUID_DIGITS:
        return typed.lowest
    latest = await status.list_memories(conn, limit=status.LIMIT_MAX)
    return ids.find_among(typed, [each.id for each in latest], "jobsworth memory list")


def emit_memory(memory: Memory) -> None:
    """A memory, label by label."""
    reason = f": {memory.status_reason}" if memory.status_reason else ""
    evidence = [f"message {one}" for one in memory.message_ids or ()]
    evidence += [f"step {memory.step_name}"] if memory.step_name else []
    evidence += [f"file {memory.file_name}"] if memory.file_name else []
    evidence += [f"job {memory.job_id}"] if memory.job_id else []
    until = f" to {memory.valid_to:%Y-%m-%d %H:%M %Z}" if memory.valid_to else ""
    since = memory.valid_from or memory.created_at
    emit_facts(
        [
            ("memory", str(memory.id)),
            ("text", memory.text),
            ("type", f"{memory.type}, from {memory.source_kind} {memory.source_id or ''}".strip()),
            ("status", f"{memory.status}{reason}"),
            ("superseded by", _succession(memory)),
            ("supersedes", ", ".join(map(str, memory.supersedes)) or None),
            ("weight", f"importance {memory.importance:g}, confidence {memory.confidence:g}"),
            ("holds", f"from {since:%Y-%m-%d %H:%M %Z}{until}"),
            ("evidence", ", ".join(evidence) or None),
            ("agent", None if memory.agent_id is None else str(memory.agent_id)),
            ("thread", None if memory.thread_id is None else str(memory.thread_id)),
        ]
    )
    if memory.superseded_by is not None:
        say(f"its successor: jobsworth memory show {memory.superseded_by}")


def _succession(memory: Memory) -> str | None:
    if memory.superseded_by is None:
        return None
    at = memory.superseded_at
    return f"{memory.superseded_by}" + (f", {at:%Y-%m-%d %H:%M %Z}" if at else "")
