"""The hot path: claim, fence, finish.

In: what a worker can run, and how its attempts ended. Out: leases, and the transitions that were
really applied. The invariant is the fence: a claim draws `lease_no` and writes it with `worker_id`;
every later write of that attempt locks the job's row under both and `status = 'running'`, in the
same statement or transaction. No row means that the lease is lost and nothing may be written.

The two statements themselves are functions of the database, because their planner settings must
come with them and one message is the cheapest: migrations/schema/queue/claim.sql and finish.sql.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg.rows import args_row, tuple_row

from db.errors import JobsworthError, translated
from db.pool import BEGIN, Connection, fetch_all, fetch_rows
from db.schema import render


# Named tuples where one is made for each job: a frozen dataclass takes several times as long.
class Lease(NamedTuple):
    """Proof of a claim; the fence of every write of that attempt."""

    job_id: UUID
    lease_no: int
    worker_id: UUID


class LeaseLost(JobsworthError):
    """The job belongs to somebody else now, or has ended; this attempt must stop."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(
            f"lease {lease.lease_no} of job {lease.job_id} is lost",
            "nothing was written; another attempt has the job",
        )
        self.lease = lease


class Claimed(NamedTuple):
    """A job as its attempt gets it."""

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
    run_id: UUID | None
    node: str | None
    agent_id: UUID | None
    waited_seconds: float


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim brought: jobs to run, and lanes whose surplus members were put off."""

    jobs: list[Claimed]
    deferred_lanes: list[str]
    positions: dict[tuple[str, int], int]


class Finish(NamedTuple):
    """One transition, as `finish` writes it. Documents are JSON text; delays are seconds."""

    lease: Lease
    status: str
    waiting_for: str | None = None
    waiting_detail: str | None = None
    delay_seconds: float | None = None
    failed: bool = False
    result: str | None = None
    error: str | None = None


class Finished(NamedTuple):
    """A transition that was applied; `status` differs from the asked one if a cancel came first."""

    id: UUID
    status: str
    unblocks: bool


_claim_order = attrgetter("priority", "position")

# How a transaction begins, in one round trip, that keeps the planner on its indexes.
PINNED: LiteralString = (
    BEGIN
    + """;
set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off;
set local enable_bitmapscan = off; set local plan_cache_mode = force_generic_plan
"""
)

# The function is in migrations/schema/queue/claim.sql, with its planner settings.
CLAIM: LiteralString = """
select c.id, c.lease_no, c.queue, c.priority, c.position, c.mode, c.payload, c.attempt,
  c.failures, c.failures_max, c.timeout_seconds, c.team_id, c.thread_id, c.trigger_message_id,
  c.parent_id, c.is_child, c.lane, c.trace_parent, c.run_id, c.node, c.agent_id, c.waited_seconds
from jobsworth.claim(%(worker_id)s, %(queues)s::text[], %(priorities)s::smallint[],
  %(positions)s::bigint[], %(modes)s::text[], %(wanted)s) as c
"""


async def claim(
    conn: Connection,
    *,
    worker_id: UUID,
    probes: Sequence[tuple[str, int, int]],
    modes: Sequence[str],
    wanted: int,
) -> Claim:
    """Take up to `wanted` queued jobs; committed on return.

    `probes` are (queue, priority, position): where to look, in this order, each only beyond its
    position. The worker's own row must exist, or nothing is claimed. Raises `Refused` with
    SQLSTATE 23505 when two claimers met in a lane: simply try again.
    """
    values = {
        "worker_id": worker_id,
        "queues": [queue for queue, _, _ in probes],
        "priorities": [priority for _, priority, _ in probes],
        "positions": [position for _, _, position in probes],
        "modes": list(modes),
        "wanted": wanted,
    }
    rows: list[Claimed] = await fetch_rows(conn, CLAIM, values, args_row(Claimed), prepare=True)
    rows.sort(key=_claim_order)
    return Claim(
        jobs=[row for row in rows if row.lease_no],
        deferred_lanes=[row.lane for row in rows if not row.lease_no and row.lane],
        positions={(row.queue, row.priority): row.position for row in rows},
    )


# The function, and in it the fence, is in migrations/schema/queue/finish.sql.
FINISH: LiteralString = """
select f.n, f.status, f.unblocks
from jobsworth.finish(%(ids)s::uuid[], %(lease_nos)s::bigint[], %(worker_ids)s::uuid[],
  %(statuses)s::jobsworth.job_status[], %(waiting_fors)s::jobsworth.wait_reason[],
  %(waiting_details)s::text[], %(delays)s::float8[], %(faileds)s::boolean[],
  %(results)s::jsonb[], %(errors)s::text[]) as f
