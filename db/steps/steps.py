"""Steps: named, durable pieces of a job, recorded at once and under the fence.

In: the outputs of steps, answers of model calls, signals to take. Out: rows of `steps`. Invariant:
a recorded step is never run again; a later attempt reads its output. A step that was begun and not
recorded (`finished_at` is null) may have been interrupted by its worker's death. If two attempts
answer the same step, the first answer wins.
"""

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.fence import FENCE, FENCED, Lease, LeaseLost
from db.pool import Connection, fetch_all, fetch_one, fetch_val
from db.tables import write_rows


class Step(BaseModel):
    """A row of `steps`; `output` is what the step returned.

    A step that was saved for a run has no job.
    """

    model_config = ConfigDict(frozen=True)

    job_id: UUID | None
    name: str
    kind: str
    effect: str
    input_hash: str | None
    output: Any
    attempt: int
    started_at: AwareDatetime
    finished_at: AwareDatetime | None
    error: str | None
    begun_by: str | None
    input: Any
    failed_at: AwareDatetime | None


STEP_COLUMNS: LiteralString = """
  s.job_id, s.name, s.kind, s.effect::text, s.input_hash, s.output, s.attempt, s.started_at,
  s.finished_at, s.error, s.begun_by, s.input, s.failed_at
"""

OF_JOB: LiteralString = (
    "select "
    + STEP_COLUMNS
    + """
from jobsworth.steps s
where s.job_id = %(job_id)s
order by s.started_at, s.name
"""
)


async def list_for_job(conn: Connection, job_id: UUID) -> list[Step]:
    """All steps of a job in the order they began, also unfinished ones."""
    return await fetch_all(conn, OF_JOB, {"job_id": job_id}, Step)


READABLE: LiteralString = (
    "select "
    + STEP_COLUMNS
    + """
from jobsworth.steps s
where s.job_id = %(job_id)s
union all
select """
    + STEP_COLUMNS
    + """
from jobsworth.inherited_steps(%(job_id)s) s
"""
)


async def list_readable(conn: Connection, job_id: UUID) -> list[Step]:
    """All steps that a job of a run reads: its own, and those of the runs that it branched from."""
    return await fetch_all(conn, READABLE, {"job_id": job_id}, Step)


BEGIN: LiteralString = (
    FENCED
    + """, begun as (
  insert into jobsworth.steps (
    job_id, team_id, name, kind, effect, input_hash, input, attempt, begun_by)
  select f.id, f.team_id, %(name)s, %(kind)s, %(effect)s::jobsworth.step_effect, %(input_hash)s,
    %(input)s::jsonb, %(attempt)s, (
      select w.host || ', process ' || w.pid from jobsworth.workers w where w.id = f.worker_id)
  from fence f
  on conflict (job_id, name) do update
  set kind = excluded.kind, effect = excluded.effect, input_hash = excluded.input_hash,
    input = excluded.input, attempt = excluded.attempt, begun_by = excluded.begun_by,
    started_at = excluded.started_at, error = null, failed_at = null
  where steps.failed_at is not null and steps.finished_at is null
  returning name
)
select (select count(*) from fence) as held, (select count(*) from begun) as begun
"""
)


async def begin(
    conn: Connection,
    lease: Lease,
    name: str,
    *,
    attempt: int,
    kind: str = "step",
    effect: str = "idempotent",
    input_hash: str | None = None,
    input_document: str | None = None,
) -> bool:
    """Mark a step as begun; False if it was begun already. Raises `LeaseLost`.

    A step that has failed is begun anew. `input_document`: its arguments, as JSON text.
    """
    values = {"name": name, "attempt": attempt, "kind": kind, "effect": effect}
    given = {"input_hash": input_hash, "input": input_document}
    row = await fetch_one(conn, BEGIN, {**lease._asdict(), **values, **given})
    if row is None or not row["held"]:
        raise LeaseLost(lease)
    return bool(row["begun"])


class Record(NamedTuple):
    """A step that was run; `output` and `input_document` (its arguments) are JSON text."""

    lease: Lease
    name: str
    output: str
    attempt: int
    took_seconds: float = 0.0
    kind: str = "step"
    effect: str = "idempotent"
    input_hash: str | None = None
    input_document: str | None = None


