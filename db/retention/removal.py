"""Removing jobs that have been kept long enough.

In: the id after which to look. Out: jobs and runs that are gone with what hangs on them. One batch
is one statement and one commit; only one worker at a time does it.
"""

from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from db.pool import Connection, fetch_one


@dataclass(frozen=True, slots=True)
class Removed:
    """What left. `next` is where to look next, None at the end; `busy`: another worker does it."""

    jobs: int
    runs: int
    next: UUID | None
    busy: bool


REMOVE_ENDED: LiteralString = """
select r.jobs, r.runs, r.next, r.busy from jobsworth.remove_ended(%(after)s, %(most)s) r
"""


async def remove_ended(conn: Connection, after: UUID, most: int) -> Removed:
    """Look at the next `most` jobs after this id, and remove those that may leave."""
    row = await fetch_one(conn, REMOVE_ENDED, {"after": after, "most": most})
    assert row is not None
    return Removed(**row)
