"""Rows by a part of their id, as people type it.

In: the range of ids with some beginning, or the end of an id. Out: the few first rows that fit,
with enough to tell them apart. A beginning is one hop along the primary key, however large the
table is. No index knows ends, so they are sought among the newest rows only (and, of jobs, among
the waiting and the failed ones): `NEAR` first, then `FAR`, which takes about a second.
"""

from collections.abc import Awaitable
from typing import LiteralString, NamedTuple, Protocol
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.pool import Connection, fetch_all

NEAR = 20_000
FAR = 1_000_000
FAR_UNFINISHED = 100_000


class Found(BaseModel):
    """A row in short: `what` it is about (a job's mode, an approval's proposal)."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    what: str
    status: str
    created_at: AwareDatetime


JOBS_WITHIN: LiteralString = """
select j.id, j.mode as what, j.status, j.created_at
from jobsworth.reactive_jobs j
where j.id between %(lowest)s and %(highest)s
order by j.id desc
limit %(limit)s
"""


async def jobs_within(conn: Connection, lowest: UUID, highest: UUID, limit: int) -> list[Found]:
    """The jobs with an id in this range, newest first."""
    values = {"lowest": lowest, "highest": highest, "limit": limit}
    return await fetch_all(conn, JOBS_WITHIN, values, Found)


JOBS_ENDING: LiteralString = """
with newest as materialized (
  select j.id from jobsworth.reactive_jobs j order by j.id desc limit %(rows)s
),
waiting as materialized (
  select j.id
  from jobsworth.reactive_jobs j
  where j.status = 'waiting'
  order by j.waiting_for desc, j.id desc
  limit %(unfinished)s
),
failed as materialized (
  select j.id
  from jobsworth.reactive_jobs j
  where j.status = 'failed'
  order by j.finished_at desc
  limit %(unfinished)s
),
fits as materialized (
  select n.id from newest n where right(n.id::text, %(length)s) = %(end)s
  union select w.id from waiting w where right(w.id::text, %(length)s) = %(end)s
  union select f.id from failed f where right(f.id::text, %(length)s) = %(end)s
)
select j.id, j.mode as what, j.status, j.created_at
from jobsworth.reactive_jobs j
where j.id = any(array(select f.id from fits f))
order by j.id desc
limit %(limit)s
"""


async def jobs_ending(conn: Connection, end: str, limit: int, *, far: bool) -> list[Found]:
    """The jobs whose id ends with `end` (lower case, with a UUID's hyphens), newest first."""
    rows, unfinished = (FAR, FAR_UNFINISHED) if far else (NEAR, 0)
    values = {"end": end, "length": len(end), "limit": limit}
    values |= {"rows": rows, "unfinished": unfinished}
    return await fetch_all(conn, JOBS_ENDING, values, Found)


RUNS_WITHIN: LiteralString = """
select r.id, coalesce(r.actor, '') as what, r.status, r.created_at
from jobsworth.runs r
where r.id between %(lowest)s and %(highest)s
order by r.id desc
limit %(limit)s
"""


async def runs_within(conn: Connection, lowest: UUID, highest: UUID, limit: int) -> list[Found]:
    """The runs with an id in this range, newest first."""
    values = {"lowest": lowest, "highest": highest, "limit": limit}
    return await fetch_all(conn, RUNS_WITHIN, values, Found)


RUNS_ENDING: LiteralString = """
with newest as materialized (
  select r.id from jobsworth.runs r order by r.id desc limit %(rows)s
)
select r.id, coalesce(r.actor, '') as what, r.status, r.created_at
from jobsworth.runs r
where r.id = any(array(select n.id from newest n where right(n.id::text, %(length)s) = %(end)s))
order by r.id desc
limit %(limit)s
"""


async def runs_ending(conn: Connection, end: str, limit: int, *, far: bool) -> list[Found]:
    """The runs whose id ends with `end` (lower case, with a UUID's hyphens), newest first."""
    values = {"end": end, "length": len(end), "limit": limit, "rows": FAR if far else NEAR}
    return await fetch_all(conn, RUNS_ENDING, values, Found)


APPROVALS_WITHIN: LiteralString = """
select a.id, a.proposal_text as what, a.status, a.created_at
from jobsworth.approvals a
where a.id between %(lowest)s and %(highest)s
order by a.id desc
limit %(limit)s
"""


async def approvals_within(
    conn: Connection, lowest: UUID, highest: UUID, limit: int
) -> list[Found]:
    """The approvals with an id in this range, newest first."""
    values = {"lowest": lowest, "highest": highest, "limit": limit}
    return await fetch_all(conn, APPROVALS_WITHIN, values, Found)


APPROVALS_ENDING: LiteralString = """
with newest as materialized (
  select a.id from jobsworth.approvals a order by a.id desc limit %(rows)s
)
select a.id, a.proposal_text as what, a.status, a.created_at
from jobsworth.approvals a
where a.id = any(array(select n.id from newest n where right(n.id::text, %(length)s) = %(end)s))
order by a.id desc
limit %(limit)s
"""


async def approvals_ending(conn: Connection, end: str, limit: int, *, far: bool) -> list[Found]:
    """The approvals whose id ends with `end` (lower case, with a UUID's hyphens), newest first."""
    values = {"end": end, "length": len(end), "limit": limit, "rows": FAR if far else NEAR}
    return await fetch_all(conn, APPROVALS_ENDING, values, Found)


class Within(Protocol):
    """One of the functions above that look for a range of ids."""

    def __call__(
        self, conn: Connection, lowest: UUID, highest: UUID, limit: int
    ) -> Awaitable[list[Found]]: ...


class Ending(Protocol):
    """One of the functions above that look for the end of an id."""

    def __call__(
        self, conn: Connection, end: str, limit: int, *, far: bool
    ) -> Awaitable[list[Found]]: ...


class Table(NamedTuple):
    """Where to look; `thing` is what a row is called."""

    thing: str
    within: Within
    ending: Ending


JOBS = Table("job", jobs_within, jobs_ending)
RUNS = Table("run", runs_within, runs_ending)
APPROVALS = Table("approval", approvals_within, approvals_ending)
