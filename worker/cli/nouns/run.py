"""`jobsworth run`: pieces of agent work, each a graph of jobs.

In: filters, an id, or a file that declares a run. Out: runs; the id of a new run; a changed status.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import click
from rich.text import Text

from db.documents import parse_payload
from db.errors import Conflict, InvalidInput
from db.pool import Connection, Database
from db.runs import branches, runs
from db.runs.branches import Fork
from db.runs.runs import Run, RunStarted, RunStatus, StartOptions, Transition
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database, write_in_database
from worker.cli.terminal.output import (
    Column,
    compact_json,
    emit,
    emit_json,
    emit_table,
    one_line,
    say,
    styled,
)
from worker.cli.terminal.times import age, parse_since, span
from worker.cli.terminal.words import run_status, user_and_host
from worker.cli.views import fork_view, run_view

FILE_BYTES_MAX = 100_000_000

COLUMNS = [
    Column("ID"),
    Column("STATUS"),
    Column("AGE", right=True),
    Column("TOOK", right=True, optional=True),
    Column("ACTOR", flexible=True),
    Column("DETAIL", flexible=True),
]


run = Noun("run", "Runs: pieces of agent work, each a graph of jobs.")


@run.verb("list", "jobsworth run --status failed --since 24h")
@options.choice("--status", metavar="STATUS", words=RunStatus, help="Only runs of this status")
@click.option("--actor", metavar="NAME", help="Only runs of this actor.")
@click.option("--thread", metavar="UUID", help="Only runs of this chat thread.")
@click.option("--agent", metavar="UUID", help="Only runs of this agent.")
@click.option("--since", metavar="TIME", help="Only runs made since then, like 24h or 2026-02-01.")
@options.limit(20)
@options.as_json
def list_runs(
    status: str | None,
    actor: str | None,
    thread: str | None,
    agent: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    now = datetime.now(UTC)
    thread_id = None if thread is None else ids.whole_id(thread, "--thread")
    agent_id = None if agent is None else ids.whole_id(agent, "--agent")
    begin = None if since is None else parse_since(since, "--since", now)

    async def work(conn: Connection) -> list[Run]:
        return await runs.list_runs(
            conn,
            status=RunStatus(status) if status else None,
            actor=actor,
            thread_id=thread_id,
            agent_id=agent_id,
            since=begin,
            limit=limit,
        )

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    short = ids.short_ids(each.id for each in found)
    rows = [
        [
            short(each.id),
            run_status(each),
            age(each.created_at, now),
            _took(each),
            each.actor,
            _detail(each),
        ]
        for each in found
    ]
    filtered = any((status, actor, thread, agent, since))
    none = "no such runs" if filtered else "no runs yet\n  → jobsworth run start FILE"
    emit_table(COLUMNS, rows, none)
    if len(found) == limit:
        say(f"these are the newest {limit}; for more: --limit")


@run.verb("show", "jobsworth run show 0123456789ab")
@options.run_id
@options.as_json
def show_run(run: str, as_json: bool) -> None:
    """Show a run with its jobs as a tree, its spending, metrics and files."""
    typed = ids.typed_run(run)

    async def work(conn: Connection) -> run_view.RunFile:
        return await run_view.read(conn, await ids.find_run(conn, typed))

    file = run_in_database(work)
    if as_json:
        emit_json(file)
    else:
        run_view.emit_run(file)


HISTORY = [Column("AGE", right=True), Column("FROM"), Column("TO"), Column("WHY", flexible=True)]


@run.verb("history", "jobsworth run history 0123456789ab")
@options.run_id
@options.as_json
def history(run: str, as_json: bool) -> None:
    """Show how the status of a run has moved, and why, oldest first."""
    typed = ids.typed_run(run)

    async def work(conn: Connection) -> list[Transition]:
        return await runs.transitions(conn, await ids.find_run(conn, typed))

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    rows = [
        [
            age(each.at, now),
            styled(each.from_status),
            styled(each.to_status),
            one_line(each.why or ""),
        ]
        for each in found
    ]
    emit_table(HISTORY, rows, "its status has not moved since it was made")


@run.verb(
    "start",
    """nodes='[{"node": "a", "mode": "fetch"}, {"node": "b", "mode": "fetch"},""",
    """  {"node": "c", "mode": "compare", "after": ["a", "b"]}]'""",
    'echo "$nodes" | jobsworth run start -',
)
@click.argument(
    "file",
    metavar="FILE",
    type=options.FilePath(),
    help="JSON, or - for stdin: a list of nodes, each with node (its name), mode, and where needed "
    "payload and after; or an object with nodes and the run's options.",
)
@click.option("--key", metavar="KEY", help="Start one run for this key, however often it is given.")
@options.as_json
def start(file: str, key: str | None, as_json: bool) -> None:
    """Start a run of the nodes in a file and print its id."""
    nodes, chosen = _declaration(file)
    if key is not None:
        chosen["idempotency_key"] = key

    async def work(database: Database) -> RunStarted:
        return await runs.start(database, nodes, **chosen)

    started = write_in_database(work)
    if as_json:
        emit_json({"id": started.run_id, "created": started.created})
        return
    emit(str(started.run_id))
    if not started.created:
        say("a run has this key already; nothing was added to it, unless it was a draft")


