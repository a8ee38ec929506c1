"""Facts about the server and the installation, for `jobsworth doctor` to judge.

In: a connection, whatever the state of the installation. Out: facts, each from one small statement.
Nothing is changed: `try_write` writes no row.
"""

from typing import LiteralString

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.pool import Connection, execute, fetch_all, fetch_one

UNKNOWN_MAX = 2_000
COUNTED_MAX = 10_000


class Server(BaseModel):
    """The PostgreSQL server and database. `version_number` is 180001 for 18.1; `pgvector` is the
    version in this database, `pgvector_available` the one the server could install.
    """

    model_config = ConfigDict(frozen=True)

    version: str
    version_number: int
    database: str
    role: str
    in_recovery: bool
    read_only: bool
    pgvector: str | None
    pgvector_available: str | None
    clock: AwareDatetime


class OldTransaction(BaseModel):
    """The oldest open transaction, which holds back vacuum. A prepared one has no `pid`."""

    model_config = ConfigDict(frozen=True)

    pid: int | None
    application_name: str
    state: str
    seconds: float


class UnknownMode(BaseModel):
    """A mode that no living worker knows, and how many jobs of it could run."""

    model_config = ConfigDict(frozen=True)

    mode: str
    jobs: int


class QueueCounts(BaseModel):
    """The open jobs of one queue, and whether it is paused, or fair.

    `more_queued`, `more_waiting`: all queues together have more such jobs than were counted
    (`COUNTED_MAX`), and so may this one.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    paused: bool
    fair: bool
    queued: int
    waiting: int
    running: int
    more_queued: bool
    more_waiting: bool


SERVER: LiteralString = """
select current_setting('server_version') as version,
  current_setting('server_version_num')::int as version_number,
  current_database()::text as database, current_user::text as role,
  pg_is_in_recovery() as in_recovery,
  current_setting('transaction_read_only')::boolean as read_only,
  (select e.extversion from pg_catalog.pg_extension e where e.extname = 'vector') as pgvector,
  (select a.default_version from pg_catalog.pg_available_extensions a where a.name = 'vector')
    as pgvector_available,
  clock_timestamp() as clock
"""


async def server(conn: Connection) -> Server:
    """The server, its version, and whether it takes writes."""
    found = await fetch_one(conn, SERVER, None, Server)
    assert found is not None
    return found


# It matches no row, but the server still checks the right to write and whether it takes writes.
TRY_WRITE: LiteralString = "update jobsworth.queues q set paused = q.paused where false"


async def try_write(conn: Connection) -> None:
    """Raise what a write would raise: `Unavailable` (read-only), `Refused` (missing right)."""
    await execute(conn, TRY_WRITE)


class ConnectionRoom(BaseModel):
    """How many connections this role may hold in all, and how many others have open."""

    model_config = ConfigDict(frozen=True)

    limit: int
    others: int

    @property
    def for_us(self) -> int:
        """What is left for this installation's workers."""
        return max(0, self.limit - self.others)


CONNECTION_ROOM: LiteralString = """
select least(
    current_setting('max_connections')::int
      - case when r.rolsuper then 0
          else current_setting('superuser_reserved_connections')::int
            + current_setting('reserved_connections')::int end,
    nullif(r.rolconnlimit, -1), nullif(d.datconnlimit, -1)) as limit,
  (select count(*)::int from pg_catalog.pg_stat_activity a
   where a.backend_type = 'client backend' and a.application_name not like %(ours)s)
    as others
from pg_catalog.pg_roles r, pg_catalog.pg_database d
where r.rolname = current_user and d.datname = current_database()
"""


async def connection_room(conn: Connection) -> ConnectionRoom:
    """The room for connections; those of Jobsworth are not counted as others'."""
    found = await fetch_one(conn, CONNECTION_ROOM, {"ours": "jobsworth%"}, ConnectionRoom)
    assert found is not None
    return found


# A role without pg_monitor cannot see when transactions of other roles began. Vacuums are left out:
# they do not hold back each other.
OLDEST_TRANSACTION: LiteralString = """
select t.pid, t.application_name, t.state, extract(epoch from now() - t.since)::float8 as seconds
from (
  select a.pid, a.application_name, coalesce(a.state, a.backend_type) as state,
    a.xact_start as since
  from pg_catalog.pg_stat_activity a
  where a.datname = current_database() and a.xact_start is not null
    and a.backend_type is distinct from 'autovacuum worker'
    and a.pid <> pg_backend_pid()
  union all
  select null, 'prepared transaction ' || p.gid, 'prepared', p.prepared
  from pg_catalog.pg_prepared_xacts p
  where p.database = current_database()
) t
order by t.since
limit 1
"""


