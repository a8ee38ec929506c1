"""Turns for jobs that wait at gates: when a rate is due, and after crashes.

In: nothing but what waits. Out: queued jobs. The transaction that ends a job promotes what its
slots free (`db.queue.promote.unblock`); these are for what time brings, and for what was missed.
"""

from typing import LiteralString

from db.pool import Connection, fetch_val

FIRST_GATE = -(2**63)

PROMOTE_DUE: LiteralString = "select jobsworth.promote_due_rates(%(most)s::int)"


async def promote_due(conn: Connection, most: int) -> float | None:
    """Give turns at up to `most` keys of rates that are due. Returns in how many seconds the next
    is due; None if no job waits for a rate.
    """
    return await fetch_val(conn, PROMOTE_DUE, {"most": most})


SWEEP: LiteralString = "select jobsworth.sweep_gates(%(after)s::bigint, %(most)s::int)"


async def sweep(conn: Connection, after: int, most: int) -> int:
    """Look at up to `most` gates after this one; returns the one after which the next look goes
    on.
    """
    found = await fetch_val(conn, SWEEP, {"after": after, "most": most})
    return FIRST_GATE if found is None else found
