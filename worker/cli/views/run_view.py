"""How `jobsworth run show` prints a run.

In: an id. Out: the run's facts, what would help it on, its jobs as a tree with what each waits for
and spent, its metrics and its files.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from rich.text import Text

from db.errors import NotFound
from db.pool import Connection
from db.queue.jobs import WaitReason
from db.runs import branches, runs, view
from db.runs.branches import Branch
from db.runs.runs import Run, RunStatus
from db.runs.view import Graph, GraphNode, MetricCourse, RunStats
from db.steps.artifacts import Artifact
from worker.cli.terminal import ids
from worker.cli.terminal.output import (
    Column,
    clean,
    compact_json,
    emit,
    emit_facts,
    emit_heading,
    emit_table,
    one_line,
    styled,
)
from worker.cli.terminal.times import ago, span
from worker.cli.terminal.words import run_status
from worker.cli.views.run_tree import Row, rows_of

DOCUMENT_CHARACTERS_MAX = 2_000
AFTER_MAX = 5
FILES_MAX = 20
# Reasons that a person can end, the most pressing first.
HELPED = (
    WaitReason.PERSON,
    WaitReason.APPROVAL,
    WaitReason.BUDGET,
    WaitReason.HANDLER,
    WaitReason.SIGNAL,
)

# On a narrow terminal the optional columns are left out, the last first.
GRAPH = [
    Column("NODE", flexible=True),
    Column("STATUS"),
    Column("JOB", optional=True),
    Column("MODE", flexible=True, optional=True),
    Column("TOOK", right=True, optional=True),
    Column("TOKENS", right=True),
    Column("COST", right=True),
    Column("DETAIL", flexible=True),
]
METRICS = [
    Column("METRIC", flexible=True),
    Column("POINTS", right=True),
    Column("LAST", right=True),
    Column("LOWEST", right=True),
    Column("HIGHEST", right=True),
]


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run and everything that belongs to it."""

    run: Run
    branch_of: Branch | None
    branches: list[Branch]
    stats: RunStats
    graph: Graph
    last_beat: datetime | None
    metrics: list[MetricCourse]
    artifacts: list[Artifact]


async def read(conn: Connection, run_id: UUID) -> RunFile:
    """Everything about a run."""
    return RunFile(
        run=await runs.get(conn, run_id),
        branch_of=await _branch_of(conn, run_id),
        branches=await branches.list_for_run(conn, run_id),
        stats=await view.stats(conn, run_id),
        graph=await view.get_graph(conn, run_id),
        last_beat=await view.last_beat(conn, run_id),
        metrics=await view.courses(conn, run_id),
        artifacts=await view.get_artifacts(conn, run_id),
    )


def emit_run(file: RunFile) -> None:
    """Print it for people."""
    now = datetime.now(UTC)
    _facts(file, now)
    _graph(file.graph, now)
    if file.metrics:
        emit_heading("Metrics")
        emit_table(METRICS, [_course(course) for course in file.metrics], "")
    if file.artifacts:
        emit_heading("Files")
        for artifact in file.artifacts[:FILES_MAX]:
            emit(f"  {artifact.name}  {artifact.media_type}  {artifact.uri or _size(artifact)}")
        if len(file.artifacts) > FILES_MAX:
            emit(f"  … {len(file.artifacts) - FILES_MAX:,} more; all of them: --json")


async def _branch_of(conn: Connection, run_id: UUID) -> Branch | None:
    try:
        return await branches.get_by_run(conn, run_id)
    except NotFound:
        return None


def _facts(file: RunFile, now: datetime) -> None:
    run, stats = file.run, file.stats
    emit(Text.assemble((f"run {run.id}", "bold"), "  ", run_status(run)))
    jobs = ", ".join(f"{count:,} {status}" for status, count in sorted(stats.jobs.items()))
    emit_facts(
        [
            ("error", run.error),
            ("next", next_of(run, file.graph)),
            ("actor", run.actor),
            ("thread", run.thread_id and str(run.thread_id)),
            ("agent", run.agent_id and str(run.agent_id)),
            ("key", run.idempotency_key),
            ("trace", run.trace_id),
            ("forked off", file.branch_of and _fork(file.branch_of)),
            ("branches", "\n".join(str(each.run_id) for each in file.branches) or None),
            ("request", _document(run.request) if run.request else None),
            ("result", None if run.result is None else _document(run.result)),
            ("created", ago(run.created_at, now)),
            ("took", span(stats.duration_seconds) or None),
            ("heartbeat", file.last_beat and ago(file.last_beat, now)),
            ("jobs", jobs or None),
            ("calls", _calls(stats) if stats.calls else None),
        ]
    )


