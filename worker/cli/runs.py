"""`jobsworth runs`: pieces of agent work, each a graph of jobs.

In: filters, an id, or a file that declares a run. Out: runs; one run with its graph as a tree, what
each job waits for and what it spent; the id of a new one; a changed status.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from rich.text import Text

from db import runs
from db.artifacts import Artifact
from db.errors import Conflict, InvalidInput
from db.pool import Connection
from db.runs import Graph, GraphNode, Run, RunStats, RunStatus, Started, StartOptions
from worker.cli import ids
from worker.cli.database import run_in_database
from worker.cli.output import (
    Column,
    compact_json,
    emit,
    emit_facts,
    emit_heading,
    emit_json,
    emit_table,
    one_line,
    say,
    styled,
)
from worker.cli.run_tree import Row, rows_of
from worker.cli.times import age, ago, parse_since, span
from worker.settings import load_settings

FILE_BYTES_MAX = 100_000_000
DOCUMENT_CHARACTERS_MAX = 2_000

COLUMNS = [
    Column("ID"),
    Column("STATUS"),
    Column("AGE", right=True),
    Column("ACTOR", flexible=True),
    Column("DETAIL", flexible=True),
]
GRAPH = [
    Column("NODE", flexible=True),
    Column("STATUS"),
    Column("MODE", flexible=True, optional=True),
    Column("TOKENS", right=True),
    Column("COST", right=True),
    Column("DETAIL", flexible=True),
]


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run and what hangs on it."""

    run: Run
    stats: RunStats
    graph: Graph
    last_beat: datetime | None
    artifacts: list[Artifact]


