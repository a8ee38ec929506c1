"""`jobsworth erase`: what a user, a thread or a session has left leaves for good.

In: what is erased, and `--yes`. Out: what would leave; or what has left, and the proof: what was
read of the catalogue, and what was found there.
"""

import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import click

from db.errors import Conflict, Unavailable
from db.people import erasure, users
from db.people.erasure import Erased, Erasure, Planned
from db.pool import Connection
from worker import crash_points
from worker.cli.people.named import id_or_name
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import (
    Column,
    clean,
    emit,
    emit_facts,
    emit_json,
    emit_table,
    one_line,
    say,
)

COLUMNS = [Column("TABLE"), Column("ROWS", right=True), Column("WHAT BECOMES OF THEM")]
# So long the database may be away between the erasure and its proof.
PROVE_SECONDS_MAX = 600.0
PAUSE_SECONDS = 1.0
LEAVE, STAY = "leave", "stay, without words"

noun = Noun("erase", "Erase a user, a thread or a session, and prove it.", default=None)
sure = click.option("--yes", is_flag=True, help="Do it; else show what would leave.")


@noun.verb("user", "jobsworth erase user telegram:4711", "jobsworth erase user telegram:4711 --yes")
@click.argument("user", metavar="USER", help="The user's external id or id.")
@sure
@options.as_json
def user(user: str, yes: bool, as_json: bool) -> ExitCode:
    """Erase a user: threads, sessions, messages, jobs, memories, and the user itself."""

    async def find(conn: Connection) -> UUID:
        named = id_or_name(user)
        if isinstance(named, UUID):
            return named
        for one in await erasure.unproven(conn):
            if one.of == "user" and named in one.names:
                return one.id
        return (await users.get(conn, named)).id

    return _erase("user", find, yes=yes, as_json=as_json)


def _add(of: Erased, help: str) -> None:
    @noun.verb(of, f"jobsworth erase {of} 01890a5d-ac96-774b-bcce-b302099a8057 --yes", help=help)
    @click.argument("which", metavar=of.upper(), help=f"The whole id of the {of}.")
    @sure
    @options.as_json
    def command(which: str, yes: bool, as_json: bool) -> ExitCode:
        wanted = ids.whole_id(which, of.upper())

        async def find(conn: Connection) -> UUID:
            return wanted

        return _erase(of, find, yes=yes, as_json=as_json)


_add("thread", "Erase a thread: its messages, jobs, runs, files and memories.")
_add("session", "Erase a session with all that was made in it.")


def _erase(
    of: Erased, find: Callable[[Connection], Awaitable[UUID]], *, yes: bool, as_json: bool
) -> ExitCode:
    if not yes:

        async def plan(conn: Connection) -> list[Planned]:
            wanted = await find(conn)
            if (begun := await erasure.find_unproven(conn, of, wanted)) is not None:
                raise Conflict(begun.message, begun.remedy)
            return await erasure.plan(conn, of, wanted)

        planned = run_in_database(plan)
        emit_json(planned) if as_json else _show(planned)
        return ExitCode.OK

    async def remove(conn: Connection) -> UUID:
        wanted = await find(conn)
        await erasure.remove(conn, of, wanted)
        return wanted

    erased = run_in_database(remove)
    crash_points.reach("erase.committed")
    done = _proved(of, erased)
    emit_json(done) if as_json else _tell(done)
    # Only now: whoever was killed before this erases again, and sees the proof.
    run_in_database(lambda conn: erasure.forget(conn, erased))
    return ExitCode.NO if done.proof.traces else ExitCode.OK


def _proved(of: Erased, erased: UUID) -> Erasure:
    """The proof, also if the database goes away meanwhile."""
    give_up = time.monotonic() + PROVE_SECONDS_MAX
    while True:
        try:
            return run_in_database(lambda conn: erasure.prove(conn, of, erased))
        except Unavailable as error:
            if time.monotonic() > give_up:
                raise
            say(f"it is erased; the proof waits for the database: {error}")
            time.sleep(PAUSE_SECONDS)


def _show(planned: list[Planned]) -> None:
    rows = [[each.table_name, f"{each.rows:,}", STAY if each.stays else LEAVE] for each in planned]
    emit_table(COLUMNS, rows, "nothing belongs to it")
    say("nothing is erased yet; to erase: --yes")


def _tell(done: Erasure) -> None:
    left = [[table, f"{rows:,}", "left"] for table, rows in sorted(done.removed.items())]
    stay = [[table, f"{rows:,}", STAY] for table, rows in sorted(done.emptied.items())]
    emit_table(COLUMNS, left + stay, "nothing was left to erase")
    proof = done.proof
    facts = [
        ("read", f"{proof.columns:,} columns of {proof.tables:,} tables, {proof.rows:,} rows"),
        ("looked for", f"{proof.fragments:,} fragments, {proof.names:,} names"),
    ]
    if proof.too_short:
        facts.append(("not looked for", one_line(", ".join(proof.too_short)) + " (too short)"))
    if done.late:
        facts.append(("came meanwhile", f"{done.late:,} rows, which left too"))
    emit_facts([*facts, ("found", f"{sum(trace.rows for trace in proof.traces):,}")])
    for trace in proof.traces:
        keys = ", ".join(trace.keys)
        rows = "1 row" if trace.rows == 1 else f"{trace.rows:,} rows"
        emit(clean(f"  {trace.table_name}.{trace.column_name}: {rows}: {keys}"))
    if proof.traces:
        say("these rows belong to others, and have some of the same words: look at each")
