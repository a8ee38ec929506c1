"""Runs for tests of branches: a run, its jobs by node, and the edges among them, by plain SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from db.ids import uuidv7
from db.pool import Connection, execute, fetch_all, fetch_val

RUN: LiteralString = """
insert into jobsworth.runs (actor, request, status, started_at)
values ('Bea', '{"ask": "all of it"}', 'executing', now())
returning id
"""

JOB: LiteralString = """
insert into jobsworth.reactive_jobs (id, run_id, node, mode, payload, status, waiting_for)
values (%(id)s, %(run_id)s, %(node)s, %(mode)s, %(payload)s,
  case when %(needs)s then 'waiting' else 'queued' end::jobsworth.job_status,
  case when %(needs)s then 'parents' end::jobsworth.wait_reason)
"""

EDGE: LiteralString = """
insert into jobsworth.job_edges (job_id, needs_job_id, on_failure)
values (%(job_id)s, %(needs)s, 'fail')
"""

NODES: LiteralString = """
select j.node, j.id from jobsworth.reactive_jobs j where j.run_id = %(run_id)s order by j.node
"""


async def start(
    conn: Connection,
    nodes: Mapping[str, tuple[str, Mapping[str, Any]]],
    edges: Mapping[str, tuple[str, ...]] | None = None,
) -> UUID:
    """A run of these nodes, each a mode and its payload; `edges` names what a node needs."""
    # An edge is only taken in the transaction that makes the job that needs the other.
    async with conn.transaction():
        run_id = await fetch_val(conn, RUN)
        ids = {node: uuidv7() for node in nodes}
        for node, (mode, payload) in nodes.items():
            values = {
                "id": ids[node],
                "run_id": run_id,
                "node": node,
                "mode": mode,
                "payload": Jsonb(dict(payload)),
                "needs": bool((edges or {}).get(node)),
            }
            await execute(conn, JOB, values)
            for needed in (edges or {}).get(node, ()):
                await execute(conn, EDGE, {"job_id": ids[node], "needs": ids[needed]})
    return run_id


async def jobs_of(conn: Connection, run_id: UUID) -> dict[str, UUID]:
    """The run's own jobs by node."""
    rows = await fetch_all(conn, NODES, {"run_id": run_id})
    return {row["node"]: row["id"] for row in rows}
