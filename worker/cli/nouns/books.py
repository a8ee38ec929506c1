"""`jobsworth books check`: whether the books balance.

In: nothing. Out: every disagreement between calls, ledger, jobs, steps and closed days; with one,
exit code 1.
"""

from collections.abc import Sequence

from db.money import books as accounts
from db.money.books import Imbalance
from db.pool import Connection
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import (
    Column,
    emit,
    emit_facts,
    emit_json,
    emit_table,
    is_terminal,
    say,
)
from worker.cli.terminal.words import BOOKS_REMEDY

# All calls are read, which takes longer than a statement of a daemon may.
STATEMENT_SECONDS = 1800.0
SHOWN_MAX = 200

COLUMNS = [
    Column("RULE"),
    Column("SUBJECT"),
    Column("EXPECTED"),
    Column("FOUND"),
]


books = Noun("books", "The books: calls, ledger, jobs, steps and sums.", default="check")


@books.verb("check", "jobsworth books check")
@options.as_json
def check(as_json: bool) -> ExitCode:
    """Compare calls, ledger, jobs, steps and sums; exit code 1 if they disagree."""

    async def work(conn: Connection) -> list[Imbalance]:
        conn.statement_seconds = STATEMENT_SECONDS
        return await accounts.check(conn)

    found = run_in_database(work)
    if as_json:
        emit_json({"balanced": not found, "imbalances": found})
    elif found:
        _emit(found[:SHOWN_MAX])
        more = f", the first {SHOWN_MAX:,} of them above" if len(found) > SHOWN_MAX else ""
        say(f"the books do not balance: {len(found):,} disagreements{more}\n  → {BOOKS_REMEDY}")
    else:
        say("the books balance")
    return ExitCode.NO if found else ExitCode.OK


# In columns on a terminal, both values would be cut where they differ.
def _emit(found: Sequence[Imbalance]) -> None:
    if not is_terminal():
        rows = [[each.rule, each.subject, each.expected, each.found] for each in found]
        emit_table(COLUMNS, rows, "")
        return
    for each in found:
        emit(f"{each.rule}: {each.subject}")
        emit_facts([("expected", each.expected), ("found", each.found)], indent="  ")
