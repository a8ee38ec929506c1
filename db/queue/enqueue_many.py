"""Enqueue many jobs by COPY, in one transaction.

In: any number of new jobs, sent in bounded blocks while the server works on the block before. Out:
rows of `reactive_jobs`. Jobs that can neither conflict with others nor come after them are copied
straight into the table. The others are staged in a temporary table and inserted from there, without
those that exist already. What only the function `enqueue` can do (windows of time, what happens
when a key is held, debounce) it does for each staged job of such a group.
"""

from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from enum import IntEnum, auto
from functools import partial
from itertools import count, groupby
from typing import Any, LiteralString, cast
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from db.arguments import check_connection
from db.errors import Conflict, InvalidInput, shown, translated
from db.ids import uuidv7_int
from db.pool import bounded
from db.queue import enqueue_middleware
from db.queue.enqueue import schema_of, statement_seconds_of
from db.queue.new_job import PAYLOAD_BYTES_MAX, NewJob
from db.schema import render

BLOCK_JOBS_MAX = 500
BLOCK_CHARACTERS_MAX = 256 * 1024
GROUPED_JOBS_MAX = 5_000


async def enqueue_many(
    conn: psycopg.AsyncConnection[Any],
    jobs: Iterable[NewJob],
    *,
    schema: str | None = None,
    payload_bytes_max: int = PAYLOAD_BYTES_MAX,
) -> int:
    """Enqueue all of `jobs` or, if one is refused, none; returns how many were created.

    A job whose unique key another job holds, or whose id exists, is left out and not counted; so is
    one that changed a waiting job (`on_conflict`). The
    jobs named in a job's `after` must precede it. Memory use does not grow with the number of jobs:
    a generator is read while the transaction is open. Raises `InvalidInput`, and the other errors
    of `db.errors`.
    """
    check_connection(conn)
    target = schema_of(conn, schema)
    created = 0
    with translated(), _explained():
        async with conn.transaction():
            route = _Route(await _least_way(conn, target))
            for (_, way), part in groupby(_through_middleware(_iterable(jobs)), route):
                created += await _WRITERS[way](conn, target, part, payload_bytes_max)
    return created


def _iterable(jobs: Iterable[NewJob]) -> Iterable[NewJob]:
    if isinstance(cast(object, jobs), Iterable):
        return jobs
    raise InvalidInput(f"jobs is {shown(jobs)}, not several jobs", "pass a list of NewJob")


def _through_middleware(jobs: Iterable[NewJob]) -> Iterable[NewJob]:
    if not enqueue_middleware.declared:
        return jobs
    return (enqueue_middleware.through(_checked(job)) for job in jobs)


def _checked(job: NewJob) -> NewJob:
    if isinstance(cast(object, job), NewJob):
        return job
    raise InvalidInput(
        f"enqueue_many was given {shown(job)}, not a NewJob", "pass a list of jobsworth.NewJob"
    )


class _Way(IntEnum):
    """How a group of jobs is written. Each way can also write the jobs of those before it."""

    BARE = auto()
    """COPY without the columns of options. The database checks each column that is named, also for
    null, so the server's part of a job takes 4.8 µs instead of 5.3.
    """
    WHOLE = auto()
    STAGED = auto()
    CALLED = auto()
    """As staged, and each through the function `enqueue`."""


class _Route:
    """The key by which jobs are grouped: the group's number, and the way it is written.

    A job that needs another way takes the next few thousand with it, so a mixture does not become
    a group for each job.
    """

    def __init__(self, least: _Way = _Way.BARE) -> None:
        self._least = least
        self._number = 0
        self._way = _Way.BARE
        self._left = 0

    def __call__(self, job: NewJob) -> tuple[int, _Way]:
        needed = max(self._least, _way_of(_checked(job)))
        if needed <= self._way and self._left > 0:
            self._left -= 1
        elif needed is not self._way or needed >= _Way.STAGED:
            self._number += 1
            self._way, self._left = needed, GROUPED_JOBS_MAX - 1
        return self._number, self._way


def _way_of(job: NewJob) -> _Way:
    if job.replaces or job.unique_seconds is not None or job.on_conflict == "reject":
        return _Way.CALLED
    if (
        job.unique_key is not None
        or job.id is not None
        or job.delay is not None
        or job.expires_in is not None
        or job.after
    ):
        return _Way.STAGED
    return _Way.BARE if _options(job) == _UNSET else _Way.WHOLE


