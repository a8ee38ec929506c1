"""Two connections in one test: one waits for what the other holds."""

from psycopg import AsyncConnection

from db.pool import Database
from tests.support import until

BLOCKED = """
select exists (
  select 1
  from pg_stat_activity a
  where a.datname = current_database() and a.pid = coalesce(%s, a.pid)
    and cardinality(pg_blocking_pids(a.pid)) > 0)
"""


async def is_blocked(database: Database, waiting: AsyncConnection) -> bool:
    """Whether `waiting` waits for a lock of another transaction.

    Behind a pooler its process cannot be told, so there it is any one of this database.
    """
    pid = None if getattr(waiting, "pooled", False) else waiting.info.backend_pid
    return bool(await database.fetch_val(BLOCKED, [pid]))


async def until_blocked(database: Database, waiting: AsyncConnection) -> None:
    """Return once `waiting` waits for a lock of another transaction."""
    await until(lambda: is_blocked(database, waiting))
