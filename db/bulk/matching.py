"""The jobs that a filter matches, page by page.

In: a filter. Out: jobs, newest first, and how far was looked. Invariant: no index serves a filter
by payload or error, so a page looks at stretches of jobs, until it is full or its time is over; the
next one goes on from there.
"""

from dataclasses import dataclass
from time import monotonic
from typing import Any, LiteralString
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from db.bulk.filters import FITS, JobFilter
from db.errors import QUERY_CANCELED, DatabaseError, Unavailable, translated
from db.pool import Connection, execute, fetch_all, fetch_one
from db.queue.jobs import JOB_COLUMNS, Job, JobStatus
from db.transactions import transaction

FIRST_STRETCH = 1_000
LONGEST_STRETCH = 8_000
LOOK_SECONDS = 0.1
STATEMENT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs that match, newest first. `looked_to`: the last one that was looked at, if there may be
    more before it: the `before_id` of the next page. `looked` counts those that were looked at.
    """

    jobs: list[Job]
    looked: int
    looked_to: UUID | None


class _Stretch(BaseModel):
    model_config = ConfigDict(frozen=True)

    jobs: int
    last_id: UUID | None


LIMIT_TIME: LiteralString = "select set_config('statement_timeout', %(milliseconds)s, true)"


async def list_matching(
    conn: Connection,
    which: JobFilter,
    *,
    limit: int,
    before_id: UUID | None = None,
    look_seconds: float = LOOK_SECONDS,
) -> Page:
    """The newest jobs that match, as many as are found in `look_seconds`, at most `limit`.

    Raises `Unavailable` if even a short stretch takes too long.
    """
    found: list[Job] = []
    looked, stretch, ends = 0, FIRST_STRETCH, monotonic() + look_seconds
    try:
        with translated():
            async with transaction(conn):
                await execute(
                    conn, LIMIT_TIME, {"milliseconds": f"{STATEMENT_SECONDS * 1_000:.0f}"}
                )
                while True:
                    values = {**which.values(), "before_id": before_id, "stretch": stretch}
                    passed = await _look(conn, which, values)
                    if passed.jobs == 0:
                        return Page(found, looked, None)
                    values["last_id"] = passed.last_id
                    values["limit"] = limit - len(found)
                    found += await _matching(conn, which, values)
                    if len(found) == limit:
                        return Page(found, looked + passed.jobs, found[-1].id)
                    looked, before_id = looked + passed.jobs, passed.last_id
                    if passed.jobs < stretch:
                        return Page(found, looked, None)
                    if monotonic() > ends:
                        return Page(found, looked, before_id)
                    stretch = min(2 * stretch, LONGEST_STRETCH)
    except DatabaseError as error:
        if error.sqlstate == QUERY_CANCELED:
            raise Unavailable(
                f"looking at {stretch:,} jobs took longer than {STATEMENT_SECONDS:g} s",
                "narrow the filter: name a thread or a request",
                QUERY_CANCELED,
            ) from error
        raise


LOOK: LiteralString = """
with stretch as materialized (
  {source}
  order by id desc
  limit %(stretch)s)
select count(*) as jobs, (select s.id from stretch s order by s.id limit 1) as last_id from stretch
"""


async def _look(conn: Connection, which: JobFilter, values: dict[str, Any]) -> _Stretch:
    """The next stretch."""
    query = LOOK.replace("{source}", _source(which))
    found = await fetch_one(conn, query, {**values, "last_id": None}, _Stretch)
    assert found is not None
    return found


# By the id of each: a plain join reads all jobs as soon as a stretch is long.
MATCHING: LiteralString = (
    """
with stretch as materialized (
  {source}
  order by id desc)
select
"""
    + JOB_COLUMNS
    + """
from stretch s
cross join lateral (select r.* from jobsworth.reactive_jobs r where r.id = s.id offset 0) j
where
"""
    + FITS
    + "order by s.id desc limit %(limit)s"
)


async def _matching(conn: Connection, which: JobFilter, values: dict[str, Any]) -> list[Job]:
    """Those of a stretch that match: all of it that is there now, whatever came in beside it."""
    query = MATCHING.replace("{source}", _source(which))
    return await fetch_all(conn, query, {**values, "stretch": None}, Job)


# The jobs of a stretch, newest first, by the index that holds the fewest others.
BETWEEN: LiteralString = """
  and (%(before_id)s::uuid is null or j.id < %(before_id)s::uuid)
  and (%(last_id)s::uuid is null or j.id >= %(last_id)s::uuid)
"""
ANY: LiteralString = "select j.id from jobsworth.reactive_jobs j where true" + BETWEEN
FAILED: LiteralString = (
    "select j.id from jobsworth.reactive_jobs j where j.status = 'failed'" + BETWEEN
)
WAITING: LiteralString = (
    """
  select w.id
  from unnest(enum_range(null::jobsworth.wait_reason)) as r (reason)
  cross join lateral (
    select j.id from jobsworth.reactive_jobs j
    where j.status = 'waiting' and j.waiting_for = r.reason
"""
    + BETWEEN
    + """
    order by j.id desc
    limit %(stretch)s) w
  where %(waiting_for)s::text is null or r.reason::text = %(waiting_for)s::text
"""
)


def _source(which: JobFilter) -> LiteralString:
    if which.waiting_for is not None or which.status is JobStatus.WAITING:
        return WAITING
    return FAILED if which.status is JobStatus.FAILED else ANY