HAS_POLICIES: LiteralString = "select row_security_active('jobsworth.reactive_jobs')"


async def _least_way(conn: psycopg.AsyncConnection[Any], schema: str) -> _Way:
    """COPY writes to no table whose policies concern this role; a superuser is not asked."""
    if conn.info.parameter_status("is_superuser") == "on":
        return _Way.BARE
    async with bounded(statement_seconds_of(conn)), conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(render(HAS_POLICIES, schema))
        return _Way.STAGED if (await cursor.fetchone() or (False,))[0] else _Way.BARE


COPY_BARE_JOBS: LiteralString = """
copy jobsworth.reactive_jobs (id, mode, payload, queue, priority)
from stdin (format text, encoding 'UTF8')
"""


async def _write_bare(
    conn: psycopg.AsyncConnection[Any], schema: str, jobs: Iterable[NewJob], payload_bytes_max: int
) -> int:
    rows = (_bare_row(job, payload_bytes_max) for job in jobs)
    return await _copy_all(conn, render(COPY_BARE_JOBS, schema), rows)


# What `_row` writes, in this order.
NEW_JOB_COLUMNS: LiteralString = """
  id, mode, payload, queue, priority, run_at, thread_id, trigger_message_id, lane, unique_key,
  failures_max, crashes_max, timeout_seconds, trace_parent, team_id, holds_lane, agent_id,
  request_id, limit_key, limit_weight, expires_at, unique_until, fair_key, session_id
"""

COPY_JOBS: LiteralString = (
    "copy jobsworth.reactive_jobs ("
    + NEW_JOB_COLUMNS
    + ") from stdin (format text, encoding 'UTF8')"
)


async def _write(
    conn: psycopg.AsyncConnection[Any], schema: str, jobs: Iterable[NewJob], payload_bytes_max: int
) -> int:
    rows = (_row(job, payload_bytes_max) for job in jobs)
    return await _copy_all(conn, render(COPY_JOBS, schema), rows)


async def _copy_all(conn: psycopg.AsyncConnection[Any], statement: str, rows: Iterable[str]) -> int:
    """Copy these rows, none of which may be left out; returns how many."""
    numbers = count()
    written = await _copy(conn, statement, (row for row, _ in zip(rows, numbers, strict=False)))
    sent = next(numbers)
    if written < sent:
        raise Conflict(
            f"{sent - written:,} of {sent:,} jobs were not written: a trigger of reactive_jobs "
            "returns null for them",
            "let the trigger return the row",
        )
    return written


CREATE_STAGING: LiteralString = """
create temporary table jobsworth_new_jobs (
  number int generated always as identity,
  id uuid,
  mode text,
  payload jsonb,
  queue text,
  priority smallint,
  run_at timestamptz,
  thread_id uuid,
  trigger_message_id uuid,
  lane text,
  unique_key text,
  failures_max int,
  crashes_max int,
  timeout_seconds real,
  trace_parent text,
  team_id uuid,
  holds_lane boolean,
  agent_id uuid,
  request_id text,
  limit_key text,
  limit_weight int,
  expires_at timestamptz,
  unique_until text,
  fair_key text,
  session_id uuid,
  delay interval,
  expires_in interval,
  after uuid[],
  unique_seconds float8,
  on_conflict text,
  debounce_seconds float8,
  debounce_max_seconds float8
) on commit drop
"""

COPY_STAGING: LiteralString = (
    "copy pg_temp.jobsworth_new_jobs ("
    + NEW_JOB_COLUMNS
    + ", delay, expires_in, after, unique_seconds, on_conflict, debounce_seconds,"
    " debounce_max_seconds) from stdin (format text, encoding 'UTF8')"
)

DROP_STAGING: LiteralString = "drop table pg_temp.jobsworth_new_jobs"


async def _write_staged(
    conn: psycopg.AsyncConnection[Any],
    schema: str,
    jobs: Iterable[NewJob],
    payload_bytes_max: int,
    insert: Callable[[psycopg.AsyncConnection[Any], str], Awaitable[int]],
) -> int:
    rows = (f"{_row(job, payload_bytes_max)}\t{_staged_columns(job)}" for job in jobs)
    await _execute(conn, schema, CREATE_STAGING)
    await _copy(conn, COPY_STAGING, rows)
    created = await insert(conn, schema)
    await _execute(conn, schema, DROP_STAGING)
    return created


