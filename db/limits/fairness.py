"""Fair queues: their claims, their weights, and the keys of jobs that came before fairness did.

In: a queue, keys, weights. Out: jobs in the shares of their keys. The functions of the schema
(migrations/schema/limits) keep the order; the statements here that look for what nobody announced
are bounded, and wait for nobody.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import args_row

from db.pool import Connection, execute, fetch_all, fetch_one, fetch_rows
from db.queue.claim import CLAIMED_COLUMNS, Claim, Claimed, claim_of

CLAIM_FAIR: LiteralString = (
    "select "
    + CLAIMED_COLUMNS
    + """
from jobsworth.claim_fair(%(worker_id)s, %(queue)s, %(modes)s::text[], %(wanted)s, %(crashes_max)s,
  %(suspect_wanted)s, %(alone)s, %(rescan)s) as c
"""
)


async def claim_fair(
    conn: Connection,
    *,
    worker_id: UUID,
    queue: str,
    modes: Sequence[str],
    wanted: int,
    crashes_max: int,
    suspect_wanted: bool,
    alone: bool,
    rescan: bool,
) -> Claim:
    """Take up to `wanted` queued jobs of a fair queue; committed on return.

    Nothing is taken from a queue that is paused or not fair. With `rescan` it finds what was
    committed late. Raises `Refused` as `claim` does.
    """
    values = {
        "worker_id": worker_id,
        "queue": queue,
        "modes": list(modes),
        "wanted": wanted,
        "crashes_max": crashes_max,
        "suspect_wanted": suspect_wanted,
        "alone": alone,
        "rescan": rescan,
    }
    rows = await fetch_rows(conn, CLAIM_FAIR, values, args_row(Claimed), prepare=True)
    # A key with less than its share leaves jobs of others for the next claim.
    return replace(claim_of(rows, wanted), all_found=not rows)


SET_FAIR: LiteralString = "select jobsworth.set_fair(%(queue)s, %(fair)s)"


async def set_fair(conn: AsyncConnection[Any], queue: str, fair: bool = True) -> None:
    """Start the queue's jobs in turns of their keys, or in their order again.

    Raises `InvalidInput`.
    """
    await execute(conn, SET_FAIR, {"queue": queue, "fair": fair})


SET_WEIGHT: LiteralString = """
select jobsworth.set_fair_weight(%(queue)s, %(fair_key)s, %(weight)s::float8)
"""


async def set_weight(conn: AsyncConnection[Any], queue: str, fair_key: str, weight: float) -> None:
    """Serve the key `weight` times as often as one with weight 1; 0.001 to 1000.

    Raises `InvalidInput`.
    """
    values = {"queue": queue, "fair_key": fair_key, "weight": weight}
    await execute(conn, SET_WEIGHT, values)


KEY_JOBS: LiteralString = """
with slice as materialized (
  select j.id, j.position, j.fair_key is null as unkeyed
  from unnest('{1,2,3,4}'::smallint[]) as p (priority)
  cross join lateral (
    select r.id, r.priority, r.position, r.fair_key
    from jobsworth.reactive_jobs r
    where r.status = 'queued' and r.queue = %(queue)s and r.priority = p.priority
      and r.position > %(after)s
    order by r.position
    limit %(most)s) j
  order by j.position
  limit %(most)s
), locked as materialized (
  select r.id
  from jobsworth.reactive_jobs r
  where r.id = any(array(select s.id from slice s where s.unkeyed)) and r.fair_key is null
  order by r.position
  for no key update skip locked
), keyed as (
  update jobsworth.reactive_jobs j
  set fair_key = coalesce(j.team_id::text, 'none')
  where j.id = any(array(select l.id from locked l))
  returning j.id
)
select (select count(*) from keyed)::int as keyed,
  (select max(s.position) from slice s having count(*) = %(most)s) as next
"""


async def key_jobs(conn: Connection, queue: str, after: int, most: int) -> tuple[int, int | None]:
    """Give their keys to those of the next `most` queued jobs after this position that have none.

    They were there before the queue was fair. Returns how many, and the position after which the
    next slice begins, None when the end was reached.
    """
    row = await fetch_one(conn, KEY_JOBS, {"queue": queue, "after": after, "most": most})
    assert row is not None
    return row["keyed"], row["next"]


ANNOUNCE_KEYS: LiteralString = """
with recursive key (priority, fair_key, n) as (
  (select r.priority, r.fair_key, 1
   from jobsworth.reactive_jobs r
   where r.queue = %(queue)s and (r.priority, r.fair_key) > (%(priority)s::smallint, %(fair_key)s)
     and r.fair_key is not null and r.finished_at is null and r.status not in ('waiting', 'running')
   order by r.priority, r.fair_key
   limit 1)
  union all
  select f.priority, f.fair_key, k.n + 1
  from key k
  cross join lateral (
    select r.priority, r.fair_key
    from jobsworth.reactive_jobs r
    where r.queue = %(queue)s and (r.priority, r.fair_key) > (k.priority, k.fair_key)
      and r.fair_key is not null and r.finished_at is null
      and r.status not in ('waiting', 'running')
    order by r.priority, r.fair_key
    limit 1) f
  where k.n < %(most)s
), announced as materialized (
  select k.priority, k.fair_key, k.n,
    jobsworth.announce_key(%(queue)s, k.priority::smallint, k.fair_key)
  from key k
)
select a.priority, a.fair_key, count(*) over () as looked
from announced a
order by a.n desc
limit 1
"""


async def announce_keys(
    conn: Connection, queue: str, after: tuple[int, str], most: int
) -> tuple[int, str] | None:
    """Announce the keys of queued jobs that claims do not know: up to `most`, after this one.

    Only needed after late commits and odd updates. Returns (priority, key) after which the next
    slice begins, None when the end was reached.
    """
    values = {"queue": queue, "priority": after[0], "fair_key": after[1], "most": most}
    found = await fetch_all(conn, ANNOUNCE_KEYS, values)
    if not found or found[0]["looked"] < most:
        return None
    return found[0]["priority"], found[0]["fair_key"]