def list_runs(
    *,
    status: str | None,
    actor: str | None,
    thread: str | None,
    agent: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
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

    found = run_in_database(load_settings(), work)
    if as_json:
        emit_json(found)
        return
    short = ids.short_ids(run.id for run in found)
    rows = [
        [short(run.id), _status(run), age(run.created_at, now), run.actor, _detail(run)]
        for run in found
    ]
    filtered = any((status, actor, thread, agent, since))
    none = "no such runs" if filtered else "no runs yet\n  → jobsworth runs start FILE"
    emit_table(COLUMNS, rows, none)
    if len(found) == limit:
        say(f"the newest {limit}; there may be more: --limit")


def show(text: str, *, as_json: bool) -> None:
    typed = ids.typed_run(text)

    async def work(conn: Connection) -> RunFile:
        run_id = await ids.find_run(conn, typed)
        return RunFile(
            run=await runs.get(conn, run_id),
            stats=await runs.stats(conn, run_id),
            graph=await runs.get_graph(conn, run_id),
            last_beat=await runs.last_beat(conn, run_id),
            artifacts=await runs.get_artifacts(conn, run_id),
        )

    file = run_in_database(load_settings(), work)
    if as_json:
        emit_json(file)
        return
    _facts(file, datetime.now(UTC))
    if file.graph.nodes:
        emit_heading("Jobs")
    emit_table(GRAPH, [_graph_row(row) for row in rows_of(file.graph)], "it has no jobs")
    if file.artifacts:
        emit_heading("Files")
        for artifact in file.artifacts:
            emit(f"  {artifact.name}  {artifact.media_type}  {artifact.uri or _size(artifact)}")


def start(argument: str, *, key: str | None, as_json: bool) -> None:
    nodes, options = _declaration(argument)
    if key is not None:
        options["idempotency_key"] = key

    async def work(conn: Connection) -> Started:
        return await runs.start(conn, nodes, **options)

    started = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": started.run_id, "created": started.created})
        return
    emit(str(started.run_id))
    if not started.created:
        say("a run has this key already; nothing was added to it, unless it was a draft")


def cancel(text: str, *, reason: str, as_json: bool) -> None:
    typed = ids.typed_run(text)

    async def work(conn: Connection) -> tuple[UUID, RunStatus]:
        run_id = await ids.find_run(conn, typed)
        before = await runs.get(conn, run_id)
        if before.finished_at is not None:
            raise Conflict(
                f"run {run_id} is {before.status} already: there is nothing to cancel",
                f"see what it did: jobsworth runs {run_id}",
            )
        return run_id, await runs.cancel(conn, run_id, reason)

    run_id, status = run_in_database(load_settings(), work)
    if as_json:
        emit_json({"id": run_id, "status": status})
    elif status is RunStatus.CANCELED:
        emit(Text.assemble(f"run {run_id} is ", styled("canceled")))
    else:
        emit(f"run {run_id} is {status}: its jobs are told to stop, and it ends with the last")


def _status(run: Run) -> Text:
    return styled(run.status, ", canceling" if run.cancel_requested and not run.finished_at else "")


def _detail(run: Run) -> str:
    if run.error:
        return one_line(run.error)
    return one_line(compact_json(run.request)) if run.request else ""


def _facts(file: RunFile, now: datetime) -> None:
    run, stats = file.run, file.stats
    emit(Text.assemble((f"run {run.id}", "bold"), "  ", _status(run)))
    jobs = ", ".join(f"{count:,} {status}" for status, count in sorted(stats.jobs.items()))
    emit_facts(
        [
            ("error", run.error),
            ("actor", run.actor),
            ("thread", run.thread_id and str(run.thread_id)),
            ("agent", run.agent_id and str(run.agent_id)),
            ("key", run.idempotency_key),
            ("trace", run.trace_id),
            ("request", _document(run.request) if run.request else None),
            ("result", None if run.result is None else _document(run.result)),
            ("created", ago(run.created_at, now)),
            ("took", span(stats.duration_seconds) or None),
            ("heartbeat", file.last_beat and ago(file.last_beat, now)),
            ("jobs", jobs or None),
            ("calls", _calls(stats) if stats.calls else None),
        ]
    )


def _calls(stats: RunStats) -> str:
    unknown = f", {stats.cost_unknown_calls:,} unknown" if stats.cost_unknown_calls else ""
    tokens = f"{stats.input_tokens:,} tokens in, {stats.output_tokens:,} out"
    return f"{stats.calls:,}: {tokens}, cost {stats.cost:f}{unknown}"


def _document(value: object) -> str:
    text = compact_json(value)
    return text if len(text) <= DOCUMENT_CHARACTERS_MAX else text[:DOCUMENT_CHARACTERS_MAX] + "…"


def _graph_row(row: Row) -> list[str | Text | None]:
    name = Text("  " * row.level + row.name)
    if row.node is None:
        return [name, _counts(row.more), None, None, None, None]
    node = row.node
    wait = f": {node.waiting_for}" if node.waiting_for else ""
    cost = "?" if node.cost is None else f"{node.cost:f}"
    return [
        name,
        styled(node.status, wait),
        node.mode,
        f"{node.tokens:,}" if node.calls else "",
        cost if node.calls else "",
        _node_detail(node, row.after),
    ]


def _counts(nodes: tuple[GraphNode, ...]) -> str:
    counts = Counter(node.status for node in nodes)
    return ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))


def _node_detail(node: GraphNode, after: tuple[str, ...]) -> str:
    if node.error and node.finished_at:
        return one_line(node.error)
    if node.waiting_detail:
        return one_line(node.waiting_detail)
    return f"after {', '.join(after)}" if len(after) > 1 else ""


def _size(artifact: Artifact) -> str:
    return f"{artifact.bytes or 0:,} bytes  sha256 {artifact.sha256}"


def _declaration(argument: str) -> tuple[str, StartOptions]:
    """The nodes of a file as JSON text, and the options beside them."""
    document = _parse(_read(argument), argument)
    if isinstance(document, list):
        return json.dumps(document), {}
    if not isinstance(document, dict):
        raise InvalidInput(
            f"{argument} declares no run: it is neither a list nor an object",
            'write {"nodes": [{"node": "fetch", "mode": "fetch"}]}',
        )
    options = cast(dict[str, Any], document)
    nodes = options.pop("nodes", None)
    known = StartOptions.__optional_keys__
    unknown = sorted(options.keys() - known)
    if unknown:
        raise InvalidInput(
            f"{argument} has unknown options: {', '.join(unknown)}",
            f"besides nodes it may have {', '.join(sorted(known))}",
        )
    return json.dumps(nodes), cast(StartOptions, options)


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
    except ValueError as error:
        raise InvalidInput(
            f"{argument} is not JSON: {error}", "write a list of nodes, or an object with one"
        ) from error
