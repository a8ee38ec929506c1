"""The jobs that a filter matches, page by page.

In: a filter. Out: jobs, newest first. Invariant: the server bounds the time of a page, because no
index serves a filter by payload or error.
"""

from typing import LiteralString
from uuid import UUID

from db.bulk.filters import MATCHES, JobFilter
from db.errors import QUERY_CANCELED, DatabaseError, Unavailable, translated
from db.pool import Connection, execute, fetch_all
from db.queue.jobs import JOB_COLUMNS, Job
from db.transactions import transaction

LIMIT_TIME: LiteralString = "select set_config('statement_timeout', %(milliseconds)s, true)"
MATCHING: LiteralString = (
    "select "
    + JOB_COLUMNS
    + """
from jobsworth.reactive_jobs j
where """
    + MATCHES
    + """
  and (%(before_id)s::uuid is null or j.id < %(before_id)s::uuid)
order by j.id desc
limit %(limit)s
"""
)


async def list_matching(
    conn: Connection,
    which: JobFilter,
    *,
    limit: int,
    before_id: UUID | None = None,
    timeout_seconds: float = 3.0,
) -> list[Job]:
    """The newest jobs that match. Raises `Unavailable` if finding them takes too long."""
    values = {**which.values(), "limit": limit, "before_id": before_id}
    milliseconds = str(round(timeout_seconds * 1_000))
    try:
        with translated():
            async with transaction(conn):
                await execute(conn, LIMIT_TIME, {"milliseconds": milliseconds})
                return await fetch_all(conn, MATCHING, values, Job)
    except DatabaseError as error:
        if error.sqlstate == QUERY_CANCELED:
            raise Unavailable(
                f"looking for these jobs took longer than {timeout_seconds:g} s",
                "narrow the filter: name a mode and a time (since)",
                QUERY_CANCELED,
            ) from error
        raise
