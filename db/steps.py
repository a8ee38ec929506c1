"""Steps: named, durable pieces of a job, recorded at once and under the fence.

A recorded step is never run again: a later attempt reads its output. A step that was begun and not
recorded (`finished_at` is null) says that a worker died in it. If two attempts answer the same
step, the first answer wins.
"""

from typing import Any, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.pool import Connection, execute, fetch_all, fetch_one, fetch_val
from db.queue import Lease, LeaseLost


class Step(BaseModel):
    """A row of `steps`; `output` is what the step returned."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID
    name: str
    kind: str
    effect: str
    input_hash: str | None
    output: Any
    attempt: int
    started_at: AwareDatetime
    finished_at: AwareDatetime | None


OF_JOB: LiteralString = """
select s.job_id, s.name, s.kind, s.effect::text, s.input_hash, s.output, s.attempt, s.started_at,
  s.finished_at
from jobsworth.steps s
where s.job_id = %(job_id)s
order by s.started_at, s.name
"""


async def list_for_job(conn: Connection, job_id: UUID) -> list[Step]:
    """All steps of a job in the order they began, unfinished ones too."""
    return await fetch_all(conn, OF_JOB, {"job_id": job_id}, Step)


BEGIN: LiteralString = """
with fence as materialized (
  select j.id, j.team_id
  from jobsworth.reactive_jobs j
  where j.id = %(job_id)s and j.lease_no = %(lease_no)s
    and j.worker_id is not distinct from %(worker_id)s and j.status = 'running'
  for no key update
), begun as (
  insert into jobsworth.steps (job_id, team_id, name, kind, effect, input_hash, attempt)
  select f.id, f.team_id, %(name)s, %(kind)s, %(effect)s::jobsworth.step_effect, %(input_hash)s,
    %(attempt)s
  from fence f
  on conflict (job_id, name) do nothing
  returning name
)
select (select count(*) from fence) as held, (select count(*) from begun) as begun
"""


async def begin(
    conn: Connection,
    lease: Lease,
    name: str,
    *,
    attempt: int,
    kind: str = "step",
    effect: str = "idempotent",
    input_hash: str | None = None,
) -> bool:
    """Mark a step as begun; False if an earlier attempt already had. Raises `LeaseLost`."""
    row = await fetch_one(
        conn,
        BEGIN,
        _values(lease, name, attempt, kind, effect, input_hash),
    )
    if row is None or not row["held"]:
        raise LeaseLost(lease)
    return bool(row["begun"])


RECORD: LiteralString = """
with fence as materialized (
  select j.id, j.team_id
  from jobsworth.reactive_jobs j
  where j.id = %(job_id)s and j.lease_no = %(lease_no)s
    and j.worker_id is not distinct from %(worker_id)s and j.status = 'running'
  for no key update
), recorded as (
  insert into jobsworth.steps (
    job_id, team_id, name, kind, effect, input_hash, output, attempt, started_at, finished_at)
  select f.id, f.team_id, %(name)s, %(kind)s, %(effect)s::jobsworth.step_effect, %(input_hash)s,
    %(output)s::jsonb, %(attempt)s,
    clock_timestamp() - %(took_seconds)s * interval '1 second', clock_timestamp()
  from fence f
  on conflict (job_id, name) do update
  set output = excluded.output, attempt = excluded.attempt, finished_at = excluded.finished_at
  where steps.finished_at is null
  returning output
)
select (select count(*) from fence) as held, (select count(*) from recorded) as recorded
"""

OUTPUT: LiteralString = """
select s.output from jobsworth.steps s
where s.job_id = %(job_id)s and s.name = %(name)s and s.finished_at is not null
"""


async def record(
    conn: Connection,
    lease: Lease,
    name: str,
    output: str,
    *,
    attempt: int,
    took_seconds: float = 0.0,
    kind: str = "step",
    effect: str = "idempotent",
    input_hash: str | None = None,
) -> tuple[bool, Any]:
    """Record a step's output (JSON text), committed on return unless inside a transaction.

    Returns whether this call recorded it, and the output that stands: the first answer wins.
    Raises `LeaseLost`.
    """
    values = _values(lease, name, attempt, kind, effect, input_hash)
    row = await fetch_one(conn, RECORD, {**values, "output": output, "took_seconds": took_seconds})
    if row is None or not row["held"]:
        raise LeaseLost(lease)
    stands = await fetch_one(conn, OUTPUT, values)
    return bool(row["recorded"]), stands["output"] if stands else None


KEEP_ANSWER: LiteralString = """
insert into jobsworth.steps (
  job_id, team_id, name, kind, output, attempt, started_at, finished_at)