"""


async def finish(conn: Connection, finishes: Sequence[Finish]) -> list[Finished]:
    """Apply these transitions under their fences; committed on return unless in a transaction.

    Returns those that were applied; `fates` tells what became of the others. Never waits for
    another transaction.
    """
    if not finishes:
        return []
    with translated():
        cursor = conn.cursor(row_factory=tuple_row, binary=True)
        await cursor.execute(render(FINISH, conn.schema), _columns(finishes), prepare=True)
        rows: list[tuple[int, str, bool]] = await cursor.fetchall()
    return [
        Finished(finishes[n - 1].lease.job_id, status, unblocks) for n, status, unblocks in rows
    ]


def _columns(finishes: Sequence[Finish]) -> dict[str, object]:
    """The transitions by column. (The driver's lists of UUIDs and numbers take 8 µs more a job.)"""
    columns: list[tuple[Any, ...]] = list(zip(*finishes, strict=True))
    leases, statuses, waits, details, delays, faileds, results, errors = columns
    job_ids, lease_nos, worker_ids = zip(*leases, strict=True)
    return {
        "ids": uuid_array(job_ids),
        "lease_nos": "{" + ",".join(map(str, lease_nos)) + "}",
        "worker_ids": uuid_array(worker_ids),
        "statuses": _unless_all("done", statuses),
        "waiting_fors": _unless_all(None, waits),
        "waiting_details": _unless_all(None, details),
        "delays": _unless_all(None, delays),
        "faileds": _unless_all(False, faileds),
        "results": _unless_all("null", results),
        "errors": _unless_all(None, errors),
    }


def _unless_all(usual: object, column: tuple[Any, ...]) -> list[Any] | None:
    return None if column.count(usual) == len(column) else list(column)


def uuid_array(ids: Iterable[UUID]) -> str:
    """A `uuid[]` as PostgreSQL reads it."""
    return "{" + ",".join([one.hex for one in ids]) + "}"


FATES: LiteralString = """
select j.id, case
    when j.lease_no is distinct from l.lease_no or j.worker_id is distinct from l.worker_id
      then 'lost'
    when j.status = 'running' then 'held'
    else 'ended'
  end as fate
from unnest(%(ids)s::uuid[], %(lease_nos)s::bigint[], %(worker_ids)s::uuid[])
  as l (job_id, lease_no, worker_id)
cross join lateral (
  select r.id, r.lease_no, r.worker_id, r.status
  from jobsworth.reactive_jobs r
  where r.id = l.job_id
  offset 0
) j
"""


async def fates(conn: Connection, leases: Sequence[Lease]) -> dict[UUID, str]:
    """What became of jobs that `finish` did not return, by id.

    held: still ours, somebody holds the row; try again. ended: no longer running under our lease,
    so either our own commit whose answer was lost, or a rescue. lost: another attempt has it. An id
    that is missing was deleted.
    """
    values = {
        "ids": [lease.job_id for lease in leases],
        "lease_nos": [lease.lease_no for lease in leases],
        "worker_ids": [lease.worker_id for lease in leases],
    }
    rows = await fetch_all(conn, FATES, values)
    return {row["id"]: row["fate"] for row in rows}
