"""Rows found by the beginning of their id, as people type it.

In: the lowest and the highest id with that beginning. Out: the first rows between them, with enough
to tell them apart. One step along the primary key, however large the table is.
"""

from typing import LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.pool import Connection, fetch_all


class Found(BaseModel):
    """A row in short; `what` is a job's mode, a run's actor or an approval's proposal."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    what: str
    status: str
    created_at: AwareDatetime


JOBS: LiteralString = """
select j.id, j.mode as what, j.status, j.created_at
from jobsworth.reactive_jobs j
where j.id between %(lowest)s and %(highest)s
order by j.id
limit %(limit)s
"""


async def jobs(conn: Connection, lowest: UUID, highest: UUID, limit: int) -> list[Found]:
    """The jobs with an id in this range."""
    return await fetch_all(conn, JOBS, _values(lowest, highest, limit), Found)


RUNS: LiteralString = """
select r.id, coalesce(r.actor, '') as what, r.status, r.created_at
from jobsworth.runs r
where r.id between %(lowest)s and %(highest)s
order by r.id
limit %(limit)s
"""


async def runs(conn: Connection, lowest: UUID, highest: UUID, limit: int) -> list[Found]:
    """The runs with an id in this range."""
    return await fetch_all(conn, RUNS, _values(lowest, highest, limit), Found)


APPROVALS: LiteralString = """
select a.id, a.proposal_text as what, a.status, a.created_at
from jobsworth.approvals a
where a.id between %(lowest)s and %(highest)s
order by a.id
limit %(limit)s
"""


async def approvals(conn: Connection, lowest: UUID, highest: UUID, limit: int) -> list[Found]:
    """The approvals with an id in this range."""
    return await fetch_all(conn, APPROVALS, _values(lowest, highest, limit), Found)


def _values(lowest: UUID, highest: UUID, limit: int) -> dict[str, object]:
    return {"lowest": lowest, "highest": highest, "limit": limit}