select j.id, j.team_id, %(name)s, 'call', %(output)s::jsonb, %(attempt)s,
  clock_timestamp() - %(took_seconds)s * interval '1 second', clock_timestamp()
from jobsworth.reactive_jobs j
where j.id = %(job_id)s
on conflict (job_id, name) do nothing
"""


async def keep_answer(
    conn: Connection, job_id: UUID, name: str, output: str, *, attempt: int, took_seconds: float
) -> Any:
    """Make a paid answer (JSON text) the step `name`, unless an earlier answer already is.

    Returns the answer that stands. The one write without a fence: the answer is paid for whoever
    holds the job now, and the attempt that does will read it instead of paying again.
    """
    values = {
        "job_id": job_id,
        "name": name,
        "output": output,
        "attempt": attempt,
        "took_seconds": took_seconds,
    }
    await execute(conn, KEEP_ANSWER, values)
    stands = await fetch_one(conn, OUTPUT, values)
    return stands["output"] if stands else None


WAITED: LiteralString = """
select extract(epoch from clock_timestamp() - s.started_at)::float8
from jobsworth.steps s
where s.job_id = %(job_id)s and s.name = %(name)s
"""


async def waited_seconds(
    conn: Connection, lease: Lease, name: str, *, attempt: int, kind: str
) -> float:
    """How long ago the wait `name` was begun: now, if this is the first time.

    Raises `LeaseLost`.
    """
    await begin(conn, lease, name, attempt=attempt, kind=kind)
    return await fetch_val(conn, WAITED, {"job_id": lease.job_id, "name": name})


TAKE_SIGNAL: LiteralString = """
with fence as materialized (
  select j.id
  from jobsworth.reactive_jobs j
  where j.id = %(job_id)s and j.lease_no = %(lease_no)s
    and j.worker_id is not distinct from %(worker_id)s and j.status = 'running'
  for no key update
), taken as (
  update jobsworth.signals s
  set received_at = now()
  where s.id = (
    select m.id
    from jobsworth.signals m
    where m.job_id = %(job_id)s and m.name = %(signal)s and m.received_at is null
    order by m.id
    limit 1)
    and exists (select 1 from fence)
  returning s.payload
)
select (select count(*) from fence) as held, (select count(*) from taken) as taken,
  (select t.payload from taken t) as payload
"""


async def take_signal(conn: Connection, lease: Lease, signal: str) -> tuple[bool, Any]:
    """Take the oldest unread signal of that name out of the job's mailbox: (found, payload).

    Inside the caller's transaction, which also records the step. Raises `LeaseLost`.
    """
    row = await fetch_one(conn, TAKE_SIGNAL, {**_fence(lease), "signal": signal})
    if row is None or not row["held"]:
        raise LeaseLost(lease)
    return bool(row["taken"]), row["payload"]


HOLD: LiteralString = """
select j.id
from jobsworth.reactive_jobs j
where j.id = %(job_id)s and j.lease_no = %(lease_no)s
  and j.worker_id is not distinct from %(worker_id)s and j.status = 'running'
for no key update
"""


async def hold(conn: Connection, lease: Lease) -> None:
    """Lock the job's row for the rest of the caller's transaction. Raises `LeaseLost`."""
    if await fetch_one(conn, HOLD, _fence(lease)) is None:
        raise LeaseLost(lease)


CHILDREN: LiteralString = """
select c.id, c.effect_key, c.status::text, c.result, c.error
from jobsworth.reactive_jobs c
where c.parent_id = %(job_id)s and c.is_child
"""


async def children(conn: Connection, job_id: UUID) -> dict[str, dict[str, Any]]:
    """The job's children by effect key: id, status, result, error."""
    rows = await fetch_all(conn, CHILDREN, {"job_id": job_id})
    return {row["effect_key"]: row for row in rows}


def _fence(lease: Lease) -> dict[str, Any]:
    return {"job_id": lease.job_id, "lease_no": lease.lease_no, "worker_id": lease.worker_id}


def _values(
    lease: Lease, name: str, attempt: int, kind: str, effect: str, input_hash: str | None
) -> dict[str, Any]:
    return {
        **_fence(lease),
        "name": name,
        "attempt": attempt,
        "kind": kind,
        "effect": effect,
        "input_hash": input_hash,
    }
