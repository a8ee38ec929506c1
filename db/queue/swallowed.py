"""Effects that were not inserted although nothing of ours was in the way.

In: what a finishing transaction has just inserted, when it was fewer rows than effects. Out: an
error for an effect that is nowhere. Invariant: an effect is in the database when its job has
ended well. A trigger of the user's that returns null drops a row without an error, and a unique
index of the user's own makes `on conflict do nothing` do so.

Fewer rows are the rule where a later attempt repeats its effects, and where another open job has
the unique key, or a window of time: then the effect stands.
"""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

from db.errors import InvalidInput
from db.pool import Connection, fetch_one
from db.tables import table


class Wanted(NamedTuple):
    """An effect by its table and its key, and what else may stand for a job."""

    table: str
    job_id: UUID
    key: str
    team_id: UUID | None = None
    unique_key: str | None = None
    is_child: bool = False


MISSING: LiteralString = """
select e.table, e.key
from jsonb_to_recordset(%(rows)s::jsonb) as e (
  "table" text, job_id uuid, key text, team_id uuid, unique_key text, is_child boolean)
where not case e.table
  when 'reactive_jobs' then exists (
      select 1 from jobsworth.reactive_jobs j where j.parent_id = e.job_id and j.effect_key = e.key)
    or exists (
      select 1 from jobsworth.reactive_jobs j
      where j.unique_key = e.unique_key and j.team_id is not distinct from e.team_id
        and j.finished_at is null and (j.unique_until is distinct from 'start' or j.attempt = 0))
    or exists (
      select 1 from jobsworth.unique_windows w
      where w.unique_key = e.unique_key and w.team_id is not distinct from e.team_id
        and w.held_until > clock_timestamp())
    or e.is_child and exists (
      select 1 from jobsworth.branch_reads b
      where b.job_id = e.job_id and jobsworth.inherits_child(b.job_id, e.key))
    or not exists (
      select 1 from jobsworth.reactive_jobs p where p.id = e.job_id and p.superseded_by is null)
  when 'chat_messages' then exists (
    select 1 from jobsworth.chat_messages m where m.job_id = e.job_id and m.effect_key = e.key)
  when 'memories' then exists (
    select 1 from jobsworth.memories m where m.job_id = e.job_id and m.effect_key = e.key)
  when 'artifacts' then exists (
    select 1 from jobsworth.artifacts a where a.job_id = e.job_id and a.effect_key = e.key)
  when 'run_metrics' then exists (
    select 1 from jobsworth.run_metrics m where m.job_id = e.job_id and m.effect_key = e.key)
  when 'approvals' then exists (
    select 1 from jobsworth.approvals a
    where a.job_id = e.job_id and a.effect_key = e.key and a.superseded_by is null)
end
limit 1
"""


async def swallowed(conn: Connection, wanted: Sequence[Wanted]) -> InvalidInput | None:
    """The error for one of these effects that is not in the database; None if all are."""
    missing = await fetch_one(conn, MISSING, {"rows": table([one._asdict() for one in wanted])})
    if missing is None:
        return None
    return InvalidInput(
        f"{missing['key']!r:.200} was not inserted into {missing['table']}: a trigger of that table"
        " returns null for it, or it conflicts with a unique index of your own",
        "let the trigger return the row, or drop the index",
    )