@run.verb(
    "fork",
    "jobsworth run fork 0123456789ab --at gathered --dry-run",
    """jobsworth run fork 0123456789ab --at gathered --change 'write:{"words": 5}'""",
)
@options.run_id
@click.option(
    "--at",
    "step",
    metavar="STEP",
    help="Run this step and the ones after it again; a checkpoint itself is read.",
)
@click.option(
    "--node",
    metavar="NODE",
    help="The node of that step, if several have one of that name. Without --at, the whole node "
    "runs again.",
)
@click.option(
    "--change",
    "changes",
    metavar="NODE:JSON",
    multiple=True,
    help="New arguments for a node; may be given several times.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what would be read and what may be paid for again.",
)
@options.as_json
def fork(
    run: str,
    step: str | None,
    node: str | None,
    changes: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fork a run: a new run reads what was done before a step and runs the rest again."""
    typed = ids.typed_run(run)
    changed = _changes(changes)

    async def work(conn: Connection) -> Fork:
        run_id = await ids.find_run(conn, typed)
        return await branches.fork(
            conn,
            run_id,
            node=node,
            step=step,
            changes=changed,
            created_by=user_and_host(),
            dry_run=dry_run,
        )

    made = run_in_database(work)
    if as_json:
        emit_json(made)
    else:
        fork_view.emit_fork(made)


@run.verb("cancel", "jobsworth run cancel 0123456789ab")
@options.run_id
@options.reason
@options.as_json
def cancel(run: str, reason: str, as_json: bool) -> None:
    """Cancel all jobs of a run: now, or as soon as they stop."""
    typed = ids.typed_run(run)

    async def work(conn: Connection) -> tuple[UUID, RunStatus]:
        run_id = await ids.find_run(conn, typed)
        before = await runs.get(conn, run_id)
        if before.finished_at is not None:
            raise Conflict(
                f"run {run_id} is {before.status} already: there is nothing to cancel",
                f"see what it did: jobsworth run show {run_id}",
            )
        return run_id, await runs.cancel(conn, run_id, reason)

    run_id, status = run_in_database(work)
    if as_json:
        emit_json({"id": run_id, "status": status})
    elif status is RunStatus.CANCELED:
        emit(Text.assemble(f"run {run_id} is ", styled("canceled")))
    else:
        emit(f"run {run_id} is {status}: its jobs are told to stop, and it ends with the last one")


@run.verb("retry", "jobsworth run retry 0123456789ab")
@options.run_id
@options.as_json
def retry(run: str, as_json: bool) -> None:
    """Run the failed and canceled jobs of a finished run again; done jobs stay done."""
    typed = ids.typed_run(run)

    async def work(conn: Connection) -> tuple[Run, int]:
        run_id = await ids.find_run(conn, typed)
        again = await runs.retry(conn, run_id)
        return await runs.get(conn, run_id), again

    found, again = run_in_database(work)
    if as_json:
        emit_json({"id": found.id, "status": found.status, "jobs": again})
    else:
        more = f": {again:,} job{' runs' if again == 1 else 's run'} again"
        emit(Text.assemble(f"run {found.id} is ", styled(found.status, more)))


@run.verb("delete", "jobsworth run delete 0123456789ab")
@options.run_id
@options.as_json
def delete(run: str, as_json: bool) -> None:
    """Delete a finished run with its jobs, steps and files; the ledger keeps its entries."""
    typed = ids.typed_run(run)

    async def work(conn: Connection) -> UUID:
        run_id = await ids.find_run(conn, typed)
        await runs.delete(conn, run_id)
        return run_id

    run_id = run_in_database(work)
    if as_json:
        emit_json({"id": run_id, "deleted": True})
    else:
        emit(f"run {run_id} is deleted")


def _changes(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for each in given:
        node, colon, document = each.partition(":{")
        if not colon or not node:
            raise InvalidInput(
                f"--change {each!r} does not have the form NODE:JSON",
                'name the node and its new arguments, like draft:{"words": 100}',
            )
        change = parse_payload("{" + document, f"the change of node {node!r}")
        changes[node] = {**changes.get(node, {}), **change}
    return changes


def _took(found: Run) -> str:
    if found.started_at is None or found.finished_at is None:
        return ""
    return span((found.finished_at - found.started_at).total_seconds())


def _detail(found: Run) -> str:
    if found.error:
        return one_line(found.error)
    return one_line(compact_json(found.request)) if found.request else ""


def _declaration(argument: str) -> tuple[str, StartOptions]:
    """The nodes of a file as JSON text, and the run's options beside them."""
    document = _parse(_read(argument), argument)
    if isinstance(document, list):
        return json.dumps(document), {}
    if not isinstance(document, dict):
        raise InvalidInput(
            f"{argument} does not declare a run: it is neither a list nor an object",
            'write {"nodes": [{"node": "fetch", "mode": "fetch"}]}',
        )
    chosen = cast(dict[str, Any], document)
    nodes = chosen.pop("nodes", None)
    known = StartOptions.__optional_keys__
    unknown = sorted(chosen.keys() - known)
    if unknown:
        raise InvalidInput(
            f"{argument} has unknown options: {', '.join(unknown)}",
            f"besides nodes it may have {', '.join(sorted(known))}",
        )
    return json.dumps(nodes), cast(StartOptions, chosen)


def _read(argument: str) -> bytes:
    if argument == "-":
        return sys.stdin.buffer.read(FILE_BYTES_MAX)
    try:
        with Path(argument).open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise InvalidInput(
            f"{argument} cannot be read: {error.strerror}", "name a readable file, or - for stdin"
        ) from error


def _parse(data: bytes, argument: str) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{argument} is not JSON: {error}", "write a list of nodes, or an object that has one"
        ) from error
