"""What the tests of runs share: runs, their nodes, and how their jobs end."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

from db.fence import Lease
from db.pool import Connection, fetch_all
from db.queue.finish import Finish
from db.runs import runs
from db.runs.runs import Node
from tests.db.protocol import (
    claim,
    done,
    failed,
    lease_of,
    settle,
)

Names = dict[str, tuple[str, str | None]]

NODES: LiteralString = """
select j.id, j.node, j.status::text as status, j.waiting_for::text as waiting_for
from jobsworth.reactive_jobs j where j.run_id = %(id)s
"""

DIAMOND = [
    Node("fetch", "answer"),
    Node("left", "answer", after=["fetch"]),
    Node("right", "answer", after=["fetch"]),
    Node("join", "answer", after=["left", "right"]),
]


async def start(conn: Connection, nodes: list[Node], **options: Any) -> UUID:
    return (await runs.start(conn, nodes, **options)).run_id


async def nodes_of(conn: Connection, run_id: UUID) -> Names:
    return {
        one["node"]: (one["status"], one["waiting_for"])
        for one in await fetch_all(conn, NODES, {"id": run_id})
    }


async def id_of(conn: Connection, run_id: UUID, node: str) -> UUID:
    [found] = [one for one in await fetch_all(conn, NODES, {"id": run_id}) if one["node"] == node]
    return found["id"]


async def take_all(conn: Connection, worker_id: UUID) -> dict[str, Lease]:
    """Everything that is queued, claimed; by node."""
    got = await claim(conn, worker_id, 2_000)
    return {str(job.node): lease_of(job, worker_id) for job in got.jobs}


async def end(conn: Connection, worker_id: UUID, **endings: str) -> None:
    """Claim what is queued and end it: all done, but for those named."""
    finishes: list[Finish] = []
    for node, lease in (await take_all(conn, worker_id)).items():
        ending = endings.get(node, "done")
        finishes.append(failed(lease) if ending == "failed" else done(lease, f'"{node}"'))
    await settle(conn, *finishes)


async def status_of(conn: Connection, run_id: UUID) -> str:
    return str((await runs.get(conn, run_id)).status)
