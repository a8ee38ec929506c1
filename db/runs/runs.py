"""Runs: one piece of agent work, made of jobs that each have a unique node.

In: nodes and options, or the id of a run. Out: the run with all its jobs, in the caller's own
transaction. A run's status follows from its jobs (`move_runs`, a function of the schema), or is set
by hand for a run without jobs. `db.runs.view` reads what belongs to a run.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString, Unpack
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_limit, check_options, named
from db.documents import to_text
from db.errors import NotFound, Refused, translated
from db.ids import uuidv7
from db.pool import Database, bounded, execute, fetch_all, fetch_one, fetch_val
from db.queue.enqueue import schema_of, statement_seconds_of
from db.queue.new_job import PAYLOAD_BYTES_MAX
from db.runs.new_run import After, Node, RunOptions, StartOptions, nodes_json, object_json
from db.runs.view import (
    Edge,
    Graph,
    GraphNode,
    Metric,
    RunStats,
    get_artifacts,
    get_calls,
    get_graph,
    get_jobs,
    get_steps,
    last_beat,
    metrics,
    stats,
)
from db.safe_write import write_safely
from db.schema import DEFAULT_SCHEMA, render
from db.transactions import transaction

__all__ = [
    "LIMIT_MAX",
    "After",
    "Edge",
    "Graph",
    "GraphNode",
    "Metric",
    "Node",
    "Run",
    "RunOptions",
    "RunStarted",
    "RunStats",
    "RunStatus",
    "StartOptions",
    "Transition",
    "cancel",
    "count",
    "delete",
    "get",
    "get_artifacts",
    "get_calls",
    "get_graph",
    "get_jobs",
    "get_steps",
    "last_beat",
    "list_runs",
    "metrics",
    "retry",
    "set_status",
    "start",
    "start_sync",
    "stats",
    "transitions",
    "upsert",
]

LIMIT_MAX = 1_000


class RunStatus(StrEnum):
    DRAFT = "draft"
    PLANNING = "planning"
    EXECUTING = "executing"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"


class Run(BaseModel):
    """A row of `runs`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    project_id: UUID | None
    session_id: UUID | None
    thread_id: UUID | None
    agent_id: UUID | None
    actor: str | None
    trace_id: str | None
    idempotency_key: str | None
    request: Any
    metadata: Any
    status: RunStatus
    cancel_requested: bool
    result: Any
    error: str | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    updated_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class RunStarted:
    """`created` is False when a run had the idempotency key (or the id) already."""

    run_id: UUID
    created: bool


START: LiteralString = """
select jobsworth.start_run(
  nodes => %(nodes)s::jsonb,
  request => %(request)s::jsonb,
  actor => %(actor)s,
  thread_id => %(thread_id)s::uuid,
  agent_id => %(agent_id)s::uuid,
  team_id => %(team_id)s::uuid,
  session_id => %(session_id)s::uuid,
  project_id => %(project_id)s::uuid,
  trace_id => %(trace_id)s,
  idempotency_key => %(idempotency_key)s,
  trigger_message_id => %(trigger_message_id)s::uuid,
  trace_parent => %(trace_parent)s,
  request_id => %(request_id)s,
  metadata => %(metadata)s::jsonb,
  status => %(status)s::jobsworth.run_status,
  id => %(id)s::uuid)
"""


async def start(
    conn: AsyncConnection[Any] | Database,
    nodes: Sequence[Node] | str,
    *,
    id: UUID | None = None,
    schema: str | None = None,
    payload_bytes_max: int = PAYLOAD_BYTES_MAX,
    **options: Unpack[StartOptions],
) -> RunStarted:
    """Start a run of these nodes in the transaction of `conn`, which may be any psycopg connection.

    With a `Database` in place of the connection the run is committed on return; a connection that
    is lost meanwhile is replaced, and the run started once.

    `nodes` may also be JSON text: an array as the SQL function `start_run` takes it. All jobs and
    edges are written, or nothing. If a run of the team has the idempotency key already, that run is
    returned unchanged; a draft with that key (or `id`) is started. Raises `InvalidInput` for an
    invalid node, for names that are used twice or unknown, and for a circle, which it spells out.
    """
    values = _start_values(nodes, id, payload_bytes_max, options)
    statement = render(START, schema_of(conn, schema))

    async def write(connection: AsyncConnection[Any]) -> RunStarted:
        async with bounded(statement_seconds_of(connection)):
            with translated(), named(values):
                async with connection.cursor(row_factory=tuple_row) as cursor:
                    await cursor.execute(statement, values)
                    return _started(values, await cursor.fetchone())

    return await write_safely(conn, write)


def start_sync(
    conn: psycopg.Connection[Any],
    nodes: Sequence[Node] | str,
    *,
    id: UUID | None = None,
    schema: str = DEFAULT_SCHEMA,
    payload_bytes_max: int = PAYLOAD_BYTES_MAX,
    **options: Unpack[StartOptions],
) -> RunStarted:
    """`start` on a plain, blocking psycopg connection."""
    values = _start_values(nodes, id, payload_bytes_max, options)
    statement = render(START, schema)
    with translated(), named(values), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statement, values)
        return _started(values, cursor.fetchone())


