"""Runs: all of them; and one as a timeline of its jobs, steps, calls and approvals.

In: filters, or a run's id. Out: what `jobsworth run list` and `jobsworth run show` read, drawn over
time: each bar is where its time went.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from fastapi import Response
from markupsafe import Markup

from db.errors import NotFound
from db.pool import Connection
from db.runs import runs, view
from db.runs.runs import RunStatus
from db.runs.view import GraphNode, RunCall
from db.steps.steps import Step
from worker.cli.terminal.ids import find_run, typed_run, whole_id
from worker.cli.terminal.output import STYLES
from worker.cli.terminal.times import span
from worker.cli.views import run_view
from worker.cli.views.run_tree import rows_of
from worker.dashboard import charts, graph
from worker.dashboard.frame import Frame, answer
from worker.dashboard.pages.choices import chosen

LIMIT = 50
# Steps of a job that are drawn beneath it.
STEPS_MAX = 12
DONE = {"cancel": "The run is being canceled.", "retry": "{} jobs of the run start afresh."}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the timeline."""

    name: str
    href: str
    is_inner: bool
    bar: Markup
    took: str
    words: str


async def page(conn: Connection, frame: Frame) -> Response:
    before = frame.query.get("before")
    found = await runs.list_runs(
        conn,
        status=chosen(RunStatus, frame.query.get("status")),
        actor=frame.query.get("actor"),
        limit=LIMIT,
        before_id=None if before is None else whole_id(before, "the page's id"),
    )
    return answer(
        frame, "runs.html", page="runs", asking=0, rows=found, limit=LIMIT, statuses=list(RunStatus)
    )


async def one(conn: Connection, frame: Frame, run: str) -> Response:
    run_id = await find_run(conn, typed_run(run))
    file = await run_view.read(conn, run_id)
    steps = await view.get_steps(conn, run_id)
    calls = await view.get_calls(conn, run_id)
    return answer(
        frame,
        "run.html",
        page="runs",
        asking=0,
        file=file,
        run=file.run,
        rows=rows_of(file.graph),
        graph=graph.drawn(file.graph, lambda job_id: frame.url("jobs", job_id)),
        lines=_lines(frame, file.graph.nodes, steps, calls),
        next=run_view.next_of(file.run, file.graph),
    )


async def act(conn: Connection, frame: Frame, run: str, action: str) -> str:
    """Do it; returns what to say."""
    run_id = await find_run(conn, typed_run(run))
    match action:
        case "cancel":
            await runs.cancel(conn, run_id, f"canceled by {frame.who}")
            return DONE[action]
        case "retry":
            return DONE[action].format(await runs.retry(conn, run_id))
        case _:
            raise NotFound(f"there is no action {action!r}", "choose one of the page's buttons")


def _lines(
    frame: Frame, nodes: Iterable[GraphNode], steps: Iterable[Step], calls: Iterable[RunCall]
) -> list[Line]:
    begun = [node for node in nodes if node.started_at is not None]
    own: defaultdict[UUID, list[Step]] = defaultdict(list)
    asked: defaultdict[tuple[UUID | None, str | None], list[RunCall]] = defaultdict(list)
    for step in steps:
        if step.job_id is not None:
            own[step.job_id].append(step)
    for call in calls:
        asked[call.job_id, call.step_name].append(call)
    ends = [each.finished_at or frame.now for each in begun]
    if not ends:
        return []
    began = min(node.started_at for node in begun if node.started_at)
    ended = max([*ends, began + timedelta(milliseconds=1)])
    lines: list[Line] = []
    for node in begun:
        lines.append(_of_node(frame, node, began, ended))
        lines += [
            _of_step(frame, node, step, asked[node.id, step.name], began, ended)
            for step in own[node.id][:STEPS_MAX]
        ]
    return lines


def _of_node(frame: Frame, node: GraphNode, began: datetime, ended: datetime) -> Line:
    start = node.started_at or began
    end = node.finished_at or frame.now
    words = f"{node.status}, {span((end - start).total_seconds())}"
    if node.calls:
        words += f", {node.calls:,} calls, {node.tokens:,} tokens"
    colour = STYLES.get(node.status, "dim").rpartition(" ")[2]
    name = node.node or node.mode
    bar = charts.spans([(start, end, colour, f"{name}: {words}")], began, ended)
    return Line(
        name, frame.url("jobs", node.id), False, bar, span((end - start).total_seconds()), words
    )


def _of_step(
    frame: Frame,
    node: GraphNode,
    step: Step,
    calls: list[RunCall],
    began: datetime,
    ended: datetime,
) -> Line:
    end = step.finished_at or step.failed_at or node.finished_at or frame.now
    seconds = span((end - step.started_at).total_seconds())
    tokens = sum((call.input_tokens or 0) + (call.output_tokens or 0) for call in calls)
    words = f"{step.kind}, {seconds}" + (f", {tokens:,} tokens" if tokens else "")
    colour = "red" if step.failed_at and not step.finished_at else "dim"
    if calls:
        colour = "cyan"
    if step.kind in ("ask", "approval"):
        colour = "yellow"
    bar = charts.spans([(step.started_at, end, colour, f"{step.name}: {words}")], began, ended)
    return Line(step.name, frame.url("jobs", node.id), True, bar, seconds, words)
