"""Workers: one row for each, with its modes, its queues and its last heartbeat.

The heartbeat is the only frequent write, and does not touch the job table. A worker whose row is
gone has been declared dead: its heartbeat updates no row, and it must take a new id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import orjson
import psycopg
from psycopg.rows import class_row
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.pool import Connection, execute, fetch_all
from db.schema import render


class Worker(BaseModel):
    """A row of `workers`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    host: str
    pid: int
    version: str
    modes: list[str]
    queues: list[str]
    slots: int
    running: int
    idle: bool
    draining: bool
    started_at: AwareDatetime
    beaten_at: AwareDatetime
    beaten_seconds_ago: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a heartbeat saw of a worker: how often it has beaten, and which process it is."""

    id: UUID
    beats: int
    pid: int
    pid_space: str | None
    process_start: int | None


REGISTER: LiteralString = """
insert into jobsworth.workers (
  id, host, pid, version, modes, queues, slots, pid_space, process_start)
values (
  %(id)s, %(host)s, %(pid)s, %(version)s, %(modes)s, %(queues)s, %(slots)s, %(pid_space)s,
  %(process_start)s)
on conflict (id) do nothing
"""


def register(conn: psycopg.Connection[Any], schema: str, values: dict[str, Any]) -> None:
    """Insert a worker's row; `values` are its columns: id, host, pid, version, modes, queues,
    slots, pid_space and process_start. Called on the heartbeat's thread.
    """
    conn.execute(render(REGISTER, schema), values)


BEAT: LiteralString = """
with beaten as (
  update jobsworth.workers w
  set beaten_at = now(), beats = w.beats + 1, running = %(running)s, draining = %(draining)s,
    deaf = %(deaf)s::jsonb
  where w.id = %(id)s
  returning w.id
)
select w.id, w.beats, w.pid, w.pid_space, w.process_start
from jobsworth.workers w
where w.id <> %(id)s or exists (select 1 from beaten)
"""


def beat(
    conn: psycopg.Connection[Any],
    schema: str,
    worker_id: UUID,
    running: int,
    draining: bool,
    deaf: Mapping[str, Mapping[str, object]],
) -> list[Sighting] | None:
    """Renew the worker's heartbeat, and see all others; None if its row is gone.

    Called on the heartbeat's thread. `deaf` tells of attempts that do not end when told to: by job
    id, since how many `seconds`, and whether they are in a `thread`.
    """
    values = {
        "id": worker_id,
        "running": running,
        "draining": draining,
        "deaf": orjson.dumps(deaf).decode(),
    }
    with conn.cursor(row_factory=class_row(Sighting)) as cursor:
        seen = cursor.execute(render(BEAT, schema), values).fetchall()
    others = [one for one in seen if one.id != worker_id]
    return others if len(others) < len(seen) else None


SET_IDLE: LiteralString = """
update jobsworth.workers w set idle = %(idle)s where w.id = %(id)s and w.idle <> %(idle)s
"""


async def set_idle(conn: Connection, worker_id: UUID, idle: bool) -> None:
    """Ask for notifications (idle) or stop them: a busy system must not notify."""
    await execute(conn, SET_IDLE, {"id": worker_id, "idle": idle})


LEAVE: LiteralString = "delete from jobsworth.workers w where w.id = %(id)s"


async def leave(conn: Connection, worker_id: UUID) -> None:
    """Delete the row of a worker that stops; jobs that still run under its id are rescued at
    once.
    """
    await execute(conn, LEAVE, {"id": worker_id})


BURY: LiteralString = """
delete from jobsworth.workers w
where w.id = any(%(dead)s)
  and w.beats = (
    select d.beats from unnest(%(dead)s::uuid[], %(beats)s::bigint[]) as d (id, beats)
    where d.id = w.id)
  and not exists (
    select 1 from jobsworth.reactive_jobs j where j.worker_id = w.id and j.status = 'running')
"""


async def bury(conn: Connection, dead: Mapping[UUID, int]) -> int:
    """Delete the rows of dead workers whose jobs have all been rescued; returns how many.

    `dead` maps each to the number of its last beat: a worker that has beaten since is left alone.
    """
    values = {"dead": list(dead), "beats": list(dead.values())}
    return await execute(conn, BURY, values) if dead else 0


LIVING: LiteralString = """
select w.id, w.host, w.pid, w.version, w.modes, w.queues, w.slots, w.running, w.idle, w.draining,
  w.started_at, w.beaten_at, extract(epoch from now() - w.beaten_at)::float8 as beaten_seconds_ago
from jobsworth.workers w
order by w.started_at
"""


async def list_workers(conn: Connection) -> list[Worker]:
    """All workers with a row, the one that started first leading."""
    return await fetch_all(conn, LIVING, None, Worker)
