"""Claiming: queued jobs become running ones, each under a lease of its own.

In: the queues, priorities and modes that a worker serves, and how many jobs it wants. Out: jobs
with their leases, committed. Invariant: a returned job belongs to this worker alone, and is the
lowest open one of its lane.

The statement is a function of the schema (migrations/schema/queue/claim.sql): so its planner
settings come with it, and a claim is one message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg.rows import args_row

from db.pool import Connection, fetch_rows


# A named tuple, because one is made for each job: a frozen dataclass takes several times as long.
class Claimed(NamedTuple):
    """A job as its attempt receives it."""

    id: UUID
    lease_no: int
    queue: str
    priority: int
    position: int
    mode: str
    payload: dict[str, Any]
    attempt: int
    failures: int
    failures_max: int | None
    timeout_seconds: float | None
    team_id: UUID | None
    thread_id: UUID | None
    trigger_message_id: UUID | None
    parent_id: UUID | None
    is_child: bool
    lane: str | None
    trace_parent: str | None
    request_id: str | None
    run_id: UUID | None
    node: str | None
    agent_id: UUID | None
    waited_seconds: float
    suspect: bool
    alone_seconds: float | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim took: jobs to run, lanes whose other queued jobs were set to wait, jobs that a
    limit holds up, and the last position looked at in each queue and priority. `all_found`:
    nothing else was ready.
    """

    jobs: list[Claimed]
    deferred_lanes: list[str]
    held_up: list[UUID]
    positions: dict[tuple[str, int], int]
    all_found: bool


FIRST = -(2**63)
"""A look beyond this position finds all: the schema keeps positions above it."""

_claim_order = attrgetter("priority", "position")

CLAIMED_COLUMNS: LiteralString = """
  c.id, c.lease_no, c.queue, c.priority, c.position, c.mode, c.payload, c.attempt,
  c.failures, c.failures_max, c.timeout_seconds, c.team_id, c.thread_id, c.trigger_message_id,
  c.parent_id, c.is_child, c.lane, c.trace_parent, c.request_id, c.run_id, c.node, c.agent_id,
  c.waited_seconds, c.suspect, c.alone_seconds
"""

CLAIM: LiteralString = (
    "select "
    + CLAIMED_COLUMNS
    + """
from jobsworth.claim(%(worker_id)s, %(queues)s::text[], %(priorities)s::smallint[],
  %(positions)s::bigint[], %(modes)s::text[], %(wanted)s, %(crashes_max)s,
  %(suspect_wanted)s, %(alone)s) as c
"""
)


async def claim(
    conn: Connection,
    *,
    worker_id: UUID,
    probes: Sequence[tuple[str, int, int]],
    modes: Sequence[str],
    wanted: int,
    crashes_max: int,
    suspect_wanted: bool,
    alone: bool,
) -> Claim:
    """Take up to `wanted` queued jobs; committed on return.

    `probes` are (queue, priority, position): where to look, in this order, each only beyond its
    position. A suspect is a job that one more death of its worker fails; at most one is taken, and
    none unless `suspect_wanted`. `alone`: the worker runs nothing, and may get a job that is to run
    alone for its `alone_seconds`. Without a row of the worker in `workers`, nothing is claimed.
    Raises `Refused` with SQLSTATE 23505 when two workers claimed from one lane at once: try again.
    """
    values = {
        "worker_id": worker_id,
        "queues": [queue for queue, _, _ in probes],
        "priorities": [priority for _, priority, _ in probes],
        "positions": [position for _, _, position in probes],
        "modes": list(modes),
        "wanted": wanted,
        "crashes_max": crashes_max,
        "suspect_wanted": suspect_wanted,
        "alone": alone,
    }
    rows = await fetch_rows(conn, CLAIM, values, args_row(Claimed), prepare=True)
    return claim_of(rows, wanted)


def claim_of(rows: list[Claimed], wanted: int) -> Claim:
    """What a claim of up to `wanted` jobs came to, from the rows that it returned."""
    rows.sort(key=_claim_order)
    more = bool(rows) and not rows[0].priority
    if more:
        del rows[0]
    return Claim(
        jobs=[row for row in rows if row.lease_no],
        deferred_lanes=[row.lane for row in rows if not row.lease_no and row.lane],
        held_up=[row.id for row in rows if not row.lease_no and not row.lane],
        positions={(row.queue, row.priority): row.position for row in rows},
        all_found=not more and len(rows) < wanted,
    )
