"""The fence: proof that an attempt still holds its job, asked before anything is written for it.

A claim draws `lease_no` from a sequence and writes it, with `worker_id`, into the job's row. Every
later write of that attempt first locks the row under both and `status = 'running'`, in the same
transaction, or is itself that update. No row means that the lease is lost: nothing may be written.
Neither column is ever cleared. A read is no fence: another worker may take the job right after it.
"""

from typing import LiteralString, NamedTuple
from uuid import UUID

from db.errors import JobsworthError
from db.pool import BEGIN


# A named tuple, because one is made for each job: a frozen dataclass takes several times as long.
class Lease(NamedTuple):
    """Proof of a claim; the fence of every write of that attempt."""

    job_id: UUID
    lease_no: int
    worker_id: UUID


class LeaseLost(JobsworthError):
    """The job belongs to somebody else now, or has ended; this attempt must stop."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(
            f"lease {lease.lease_no} of job {lease.job_id} is lost",
            "nothing was written; another attempt has the job",
        )
        self.lease = lease


# How a transaction begins, in one round trip, that keeps the planner on its indexes.
PINNED: LiteralString = (
    BEGIN
    + """;
set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off;
set local enable_bitmapscan = off; set local plan_cache_mode = force_generic_plan
"""
)
