"""`jobsworth fork RUN`: go on from a step of a run, with other input.

In: a run, a step (or a node), and changes. Out: the new run; or, as a dry run, what it would read,
what the rest cost the first time, and which unsafe steps would run again.
"""

import getpass
import socket
from collections.abc import Sequence
from typing import Any

from db.documents import parse_payload
from db.errors import InvalidInput
from db.pool import Connection
from db.runs import branches
from db.runs.branches import Fork, ForkStep, Share
from worker.cli import ids
from worker.cli.database import run_in_database
from worker.cli.output import Column, emit, emit_facts, emit_heading, emit_json, emit_table, say
from worker.settings import load_settings

PARTS = {
    "fork": "forks here",
    "after": "runs again, after it",
    "open": "was not done; goes on",
    "again": "is started again",
    "read": "is read",
}
UNSAFE_MAX = 5
ROWS_MAX = 20


def fork(
    text: str,
    *,
    node: str | None,
    step: str | None,
    changes: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    typed = ids.typed_run(text)
    changed = _changes(changes)
    who = f"{getpass.getuser()}@{socket.gethostname()}"

    async def work(conn: Connection) -> Fork:
        run_id = await ids.find_run(conn, typed)
        return await branches.fork(
            conn,
            run_id,
            node=node,
            step=step,
            changes=changed,
            created_by=who,
            dry_run=dry_run,
        )

    made = run_in_database(load_settings(), work)
    if as_json:
        emit_json(made)
        return
    _show(made)


def _changes(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for each in given:
        node, colon, document = each.partition(":{")
        if not colon or not node:
            raise InvalidInput(
                f"{each!r} is no change",
                'name the node and its new arguments: draft:{"words": 100}',
            )
        change = parse_payload("{" + document, f"the change of node {node!r}")
        changes[node] = {**changes.get(node, {}), **change}
    return changes


def _show(made: Fork) -> None:
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
    unpriced = f" and {_count(share.unpriced, 'call')} of unknown price" if share.unpriced else ""
    return (
        f"{_count(share.steps, 'step')}, {_count(share.calls, 'call')},"
        f" {_count(share.tokens, 'token')}, {share.cost.normalize():f} USD{unpriced}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
