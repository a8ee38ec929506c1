"""What the test kit asks of a database that belongs to one test, and does to it.

In: queues. Out: whether everything in them has come to rest, and a database in which time
has passed. None of it is for a database in use.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Identifier

from db.errors import translated
from db.pool import Connection, execute, fetch_all, fetch_val
from db.queue.jobs import JOB_COLUMNS, Job
from db.schema import DEFAULT_SCHEMA

SETTLED: LiteralString = """
select not exists (
  select from jobsworth.reactive_jobs j
  where j.queue = any(%(queues)s)
    and (j.status = 'running'
      or j.status = 'queued'
        and not exists (select from jobsworth.queues q where q.name = j.queue and q.paused)
      or j.status = 'waiting' and j.waiting_for = 'timer' and j.run_at <= clock_timestamp()
      -- Shelved by an upkeep that came before the worker that knows it.
      or j.status = 'waiting' and j.waiting_for = 'handler' and j.run_at is null
        and j.mode = any(%(modes)s)))
  and not exists (select from jobsworth.embedding_outbox o where o.last_error is null)
"""


async def is_settled(conn: Connection, queues: Sequence[str], modes: Sequence[str]) -> bool:
    """Whether in these queues no job is ready, due or running, nor one of these modes waiting for
    its handler, nor any text left to embed that no embedder has refused.
    """
    values = {"queues": list(queues), "modes": list(modes)}
    return bool(await fetch_val(conn, SETTLED, values))


NEXT_TIMER: LiteralString = """
select extract(epoch from min(j.run_at) - clock_timestamp())::float8
from jobsworth.reactive_jobs j
where j.status = 'waiting' and j.run_at is not null
  and (j.queue = any(%(queues)s) or %(queues)s::text[] = '{}')
"""


async def next_timer_seconds(conn: Connection, queues: Sequence[str]) -> float | None:
    """How long until the next waiting job of these queues, or of all, is due; None without one."""
    return await fetch_val(conn, NEXT_TIMER, {"queues": list(queues)})


QUEUES: LiteralString = "select distinct j.queue from jobsworth.reactive_jobs j"


async def queues_in_use(conn: Connection) -> list[str]:
    """The queues in which any job is or was."""
    cursor = conn.cursor(row_factory=tuple_row)
    return [str(name) for (name,) in await (await cursor.execute(QUEUES)).fetchall()]


EVERY_JOB: LiteralString = (
    "select "
    + JOB_COLUMNS
    + """
from jobsworth.reactive_jobs j
order by j.id
"""
)


async def every_job(conn: Connection) -> list[Job]:
    """All jobs, oldest first."""
    return await fetch_all(conn, EVERY_JOB, None, Job)


SETTLED_TOKENS: LiteralString = """
select coalesce(sum(l.input_tokens), 0)::bigint, coalesce(sum(l.output_tokens), 0)::bigint
from jobsworth.token_ledger l
where l.entry = 'settle'
"""


async def settled_tokens(conn: Connection) -> tuple[int, int]:
    """The input and output tokens of all answers in the books."""
    cursor = conn.cursor(row_factory=tuple_row)
    row = await (await cursor.execute(SETTLED_TOKENS)).fetchone()
    assert row is not None, "a sum has a row"
    return row[0], row[1]


# Budgets count calendar days, hours and months, which do not begin earlier.
TIMES: LiteralString = """
select c.table_name, array_agg(c.column_name::text)
from information_schema.columns c
join information_schema.tables t using (table_schema, table_name)
where c.table_schema = %(schema)s and t.table_type = 'BASE TABLE'
  and c.data_type = 'timestamp with time zone' and c.is_generated = 'NEVER'
  and c.table_name not in ('budget_windows', 'workers')
group by c.table_name
"""
WITHOUT_TRIGGERS: LiteralString = "set local session_replication_role = replica"


async def let_time_pass(conn: AsyncConnection[Any], by: timedelta) -> None:
    """Move every stored time into the past, in the caller's transaction. Needs a superuser."""
    schema = getattr(conn, "schema", DEFAULT_SCHEMA)
    await execute(conn, WITHOUT_TRIGGERS)
    with translated():
        async with conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(TIMES, {"schema": schema})
            for table, columns in await cursor.fetchall():
                changes = SQL(", ").join(
                    SQL("{0} = {0} - {1}").format(Identifier(column), by) for column in columns
                )
                target = Identifier(schema, table)
                await cursor.execute(SQL("update {} set {}").format(target, changes))
