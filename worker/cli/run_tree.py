"""The graph of a run as lines of a tree.

In: jobs and edges. Out: one row for each job, below the last of those it comes after, or below the
job that started it; many jobs that one job started are summed up. A chain stays at one level, so a
long one does not run off the page. Iterative: a chain may have thousands.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from db.runs import Graph, GraphNode

SHOWN_MAX = 10


@dataclass(frozen=True, slots=True)
class Row:
    """A job, or (`node` is None) those that are left out here. `after` names what it needs."""

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
    left: list[tuple[int, GraphNode | Row]] = [(0, node) for node in reversed(below[None])]
    while left:
        level, node = left.pop()
        if isinstance(node, Row):
            rows.append(node)
            continue
        after = tuple(name_of(nodes[need]) for need in needs[node.id])
        rows.append(Row(level, name_of(node), node, after))
        left.extend(reversed(_below(level, below[node.id])))
    return rows


def name_of(node: GraphNode) -> str:
    """Its name in the run, or its id."""
    return node.node or str(node.id)


def _below(level: int, found: Sequence[GraphNode]) -> list[tuple[int, GraphNode | Row]]:
    deeper = level + 1 if len(found) > 1 or any(node.parent_id for node in found) else level
    declared = [node for node in found if not node.is_child]
    children = [node for node in found if node.is_child]
    shown, more = children[:SHOWN_MAX], tuple(children[SHOWN_MAX:])
    rows: list[tuple[int, GraphNode | Row]] = [(deeper, node) for node in shown]
    if more:
        rows.append((deeper, Row(deeper, f"… {len(more):,} more", None, more=more)))
    return [*rows, *((deeper, node) for node in declared)]


def _placed(
    nodes: Sequence[GraphNode], needs: Mapping[UUID, Sequence[UUID]]
) -> defaultdict[UUID | None, list[GraphNode]]:
    """The jobs by the one that each stands below: the last of the deepest that it needs, or
    its parent.
    """
    known = {node.id for node in nodes}
    depth = _depths(nodes, needs)
    below: defaultdict[UUID | None, list[GraphNode]] = defaultdict(list)
    for node in nodes:
        last_first = list(reversed(needs.get(node.id, ())))
        at = max(last_first, key=lambda need: depth[need], default=None)
        parent = node.parent_id if node.parent_id in known else None
        below[parent if at is None else at].append(node)
    return below


def _depths(nodes: Sequence[GraphNode], needs: Mapping[UUID, Sequence[UUID]]) -> dict[UUID, int]:
    """How many jobs come before each, at most, one after the other."""
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
