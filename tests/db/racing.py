"""Two connections in one test: one waits for what the other holds."""

from psycopg import AsyncConnection

from db.pool import Database
from tests.support import until


async def until_blocked(database: Database, waiting: AsyncConnection) -> None:
    """Return once `waiting` waits for a lock of another transaction."""
    pid = waiting.info.backend_pid

    async def blocked() -> bool:
        query = "select cardinality(pg_blocking_pids(%s)) > 0"
        return bool(await database.fetch_val(query, [pid]))

    await until(blocked)
