"""Windows of time in which a unique key stays held, whatever has become of its job.

`jobsworth.enqueue` opens them. Upkeep removes those that are over.
"""

from typing import LiteralString

from db.pool import Connection, fetch_val

FORGET: LiteralString = "select jobsworth.forget_unique_windows(%(most)s)"


async def forget(conn: Connection, most: int) -> int:
    """Remove windows that are over, at most `most`; returns how many."""
    return await fetch_val(conn, FORGET, {"most": most})