INSERT_STAGED: LiteralString = """
insert into jobsworth.reactive_jobs (
  id, mode, payload, queue, priority, run_at, thread_id, trigger_message_id, lane, unique_key,
  failures_max, crashes_max, timeout_seconds, trace_parent, team_id, holds_lane,
  agent_id, request_id, unique_until, limit_key, limit_weight, expires_at, fair_key, session_id,
  status, waiting_for)
select n.id, n.mode, n.payload, n.queue, n.priority,
  coalesce(n.run_at, clock_timestamp() + n.delay), n.thread_id, n.trigger_message_id, n.lane,
  n.unique_key, n.failures_max, n.crashes_max, n.timeout_seconds, n.trace_parent, n.team_id,
  n.holds_lane, n.agent_id, n.request_id, n.unique_until::jobsworth.unique_until,
  n.limit_key, n.limit_weight, coalesce(n.expires_at, clock_timestamp() + n.expires_in),
  n.fair_key, n.session_id,
  case when n.after is null then 'queued' else 'waiting' end::jobsworth.job_status,
  case when n.after is not null then 'parents' end::jobsworth.wait_reason
from pg_temp.jobsworth_new_jobs n
where n.unique_key is null or jobsworth.window_holder(n.team_id, n.unique_key) is null
order by n.number
on conflict do nothing
"""


async def _insert_staged(conn: psycopg.AsyncConnection[Any], schema: str) -> int:
    created = await _execute(conn, schema, INSERT_STAGED)
    await _refuse_unknown(conn, schema)
    if await _execute(conn, schema, INSERT_EDGES):
        await _execute(conn, schema, RECONSIDER_STAGED)
    return created


FORGET_KNOWN: LiteralString = """
delete from pg_temp.jobsworth_new_jobs n
using jobsworth.reactive_jobs j
where j.id = n.id
"""

CALL_STAGED: LiteralString = """
select jobsworth.enqueue(
  id => n.id, mode => n.mode, payload => n.payload, queue => n.queue, priority => n.priority,
  run_at => n.run_at, delay => n.delay, thread_id => n.thread_id,
  trigger_message_id => n.trigger_message_id, lane => n.lane, unique_key => n.unique_key,
  failures_max => n.failures_max, crashes_max => n.crashes_max,
  timeout_seconds => n.timeout_seconds, trace_parent => n.trace_parent, team_id => n.team_id,
  holds_lane => n.holds_lane, agent_id => n.agent_id, request_id => n.request_id,
  limit_key => n.limit_key, limit_weight => n.limit_weight, expires_at => n.expires_at,
  expires_in => n.expires_in,
  after => n.after, unique_until => n.unique_until, unique_seconds => n.unique_seconds,
  on_conflict => n.on_conflict, debounce_seconds => n.debounce_seconds,
  debounce_max_seconds => n.debounce_max_seconds, fair_key => n.fair_key,
  session_id => n.session_id)
from (select s.* from pg_temp.jobsworth_new_jobs s order by s.number) n
"""

FIND_CREATED: LiteralString = """
select n.id
from pg_temp.jobsworth_new_jobs n
where exists (select 1 from jobsworth.reactive_jobs j where j.id = n.id)
"""


async def _call_staged(conn: psycopg.AsyncConnection[Any], schema: str) -> int:
    await _execute(conn, schema, FORGET_KNOWN)
    await _execute(conn, schema, CALL_STAGED)
    return await _execute(conn, schema, FIND_CREATED)


# A job that existed already keeps the edges it has.
INSERT_EDGES: LiteralString = """
insert into jobsworth.job_edges (job_id, needs_job_id)
select distinct j.id, need.id
from pg_temp.jobsworth_new_jobs n
join jobsworth.reactive_jobs j on j.id = n.id
cross join lateral unnest(n.after) as need (id)
where j.status = 'waiting' and j.waiting_for = 'parents' and j.created_at = now()
on conflict do nothing
"""

# `true`: wait for jobs that another transaction has locked.
RECONSIDER_STAGED: LiteralString = """
select jobsworth.reconsider(
  array(select n.id from pg_temp.jobsworth_new_jobs n where n.after is not null), true)
"""


FIND_UNKNOWN: LiteralString = """
select n.mode, need.id
from pg_temp.jobsworth_new_jobs n
cross join lateral unnest(n.after) as need (id)
where not exists (select 1 from jobsworth.reactive_jobs j where j.id = need.id)
  or exists (
    select 1 from pg_temp.jobsworth_new_jobs later
    where later.id = need.id and later.number > n.number)
limit 1
"""


