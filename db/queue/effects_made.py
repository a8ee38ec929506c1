"""Effects that earlier attempts of a job have committed, compared with what meets them.

In: a job, and effects that have a name. Out: those under whose name something else is committed.
What is committed under a name does not change, so this is read before the transition is written.
"""

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString
from uuid import UUID

import orjson

from db.memory.remembered import MemoryEffect
from db.pool import Connection, fetch_all
from db.queue.effects import (
    ArtifactEffect,
    Effect,
    JobEffect,
    MessageEffect,
    MetricEffect,
    measured,
)
from db.tables import table

MESSAGES: LiteralString = """
select e.key
from jsonb_to_recordset(%(rows)s::jsonb) as e (
  key text, role text, text text, recipient_agent_id uuid)
join jobsworth.chat_messages m on m.job_id = %(job_id)s and m.effect_key = e.key
where (m.role::text, m.text, m.recipient_agent_id)
  is distinct from (e.role, e.text, e.recipient_agent_id)
"""

JOBS: LiteralString = """
select e.key
from jsonb_to_recordset(%(rows)s::jsonb) as e (key text, mode text, payload jsonb)
join jobsworth.reactive_jobs j on j.parent_id = %(job_id)s and j.effect_key = e.key
where (j.mode, j.payload) is distinct from (e.mode, e.payload)
"""

MEMORIES: LiteralString = """
select e.key
from jsonb_to_recordset(%(rows)s::jsonb) as e (
  key text, text text, source_kind text, source_id text)
join jobsworth.memories m on m.job_id = %(job_id)s and m.effect_key = e.key
where (m.text, m.source_kind, m.source_id) is distinct from (e.text, e.source_kind, e.source_id)
"""

ARTIFACTS: LiteralString = """
select e.key
from jsonb_to_recordset(%(rows)s::jsonb) as e (key text, sha256 text, uri text)
join jobsworth.artifacts a on a.job_id = %(job_id)s and a.effect_key = e.key
where (a.sha256, a.uri) is distinct from (e.sha256, e.uri)
"""

METRICS: LiteralString = """
select e.key
from jsonb_to_recordset(%(rows)s::jsonb) as e (key text, name text)
join jobsworth.run_metrics m on m.job_id = %(job_id)s and m.effect_key = e.key
where m.name <> e.name
"""


async def changed(conn: Connection, job_id: UUID, effects: Iterable[Effect]) -> list[str]:
    """The keys of those effects under which the job has committed something else.

    A metric under a key may have another value: the first that was measured stands.
    """
    kinds: dict[LiteralString, list[dict[str, Any]]] = {}
    for effect in effects:
        match effect:
            case MessageEffect():
                row = _row(effect, "role", "text", "recipient_agent_id")
                kinds.setdefault(MESSAGES, []).append(row)
            case JobEffect():
                kinds.setdefault(JOBS, []).append(_job(effect))
            case MemoryEffect():
                row = _row(effect, "text", "source_kind", "source_id")
                kinds.setdefault(MEMORIES, []).append(row)
            case ArtifactEffect():
                row = {**_row(effect, "uri"), **measured(effect.content)}
                kinds.setdefault(ARTIFACTS, []).append(row)
            case MetricEffect():
                kinds.setdefault(METRICS, []).append(_row(effect, "name"))
            case _:
                pass  # a question that has changed is asked anew
    keys: list[str] = []
    for statement, rows in kinds.items():
        keys += await _keys(conn, statement, job_id, rows)
    return keys


CHILDREN: LiteralString = """
select e.key
from jsonb_to_recordset(%(rows)s::jsonb) as e (key text, mode text, payload jsonb)
cross join lateral (
  select c.mode, c.payload from jobsworth.reactive_jobs c
  where c.parent_id = %(job_id)s and c.effect_key = e.key and c.is_child
  union all
  select c.mode, c.payload from jobsworth.inherited_children(%(job_id)s) i
  join jobsworth.reactive_jobs c on c.id = i.id
  where i.effect_key = e.key) c
where (c.mode, c.payload) is distinct from (e.mode, e.payload)
"""


async def changed_children(
    conn: Connection, job_id: UUID, children: Sequence[JobEffect]
) -> list[str]:
    """The keys of those children under which the job has another child.

    A branch's job also has those that were done before the cut.
    """
    return await _keys(conn, CHILDREN, job_id, list(map(_job, children)))


UNNAMED_CHILDREN: LiteralString = """
select c.mode, c.effect_key as key
from jobsworth.reactive_jobs c
where c.parent_id = %(job_id)s and c.is_child and c.effect_key like 'child#%%'
"""


async def unnamed_children(conn: Connection, job_id: UUID) -> list[tuple[str, str]]:
    """(key, mode) of the children without a name that the job has spawned itself."""
    rows = await fetch_all(conn, UNNAMED_CHILDREN, {"job_id": job_id})
    return [(row["key"], row["mode"]) for row in rows]


async def _keys(
    conn: Connection, statement: LiteralString, job_id: UUID, rows: list[dict[str, Any]]
) -> list[str]:
    if not rows:
        return []
    found = await fetch_all(conn, statement, {"job_id": job_id, "rows": table(rows)})
    return [row["key"] for row in found]


def _row(effect: Effect, *columns: str) -> dict[str, Any]:
    return {"key": effect.key, **{column: getattr(effect, column) for column in columns}}


def _job(effect: JobEffect) -> dict[str, Any]:
    return {**_row(effect, "mode"), "payload": orjson.Fragment(effect.payload)}
