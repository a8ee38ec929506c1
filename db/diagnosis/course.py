"""How it went lately: what arrived, failed and was asked of models, by stretches of time.

In: how many stretches, and how long each is. Out: counts, the oldest stretch first, and the modes
that failed. Invariant: a count stops at `COUNTED_MAX` and reads an index only, so a page costs the
same after a million jobs a day. What arrived is counted by ids, which are made in order of time; no
index knows when jobs ended well, and one would cost each job that ends.
"""

from typing import LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.pool import Connection, execute, fetch_all

COUNTED_MAX = 1_000
FAILED_READ_MAX = 200


class Stretch(BaseModel):
    """A stretch of time from `at`, and what happened in it; 1,000 stands for 1,000 or more."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    arrived: int
    failed: int
    calls: int


class Failing(BaseModel):
    """The failed jobs of one mode, of the newest 200: how many, and the last of them."""

    model_config = ConfigDict(frozen=True)

    mode: str
    jobs: int
    last_id: UUID
    last_error: str | None
    last_at: AwareDatetime


# With stale statistics the planner may rather read the table than hop along its indexes.
PIN: LiteralString = """
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)
"""
STRETCHES: LiteralString = """
with stretch as materialized (
  select s.at, s.at + make_interval(secs => %(seconds)s) as until,
    rpad(lpad(to_hex((extract(epoch from s.at) * 1000)::bigint), 12, '0'), 32, '0')::uuid as lowest,
    rpad(lpad(to_hex((extract(epoch from s.at) * 1000 + %(seconds)s * 1000)::bigint), 12, '0'), 32,
      '0')::uuid as highest
  from (
    select now() - make_interval(secs => %(seconds)s * n) as at
    from generate_series(1, %(stretches)s::int) n) s
)
select s.at, a.jobs as arrived, f.jobs as failed, c.calls
from stretch s
cross join lateral (
  select count(*) as jobs from (
    select from jobsworth.reactive_jobs j
    where j.id >= s.lowest and j.id < s.highest
    limit %(most)s) x) a
cross join lateral (
  select count(*) as jobs from (
    select from jobsworth.reactive_jobs j
    where j.status = 'failed' and j.finished_at >= s.at and j.finished_at < s.until
    limit %(most)s) x) f
cross join lateral (
  select count(*) as calls from (
    select from jobsworth.llm_calls l
    where l.settled_at is not null and l.settled_at >= s.at and l.settled_at < s.until
    limit %(most)s) x) c
order by s.at
"""


async def stretches(conn: Connection, count: int, seconds: float) -> list[Stretch]:
    """The last `count` stretches of `seconds` each, in the caller's transaction."""
    await execute(conn, PIN)
    values = {"stretches": count, "seconds": seconds, "most": COUNTED_MAX}
    return await fetch_all(conn, STRETCHES, values, Stretch)


FAILING: LiteralString = """
with newest as materialized (
  select j.mode, j.id, j.error, j.finished_at
  from jobsworth.reactive_jobs j
  where j.status = 'failed' and j.finished_at > now() - make_interval(secs => %(seconds)s)
  order by j.finished_at desc
  limit %(most)s
)
select n.mode, count(*) as jobs, (array_agg(n.id order by n.finished_at desc))[1] as last_id,
  (array_agg(n.error order by n.finished_at desc))[1] as last_error, max(n.finished_at) as last_at
from newest n
group by n.mode
order by max(n.finished_at) desc
"""


async def failing(conn: Connection, seconds: float) -> list[Failing]:
    """The modes of which jobs failed in the last `seconds`, the last to fail first."""
    return await fetch_all(conn, FAILING, {"seconds": seconds, "most": FAILED_READ_MAX}, Failing)