def _start_values(
    nodes: Sequence[Node] | str, id: UUID | None, payload_bytes_max: int, options: StartOptions
) -> dict[str, Any]:
    check_options("start", options, StartOptions.__annotations__)
    return {
        **_values(options),
        "id": id or uuidv7(),
        "nodes": nodes_json(nodes, payload_bytes_max),
        "trigger_message_id": options.get("trigger_message_id"),
        "trace_parent": options.get("trace_parent"),
        "request_id": options.get("request_id"),
        "status": options.get("status", RunStatus.EXECUTING),
    }


def _values(options: RunOptions | StartOptions) -> dict[str, Any]:
    return {
        **{name: options.get(name) for name in RunOptions.__annotations__},
        "request": object_json(options.get("request"), "the request of a run"),
        "metadata": object_json(options.get("metadata"), "the metadata of a run"),
    }


def _started(values: Mapping[str, Any], row: tuple[Any, ...] | None) -> RunStarted:
    if row is None:
        raise Refused("start_run returned no row", "migrate the schema: jobsworth migrate")
    return RunStarted(row[0], created=row[0] == values["id"])


UPSERT: LiteralString = """
select u.run_id, u.created from jobsworth.upsert_run(
  request => %(request)s::jsonb,
  actor => %(actor)s,
  thread_id => %(thread_id)s::uuid,
  agent_id => %(agent_id)s::uuid,
  team_id => %(team_id)s::uuid,
  session_id => %(session_id)s::uuid,
  project_id => %(project_id)s::uuid,
  trace_id => %(trace_id)s,
  idempotency_key => %(idempotency_key)s,
  metadata => %(metadata)s::jsonb) u
"""


async def upsert(conn: AsyncConnection[Any], **options: Unpack[RunOptions]) -> RunStarted:
    """Create a draft run, or change the run that has this idempotency key or trace id.

    Options that are left out stay as they are. Raises `InvalidInput` without a key; `Conflict` if
    it would change a run that has ended.
    """
    check_options("upsert", options, RunOptions.__annotations__)
    row = await fetch_one(conn, UPSERT, _values(options))
    assert row is not None
    return RunStarted(row["run_id"], row["created"])


RUN_COLUMNS: LiteralString = """
  r.id, r.team_id, r.project_id, r.session_id, r.thread_id, r.agent_id, r.actor, r.trace_id,
  r.idempotency_key, r.request, r.metadata, r.status, r.cancel_requested, r.result, r.error,
  r.created_at, r.started_at, r.finished_at, r.updated_at
"""

GET: LiteralString = (
    "select "
    + RUN_COLUMNS
    + """
from jobsworth.runs r
where r.id = %(id)s
"""
)


async def get(conn: AsyncConnection[Any], run_id: UUID) -> Run:
    """One run. Raises `NotFound`."""
    run = await fetch_one(conn, GET, {"id": run_id}, Run)
    if run is None:
        raise _not_found(run_id)
    return run


LIST_RUNS: LiteralString = (
    "select "
    + RUN_COLUMNS
    + """
from jobsworth.runs r
where (%(actor)s::text is null or r.actor = %(actor)s::text)
  and (%(status)s::jobsworth.run_status is null or r.status = %(status)s::jobsworth.run_status)
  and (%(thread_id)s::uuid is null or r.thread_id = %(thread_id)s::uuid)
  and (%(agent_id)s::uuid is null or r.agent_id = %(agent_id)s::uuid)
  and (%(team_id)s::uuid is null or r.team_id = %(team_id)s::uuid)
  and (%(since)s::timestamptz is null or r.created_at >= %(since)s::timestamptz)
  and (%(actors)s::text[] is null or r.actor = any(%(actors)s::text[]))
  and (%(before_id)s::uuid is null or r.id < %(before_id)s::uuid)
  and (%(after_id)s::uuid is null or r.id > %(after_id)s::uuid)
"""
)
NEWEST: LiteralString = "order by r.id desc limit %(limit)s"
OLDEST: LiteralString = "order by r.id limit %(limit)s"


async def list_runs(
    conn: AsyncConnection[Any],
    *,
    actor: str | None = None,
    status: RunStatus | None = None,
    thread_id: UUID | None = None,
    agent_id: UUID | None = None,
    team_id: UUID | None = None,
    since: AwareDatetime | None = None,
    actors: Collection[str] | None = None,
    limit: int = 100,
    before_id: UUID | None = None,
    after_id: UUID | None = None,
) -> list[Run]:
    """The newest runs that match all filters, newest first, at most `limit` (1 to 1,000).

    For the next page, pass the last id of this one as `before_id`; for the page before, the first
    one as `after_id`. `actors`: of one of these.
    """
    check_limit(limit, LIMIT_MAX)
    values = {
        "actor": actor,
        "status": status,
        "thread_id": thread_id,
        "agent_id": agent_id,
        "team_id": team_id,
        "since": since,
        "actors": None if actors is None else list(actors),
        "before_id": before_id,
        "after_id": after_id,
        "limit": limit,
    }
    if after_id is None:
        return await fetch_all(conn, LIST_RUNS + NEWEST, values, Run)
    return (await fetch_all(conn, LIST_RUNS + OLDEST, values, Run))[::-1]