async def oldest_transaction(conn: Connection) -> OldTransaction | None:
    """The open transaction of this database that began first, other than this one."""
    return await fetch_one(conn, OLDEST_TRANSACTION, None, OldTransaction)


# Jobs that no worker can run gather at the head of their queue and priority, since claims pass them
# by: so the first of each are enough to find their modes. Counting all took 0.4 s at a million.
UNKNOWN_MODES: LiteralString = """
with recursive head as (
  (select j.queue, j.priority
   from jobsworth.reactive_jobs j
   where j.status = 'queued'
   order by j.queue, j.priority
   limit 1)
  union all
  select n.queue, n.priority
  from head h
  cross join lateral (
    select j.queue, j.priority
    from jobsworth.reactive_jobs j
    where j.status = 'queued' and (j.queue, j.priority) > (h.queue, h.priority)
    order by j.queue, j.priority
    limit 1) n
), ready as (
  select q.mode
  from (select h.queue, h.priority from head h limit 1000) h
  cross join lateral (
    select j.mode
    from jobsworth.reactive_jobs j
    where j.status = 'queued' and j.queue = h.queue and j.priority = h.priority
    order by j.position
    limit %(each)s) q
  union all
  (select j.mode
   from jobsworth.reactive_jobs j
   where j.status = 'waiting' and j.waiting_for = 'handler'
   order by j.id
   limit %(each)s)
)
select r.mode, count(*) as jobs
from ready r
where not exists (
  select 1
  from jobsworth.workers w
  where r.mode = any(w.modes) and w.beaten_at > now() - %(alive_seconds)s * interval '1 second')
group by r.mode
order by count(*) desc, r.mode
"""


async def unknown_modes(conn: Connection, alive_seconds: float) -> list[UnknownMode]:
    """The modes of ready jobs that no worker with a heartbeat in the last `alive_seconds` knows.

    The first `UNKNOWN_MAX` of each queue and priority are looked at.
    """
    values = {"alive_seconds": alive_seconds, "each": UNKNOWN_MAX}
    return await fetch_all(conn, UNKNOWN_MODES, values, UnknownMode)


# A partial index serves each of the three counts, so finished jobs cost nothing; and so many are
# counted that it takes some milliseconds, where all of a million took 0.8 s.
QUEUES: LiteralString = """
with queued as materialized (
  select j.queue from jobsworth.reactive_jobs j
  where j.status = 'queued' limit %(most)s
), waiting as materialized (
  select j.queue from jobsworth.reactive_jobs j
  where j.status = 'waiting' limit %(most)s
), open_jobs as (
  select j.queue, count(*) as queued, 0 as waiting, 0 as running from queued j group by j.queue
  union all
  select j.queue, 0, count(*), 0 from waiting j group by j.queue
  union all
  select j.queue, 0, 0, count(*)
  from jobsworth.reactive_jobs j
  where j.status = 'running' and j.worker_id is not null
  group by j.queue
), served as (
  select distinct s.queue
  from jobsworth.workers w
  cross join lateral unnest(w.queues) as s (queue)
)
select n.name, coalesce(bool_or(q.paused), false) as paused,
  coalesce(bool_or(q.fair), false) as fair,
  coalesce(sum(o.queued), 0)::bigint as queued, coalesce(sum(o.waiting), 0)::bigint as waiting,
  coalesce(sum(o.running), 0)::bigint as running,
  (select count(*) = %(most)s from queued) as more_queued,
  (select count(*) = %(most)s from waiting) as more_waiting
from (
  select o.queue as name from open_jobs o
  union
  select s.queue from served s
  union
  select q.name from jobsworth.queues q where q.paused or q.fair) n
left join jobsworth.queues q on q.name = n.name
left join open_jobs o on o.queue = n.name
group by n.name
order by n.name
"""


async def queues(conn: Connection) -> list[QueueCounts]:
    """The queues that have open jobs, are served by a worker, or are paused."""
    return await fetch_all(conn, QUEUES, {"most": COUNTED_MAX}, QueueCounts)
