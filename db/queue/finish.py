"""Finishing: the transitions of ended attempts, each under its fence, many in one statement.

In: transitions. Out: those that were applied, and the state of the leases of the others. Invariant:
a transition whose lease is lost writes nothing, and no row waits for another transaction.
"""

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg.rows import tuple_row

from db.errors import translated
from db.fence import Lease
from db.pool import Connection, fetch_all
from db.schema import render


class Finish(NamedTuple):
    """One transition, as `finish` writes it. `result` is JSON text."""

    lease: Lease
    status: str
    waiting_for: str | None = None
    waiting_detail: str | None = None
    delay_seconds: float | None = None
    failed: bool = False
    result: str | None = None
    error: str | None = None


class Finished(NamedTuple):
    """An applied transition. `status` differs from the requested one if a cancel came first.
    `unblocks`: `db.queue.promote.unblock` must look at the job after the commit.
    """

    id: UUID
    status: str
    unblocks: bool


# The function, which contains the fence, is in migrations/schema/queue/finish.sql.
FINISH: LiteralString = """
select f.n, f.status, f.unblocks
from jobsworth.finish(%(ids)s::uuid[], %(lease_nos)s::bigint[], %(worker_ids)s::uuid[],
  %(statuses)s::jobsworth.job_status[], %(waiting_fors)s::jobsworth.wait_reason[],
  %(waiting_details)s::text[], %(delays)s::float8[], %(faileds)s::boolean[],
  %(results)s::jsonb[], %(errors)s::text[]) as f
"""


async def finish(conn: Connection, finishes: Sequence[Finish]) -> list[Finished]:
    """Apply these transitions under their fences; committed on return unless in a transaction.

    Returns those that were applied; `lease_states` says why the others were not. Never waits for
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
    """The transitions by column. (The driver's own lists of UUIDs and numbers cost 8 µs per
    job.)
    """
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
    """The text form of a `uuid[]`."""
    return "{" + ",".join([f"{one.int:032x}" for one in ids]) + "}"


LEASE_STATES: LiteralString = """
select j.id, case
    when j.lease_no is distinct from l.lease_no or j.worker_id is distinct from l.worker_id
      then 'lost'
    when j.status = 'running' then 'held'
    else 'ended'
  end as state
from unnest(%(ids)s::uuid[], %(lease_nos)s::bigint[], %(worker_ids)s::uuid[])
  as l (job_id, lease_no, worker_id)
cross join lateral (
  select r.id, r.lease_no, r.worker_id, r.status
  from jobsworth.reactive_jobs r
  where r.id = l.job_id
  offset 0
) j
"""


async def lease_states(conn: Connection, leases: Sequence[Lease]) -> dict[UUID, str]:
    """The states of leases that `finish` did not return, by job id.

    held: the lease holds, and another transaction has locked the row; try again. ended: the job no
    longer runs under this lease, because our own commit ended it (its answer was lost) or a rescue
    did. lost: another attempt has the job. An id that is missing was deleted.
    """
    values = {
        "ids": [lease.job_id for lease in leases],
        "lease_nos": [lease.lease_no for lease in leases],
        "worker_ids": [lease.worker_id for lease in leases],
    }
    rows = await fetch_all(conn, LEASE_STATES, values)
    return {row["id"]: row["state"] for row in rows}