COUNT: LiteralString = """
select count(*)
from jobsworth.runs r
where (%(actor)s::text is null or r.actor = %(actor)s::text)
  and (%(status)s::jobsworth.run_status is null or r.status = %(status)s::jobsworth.run_status)
  and (%(thread_id)s::uuid is null or r.thread_id = %(thread_id)s::uuid)
  and (%(agent_id)s::uuid is null or r.agent_id = %(agent_id)s::uuid)
  and (%(team_id)s::uuid is null or r.team_id = %(team_id)s::uuid)
  and (%(since)s::timestamptz is null or r.created_at >= %(since)s::timestamptz)
"""


async def count(
    conn: AsyncConnection[Any],
    *,
    actor: str | None = None,
    status: RunStatus | None = None,
    thread_id: UUID | None = None,
    agent_id: UUID | None = None,
    team_id: UUID | None = None,
    since: AwareDatetime | None = None,
) -> int:
    """How many runs match all filters."""
    values = {
        "actor": actor,
        "status": status,
        "thread_id": thread_id,
        "agent_id": agent_id,
        "team_id": team_id,
        "since": since,
    }
    return int(await fetch_val(conn, COUNT, values))


SET_WHY: LiteralString = "select set_config('jobsworth.why', %(why)s, true)"

SET_STATUS: LiteralString = """
update jobsworth.runs r
set status = %(status)s::jobsworth.run_status,
  result = coalesce(%(result)s::jsonb, r.result),
  error = coalesce(%(error)s::text, r.error)
where r.id = %(id)s
"""


async def set_status(
    conn: AsyncConnection[Any],
    run_id: UUID,
    status: RunStatus,
    *,
    result: str | None = None,
    error: str | None = None,
    why: str | None = None,
) -> None:
    """Set a run's status by hand; `result` is JSON text, `why` is for the run's history. Jobs that
    end later change it again.

    Raises `NotFound`; `InvalidInput`, which names the legal moves, if this is not one of them or a
    job is open.
    """
    values = {"id": run_id, "status": status, "result": result, "error": error}
    async with transaction(conn):
        await execute(conn, SET_WHY, {"why": to_text(why or "")})
        moved = await execute(conn, SET_STATUS, values)
        await execute(conn, SET_WHY, {"why": ""})
        if not moved:
            raise _not_found(run_id)


class Transition(BaseModel):
    """A row of `run_transitions`."""

    model_config = ConfigDict(frozen=True)

    from_status: RunStatus
    to_status: RunStatus
    why: str | None
    at: AwareDatetime


TRANSITIONS: LiteralString = """
select t.from_status, t.to_status, t.why, t.at
from jobsworth.run_transitions t
where t.run_id = %(id)s
order by t.id
"""


async def transitions(conn: AsyncConnection[Any], run_id: UUID) -> list[Transition]:
    """The moves of a run's status, oldest first; it was made with the first one's `from_status`."""
    return await fetch_all(conn, TRANSITIONS, {"id": run_id}, Transition)


CANCEL: LiteralString = "select jobsworth.cancel_run(%(id)s, %(reason)s)"


async def cancel(
    conn: AsyncConnection[Any], run_id: UUID, reason: str = "canceled by a person"
) -> RunStatus:
    """Cancel all jobs of a run: at once, or when their attempts end. Returns the run's status.

    The run is canceled when the last of them has ended. Raises `NotFound`.
    """
    return RunStatus(await fetch_val(conn, CANCEL, {"id": run_id, "reason": reason}))


RETRY: LiteralString = "select jobsworth.retry_run(%(id)s)"


async def retry(conn: AsyncConnection[Any], run_id: UUID) -> int:
    """Run the failed and canceled jobs of a run again, and those that were skipped because of them.

    Jobs that are done stay done, and steps stay recorded. A child runs again if its parent does.
    Returns how many jobs run again. Raises `NotFound`; `Conflict` while a job of the run is open,
    or if none failed.
    """
    return int(await fetch_val(conn, RETRY, {"id": run_id}))


DELETE: LiteralString = "select jobsworth.delete_run(%(id)s)"


async def delete(conn: AsyncConnection[Any], run_id: UUID) -> None:
    """Delete a run that has ended, with its jobs and their steps, artifacts and metrics.

    The ledger, messages and decisions stay. Raises `NotFound`; `Conflict` while a job of the run is
    open, or while a branch reads it.
    """
    await execute(conn, DELETE, {"id": run_id})


def _not_found(run_id: UUID) -> NotFound:
    return NotFound(f"there is no run {run_id}", "list runs: jobsworth run list")
