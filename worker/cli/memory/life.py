"""`jobsworth memory list`, `show`, `supersede`, `retract`, `restore`: what became of memories.

In: the id of a memory, or its end. Out: memories with their evidence, and which one took whose
place.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import click

from db.errors import InvalidInput
from db.memory import memories, status
from db.memory.memories import Text
from db.memory.status import Memory, MemoryStatus, MemoryType, RecalledBy
from db.pool import Connection
from db.transactions import transaction
from worker.cli.memory.found import emit_memory, find_memory
from worker.cli.people import named
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun, Verb
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit_json, emit_table
from worker.cli.terminal.times import ago
from worker.memory.ranking import Recalled

AN_ID = "0123456789ab"
COLUMNS = [
    Column("ID"),
    Column("TYPE"),
    Column("STATUS"),
    Column("AGE", right=True),
    Column("TEXT", flexible=True),
]
MEMORY = click.argument("memory", metavar="ID", help="The memory: its id, or the end of it.")


def add_to(noun: Noun) -> None:
    """Give the noun these verbs."""
    for verb in (list_memories, show, supersede, retract, restore, recalls):
        noun.add_command(verb)


@click.command(
    "list",
    cls=Verb,
    examples=["jobsworth memory list", "jobsworth memory list --type decision --status superseded"],
)
@options.choice("--type", "kind", words=MemoryType, help="Only those of a type")
@options.choice("--status", "ended", words=MemoryStatus, help="Only those with a status")
@named.team_option
@options.limit(30)
@options.as_json
def list_memories(
    kind: str | None, ended: str | None, team: str | None, limit: int, as_json: bool
) -> None:
    """List memories, latest first."""

    async def work(conn: Connection) -> list[Memory]:
        return await status.list_memories(
            conn,
            status=None if ended is None else MemoryStatus(ended),
            types=None if kind is None else [MemoryType(kind)],
            team_id=await named.team_id(conn, team),
            limit=limit,
        )

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    short = ids.short_ids(each.id for each in found)
    rows = [
        [short(each.id), each.type, each.status, ago(each.created_at, now), each.text]
        for each in found
    ]
    emit_table(COLUMNS, rows, "nothing is remembered")


@click.command("show", cls=Verb, examples=[f"jobsworth memory show {AN_ID}"])
@MEMORY
@options.as_json
def show(memory: str, as_json: bool) -> None:
    """Show a memory: its evidence, when it holds, and what became of it."""
    _on(memory, _nothing, as_json)


@click.command(
    "supersede",
    cls=Verb,
    examples=[
        f"jobsworth memory supersede {AN_ID} 'The office is in Hamburg.'",
        f"jobsworth memory supersede {AN_ID} --by ba9876543210",
    ],
)
@MEMORY
@click.argument("text", metavar="[TEXT]", required=False, help="What is right instead.")
@click.option("--by", metavar="ID", help="A memory that is there already, as of a duplicate.")
@options.as_json
def supersede(memory: str, text: str | None, by: str | None, as_json: bool) -> None:
    """Let a memory be superseded: by a new text, or by another memory."""
    if (text is None or not text.strip()) == (by is None):
        raise InvalidInput("what supersedes it?", "give a text, or --by ID, and not both")
    successor = None if by is None else ids.typed(by, "memory")

    async def work(conn: Connection, found: UUID) -> None:
        if successor is not None:
            await status.supersede(conn, found, await find_memory(conn, successor))
        else:
            old = await status.get(conn, found)
            await memories.put(conn, [_successor(old, text or "")])

    _on(memory, work, as_json)


@click.command("retract", cls=Verb, examples=[f"jobsworth memory retract {AN_ID} --reason wrong"])
@MEMORY
@click.option("--reason", metavar="TEXT", help="Why.")
@options.as_json
def retract(memory: str, reason: str | None, as_json: bool) -> None:
    """Take a memory back: it is recalled no more."""

    async def work(conn: Connection, found: UUID) -> None:
        await status.retract(conn, found, reason)

    _on(memory, work, as_json)


@click.command("restore", cls=Verb, examples=[f"jobsworth memory restore {AN_ID}"])
@MEMORY
@options.as_json
def restore(memory: str, as_json: bool) -> None:
    """Let a retracted or suspended memory be recalled again."""
    _on(memory, status.restore, as_json)


@click.command("recalls", cls=Verb, examples=[f"jobsworth memory recalls {AN_ID}"])
@click.argument("job", metavar="JOB", help="The job: its id, or the end of it.")
@options.as_json
def recalls(job: str, as_json: bool) -> None:
    """List which memories a job recalled, for what it asked, and why those."""
    typed = ids.typed_job(job)

    async def work(conn: Connection) -> list[RecalledBy]:
        return await status.recalled_by(conn, await ids.find_job(conn, typed))

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    columns = [
        Column("ATTEMPT", right=True),
        Column("QUERY", flexible=True),
        Column("SCORE", right=True),
        Column("MEMORY"),
        Column("STATUS"),
        Column("TEXT", flexible=True),
    ]
    short = ids.short_ids(each.memory_id for each in found)
    rows = [
        [
            str(each.attempt),
            each.query or "",
            f"{each.score:.3f}",
            short(each.memory_id),
            each.status or "deleted",
            each.text or "",
        ]
        for each in found
    ]
    emit_table(columns, rows, "it recalled nothing")


def parts(hit: Recalled) -> str:
    """What the score of a hit is the sum of."""
    found = [(name, value) for name, value in hit.parts if value]
    return " + ".join(f"{name} {value:.3f}" for name, value in found)


async def _nothing(conn: Connection, found: UUID) -> None:
    """Only look."""


def _on(
    typed_id: str, change: Callable[[Connection, UUID], Awaitable[None]], as_json: bool
) -> None:
    """Do something with a memory in one commit, and show it afterwards."""
    typed = ids.typed(typed_id, "memory")

    async def work(conn: Connection) -> Memory:
        found = await find_memory(conn, typed)
        async with transaction(conn):
            await change(conn, found)
        return await status.get(conn, found)

    memory = run_in_database(work)
    if as_json:
        emit_json(memory)
    else:
        emit_memory(memory)


def _successor(old: Memory, text: str) -> Text:
    """A memory of the same kind, whose text is another."""
    return Text(
        text,
        old.source_kind,
        old.source_id,
        team_id=old.team_id,
        agent_id=old.agent_id,
        thread_id=old.thread_id,
        session_id=old.session_id,
        type=old.type,
        importance=old.importance,
        supersedes=old.id,
    )
