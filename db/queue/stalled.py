"""Transactions of ours that hold rows while the server waits for their client.

A client that is stopped (SIGSTOP, a frozen machine) while it receives or sends a large message
holds what it has locked: claimed jobs stay queued for everybody else, and a rescue skips held rows.
PostgreSQL bounds only a transaction that is idle between messages. A time limit for a statement
does not reach a server process that is sending, and `transaction_timeout` (from 17 on) does not
either; being terminated does. The common look (`db/queue/upkeep.py`) finds them.
"""

from collections.abc import Collection
from typing import LiteralString, NamedTuple

from db.pool import Connection, fetch_all

# How a worker's pools introduce themselves to the server.
APPLICATIONS = ["jobsworth worker", "jobsworth handlers"]


class Stalled(NamedTuple):
    """A server process that waits for its client, and the statement that it has been at."""

    pid: int
    query_began: str


END: LiteralString = """
select pg_terminate_backend(a.pid) as ended
from pg_stat_activity a
join unnest(%(pids)s::int[], %(began)s::text[]) as s (pid, query_began)
  on s.pid = a.pid and s.query_began = a.query_start::text
where a.state = 'active' and a.wait_event_type = 'Client'
"""


async def end_stalled(conn: Connection, stalled: Collection[Stalled]) -> int:
    """Terminate those of these that still wait at the same statement; returns how many."""
    values = {
        "pids": [one.pid for one in stalled],
        "began": [one.query_began for one in stalled],
    }
    return sum(row["ended"] for row in await fetch_all(conn, END, values))
