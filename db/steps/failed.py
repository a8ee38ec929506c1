"""Steps that failed: each leaves its row, with its input and its error, until it is recorded.

In: what the steps of ended attempts raised, within the transaction that ends the attempts. Out:
rows of `steps` with `failed_at`. Invariants: the caller has locked the job's row; a step that is
recorded, or that was begun as unsafe, keeps its row as it is.
"""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

import orjson

from db.pool import Connection, execute


class FailedStep(NamedTuple):
    """A step that raised `error`; `input_document` (its arguments) is JSON text."""

    name: str
    error: str
    attempt: int
    took_seconds: float
    ago_seconds: float = 0.0
    effect: str = "idempotent"
    input_hash: str | None = None
    input_document: str | None = None


LEAVE: LiteralString = """
insert into jobsworth.steps (
  job_id, team_id, name, effect, input_hash, input, attempt, started_at, failed_at, error)
select j.id, j.team_id, f.name, f.effect, f.input_hash, f.input, f.attempt,
  clock_timestamp() - (f.ago_seconds + f.took_seconds) * interval '1 second',
  clock_timestamp() - f.ago_seconds * interval '1 second', f.error
from jsonb_to_recordset(%(rows)s::jsonb) as f (
  job_id uuid, name text, effect jobsworth.step_effect, input_hash text, input jsonb, attempt int,
  took_seconds float8, ago_seconds float8, error text)
cross join lateral (
  select r.id, r.team_id from jobsworth.reactive_jobs r where r.id = f.job_id offset 0
) j
on conflict (job_id, name) do update
set effect = excluded.effect, input_hash = excluded.input_hash, input = excluded.input,
  attempt = excluded.attempt, started_at = excluded.started_at, failed_at = excluded.failed_at,
  error = excluded.error
where steps.finished_at is null and steps.effect <> 'unsafe' and steps.kind = 'step'
"""


async def leave(conn: Connection, failed: Sequence[tuple[UUID, FailedStep]]) -> None:
    """Write the rows of steps that failed, by job id, in the transaction that ends the attempts."""
    if failed:
        rows = [
            {
                "job_id": str(job_id),
                "name": step.name,
                "error": step.error,
                "attempt": step.attempt,
                "took_seconds": step.took_seconds,
                "ago_seconds": step.ago_seconds,
                "effect": step.effect,
                "input_hash": step.input_hash,
                "input": step.input_document and orjson.Fragment(step.input_document),
            }
            for job_id, step in failed
        ]
        await execute(conn, LEAVE, {"rows": orjson.dumps(rows).decode()})
