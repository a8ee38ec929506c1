"""The graph of a run as lines of a tree.

In: jobs and edges. Out: one row for each job, below the last job it comes after, or below the job
that started it. Of many siblings, the most urgent ones and those that other jobs come after are
shown; one row counts the rest. A chain stays at one level, so a long one does not run off the page.
Nothing here is recursive: a chain may have thousands of jobs.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from db.runs.runs import Graph, GraphNode

SHOWN_MAX = 10
# The order in which siblings are chosen to be shown.
URGENCY = ("failed", "running", "waiting", "queued", "canceled", "done")


@dataclass(frozen=True, slots=True)
class Row:
    """A job and the names of those it needs (`after`); or, without `node`, siblings left out."""

    level: int
    name: str
    node: GraphNode | None
    after: tuple[str, ...] = ()
    more: tuple[GraphNode, ...] = ()


def rows_of(graph: Graph) -> list[Row]:
    """The rows from top to bottom."""
    nodes = {node.id: node for node in graph.nodes}
    needs: defaultdict[UUID, list[UUID]] = defaultdict(list)
    for edge in graph.edges:
        if edge.needs_job_id in nodes:
            needs[edge.job_id].append(edge.needs_job_id)
    below = _placed(graph.nodes, needs)
    rows: list[Row] = []
    left = list(reversed(_shown(0, below[None], below)))
    while left:
        level, node = left.pop()
        if isinstance(node, Row):
            rows.append(node)
            continue
        after = tuple(name_of(nodes[need]) for need in needs[node.id])
        rows.append(Row(level, name_of(node), node, after))
        found = below[node.id]
        deeper = len(found) > 1 or any(each.parent_id for each in found)
        left.extend(reversed(_shown(level + deeper, found, below)))
    return rows


def name_of(node: GraphNode) -> str:
    """A job's name in its run, or its id."""
    return node.node or str(node.id)


def _shown(
    level: int, found: Sequence[GraphNode], below: Mapping[UUID | None, Sequence[GraphNode]]
) -> list[tuple[int, GraphNode | Row]]:
    """The siblings that get a row: children first, in the order they were made."""
    loose = [node for node in found if all(each.parent_id for each in below.get(node.id, ()))]
    loose.sort(key=lambda node: URGENCY.index(node.status))
    shown = {node.id for node in loose[:SHOWN_MAX]}
    more = {node.id: node for node in loose[SHOWN_MAX:]}
    kept = [node for node in found if node.id not in more]
    kept.sort(key=lambda node: not node.is_child)
    rows: list[tuple[int, GraphNode | Row]] = [(level, node) for node in kept]
    if more:
        last = max(n for n, node in enumerate(kept) if node.id in shown)
        left_out = Row(level, f"… {len(more):,} more", None, more=tuple(more.values()))
        rows.insert(last + 1, (level, left_out))
    return rows


def _placed(
    nodes: Sequence[GraphNode], needs: Mapping[UUID, Sequence[UUID]]
) -> defaultdict[UUID | None, list[GraphNode]]:
    """Each job's place: below the deepest job it needs (the last of several), else its parent."""
    known = {node.id for node in nodes}
    depth = depths(nodes, needs)
    below: defaultdict[UUID | None, list[GraphNode]] = defaultdict(list)
    for node in nodes:
        last_first = list(reversed(needs.get(node.id, ())))
        at = max(last_first, key=lambda need: depth[need], default=None)
        parent = node.parent_id if node.parent_id in known else None
        below[parent if at is None else at].append(node)
    return below


def depths(nodes: Sequence[GraphNode], needs: Mapping[UUID, Sequence[UUID]]) -> dict[UUID, int]:
    """The length of the longest chain of jobs that comes before each job."""
    needed_by: defaultdict[UUID, list[UUID]] = defaultdict(list)
    open_needs = {node.id: len(needs.get(node.id, ())) for node in nodes}
    for job_id, parents in needs.items():
        for parent in parents:
            needed_by[parent].append(job_id)
    depth = dict.fromkeys(open_needs, 0)
    free = deque(job_id for job_id, count in open_needs.items() if count == 0)
    while free:
        job_id = free.popleft()
        for child in needed_by[job_id]:
            depth[child] = max(depth[child], depth[job_id] + 1)
            open_needs[child] -= 1
            if open_needs[child] == 0:
                free.append(child)
    return depth
