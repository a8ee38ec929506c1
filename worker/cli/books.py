"""`jobsworth books check`: do the books balance?

In: nothing. Out: every disagreement between calls, ledger, jobs, steps and closed days; exit code 1
if there is one.
"""

from collections.abc import Sequence

from db.money import books
from db.money.books import Imbalance
from db.pool import Connection
from worker.cli.database import run_in_database
from worker.cli.exit_codes import ExitCode
from worker.cli.output import (
    Column,
    emit,
    emit_facts,
    emit_json,
    emit_table,
    is_terminal,
    say,
)
from worker.settings import load_settings

# Everything is read, which takes longer than a statement of a daemon may.
STATEMENT_SECONDS = 1800.0
SHOWN_MAX = 200
REMEDY = "report it: the ledger or a call was changed by hand, or Jobsworth is wrong"

COLUMNS = [
    Column("RULE"),
    Column("SUBJECT"),
    Column("EXPECTED"),
    Column("FOUND"),
]


def check(*, as_json: bool) -> ExitCode:
    async def work(conn: Connection) -> list[Imbalance]:
        conn.statement_seconds = STATEMENT_SECONDS
        return await books.check(conn)

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"balanced": not found, "imbalances": found})
    elif found:
        _emit(found[:SHOWN_MAX])
        more = f", the first {SHOWN_MAX:,} of them above" if len(found) > SHOWN_MAX else ""
        say(f"the books do not balance: {len(found):,} disagreements{more}\n  → {REMEDY}")
    else:
        say("the books balance")
    return ExitCode.NO if found else ExitCode.OK


# Side by side, on a terminal, both would be cut where they differ.
def _emit(found: Sequence[Imbalance]) -> None:
    if not is_terminal():
        rows = [[each.rule, each.subject, each.expected, each.found] for each in found]
        emit_table(COLUMNS, rows, "")
        return
    for each in found:
        emit(f"{each.rule}: {each.subject}")
        emit_facts([("expected", each.expected), ("found", each.found)], indent="  ")
