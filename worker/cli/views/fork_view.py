"""How `jobsworth run fork` prints a fork.

In: a fork that was made, or, as a dry run, one that would be. Out: what it reads of its parent,
what the rest cost the first time, and which unsafe steps would run again.
"""

from collections.abc import Sequence

from db.runs.branches import Fork, ForkStep, Share
from worker.cli.terminal.output import Column, emit, emit_facts, emit_heading, emit_table, say
from worker.cli.terminal.words import count

PARTS = {
    "fork": "forks here",
    "after": "runs again, after it",
    "open": "was not done, goes on",
    "again": "starts again",
    "read": "is read",
}
UNSAFE_MAX = 5
ROWS_MAX = 20


def emit_fork(made: Fork) -> None:
    """Print it for people."""
    if made.run_id is None:
        say("nothing was changed: this is what the fork would do")
    else:
        emit(f"run {made.run_id}")
    at = f"node {made.node}" + (f", step {made.step}" if made.step else ", from its start")
    emit_facts(
        [
            ("forks", f"run {made.parent_run_id}, {at}"),
            ("reads", _share(made.reused)),
            ("runs again", f"{_share(made.rerun)} the first time"),
            ("unsafe", _unsafe(made.unsafe)),
        ]
    )
    parts = list(PARTS)
    nodes = sorted(made.nodes, key=lambda each: parts.index(each.part))
    columns = [Column("NODE", flexible=True), Column("MODE", flexible=True), Column("FORK")]
    _part("Nodes", columns, [[each.node, each.mode, PARTS[each.part]] for each in nodes])
    again = [each for each in made.steps if not each.reused]
    again.sort(key=lambda each: each.effect != "unsafe")
    columns = [
        Column("NODE", flexible=True),
        Column("STEP", flexible=True),
        Column("KIND"),
        Column("EFFECT"),
    ]
    rows = [[each.node, each.name, each.kind, each.effect] for each in again]
    _part("Steps that run again", columns, rows)


def _unsafe(found: Sequence[ForkStep]) -> str | None:
    if not found:
        return None
    names = ", ".join(f"{each.node}: {each.name}" for each in found[:UNSAFE_MAX])
    more = f" and {len(found) - UNSAFE_MAX:,} more" if len(found) > UNSAFE_MAX else ""
    return f"{names}{more} would be repeated"


def _part(title: str, columns: list[Column], rows: list[list[str]]) -> None:
    if not rows:
        return
    emit_heading(title)
    emit_table(columns, rows[:ROWS_MAX], "")
    if len(rows) > ROWS_MAX:
        emit(f"… {len(rows) - ROWS_MAX:,} more; all of them: --json")


def _share(share: Share) -> str:
    unpriced = f" and {count(share.unpriced, 'call')} of unknown price" if share.unpriced else ""
    return (
        f"{count(share.steps, 'step')}, {count(share.calls, 'call')},"
        f" {count(share.tokens, 'token')}, {share.cost.normalize():f} USD{unpriced}"
    )
