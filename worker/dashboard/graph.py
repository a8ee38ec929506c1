"""The graph of a run as SVG: a column for each step away from the beginning, lines from each job
to those that come after it.

In: jobs and edges. Out: markup of our own, or None for a graph that is too large to be looked at;
the table of jobs beside it has all of them. Invariant: each job is right of all that it needs.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from markupsafe import Markup

from db.runs.view import Graph, GraphNode
from worker.cli.terminal.output import STYLES
from worker.cli.views.run_tree import depths, name_of
from worker.dashboard.words import plain

NODES_MAX = 60
WIDE, HIGH, GAP_X, GAP_Y, EDGE = 172, 46, 44, 14, 2
NAME_CHARACTERS = 22

Place = tuple[int, int]


def drawn(graph: Graph, href: Callable[[UUID], str]) -> Markup | None:
    """The picture; each job is a link."""
    if not 1 < len(graph.nodes) <= NODES_MAX:
        return None
    needs = _needs(graph)
    places = _places(graph.nodes, needs)
    columns = 1 + max(column for column, _ in places.values())
    rows = 1 + max(row for _, row in places.values())
    width = columns * (WIDE + GAP_X) - GAP_X + 2 * EDGE
    height = rows * (HIGH + GAP_Y) - GAP_Y + 2 * EDGE
    lines = [
        _line(places[need], places[node.id]) for node in graph.nodes for need in needs[node.id]
    ]
    boxes = [_box(node, places[node.id], href(node.id)) for node in graph.nodes]
    return Markup(
        '<svg class="graph" width="{}" height="{}" viewBox="0 0 {} {}" role="group"'
        ' aria-label="Graph of {} jobs">{}{}</svg>'
    ).format(
        width,
        height,
        width,
        height,
        len(graph.nodes),
        Markup("").join(lines),
        Markup("").join(boxes),
    )


def _needs(graph: Graph) -> defaultdict[UUID, list[UUID]]:
    """What each job comes after: jobs that it needs, or else the one that started it."""
    known = {node.id for node in graph.nodes}
    needs: defaultdict[UUID, list[UUID]] = defaultdict(list)
    for edge in graph.edges:
        if edge.needs_job_id in known:
            needs[edge.job_id].append(edge.needs_job_id)
    for node in graph.nodes:
        if node.parent_id in known and node.parent_id is not None and not needs[node.id]:
            needs[node.id].append(node.parent_id)
    return needs


def _places(nodes: Sequence[GraphNode], needs: Mapping[UUID, Sequence[UUID]]) -> dict[UUID, Place]:
    """Column and row of each job; in a column, near the jobs that it needs."""
    column_of = depths(nodes, needs)
    columns: defaultdict[int, list[GraphNode]] = defaultdict(list)
    for node in nodes:
        columns[column_of[node.id]].append(node)
    places: dict[UUID, Place] = {}
    for column in sorted(columns):
        wanted = {
            node.id: sum(places[need][1] for need in needs[node.id]) / len(needs[node.id])
            if needs.get(node.id)
            else 0.0
            for node in columns[column]
        }
        for row, node in enumerate(sorted(columns[column], key=lambda each: wanted[each.id])):
            places[node.id] = (column, row)
    return places


def _line(start: Place, end: Place) -> Markup:
    left, top = _corner(start)
    right, bottom = _corner(end)
    x1, y1, x2, y2 = left + WIDE, top + HIGH / 2, right - 5, bottom + HIGH / 2
    bend = (x2 - x1) / 2
    return Markup(
        '<path class="g-line" d="M{} {} C{} {} {} {} {} {}"/>'
        '<path class="g-tip" d="M{} {}l-6 -4v8z"/>'
    ).format(x1, y1, x1 + bend, y1, x2 - bend, y2, x2, y2, x2 + 5, y2)


def _box(node: GraphNode, place: Place, href: str) -> Markup:
    left, top = _corner(place)
    name = plain(name_of(node))
    shown = name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"
    status = node.status + (f": {node.waiting_for}" if node.waiting_for else "")
    return Markup(
        '<a href="{}"><title>{}: {}</title>'
        '<rect class="g-box" x="{}" y="{}" width="{}" height="{}" rx="6"/>'
        '<rect class="f-{}" x="{}" y="{}" width="4" height="{}" rx="2"/>'
        '<text class="g-name" x="{}" y="{}">{}</text>'
        '<text class="g-more" x="{}" y="{}">{}</text></a>'
    ).format(
        href,
        name,
        status,
        *(left, top, WIDE, HIGH),
        STYLES.get(node.status, "dim").rpartition(" ")[2],
        *(left + 7, top + 9, HIGH - 18),
        *(left + 18, top + 20, shown),
        *(left + 18, top + 36, status),
    )


def _corner(place: Place) -> tuple[int, int]:
    column, row = place
    return EDGE + column * (WIDE + GAP_X), EDGE + row * (HIGH + GAP_Y)
