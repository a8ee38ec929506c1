"""The fence: proof that an attempt still holds its job, checked before anything is written for it.

A claim draws `lease_no` from a sequence and writes it, with `worker_id`, into the job's row. Every
later write of that attempt locks this row and checks its lease in the same transaction. If the
lease does not hold, nothing may be written. Neither column is ever cleared. Reading the lease
without the lock proves nothing: another worker may take the job right after.

`FENCE` is that lock. Every fenced statement of `db/` contains it, most of them through `FENCED`
(one lease) or `hold` (a lock for the statements that follow). `finish` and `start_calls`, functions
of the schema, have theirs inside.

`lease_no` alone is not enough: a sequence can repeat after an asynchronous failover, and
`worker_id` is new at every start of a process. Because the columns stay, a second try after a lost
COMMIT answer can tell "I finished it" from "I lost it".

The lock is taken by the primary key alone, and the lease is compared after it. With the lease in
the same condition the planner took the index of running jobs, which it believed empty, and walked
all of it for each job of a batch: 143 µs a job in batches of 500, against 28 µs.
"""

from typing import LiteralString, NamedTuple
from uuid import UUID

from db.errors import JobsworthError
from db.pool import BEGIN, Connection, fetch_one


# A named tuple, because one is made for each job: a frozen dataclass takes several times as long.
class Lease(NamedTuple):
    """Proof of a claim. `_asdict()` gives the parameters of `FENCED`."""

    job_id: UUID
    lease_no: int
    worker_id: UUID


class LeaseLost(JobsworthError):
    """Another attempt has the job now, or the job has ended; this attempt must stop."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(
            f"lease {lease.lease_no} of job {lease.job_id} is lost",
            "nothing was written; another attempt has the job",
        )
        self.lease = lease


# Locks the job of the lease `l` (job_id, lease_no, worker_id) and says whether the lease holds.
# `skip locked` may follow.
FENCE: LiteralString = """
  select j.id, j.team_id, j.worker_id,
    j.status = 'running' and j.lease_no = l.lease_no
      and j.worker_id is not distinct from l.worker_id as holds
  from jobsworth.reactive_jobs j
  where j.id = l.job_id and l.lease_no is not null
  for no key update"""

# The head of a statement that writes under one lease: `fence` is its job, or empty if the lease is
# lost (or null: then nothing is locked).
FENCED: LiteralString = (
    """
with locked as materialized (
  select f.id, f.team_id, f.worker_id, f.holds
  from (values (%(job_id)s::uuid, %(lease_no)s::bigint, %(worker_id)s::uuid))
    as l (job_id, lease_no, worker_id)
  cross join lateral ("""
    + FENCE
    + """) f
), fence as materialized (
  select k.id, k.team_id, k.worker_id from locked k where k.holds
)"""
)

HOLD: LiteralString = FENCED + " select f.id from fence f"


async def hold(conn: Connection, lease: Lease) -> None:
    """Lock the job's row for the rest of the caller's transaction. Raises `LeaseLost`."""
    if await fetch_one(conn, HOLD, lease._asdict()) is None:
        raise LeaseLost(lease)


# How a transaction begins, in one round trip, that keeps the planner on its indexes.
PINNED: LiteralString = (
    BEGIN
    + """;
set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off;
set local enable_bitmapscan = off; set local plan_cache_mode = force_generic_plan
"""
)
