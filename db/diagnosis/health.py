"""The health of the database and of the queue.

In: a connection. Out: whether a worker can work there (`check_ready`), and the figures for the
metrics' gauges, in four parts that are read one by one. Invariant: the server bounds the time of
every part. Only open jobs are read, by their partial indexes and up to a limit, so neither a long
history nor a long backlog costs more. Nothing is written or locked.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import LiteralString, TypeVar

from pydantic import BaseModel, ConfigDict

from db.diagnosis.fitness import missing_rights, unfit_session
from db.errors import translated
from db.migrate import check
from db.pool import Connection, bounded, execute, fetch_all, fetch_one
from db.transactions import transaction

SAMPLE_SECONDS = 2.0
VIOLATIONS_SECONDS = 5.0
# `jobsworth doctor` reads all of the books; the metric only what was settled lately.
BOOKS_SECONDS = 3600.0

PGVECTOR_NEEDED = (0, 8, 4)

Row = TypeVar("Row", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Without `reasons`, a worker can work. `warnings` are for a person to read."""

    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class JobSample(BaseModel):
    """The open jobs, counted up to 10,000 and estimated beyond.

    `waiting` has every reason, with 0 where no job waits for it.
    """

    model_config = ConfigDict(frozen=True)

    queued: int
    running: int
    waiting: dict[str, int]
    oldest_queued_seconds: float


class OutboxSample(BaseModel):
    """The texts that wait to be embedded."""

    model_config = ConfigDict(frozen=True)

    texts: int
    oldest_seconds: float


class SnapshotSample(BaseModel):
    """How far back vacuum cannot remove dead rows, in seconds and in transactions.

    The seconds leave out sessions of other roles unless this role has `pg_monitor`; the
    transactions count all sessions, standbys and replication slots.
    """

    model_config = ConfigDict(frozen=True)

    oldest_seconds: float
    oldest_transactions: int


SERVER: LiteralString = """
select pg_is_in_recovery() as in_recovery,
       current_setting('transaction_read_only')::bool as read_only,
       (select e.extversion from pg_catalog.pg_extension e where e.extname = 'vector') as pgvector
"""


async def check_ready(conn: Connection) -> Readiness:
    """Whether the server takes writes and has the right schema and extension.

    Raises `db.errors.DatabaseError`.
    """
    server = await fetch_one(conn, SERVER)
    assert server is not None
    schema = await check(conn, conn.schema)
    reasons: list[str] = []
    warnings: list[str] = []
    if server["in_recovery"]:
        reasons.append(
            "the database is a standby and takes no writes; connect to the primary "
            "(target_session_attrs=read-write)"
        )
    elif server["read_only"]:
        reasons.append(
            "the database is read-only; see default_transaction_read_only of database and role"
        )
    if schema.state != "ok":
        reasons.append(schema.message)
    reasons += [str(each) for each in await unfit_session(conn)]
    if schema.state == "ok":
        reasons += [str(each) for each in await missing_rights(conn)]
    if server["pgvector"] is None:
        reasons.append("the extension vector (pgvector) is missing; run: jobsworth migrate")
    elif _numbers(server["pgvector"]) < PGVECTOR_NEEDED:
        warnings.append(
            f"pgvector is {server['pgvector']}; before 0.8.4, vacuum can corrupt its HNSW indexes: "
            "install a newer one, then run: alter extension vector update"
        )
    return Readiness(tuple(reasons), tuple(warnings))


# Counted up to 10,000 each; larger numbers come from the planner's statistics, which autovacuum
# renews whenever a twentieth of the table has changed. Counts alone were rejected: an exact one
# takes 0.3 s at a million jobs, every 15 s for each worker, and a capped one shows a growing
# backlog as constant.
#
# The first job of each queue and priority is the one that became ready first there. Its time is
# that of its insert or of its `run_at`.
JOBS: LiteralString = """
with recursive head as (
  (select j.queue, j.priority, coalesce(j.run_at, j.created_at) as since
   from jobsworth.reactive_jobs j
   where j.status = 'queued'
   order by j.queue, j.priority, j.position
   limit 1)
  union all
  select n.queue, n.priority, n.since
  from head h
  cross join lateral (
    select j.queue, j.priority, coalesce(j.run_at, j.created_at) as since
    from jobsworth.reactive_jobs j
    where j.status = 'queued' and (j.queue, j.priority) > (h.queue, h.priority)
    order by j.queue, j.priority, j.position
    limit 1) n
), estimate as materialized (
  select s.attname as attribute, v.value, (v.share * t.reltuples)::bigint as jobs
  from pg_catalog.pg_class t
  join pg_catalog.pg_namespace n on n.oid = t.relnamespace
  join pg_catalog.pg_stats s on s.schemaname = n.nspname and s.tablename = t.relname
  cross join lateral
    unnest(s.most_common_vals::text::text[], s.most_common_freqs) as v (value, share)
  where t.oid = 'jobsworth.reactive_jobs'::regclass and t.reltuples > 0
    and s.attname in ('status', 'waiting_for')
)
select
  (select case when c.jobs < 10000 then c.jobs else greatest(c.jobs, e.jobs) end
   from (
     select count(*) as jobs
     from (select from jobsworth.reactive_jobs j where j.status = 'queued' limit 10000) q) c
   left join estimate e on e.attribute = 'status' and e.value = 'queued') as queued,
  (select count(*)
   from (
     select from jobsworth.reactive_jobs j
     where j.status = 'running' and j.worker_id is not null limit 10000) r) as running,
  (select jsonb_object_agg(
     r.reason, case when c.jobs < 10000 then c.jobs else greatest(c.jobs, e.jobs) end)
   from unnest(enum_range(null::jobsworth.wait_reason)) as r(reason)
   cross join lateral (
     select count(*) as jobs
     from (
       select from jobsworth.reactive_jobs j
       where j.status = 'waiting' and j.waiting_for = r.reason limit 10000) w) c
   left join estimate e on e.attribute = 'waiting_for' and e.value = r.reason::text) as waiting,
  (select coalesce(greatest(extract(epoch from now() - min(h.since)), 0), 0)::float8
   from (select h.since from head h limit 1000) h) as oldest_queued_seconds
"""