RECORD: LiteralString = (
    """
with ran as materialized (
  select r.*
  from jsonb_to_recordset(%(rows)s::jsonb) as r (
    job_id uuid, lease_no bigint, worker_id uuid, name text, kind text,
    effect jobsworth.step_effect, input_hash text, input jsonb, output jsonb, attempt int,
    took_seconds float8)
), locked as materialized (
  select l.*, f.team_id, f.holds
  from ran l
  cross join lateral ("""
    + FENCE
    # A row that somebody holds is passed over, so that its neighbours do not wait for it.
    + """ skip locked) f
), held as materialized (
  select k.* from locked k where k.holds
), recorded as (
  insert into jobsworth.steps (
    job_id, team_id, name, kind, effect, input_hash, input, output, attempt, started_at,
    finished_at)
  select h.job_id, h.team_id, h.name, h.kind, h.effect, h.input_hash, h.input,
    coalesce(h.output, 'null'), h.attempt,
    clock_timestamp() - h.took_seconds * interval '1 second', clock_timestamp()
  from held h
  on conflict (job_id, name) do update
  set output = excluded.output, attempt = excluded.attempt, finished_at = excluded.finished_at,
    started_at = case when steps.finished_at is null and steps.failed_at is null
      then steps.started_at else excluded.started_at end,
    input_hash = coalesce(excluded.input_hash, steps.input_hash),
    input = coalesce(excluded.input, steps.input), error = null, failed_at = null
  -- The first answer wins. A pure step that met another input is computed anew.
  where steps.finished_at is null
    or excluded.effect = 'pure' and excluded.input_hash <> steps.input_hash
  returning job_id, name, output
)
select f.leases, r.job_id, r.name, r.output
from (select count(*) as leases from held) f
left join recorded r on true
"""
)
RECORD_WAITING: LiteralString = RECORD.replace(" skip locked", "")


async def record_all(conn: Connection, records: Sequence[Record]) -> dict[tuple[UUID, str], Any]:
    """Record the outputs of steps, inside the caller's transaction (`PINNED`).

    Returns the outputs by job and name. A step missing from the result was not written: its lease
    is lost, it has an output already, or another transaction holds its job right now. This never
    waits for a job; `record` waits, and tells which of them it was.
    """
    _, recorded = await _record(conn, records, alone=False)
    return recorded


async def _record(
    conn: Connection, records: Sequence[Record], *, alone: bool
) -> tuple[int, dict[tuple[UUID, str], Any]]:
    """How many leases held, and the outputs that were recorded; `alone`: wait for the job."""
    rows = [
        {
            **one.lease._asdict(),
            "name": one.name,
            "kind": one.kind,
            "effect": one.effect,
            "input_hash": one.input_hash,
            "input": one.input_document and orjson.Fragment(one.input_document),
            "output": orjson.Fragment(one.output),
            "attempt": one.attempt,
            "took_seconds": one.took_seconds,
        }
        for one in records
    ]
    statement = RECORD_WAITING if alone else RECORD
    found = await write_rows(conn, statement, rows, prepare=not alone)
    return found[0][0], {(job_id, name): output for _, job_id, name, output in found if job_id}


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
    input_document: str | None = None,
) -> tuple[bool, Any]:
    """Record a step's output (JSON text), committed on return unless inside a transaction.

    Returns whether this call recorded it, and the step's output: that of the first answer. Raises
    `LeaseLost`.
    """
    ran = Record(
        lease, name, output, attempt, took_seconds, kind, effect, input_hash, input_document
    )
    held, recorded = await _record(conn, [ran], alone=True)
    if not held:
        raise LeaseLost(lease)
    for stands in recorded.values():
        return True, stands
    return False, await fetch_val(conn, OUTPUT, {"job_id": lease.job_id, "name": name})


class PaidAnswer(NamedTuple):
    """The answer of a model call (JSON text), and the step that it becomes."""

    job_id: UUID
    name: str
    output: str
    attempt: int
    took_seconds: float


KEEP_ANSWERS: LiteralString = """
insert into jobsworth.steps (
  job_id, team_id, name, kind, output, attempt, started_at, finished_at)
select j.id, j.team_id, a.name, 'call', coalesce(a.output, 'null'), a.attempt,
  clock_timestamp() - a.took_seconds * interval '1 second', clock_timestamp()
from jsonb_to_recordset(%(rows)s::jsonb) as a (
  job_id uuid, name text, output jsonb, attempt int, took_seconds float8)
cross join lateral (
  select r.id, r.team_id from jobsworth.reactive_jobs r where r.id = a.job_id offset 0
) j
-- In one order, so that two batches with steps in common cannot deadlock.
order by a.job_id, a.name
on conflict (job_id, name) do update
set kind = excluded.kind, output = excluded.output, attempt = excluded.attempt,
  started_at = excluded.started_at, finished_at = excluded.finished_at, error = null,
  failed_at = null
-- A step of that name has failed, before it became a call.
where steps.failed_at is not null and steps.finished_at is null
returning job_id, name, output
"""


