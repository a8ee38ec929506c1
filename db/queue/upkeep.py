"""Which kinds of upkeep have work to do right now.

Out: what is due, in one answer. Invariant: one statement that writes and locks nothing. Finished
jobs and the running jobs of living workers cost it nothing, so a worker without work may ask every
other second.
"""

from dataclasses import dataclass
from typing import LiteralString

from db.pool import Connection, fetch_one


@dataclass(frozen=True, slots=True)
class DueWork:
    """What upkeep has to do. `rescue`: the worker of a running job has no row. `sweep` names what
    to look at again: the reasons that jobs wait for, `orphan` if something open may hang on an
    ended job, and `run` if a run is open.
    `looked_seconds` is the time the server took to find out.
    """

    rescue: bool
    expire: bool
    deployments: bool
    sweep: list[str]
    looked_seconds: float


DUE_WORK: LiteralString = """
select c.rescue, c.expire, c.deployments, c.sweep, c.looked_seconds
from jobsworth.due_work() c
"""


async def due_work(conn: Connection) -> DueWork:
    """What is due."""
    found = await fetch_one(conn, DUE_WORK, None, DueWork)
    assert found is not None
    return found
