"""Limits of jobs: how many run at once, and how many start in a time, in all or for each key.

In: a `JobLimit` to set, or the name of one. Out: rows of `job_limits`, which the claim enforces
(migrations/schema/limits), and who holds what now. A limit that was set holds for the claims that
begin after its commit.
"""

from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import InvalidInput, NotFound, shown
from db.pool import execute, fetch_all, fetch_one

NUMBER_MAX = 1_000_000
SECONDS_MIN, SECONDS_MAX = 0.001, 3_153_600_000.0


class Per(StrEnum):
    """The key of a limit: each value of it is limited by itself. A job without one is not."""

    TEAM = "team"
    THREAD = "thread"
    LANE = "lane"
    AGENT = "agent"
    KEY = "key"
    """The job's `limit_key`."""


class JobLimit(BaseModel):
    """A row of `job_limits`.

    queue, mode: whose jobs it is for; None: of all. Either `slots` (how many run at once) or `rate`
    in each `per_seconds` (how many start, by weight). burst of slots: how many one key may hold
    while all keys together hold fewer; of a rate: how many may start at once after a rest.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    queue: str | None
    mode: str | None
    per: Per | None
    slots: int | None
    rate: int | None
    per_seconds: float | None
    burst: int | None
    changed_at: AwareDatetime


class LimitUse(JobLimit):
    """A limit, and what it does now: slots taken by running jobs, and jobs that wait for it."""

    taken: int
    waiting: int


class KeyUse(BaseModel):
    """One key of a limit: slots taken, jobs that wait, and how much room is left (slots, or weight
    that may start now).
    """

    model_config = ConfigDict(frozen=True)

    key: str
    taken: int
    waiting: int
    room: float


SET: LiteralString = """
select s.limit_name::text as name, s.queue::text, s.mode::text, s.per::text, s.slots::int,
  s.rate::int, s.per_seconds::float8, s.burst::int, s.changed_at::timestamptz
from jobsworth.set_job_limit(%(name)s, %(queue)s, %(mode)s, %(per)s, %(slots)s::int,
  %(rate)s::int, %(per_seconds)s::float8, %(burst)s::int) s
"""


async def set_limit(
    conn: AsyncConnection[Any],
    name: str,
    *,
    queue: str | None = None,
    mode: str | None = None,
    per: Per | str | None = None,
    slots: int | None = None,
    rate: int | None = None,
    per_seconds: float | None = None,
    burst: int | None = None,
) -> JobLimit:
    """Set a limit, or change what is given of one; see `JobLimit`. `per_seconds` defaults to 60.

    Jobs that run already count for it. Raises `InvalidInput`.
    """
    for thing, number in (("slots", slots), ("rate", rate), ("burst", burst)):
        if number is not None and (type(number) is not int or number > NUMBER_MAX):
            raise InvalidInput(
                f"{thing} {shown(number)} is not a whole number from 1 to {NUMBER_MAX:,}",
                "remove the limit to have none: jobsworth job-limit remove",
            )
    values = {
        "name": name,
        "queue": queue,
        "mode": mode,
        "per": per,
        "slots": slots,
        "rate": rate,
        "per_seconds": per_seconds,
        "burst": burst,
    }
    found = await fetch_one(conn, SET, values, JobLimit)
    assert found is not None
    return found


REMOVE: LiteralString = "select jobsworth.remove_job_limit(%(name)s)"


async def remove(conn: AsyncConnection[Any], name: str) -> None:
    """Remove a limit; the jobs that wait for it go on. Raises `NotFound`."""
    await execute(conn, REMOVE, {"name": name})


# The jobs that wait are read once, for all limits: a million take about a second.
LIST: LiteralString = """
with held_up as (
  select split_part(substr(j.waiting_detail, length('limit ') + 1), ',', 1) as limit_name,
    count(*) as jobs
  from jobsworth.reactive_jobs j
  where j.status = 'waiting' and j.waiting_for = 'limit' and j.run_at is null
    and j.waiting_detail like 'limit %%'
  group by 1
)
select l.limit_name::text as name, l.queue::text, l.mode::text, l.per::text, l.slots::int,
  l.rate::int, l.per_seconds::float8, l.burst::int, l.changed_at::timestamptz,
  case when l.slots is null then 0 else jobsworth.slots_taken(l.limit_name, null) end as taken,
  coalesce(h.jobs, 0) as waiting
from jobsworth.job_limits l
left join held_up h using (limit_name)
order by l.limit_name
"""


async def list_all(conn: AsyncConnection[Any]) -> list[LimitUse]:
    """All limits, by name."""
    return await fetch_all(conn, LIST, None, LimitUse)


KEYS: LiteralString = """
with keys as (
  select s.key::text as key from jobsworth.job_limit_slots s where s.limit_name = %(name)s
  union
  select k.key::text from jobsworth.job_limit_rates k where k.limit_name = %(name)s
  union
  (select case when strpos(j.waiting_detail, ', ') = 0 then ''
    else substr(j.waiting_detail,
      length('limit ' || l.limit_name || ', ' || l.per::text || ' ') + 1) end
  from jobsworth.job_limits l
  join jobsworth.reactive_jobs j
    on j.status = 'waiting' and j.waiting_for = 'limit' and j.run_at is null
      and (j.waiting_detail = 'limit ' || l.limit_name
        or j.waiting_detail like 'limit ' || l.limit_name || ', ' || l.per::text || ' %%')
  where l.limit_name = %(name)s
  limit 10000)
)
select k.key, case when l.slots is null then 0
    else jobsworth.slots_taken(l.limit_name, k.key) end as taken,
  cardinality(jobsworth.waiters_at(jobsworth.gate(l.limit_name, l.per, k.key), 1000)) as waiting,
  jobsworth.room_at(l.limit_name, k.key) as room
from keys k
join jobsworth.job_limits l on l.limit_name = %(name)s
order by waiting desc, taken desc, k.key
limit %(most)s
"""


async def keys(conn: AsyncConnection[Any], name: str, most: int = 100) -> list[KeyUse]:
    """The keys of a limit that hold or wait for something, the busiest first."""
    if not any(each.name == name for each in await list_all(conn)):
        raise NotFound(f"there is no limit {name}", "list limits: jobsworth job-limit list")
    return await fetch_all(conn, KEYS, {"name": name, "most": most}, KeyUse)


HOLDERS: LiteralString = """
select s.job_id
from jobsworth.job_limit_slots s
cross join lateral (
  select r.status, r.lease_no from jobsworth.reactive_jobs r where r.id = s.job_id offset 0) j
where s.limit_name = %(name)s and s.key = %(key)s and s.lease_no is not null
  and jobsworth.slot_counts(s.lease_no, s.turn_at, j.status, j.lease_no)
order by s.job_id
limit %(most)s
"""


async def holders(
    conn: AsyncConnection[Any], name: str, key: str = "", most: int = 100
) -> list[UUID]:
    """The running jobs that hold slots of a limit and key."""
    values = {"name": name, "key": key, "most": most}
    return [row["job_id"] for row in await fetch_all(conn, HOLDERS, values)]