def next_of(run: Run, graph: Graph) -> str | None:
    """The one thing that would help the run on; None if nothing is known."""
    if run.status in (RunStatus.FAILED, RunStatus.CANCELED) and graph.nodes:
        return f"run again the jobs that failed or were canceled: jobsworth run retry {run.id}"
    for reason in HELPED:
        for node in graph.nodes:
            if node.waiting_for == reason:
                return f"{node.node or 'a job'} waits, for {reason}: jobsworth why {node.id}"
    return None


def _fork(branch: Branch) -> str:
    step = f", step {branch.step_name}" if branch.step_name else ", from its start"
    return f"run {branch.parent_run_id}, node {branch.node}{step}; its jobs are not shown here"


def _calls(stats: RunStats) -> str:
    unknown = f", {stats.cost_unknown_calls:,} unknown" if stats.cost_unknown_calls else ""
    tokens = f"{stats.input_tokens:,} tokens in, {stats.output_tokens:,} out"
    return f"{stats.calls:,}: {tokens}, cost {stats.cost:f}{unknown}"


def _document(value: object) -> str:
    text = compact_json(value)
    return text if len(text) <= DOCUMENT_CHARACTERS_MAX else text[:DOCUMENT_CHARACTERS_MAX] + "…"


def _graph(graph: Graph, now: datetime) -> None:
    """Print the jobs as a tree; a column without any value is left out."""
    rows = rows_of(graph)
    if rows:
        emit_heading("Jobs")
    short = ids.short_ids((row.node.id for row in rows if row.node), beside_much=True)
    lines = [_line(row, short, now) for row in rows]
    kept = [n for n in range(len(GRAPH)) if any(line[n] for line in lines)]
    emit_table(
        [GRAPH[n] for n in kept], [[line[n] for n in kept] for line in lines], "the run has no jobs"
    )


def _line(row: Row, short: Callable[[UUID], str], now: datetime) -> list[str | Text | None]:
    name = Text(clean("  " * row.level + one_line(row.name)))
    node = row.node
    if node is None:
        counts = Counter(each.status for each in row.more)
        words = ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))
        return [name, words, *[None] * (len(GRAPH) - 2)]
    cost = "?" if node.cost is None else f"{node.cost:f}"
    return [
        name,
        styled(node.status, f": {node.waiting_for}" if node.waiting_for else ""),
        short(node.id),
        node.mode,
        _took(node, now),
        f"{node.tokens:,}" if node.calls else "",
        cost if node.calls else "",
        _detail(node, row.after),
    ]


def _took(node: GraphNode, now: datetime) -> str:
    if node.started_at is None or not (node.finished_at or node.status == "running"):
        return ""
    return span(((node.finished_at or now) - node.started_at).total_seconds())


def _detail(node: GraphNode, after: tuple[str, ...]) -> str:
    if node.error and node.finished_at:
        return one_line(node.error)
    if node.waiting_detail:
        return one_line(node.waiting_detail)
    if len(after) <= 1:
        return ""
    more = f" and {len(after) - AFTER_MAX:,} more" if len(after) > AFTER_MAX else ""
    return f"after {', '.join(after[:AFTER_MAX])}{more}"


def _course(course: MetricCourse) -> list[str | Text | None]:
    numbers = (course.last, course.lowest, course.highest)
    return [course.name, f"{course.points:,}", *(f"{number:.6g}" for number in numbers)]


def _size(artifact: Artifact) -> str:
    return f"{artifact.bytes or 0:,} bytes  sha256 {artifact.sha256}"
