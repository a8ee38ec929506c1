"""Checkpoints: named steps that hold a state to continue from.

In: a job or a run. Out: its latest checkpoint, or one by its name; old ones pruned. A pruned
checkpoint loses its state but keeps its name, so a later attempt does not save it again. Invariant:
what a branch reads is never pruned.
"""

from typing import Any, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.errors import InvalidInput
from db.fence import Lease, hold
from db.pool import Connection, execute, fetch_all, fetch_val


class Checkpoint(BaseModel):
    """A state that was saved under a name.

    `number` counts from 1 in the order of saving, those that are pruned included. `blob_bytes` is
    the size of the bytes beside the state, None without any; `latest_checkpoint` and
    `checkpoint_at` read them into `blob`, lists do not.
    """

    model_config = ConfigDict(frozen=True)

    job_id: UUID
    name: str
    number: int
    state: Any
    saved_at: AwareDatetime
    blob_bytes: int | None
    blob: bytes | None = None


OF_JOB: LiteralString = """
select c.job_id, c.name, c.number, c.output as state, c.finished_at as saved_at,
  length(c.blob) as blob_bytes
from (
  select u.*, row_number() over (order by u.finished_at, u.name) as number
  from (
    select s.job_id, s.name, s.kind, s.output, s.blob, s.finished_at
    from jobsworth.steps s
    where s.job_id = %(job_id)s and s.kind in ('checkpoint', 'pruned')
      and s.finished_at is not null
    union all
    select i.job_id, i.name, i.kind, i.output, i.blob, i.finished_at
    from jobsworth.inherited_steps(%(job_id)s) i
    where i.kind in ('checkpoint', 'pruned')
  ) u
) c
where c.kind = 'checkpoint'
order by c.number
"""


async def list_for_job(conn: Connection, job_id: UUID) -> list[Checkpoint]:
    """The checkpoints that a job reads, oldest first; a branch's job also reads those before the
    cut.
    """
    return await fetch_all(conn, OF_JOB, {"job_id": job_id}, Checkpoint)


OF_RUN: LiteralString = """
select c.job_id, c.name, c.number, c.output as state, c.finished_at as saved_at,
  length(c.blob) as blob_bytes
from (
  select u.*, row_number() over (order by u.finished_at, u.name) as number
  from jobsworth.jobs_of_run(%(run_id)s) v
  cross join lateral (
    select s.job_id, s.name, s.kind, s.output, s.blob, s.finished_at
    from jobsworth.steps s
    where s.job_id = v.job_id and s.kind in ('checkpoint', 'pruned')
      and s.finished_at is not null
    union all
    select i.job_id, i.name, i.kind, i.output, i.blob, i.finished_at
    from jobsworth.inherited_steps(v.job_id) i
    where i.kind in ('checkpoint', 'pruned')
  ) u
) c
where c.kind = 'checkpoint'
order by c.number
"""


async def list_for_run(conn: Connection, run_id: UUID) -> list[Checkpoint]:
    """The checkpoints of all jobs of a run, oldest first."""
    return await fetch_all(conn, OF_RUN, {"run_id": run_id}, Checkpoint)


async def latest_checkpoint(
    conn: Connection, *, job_id: UUID | None = None, run_id: UUID | None = None
) -> Checkpoint | None:
    """The checkpoint saved last, by a job or by any job of a run; None without checkpoints."""
    found = await _list(conn, job_id, run_id)
    return await _with_blob(conn, found[-1] if found else None)


async def checkpoint_at(
    conn: Connection, at: str | int, *, job_id: UUID | None = None, run_id: UUID | None = None
) -> Checkpoint | None:
    """The checkpoint of this name or number, or None; of several in a run, the one saved last."""
    named = [one for one in await _list(conn, job_id, run_id) if at in (one.name, one.number)]
    return await _with_blob(conn, named[-1] if named else None)


BLOB: LiteralString = """
select s.blob from jobsworth.steps s where s.job_id = %(job_id)s and s.name = %(name)s
"""


