"""What there is to do for upkeep, in one look.

In: how old a heartbeat may be. Out: which chores have something to do right now. Invariant: one
message that writes and locks nothing, and that finished jobs and living workers' running ones cost
nothing, so that a worker without work may ask every other second.
"""

from dataclasses import dataclass
from typing import LiteralString

from db.pool import Connection, fetch_one


@dataclass(frozen=True, slots=True)
class Chores:
    """What is to be done. `sweep` has the reasons that somebody waits for, `orphan` if
    something open might hang on an ended job, and `run` if a run is open. `looked_seconds` is what
    the look took the server.
    """

    rescue: bool
    expire: bool
    deployments: bool
    sweep: list[str]
    looked_seconds: float


LOOK: LiteralString = """
select c.rescue, c.expire, c.deployments, c.sweep, c.looked_seconds
from jobsworth.chores(%(rescue_seconds)s) c
"""


async def look(conn: Connection, rescue_seconds: float) -> Chores:
    """Workers that have not beaten for `rescue_seconds` count as dead."""
    chores = await fetch_one(conn, LOOK, {"rescue_seconds": rescue_seconds}, Chores)
    assert chores is not None
    return chores
