"""Unsafe steps: marked as begun before they run, and repeated only if a person says so.

In: a step that `db.steps.steps.begin` has marked as begun. Out: the mark is removed (the step did
not happen), gets an error, or a person decides. Invariant: the mark of a step that was neither
recorded nor forgotten stays until a person decides; the decision is kept in `step_decisions`.
"""

from typing import Any, Literal, LiteralString
from uuid import UUID

from psycopg import AsyncConnection

from db.documents import to_document, to_text
from db.fence import Lease, hold
from db.pool import Connection, execute, fetch_val

FORGET: LiteralString = """
with forgotten as (
  delete from jobsworth.steps s
  where s.job_id = %(job_id)s and s.name = %(name)s and s.finished_at is null
  returning s.job_id, s.name
)
update jobsworth.approvals a
set consumed_at = null, consumed_by = null
from forgotten f
where a.job_id = f.job_id and a.consumed_by = f.name and a.superseded_by is null
"""


async def forget(conn: Connection, lease: Lease, name: str) -> None:
    """Remove the mark of a step that did not happen, in the caller's transaction.

    An approval that the step had consumed is unconsumed again, so a no counts again. Raises
    `LeaseLost`.
    """
    await hold(conn, lease)
    await execute(conn, FORGET, {"job_id": lease.job_id, "name": name})


BLAME: LiteralString = """
update jobsworth.steps s
set error = %(error)s
where s.job_id = %(job_id)s and s.name = %(name)s and s.finished_at is null
"""


async def blame(conn: Connection, lease: Lease, name: str, error: str) -> None:
    """Record the error of a step, which stays begun, in the caller's transaction.

    Raises `LeaseLost`.
    """
    await hold(conn, lease)
    await execute(conn, BLAME, {"job_id": lease.job_id, "name": name, "error": to_text(error)})


DECIDE: LiteralString = """
select jobsworth.decide_step(
  %(job_id)s, %(name)s, %(decision)s, %(output)s::jsonb, %(decided_by)s)::text
"""


async def decide(
    conn: AsyncConnection[Any],
    job_id: UUID,
    name: str,
    decision: Literal["done", "again"],
    *,
    output: object = None,
    decided_by: str | None = None,
) -> str:
    """Decide that an unsafe step which was begun and not recorded is done, or is to run again.

    `output` becomes the step's output if it is done. If the job waited for this, it goes on in the
    same transaction. Returns the job's status. Waits while another transaction holds the job.
    Raises `NotFound`; `Conflict` if the job runs or the step is not open; `InvalidInput`.
    """
    document = None if output is None else to_document(output, f"the output of step {name!r}")
    values = {
        "job_id": job_id,
        "name": name,
        "decision": decision,
        "output": document,
        "decided_by": decided_by,
    }
    return await fetch_val(conn, DECIDE, values)
