"""`jobsworth memory duplicates` and `merge`: what says the same, and one memory in place of it.

In: the ids of memories that a person has looked at. Out: one that supersedes the others. Nothing is
deleted: `jobsworth memory show` tells which ones it stands for.
"""

import click

from db.memory import duplicates, status
from db.memory.duplicates import Duplicates
from db.memory.status import Memory
from db.pool import Connection
from db.transactions import transaction
from worker.cli.memory.found import emit_memory, find_memory
from worker.cli.people import named
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import emit_facts, emit_json, say

IDS = ("0123456789ab", "ba9876543210")


@click.command(
    "duplicates",
    cls=Verb,
    examples=["jobsworth memory duplicates", "jobsworth memory duplicates --team research"],
)
@named.team_option
@options.limit(30, "the most often said first")
@options.as_json
def list_duplicates(team: str | None, limit: int, as_json: bool) -> None:
    """List active memories that say the same in nearly the same words. Reads all texts.

    Only those of the same type, team, agent, thread and session. A recall makes one hit of them.
    """

    async def work(conn: Connection) -> list[Duplicates]:
        return await duplicates.find(conn, team_id=await named.team_id(conn, team), limit=limit)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    if not found:
        say("no two memories say the same")
    short = ids.short_ids(one for each in found for one in (each.keep, *each.others))
    for each in found:
        emit_facts([(f"{len(each.others) + 1} times", each.text)])
        say(f"  → jobsworth memory merge {short(each.keep)} {' '.join(map(short, each.others))}")


@click.command("merge", cls=Verb, examples=[f"jobsworth memory merge {' '.join(IDS)}"])
@click.argument("keep", metavar="ID", help="The memory that stays: its id, or the end of it.")
@click.argument(
    "others", metavar="OTHER…", nargs=-1, required=True, help="Those that say the same."
)
@options.as_json
def merge(keep: str, others: tuple[str, ...], as_json: bool) -> None:
    """Let one memory supersede others that say the same; it rests on the evidence of all."""
    typed, merged = ids.typed(keep, "memory"), [ids.typed(each, "memory") for each in others]

    async def work(conn: Connection) -> Memory:
        kept = await find_memory(conn, typed)
        gone = [await find_memory(conn, each) for each in merged]
        async with transaction(conn):
            await duplicates.merge(conn, kept, gone)
        return await status.get(conn, kept)

    memory = run_in_database(work)
    emit_json(memory) if as_json else emit_memory(memory)
