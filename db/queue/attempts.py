"""The history of attempts: one row for each attempt that did not end well.

In: how attempts ended, within the transaction that ends them. Out: rows of `attempt_history`, with
the worker, its host and the traceback. Invariant: the caller has locked the job's row and written
its ending, so a late worker writes no history of somebody else's attempt. A rescue writes the row
of the attempt that it takes back (`db/queue/rescue.py`).

Only a batch with a bad ending sends this statement: as columns of `finish`, its values would be
read for each job that ends well. Such a job costs the server 17 µs more (90 against 73), and about
380 bytes of disk with a short traceback.
"""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.pool import Connection, execute, fetch_all


# A named tuple, because it is part of a transition, of which one is made for each job.
class BadEnding(NamedTuple):
    """How an attempt ended that did not end well; `outcome` is one that the table knows."""

    outcome: str
    error: str | None = None
    traceback: str | None = None


class PastAttempt(BaseModel):
    """A row of `attempt_history`."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    outcome: str
    worker_id: UUID | None
    host: str | None
    pid: int | None
    began_at: AwareDatetime | None
    ended_at: AwareDatetime
    error: str | None
    traceback: str | None


TELL: LiteralString = """
select jobsworth.tell_attempts(
  %(job_ids)s::uuid[], %(outcomes)s::text[], %(errors)s::text[], %(tracebacks)s::text[])
"""


async def tell(conn: Connection, endings: Sequence[tuple[UUID, BadEnding]]) -> None:
    """Write the rows of attempts that the caller's transaction has just ended, by job id."""
    if endings:
        values = {
            "job_ids": [job_id for job_id, _ in endings],
            "outcomes": [ending.outcome for _, ending in endings],
            "errors": [ending.error for _, ending in endings],
            "tracebacks": [ending.traceback for _, ending in endings],
        }
        await execute(conn, TELL, values)


OF_JOB: LiteralString = """
select h.attempt, h.outcome, h.worker_id, h.host, h.pid, h.began_at, h.ended_at, h.error,
  h.traceback
from jobsworth.attempt_history h
where h.job_id = %(job_id)s
order by h.attempt
"""


async def list_for_job(conn: Connection, job_id: UUID) -> list[PastAttempt]:
    """The attempts at a job that did not end well, oldest first; at most the newest 100."""
    return await fetch_all(conn, OF_JOB, {"job_id": job_id}, PastAttempt)
