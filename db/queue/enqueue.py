"""Enqueue one job in the caller's own transaction.

In: a mode, a payload and options. Out: a row of `reactive_jobs`, queued, or waiting for its timer,
its lane or the jobs it needs, as the database decides. It commits or rolls back with the caller's
transaction, or by itself if a pool is given. Its id is made here unless given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString, Unpack
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from db.arguments import check_options
from db.errors import Refused, translated
from db.ids import uuidv7
from db.pool import STATEMENT_SECONDS, Database, bounded
from db.queue.enqueue_middleware import through
from db.queue.new_job import PAYLOAD_BYTES_MAX, EnqueueOptions, NewJob
from db.safe_write import write_safely
from db.schema import DEFAULT_SCHEMA, render


@dataclass(frozen=True, slots=True)
class Enqueued:
    """`created` is False when another job held the unique key; `job_id` is that job then.

    `replaced`: that job waited, and has taken what this call says.
    """

    job_id: UUID
    created: bool
    replaced: bool = False


# What the call did is asked for only where the id of the job does not tell it.
ENQUEUE: LiteralString = """
select e.job_id, case when %(replaces)s then jobsworth.enqueue_outcome(%(id)s::uuid) end
from jobsworth.enqueue(
  mode => %(mode)s,
  payload => %(payload)s::jsonb,
  queue => %(queue)s,
  priority => %(priority)s::int,
  run_at => %(run_at)s::timestamptz,
  delay => %(delay)s::interval,
  thread_id => %(thread_id)s::uuid,
  trigger_message_id => %(trigger_message_id)s::uuid,
  lane => %(lane)s,
  unique_key => %(unique_key)s,
  failures_max => %(failures_max)s::int,
  timeout_seconds => %(timeout_seconds)s::float8,
  trace_parent => %(trace_parent)s,
  team_id => %(team_id)s::uuid,
  after => %(after)s::uuid[],
  holds_lane => %(holds_lane)s::boolean,
  crashes_max => %(crashes_max)s::int,
  id => %(id)s::uuid,
  agent_id => %(agent_id)s::uuid,
  request_id => %(request_id)s,
  limit_key => %(limit_key)s,
  limit_weight => %(limit_weight)s::int,
  expires_at => %(expires_at)s::timestamptz,
  expires_in => %(expires_in)s::interval,
  unique_until => %(unique_until)s,
  unique_seconds => %(unique_seconds)s::float8,
  on_conflict => %(on_conflict)s,
  debounce_seconds => %(debounce_seconds)s::float8,
  debounce_max_seconds => %(debounce_max_seconds)s::float8,
  fair_key => %(fair_key)s,
  session_id => %(session_id)s::uuid) as e (job_id)
"""


async def enqueue(
    conn: psycopg.AsyncConnection[Any] | Database,
    mode: str,
    payload: Mapping[str, Any] | None = None,
    *,
    schema: str | None = None,
    payload_bytes_max: int = PAYLOAD_BYTES_MAX,
    **options: Unpack[EnqueueOptions],
) -> Enqueued:
    """Enqueue a job in the transaction of `conn`, which may be any psycopg connection.

    With a `Database` in place of the connection the job is committed on return; a connection that
    is lost meanwhile is replaced, and the job enqueued once. Your own transaction is yours to
    repeat: give the job an `id`.

    `NewJob` explains the options. `schema` defaults to that of a connection of `db.pool`, else to
    "jobsworth". If another job holds the unique key, that job is returned, unless `on_conflict`
    says otherwise. If an uncommitted transaction takes or frees the key, this waits until it ends.
    A call that is repeated with the same `id`, after the answer to its COMMIT was lost, adds and
    changes nothing. Raises `InvalidInput` before anything is sent, `Conflict` if it is to be
    rejected, and the other errors of `db.errors`.
    """
    values = _values(_new_job(mode, payload, options), payload_bytes_max)
    statement = render(ENQUEUE, schema_of(conn, schema))

    async def write(connection: psycopg.AsyncConnection[Any]) -> Enqueued:
        async with bounded(statement_seconds_of(connection)):
            with translated():
                async with connection.cursor(row_factory=tuple_row) as cursor:
                    await cursor.execute(statement, values)
                    return _enqueued(values, await cursor.fetchone())

    return await write_safely(conn, write)


def enqueue_sync(
    conn: psycopg.Connection[Any],
    mode: str,
    payload: Mapping[str, Any] | None = None,
    *,
    schema: str = DEFAULT_SCHEMA,
    payload_bytes_max: int = PAYLOAD_BYTES_MAX,
    **options: Unpack[EnqueueOptions],
) -> Enqueued:
    """`enqueue` on a plain, blocking psycopg connection."""
    values = _values(_new_job(mode, payload, options), payload_bytes_max)
    statement = render(ENQUEUE, schema)
    with translated(), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statement, values)
        return _enqueued(values, cursor.fetchone())


def _new_job(mode: str, payload: Mapping[str, Any] | None, options: EnqueueOptions) -> NewJob:
    try:
        new = NewJob(mode, payload, **options)
    except TypeError:
        check_options("enqueue", options, EnqueueOptions.__annotations__)
        raise
    return through(new)


def _values(job: NewJob, payload_bytes_max: int) -> dict[str, Any]:
    return {
        "id": job.id or uuidv7(),
        "mode": job.mode,
        "payload": job.payload_json(payload_bytes_max),
        "queue": job.queue,
        "priority": job.priority,
        "run_at": job.run_at,
        "delay": job.delay_interval(),
        "thread_id": job.thread_id,
        "trigger_message_id": job.trigger_message_id,
        "lane": job.lane,
        "unique_key": job.unique_key,
        "unique_until": job.unique_until,
        "unique_seconds": job.unique_seconds,
        "on_conflict": job.on_conflict,
        "debounce_seconds": job.debounce_seconds,
        "debounce_max_seconds": job.debounce_max_seconds,
        "replaces": job.replaces,
        "failures_max": job.failures_max,
        "crashes_max": job.crashes_max,
        "timeout_seconds": job.timeout_seconds,
        "trace_parent": job.trace_parent,
        "team_id": job.team_id,
        "after": list(job.after),
        "holds_lane": job.holds_lane,
        "agent_id": job.agent_id,
        "request_id": job.request_id,
        "limit_key": job.limit_key,
        "limit_weight": job.limit_weight,
        "expires_at": job.expires_at,
        "expires_in": job.expires_interval(),
        "fair_key": job.fair_key,
        "session_id": job.session_id,
    }


def _enqueued(values: Mapping[str, Any], row: tuple[Any, ...] | None) -> Enqueued:
    if row is None:
        raise Refused("enqueue returned no row", "migrate the schema: jobsworth migrate")
    return Enqueued(row[0], created=row[0] == values["id"], replaced=row[1] == "replaced")


def schema_of(conn: psycopg.AsyncConnection[Any] | Database, schema: str | None) -> str:
    """The schema given, else that of the connection, else the default."""
    return schema or getattr(conn, "schema", DEFAULT_SCHEMA)


def statement_seconds_of(conn: psycopg.AsyncConnection[Any]) -> float:
    """The connection's time limit for a statement, else the default."""
    return getattr(conn, "statement_seconds", STATEMENT_SECONDS)