async def _refuse_unknown(conn: psycopg.AsyncConnection[Any], schema: str) -> None:
    async with bounded(statement_seconds_of(conn)), conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(render(FIND_UNKNOWN, schema))
        unknown = await cursor.fetchone()
    if unknown is not None:
        raise InvalidInput(
            f"a {unknown[0]} job comes after job {unknown[1]}, which was not created before it",
            "enqueue the jobs it needs first, and not under unique keys that are taken",
        )


async def _execute(
    conn: psycopg.AsyncConnection[Any], schema: str, statement: LiteralString
) -> int:
    async with bounded(statement_seconds_of(conn)):
        return (await conn.execute(render(statement, schema))).rowcount


# The time of each await is bounded on its own: between them the jobs are read, which may take long.
async def _copy(conn: psycopg.AsyncConnection[Any], statement: str, rows: Iterable[str]) -> int:
    seconds = statement_seconds_of(conn)
    async with conn.cursor() as cursor, AsyncExitStack() as started:
        async with bounded(seconds):
            copy = await started.enter_async_context(cursor.copy(statement.encode()))
        for block in _blocks(rows):
            async with bounded(seconds):
                await copy.write(block)
        async with bounded(seconds):
            await started.aclose()
        return cursor.rowcount


def _blocks(rows: Iterable[str]) -> Iterator[bytes]:
    block: list[str] = []
    characters = 0
    for row in rows:
        block.append(row)
        characters += len(row)
        if len(block) >= BLOCK_JOBS_MAX or characters >= BLOCK_CHARACTERS_MAX:
            yield _lines(block)
            block, characters = [], 0
    if block:
        yield _lines(block)


def _lines(rows: list[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except psycopg.errors.CheckViolation as error:
        if error.diag.constraint_name != "payload_is_at_most_1_mib":
            raise
        raise InvalidInput(
            f"a payload has more than {PAYLOAD_BYTES_MAX:,} bytes once it is jsonb",
            "store the document as an artifact or a file and pass its address",
        ) from error


# `NEW_JOB_COLUMNS` in the text format of COPY.
def _row(job: NewJob, payload_bytes_max: int) -> str:
    return "\t".join((_bare_row(job, payload_bytes_max), *map(_field, _options(job))))


def _bare_row(job: NewJob, payload_bytes_max: int) -> str:
    payload = job.payload_json(payload_bytes_max).replace("\\", "\\\\")
    key = f"{uuidv7_int():032x}" if job.id is None else job.id
    return f"{key}\t{_text(job.mode)}\t{payload}\t{_text(job.queue)}\t{job.priority}"


def _options(job: NewJob) -> tuple[str | datetime | UUID | float | None, ...]:
    return (
        job.run_at,
        job.thread_id,
        job.trigger_message_id,
        job.lane,
        job.unique_key,
        job.failures_max,
        job.crashes_max,
        job.timeout_seconds,
        job.trace_parent,
        job.team_id,
        job.holds_lane,
        job.agent_id,
        job.request_id,
        job.limit_key,
        job.limit_weight,
        job.expires_at,
        "start" if job.unique_until == "start" else None,
        job.fair_key,
        job.session_id,
    )


def _staged_columns(job: NewJob) -> str:
    needs = "{" + ",".join(map(str, job.after)) + "}" if job.after else _NULL
    unique = (
        job.unique_seconds,
        job.on_conflict,
        job.debounce_seconds,
        job.debounce_max_seconds,
    )
    spans = (_span(job.delay_interval()), _span(job.expires_interval()))
    return "\t".join((*spans, needs, *map(_field, unique)))


def _span(value: timedelta | None) -> str:
    return _NULL if value is None else f"{value.total_seconds()} seconds"


def _field(value: str | datetime | UUID | float | None) -> str:
    if value is None:
        return _NULL
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value)


def _text(value: str) -> str:
    if value.isprintable() and "\\" not in value:
        return value
    return value.translate(_ESCAPES)


_NULL = "\\N"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_UNSET = _options(NewJob("unset"))
_WRITERS = {
    _Way.BARE: _write_bare,
    _Way.WHOLE: _write,
    _Way.STAGED: partial(_write_staged, insert=_insert_staged),
    _Way.CALLED: partial(_write_staged, insert=_call_staged),
}
