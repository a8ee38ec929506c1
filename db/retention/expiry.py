"""Jobs that expire: canceled unless they have started by their `expires_at`.

In: the time. Out: canceled jobs. The claim takes no expired job; this ends them, whether or not a
worker knows their mode.
"""

from typing import LiteralString

from db.pool import Connection, fetch_val

EXPIRE_JOBS: LiteralString = "select jobsworth.expire_jobs(%(most)s)"


async def expire_jobs(conn: Connection, most: int) -> int:
    """Cancel up to `most` jobs that should have started by now; returns how many it canceled."""
    return await fetch_val(conn, EXPIRE_JOBS, {"most": most})
