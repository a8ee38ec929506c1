"""The one statement that inserts memories, whoever remembers them.

In: rows as dicts, with an id each. Out: the ids of those that are new; what a job has remembered
under the same key already is not. A trigger queues them to be embedded.
"""

from typing import Any, LiteralString
from uuid import UUID

from db.pool import Connection, fetch_all
from db.tables import table

INSERT: LiteralString = """
insert into jobsworth.memories (
  id, team_id, agent_id, thread_id, job_id, effect_key, source_kind, source_id, text, metadata,
  session_id, type, importance, confidence, valid_from, valid_to, message_ids, step_name, file_name)
select t.id, t.team_id, t.agent_id, t.thread_id, t.job_id, t.effect_key, t.source_kind,
  t.source_id, t.text, t.metadata,
  coalesce(t.session_id,
    (select j.session_id from jobsworth.reactive_jobs j where j.id = t.job_id),
    (select c.session_id from jobsworth.chat_threads c where c.id = t.thread_id)),
  t.type, coalesce(t.importance, 0.5), coalesce(t.confidence, 1), t.valid_from, t.valid_to,
  t.message_ids, t.step_name, t.file_name
from jsonb_to_recordset(%(rows)s::jsonb) as t (
  id uuid, team_id uuid, agent_id uuid, thread_id uuid, job_id uuid, effect_key text,
  source_kind text, source_id text, text text, metadata jsonb, session_id uuid,
  type jobsworth.memory_type, importance float8, confidence float8, valid_from timestamptz,
  valid_to timestamptz, message_ids uuid[], step_name text, file_name text)
order by t.id
on conflict do nothing
returning id
"""


async def insert(conn: Connection, rows: list[dict[str, Any]]) -> list[UUID]:
    """Insert these; returns the ids of the new ones, in their order."""
    return [row["id"] for row in await fetch_all(conn, INSERT, {"rows": table(rows)})]
