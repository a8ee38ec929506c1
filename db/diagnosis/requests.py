"""One request from end to end: its messages, the jobs that worked for it, and what these made.

In: a request id, as it came with a message or a job. Out: messages, jobs, runs, approvals, files
and model calls, oldest first.
"""

from typing import LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.pool import Connection, fetch_all


class Traced(BaseModel):
    """One row of a request. `kind` is message, job, run, approval, file or call; `job_id` is the
    job that made it.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    id: UUID
    at: AwareDatetime
    job_id: UUID | None
    what: str


# The function is in migrations/schema/diagnosis/requests.sql.
OF_REQUEST: LiteralString = """
select r.kind, r.id, r.at, r.job_id, r.what from jobsworth.of_request(%(request_id)s) r
"""


async def of_request(conn: Connection, request_id: str) -> list[Traced]:
    """All that belongs to a request, oldest first. Calls of deleted jobs are not found."""
    return await fetch_all(conn, OF_REQUEST, {"request_id": request_id}, Traced)
