"""How long a loop of the daemon waits for the database's answer.

A connection may be dead without a word, so the first wait is short: ten seconds after its death the
connection is replaced. A statement may also need longer than that, so each wait in vain doubles the
next one; an answer makes it short again.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic

import anyio

from db.errors import Unavailable
from db.pool import Connection, Database, bounded

FIRST_SECONDS = 6.0
SECONDS_MAX = 60.0


class Patience:
    """The bound of one loop's waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seconds = FIRST_SECONDS

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """A connection for a block that is shielded and bounded, as is the wait for it.

        Raises `Unavailable` if no connection, or no answer, came in time.
        """
        began = monotonic()
        try:
            async with AsyncExitStack() as stack:
                connection = await self._borrowed(stack)
                async with bounded(self._seconds):
                    yield connection
        except Unavailable:
            if monotonic() - began >= self._seconds:
                self._seconds = min(SECONDS_MAX, 2 * self._seconds)
            raise
        self._seconds = FIRST_SECONDS

    async def _borrowed(self, stack: AsyncExitStack) -> Connection:
        try:
            # Not shielded: while the database is down, a stop does not wait for it.
            with anyio.fail_after(self._seconds):
                return await stack.enter_async_context(self._database.connection())
        except TimeoutError as error:
            raise Unavailable(
                f"no database connection became free within {self._seconds:g} s",
                "see jobsworth doctor",
            ) from error
