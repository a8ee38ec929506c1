"""Unsafe steps: begun before they run, and never repeated without being told to.

In: a step that `db.steps.steps.begin` has marked as begun. Out: the mark is removed (it did not
happen), keeps what went wrong, or is decided by a person. The invariant: a mark that no attempt
removed and none recorded stays until a person has decided, and who decided is kept
(`step_decisions`).
"""

from typing import Any, Literal, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.documents import to_document, to_text
from db.fence import Lease, hold
from db.pool import Connection, execute, fetch_all, fetch_val

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

    A yes that it had consumed is unspent again, and can be taken back. Raises `LeaseLost`.
    """
    await hold(conn, lease)
    await execute(conn, FORGET, {"job_id": lease.job_id, "name": name})


BLAME: LiteralString = """
update jobsworth.steps s
set error = %(error)s
where s.job_id = %(job_id)s and s.name = %(name)s and s.finished_at is null
"""


async def blame(conn: Connection, lease: Lease, name: str, error: str) -> None:
    """Keep what went wrong in a step, which stays begun, in the caller's transaction.

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
    """Say of an unsafe step that was begun and not recorded: it is done, or is to run again.

    `output` is what the step returns then. Returns the job's status: it goes on in the same
    transaction if it waited for this. Waits while another transaction holds the job. Raises
    `NotFound`; `Conflict` if the job runs or the step is not open; `InvalidInput`.
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


class StepDecision(BaseModel):
    """What somebody said of a step, and what was known of it then."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID
    step_name: str
    decision: str
    output: Any
    attempt: int
    begun_at: AwareDatetime
    begun_by: str | None
    error: str | None
    decided_by: str
    decided_at: AwareDatetime


DECISIONS: LiteralString = """
select d.job_id, d.step_name, d.decision, d.output, d.attempt, d.begun_at, d.begun_by, d.error,
  d.decided_by, d.decided_at
from jobsworth.step_decisions d
where d.job_id = %(job_id)s
order by d.id
"""


async def list_decisions(conn: Connection, job_id: UUID) -> list[StepDecision]:
    """What was decided about steps of a job, oldest first."""
    return await fetch_all(conn, DECISIONS, {"job_id": job_id}, StepDecision)