async def keep_answers(
    conn: Connection, answers: Sequence[PaidAnswer], *, prepare: bool = True
) -> dict[tuple[UUID, str], Any]:
    """Record paid answers as the steps they are named for, unless the steps have answers already.

    Returns the steps' answers by job and name. This is the only write without a fence: the answer
    is paid for even if another attempt has the job now, and that attempt reads it instead of paying
    again. Runs in the caller's transaction, together with the settlement; pass `prepare=False`
    unless that is `PINNED`.
    """
    first: dict[tuple[UUID, str], PaidAnswer] = {}
    for one in answers:
        first.setdefault((one.job_id, one.name), one)
    rows = [{**one._asdict(), "output": orjson.Fragment(one.output)} for one in first.values()]
    kept = await write_rows(conn, KEEP_ANSWERS, rows, prepare=prepare)
    stand = {(job_id, name): output for job_id, name, output in kept}
    for job_id, name, *_ in answers:
        if (job_id, name) not in stand:
            values = {"job_id": job_id, "name": name}
            stand[job_id, name] = await fetch_val(conn, OUTPUT, values)
    return stand


async def keep_answer(
    conn: Connection, job_id: UUID, name: str, output: str, *, attempt: int, took_seconds: float
) -> Any:
    """`keep_answers` for one answer; returns the step's answer."""
    answer = PaidAnswer(job_id, name, output, attempt, took_seconds)
    return (await keep_answers(conn, [answer], prepare=False))[job_id, name]


WAITED: LiteralString = """
select extract(epoch from clock_timestamp() - s.started_at)::float8
from jobsworth.steps s
where s.job_id = %(job_id)s and s.name = %(name)s
"""


async def waited_seconds(
    conn: Connection, lease: Lease, name: str, *, attempt: int, kind: str
) -> float:
    """Begin the wait `name` if it is new; returns how long ago it began. Raises `LeaseLost`."""
    if await begin(conn, lease, name, attempt=attempt, kind=kind):
        return 0.0
    return await fetch_val(conn, WAITED, {"job_id": lease.job_id, "name": name})


SLEPT: LiteralString = """
select s.name, coalesce(s.kept, extract(epoch from clock_timestamp() - s.started_at)::float8)
  as seconds
from (
  select o.name, o.started_at, case when o.finished_at is not null then 'infinity'::float8 end
    as kept
  from jobsworth.steps o
  where o.job_id = %(job_id)s and o.kind = 'sleep'
  union all
  select i.name, i.started_at, 'infinity' from jobsworth.inherited_steps(%(job_id)s) i
  where i.kind = 'sleep'
) s
where starts_with(s.name, %(prefix)s)
order by s.started_at, s.name
"""


async def slept_seconds(conn: Connection, job_id: UUID, prefix: str) -> dict[str, float]:
    """By name, how long ago the sleeps of a job began whose names begin so; infinity if over."""
    rows = await fetch_all(conn, SLEPT, {"job_id": job_id, "prefix": prefix})
    return {row["name"]: row["seconds"] for row in rows}


TAKE_SIGNAL: LiteralString = (
    FENCED
    + """, taken as (
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
)


async def take_signal(conn: Connection, lease: Lease, signal: str) -> tuple[bool, Any]:
    """Take the oldest unread signal of that name out of the job's mailbox: (found, payload).

    Inside the caller's transaction, which also records the step. Raises `LeaseLost`.
    """
    row = await fetch_one(conn, TAKE_SIGNAL, {**lease._asdict(), "signal": signal})
    if row is None or not row["held"]:
        raise LeaseLost(lease)
    return bool(row["taken"]), row["payload"]


CHILDREN: LiteralString = """
select c.id, c.effect_key, c.status::text, c.result, c.error
from jobsworth.reactive_jobs c
where c.parent_id = %(job_id)s and c.is_child
union all
select i.id, i.effect_key, i.status, i.result, i.error
from jobsworth.inherited_children(%(job_id)s) i
"""


async def children(conn: Connection, job_id: UUID) -> dict[str, dict[str, Any]]:
    """The job's children by effect key: id, status, result, error.

    For a branch's job, children that were done before the cut are included.
    """
    rows = await fetch_all(conn, CHILDREN, {"job_id": job_id})
    return {row["effect_key"]: row for row in rows}