async def sample_jobs(conn: Connection) -> JobSample:
    """Count the open jobs; takes a few milliseconds however many there are."""
    return await _sample(conn, JOBS, JobSample, SAMPLE_SECONDS)


# Ids are made in order of time, so the lowest is the oldest.
OUTBOX: LiteralString = """
select
  (select count(*) from jobsworth.embedding_outbox o where o.space_id is null) as texts,
  coalesce((
    select greatest(extract(epoch from now() - o.created_at), 0)
    from jobsworth.embedding_outbox o
    where o.space_id is null
    order by o.memory_id
    limit 1), 0)::float8 as oldest_seconds
"""


async def sample_outbox(conn: Connection) -> OutboxSample:
    """Count the texts that wait to be embedded, but for those that a switch adds to a space."""
    return await _sample(conn, OUTBOX, OutboxSample, SAMPLE_SECONDS)


# A vacuum ignores other vacuums and the sessions of other databases, but not a standby's feedback
# (a walsender, which has no database).
SNAPSHOTS: LiteralString = """
select coalesce(greatest(extract(epoch from now() - min(h.since)), 0), 0)::float8 as oldest_seconds,
       coalesce(max(h.transactions), 0) as oldest_transactions
from (
  select a.xact_start as since,
         greatest(age(a.backend_xmin), age(a.backend_xid)) as transactions
  from pg_catalog.pg_stat_activity a
  where (a.datname = current_database() or a.datname is null)
    and (a.backend_xmin is not null or a.backend_xid is not null)
    and a.backend_type is distinct from 'autovacuum worker'
    and a.pid <> pg_backend_pid()
  union all
  select p.prepared, age(p.transaction)
  from pg_catalog.pg_prepared_xacts p
  where p.database = current_database()
  union all
  select null, age(s.xmin)
  from pg_catalog.pg_replication_slots s
  where s.xmin is not null
) h
"""


async def sample_snapshots(conn: Connection) -> SnapshotSample:
    """Find the oldest snapshot or transaction that is still open in this database."""
    return await _sample(conn, SNAPSHOTS, SnapshotSample, SAMPLE_SECONDS)


VIOLATIONS: LiteralString = """
select v.invariant, count(*) as breaches
from jobsworth.violations v
where v.at > now() - %(books_seconds)s * interval '1 second'
group by v.invariant
order by v.invariant
"""


async def count_violations(conn: Connection) -> dict[str, int]:
    """How many breaches each invariant has; always empty. Of the books only the last hour is
    read.
    """
    async with _limited(conn, VIOLATIONS_SECONDS, NO_JOINS_OF_ALL):
        rows = await fetch_all(conn, VIOLATIONS, {"books_seconds": BOOKS_SECONDS})
    return {row["invariant"]: row["breaches"] for row in rows}


async def _sample(conn: Connection, query: LiteralString, into: type[Row], seconds: float) -> Row:
    async with _limited(conn, seconds, INDEXES_ONLY):
        row = await fetch_one(conn, query, None, into)
    assert row is not None
    return row


# With stale statistics the planner may rate the index of a former backlog as dearer than the whole
# table, and a bitmap scan reads all rows of a backlog, payloads included, to count them.
INDEXES_ONLY: LiteralString = """
select set_config('statement_timeout', %(timeout)s, true),
       set_config('idle_in_transaction_session_timeout', '10s', true),
       set_config('enable_seqscan', 'off', true),
       set_config('enable_bitmapscan', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true)
"""
# A hash or merge join reads both of its tables whole.
NO_JOINS_OF_ALL: LiteralString = (
    INDEXES_ONLY
    + """,
       set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true)
"""
)


# In a transaction, because PgBouncer shares sessions: the settings must end with it.
@asynccontextmanager
async def _limited(conn: Connection, seconds: float, limits: LiteralString) -> AsyncGenerator[None]:
    async with bounded(seconds + 1):
        with translated():
            async with transaction(conn):
                await execute(conn, limits, {"timeout": f"{seconds:g}s"})
                yield


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
