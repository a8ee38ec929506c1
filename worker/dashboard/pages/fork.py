"""Fork a run from one of its nodes, or from a step of it.

In: a run, a node, a step, and changes of the node's payload. Out: what the branch would read and
what the rest cost the first time; then the branch.
"""

from collections.abc import Mapping

from fastapi import Response

from db.documents import parse_payload
from db.errors import InvalidInput
from db.pool import Connection
from db.runs import branches
from worker.cli.terminal.ids import find_run, typed_run
from worker.cli.views.fork_view import PARTS
from worker.dashboard.door import Visitor
from worker.dashboard.frame import Frame, Said, answer

ORDER = list(PARTS)


async def page(conn: Connection, frame: Frame, run: str) -> Response:
    run_id = await find_run(conn, typed_run(run))
    node, step = frame.query.get("node"), frame.query.get("step")
    if node is None:
        raise InvalidInput("no node is named", "choose one on the page of the run")
    planned = await branches.fork(conn, run_id, node=node, step=step, dry_run=True)
    whole = (
        planned
        if step is None
        else await branches.fork(conn, run_id, node=node, step=None, dry_run=True)
    )
    return answer(
        frame,
        "fork.html",
        page="runs",
        asking=0,
        plan=planned,
        nodes=sorted(planned.nodes, key=lambda each: ORDER.index(each.part)),
        parts_of=PARTS,
        again=[each for each in planned.steps if not each.reused],
        steps=[each for each in whole.steps if each.node == node and each.recorded],
        run_id=run_id,
        node=node,
        step=step,
    )


async def make(visitor: Visitor, frame: Frame, run: str, fields: Mapping[str, str]) -> Said:
    """Make the branch. Raises `Conflict`, `InvalidInput`."""
    run_id = await find_run(visitor.conn, typed_run(run))
    node = fields.get("node", "")
    text = fields.get("changes", "").strip()
    changes = parse_payload(text, "the change of the payload") if text else {}
    made = await branches.fork(
        visitor.conn,
        run_id,
        node=node,
        step=fields.get("step") or None,
        changes={node: changes} if changes else None,
        created_by=visitor.who,
    )
    return Said("This is the branch.", to=frame.url("runs", made.run_id))