async def _with_blob(conn: Connection, found: Checkpoint | None) -> Checkpoint | None:
    if found is None or found.blob_bytes is None:
        return found
    blob = await fetch_val(conn, BLOB, {"job_id": found.job_id, "name": found.name})
    return found.model_copy(update={"blob": blob})


async def _list(conn: Connection, job_id: UUID | None, run_id: UUID | None) -> list[Checkpoint]:
    if job_id is not None and run_id is None:
        return await list_for_job(conn, job_id)
    if run_id is not None and job_id is None:
        return await list_for_run(conn, run_id)
    raise InvalidInput("checkpoints belong to a job or to a run", "give either job_id or run_id")


REPLACE: LiteralString = """
with read as (
  -- What a branch has read before stays: the branch gets a step of its own.
  insert into jobsworth.steps (
    job_id, team_id, name, kind, effect, input_hash, output, blob, attempt, started_at,
    finished_at)
  select b.job_id, b.team_id, s.name, s.kind, s.effect, s.input_hash, s.output, s.blob, s.attempt,
    s.started_at, s.finished_at
  from jobsworth.steps s
  join jobsworth.branch_reads b on b.from_job_id = s.job_id and s.finished_at < b.cut_at
  where s.job_id = %(job_id)s and s.name = %(name)s
  on conflict (job_id, name) do nothing
)
update jobsworth.steps s
set kind = 'checkpoint', output = %(state)s::jsonb, blob = %(blob)s, attempt = %(attempt)s,
  started_at = clock_timestamp(), finished_at = clock_timestamp()
where s.job_id = %(job_id)s and s.name = %(name)s
"""


async def replace(
    conn: Connection, lease: Lease, name: str, state: str, attempt: int, blob: bytes | None = None
) -> None:
    """Put another state (JSON text) and other bytes in the place of a checkpoint of the job itself.

    Inside the caller's transaction. The job's row is locked first, so a fork that held it is seen.
    Raises `LeaseLost`.
    """
    await hold(conn, lease)
    values = {"job_id": lease.job_id, "name": name, "state": state, "attempt": attempt}
    await execute(conn, REPLACE, {**values, "blob": blob})


SAVE: LiteralString = """
insert into jobsworth.steps as s (
  job_id, team_id, name, kind, output, blob, attempt, finished_at)
select j.id, j.team_id, %(name)s, 'checkpoint', %(state)s::jsonb, %(blob)s, %(attempt)s,
  clock_timestamp()
from jobsworth.reactive_jobs j
where j.id = %(job_id)s
on conflict (job_id, name) do nothing
"""


async def save(
    conn: Connection, lease: Lease, name: str, state: str, attempt: int, blob: bytes | None
) -> None:
    """A new checkpoint, with bytes beside its state (JSON text), inside the caller's transaction.

    Raises `LeaseLost`.
    """
    await hold(conn, lease)
    values = {"job_id": lease.job_id, "name": name, "state": state, "attempt": attempt}
    await execute(conn, SAVE, {**values, "blob": blob})


PRUNE: LiteralString = """
with old as materialized (
  select s.name
  from jobsworth.steps s
  where s.job_id = %(job_id)s and s.kind = 'checkpoint' and not exists (
    select 1 from jobsworth.branch_reads b
    where b.from_job_id = s.job_id and s.finished_at < b.cut_at)
  order by s.finished_at desc, s.name desc
  offset %(keep)s
)
update jobsworth.steps s
set kind = 'pruned', output = 'null', blob = null
where s.job_id = %(job_id)s and s.name in (select o.name from old o)
returning s.name
"""


async def prune(conn: Connection, lease: Lease, *, keep: int) -> int:
    """Drop the states of all but the newest `keep` checkpoints of the job itself.

    Inside the caller's transaction. The job's row is locked first, so a fork that held it is seen.
    Checkpoints that a branch reads are kept and not counted. Returns how many states were dropped.
    Raises `LeaseLost`.
    """
    if keep < 1:
        raise InvalidInput(f"{keep} checkpoints cannot be kept", "keep at least the latest one")
    await hold(conn, lease)
    values = {"job_id": lease.job_id, "keep": keep}
    return len(await fetch_all(conn, PRUNE, values))
