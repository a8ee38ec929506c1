"""Writes that are tried again when their connection was lost, because a second try changes nothing.

In: a caller's connection, or a pool; and a write whose row has an id, or a key, that was made
before. Out: its result. On the caller's own connection the write belongs to the caller's
transaction, which only the caller can repeat, so it is tried once. From a pool it commits by
itself, and an answer that was lost on its way is asked for again, with exponential backoff.

Invariant: only a write that is harmless twice goes through here. Reads and other writes fail at
once: their caller decides.
"""

import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

import anyio
from psycopg import AsyncConnection

from db.arguments import check_connection
from db.errors import ConnectionRefused, DatabaseError
from db.pool import Database

T = TypeVar("T")

RETRY_SECONDS_MAX = 30.0
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.05, 5.0


async def write_safely(
    target: AsyncConnection[Any] | Database,
    write: Callable[[AsyncConnection[Any]], Awaitable[T]],
    *,
    once: bool = False,
) -> T:
    """The result of `write` on this connection, or on one of this pool's, where it is tried again
    for at most 30 seconds while the database is away, busy or full.

    `write` must change nothing when it has been done already, else it is tried `once`. Raises what
    it raised last.
    """
    if not isinstance(target, Database):
        check_connection(target)
        return await write(target)
    give_up = monotonic() + RETRY_SECONDS_MAX
    pause = PAUSE_SECONDS_MIN
    while True:
        try:
            async with target.connection() as connection:
                return await write(connection)
        except DatabaseError as error:
            lasts = not error.retriable or isinstance(error, ConnectionRefused)
            if once or lasts or monotonic() + pause > give_up:
                raise
        await anyio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(PAUSE_SECONDS_MAX, pause * 2)
