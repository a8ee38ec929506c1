"""Effects: rows that commit together with a job's transition.

In: what handlers asked for in attempts that ended well (done or parked). Out: messages, follow-up
and child jobs, approvals, artifacts, metrics and texts to embed, written by one statement per kind
inside the finishing transaction. Each is unique by (job, effect key): a repetition by a later
attempt is ignored, so each effect happens once, however often its job runs.

The effect key is the name that the handler gave, else the kind and a digest of what the effect is.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, LiteralString, TypeVar
from uuid import UUID

import orjson

from db.approvals import questions
from db.approvals.questions import ApprovalEffect, JobApproval
from db.conversations import agent_messages
from db.conversations.agent_messages import Sent
from db.documents import to_document
from db.errors import InvalidInput
from db.memory import remembered
from db.memory.remembered import JobMemory, MemoryEffect
from db.pool import Connection, execute
from db.queue.swallowed import Wanted, swallowed
from db.queue.unique_options import UniqueUntil
from db.tables import without_nulls


@dataclass(frozen=True, slots=True)
class Origin:
    """The job whose attempt made an effect, and what the effect inherits from it."""

    job_id: UUID
    team_id: UUID | None = None
    thread_id: UUID | None = None
    trigger_message_id: UUID | None = None
    trace_parent: str | None = None
    request_id: str | None = None
    run_id: UUID | None = None
    node: str | None = None
    agent_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class MessageEffect:
    """A message in the job's thread, or in `thread_id`. `metadata` is JSON text."""

    key: str
    text: str
    role: str = "assistant"
    thread_id: UUID | None = None
    recipient_agent_id: UUID | None = None
    metadata: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_ms: int | None = None


@dataclass(frozen=True, slots=True)
class JobEffect:
    """A follow-up job (same thread, same place in its lane) or a child (no lane; may be gathered).

    With `thread_id` it belongs to that thread. With `message_key`, the message effect of that key
    is its trigger. `payload` is JSON text.
    """

    key: str
    mode: str
    payload: str = "{}"
    is_child: bool = False
    queue: str = "default"
    priority: int = 3
    delay_seconds: float | None = None
    lane: str | None = None
    unique_key: str | None = None
    unique_until: UniqueUntil | None = None
    failures_max: int | None = None
    timeout_seconds: float | None = None
    agent_id: UUID | None = None
    thread_id: UUID | None = None
    message_key: str | None = None
    limit_key: str | None = None
    limit_weight: int | None = None


@dataclass(frozen=True, slots=True)
class ArtifactEffect:
    """A file that the job made: its content, or its address (`uri`). `metadata` is JSON text."""

    key: str
    name: str
    media_type: str
    content: bytes | None = None
    uri: str | None = None
    step_name: str | None = None
    metadata: str | None = None


@dataclass(frozen=True, slots=True)
class MetricEffect:
    """A named number; its time is that of the commit."""

    key: str
    name: str
    value: float


ARTIFACT_BYTES_MAX = 100 * 2**20
# A statement takes artifacts up to about this many bytes of content.
STATEMENT_CONTENT_BYTES = 8 * 2**20
NODE_BYTES_MAX = 1_000
UNIQUE_KEY_TRIES = 5
NODE_CHARACTERS_KEPT = 60

E = TypeVar("E")
Effect = MessageEffect | JobEffect | ApprovalEffect | MemoryEffect | ArtifactEffect | MetricEffect


def size_of(effect: Effect) -> int:
    """About how many bytes writing the effect takes."""
    match effect:
        case ArtifactEffect(content=content):
            return len(content or b"")
        case JobEffect(payload=payload):
            return len(payload)
        case MessageEffect(text=text) | MemoryEffect(text=text):
            return len(text)
        case ApprovalEffect(proposal_text=text, shown=shown):
            return len(text) + len(shown or "")
        case MetricEffect():
            return 0


async def write(conn: Connection, effects: Sequence[tuple[Origin, Effect]]) -> None:
    """Insert these effects inside the caller's transaction; repeats are ignored."""
    await _write_messages(conn, _of(effects, MessageEffect))
    await _write_jobs(conn, _of(effects, JobEffect))
    await _write_approvals(conn, _of(effects, ApprovalEffect))
    await _write_memories(conn, _of(effects, MemoryEffect))
    await _write_artifacts(conn, _of(effects, ArtifactEffect))
    await _write_metrics(conn, _of(effects, MetricEffect))


def measured(content: bytes | None) -> dict[str, Any]:
    """The size of an artifact's content and its SHA-256; nothing for one that is an address."""
    if content is None:
        return {}
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


MESSAGES: LiteralString = """
insert into jobsworth.chat_messages (
  team_id, thread_id, role, text, author_agent_id, recipient_agent_id, metadata, model,
  input_tokens, output_tokens, latency_ms, request_id, job_id, effect_key)
select e.team_id, e.thread_id, e.role::jobsworth.message_role, e.text, e.author_agent_id,
  e.recipient_agent_id, e.metadata::jsonb, e.model, e.input_tokens, e.output_tokens, e.latency_ms,
  e.request_id, e.job_id, e.key
from jsonb_to_recordset(%(rows)s::jsonb) as e (
  team_id uuid, thread_id uuid, role text, text text, author_agent_id uuid,
  recipient_agent_id uuid, metadata text, model text, input_tokens int,
  output_tokens int, latency_ms int, request_id text, job_id uuid, key text)
on conflict do nothing
"""


async def _write_messages(conn: Connection, rows: list[tuple[Origin, MessageEffect]]) -> None:
    if not rows:
        return
    if sent := [
        Sent(origin.team_id, origin.run_id, effect.thread_id, origin.agent_id, to)
        for origin, effect in rows
        if (to := effect.recipient_agent_id) is not None
    ]:
        await agent_messages.prepare(conn, sent)
    documents = [
        {
            "team_id": origin.team_id,
            "thread_id": effect.thread_id or origin.thread_id,
            "role": effect.role,
            "text": effect.text,
            "author_agent_id": _author(origin, effect),
            "recipient_agent_id": effect.recipient_agent_id,
            "metadata": effect.metadata,
            "model": effect.model,
            "input_tokens": effect.input_tokens,
            "output_tokens": effect.output_tokens,
            "latency_ms": effect.latency_ms,
            "request_id": origin.request_id,
            "job_id": origin.job_id,
            "key": effect.key,
        }
        for origin, effect in rows
    ]
    written = await execute(conn, MESSAGES, {"rows": to_document(documents)})
    await _check(conn, "chat_messages", rows, written)


JOBS: LiteralString = """
insert into jobsworth.reactive_jobs (
  team_id, thread_id, trigger_message_id, parent_id, effect_key, is_child, mode, payload, queue,
  priority, run_at, lane, lane_position, unique_key, unique_until, failures_max, timeout_seconds,
  trace_parent, request_id, run_id, node, agent_id, limit_key, limit_weight,
  fair_key, session_id)
select e.team_id, e.thread_id,
  case when e.message_key is null then e.trigger_message_id else (
    select m.id from jobsworth.chat_messages m
    where m.job_id = e.job_id and m.effect_key = e.message_key) end,
  e.job_id, e.key, e.is_child, e.mode, e.payload, e.queue, e.priority,
  now() + e.delay_seconds * interval '1 second',
  -- A follow-up takes its parent's place in the lane; a child has no lane of its own.
  coalesce(e.lane, case when not e.is_child then p.lane end, ''),
  case when not e.is_child and e.lane is null then p.lane_position end,
  e.unique_key, nullif(e.unique_until, 'end')::jobsworth.unique_until, e.failures_max,
  e.timeout_seconds, e.trace_parent, e.request_id,
  e.run_id, e.node, e.agent_id, e.limit_key, e.limit_weight, p.fair_key,
  p.session_id
from jsonb_to_recordset(%(rows)s::jsonb) as e (
  team_id uuid, thread_id uuid, trigger_message_id uuid, job_id uuid, key text, is_child boolean,
  mode text, payload jsonb, queue text, priority smallint, delay_seconds float8, lane text,
  unique_key text, unique_until text, failures_max int, timeout_seconds real, trace_parent text,
  request_id text, run_id uuid, node text, agent_id uuid, message_key text,
  limit_key text, limit_weight int, n int)
cross join lateral (
  select j.lane, j.lane_position, j.superseded_by, j.fair_key, j.session_id
  from jobsworth.reactive_jobs j
  where j.id = e.job_id offset 0
) p
-- A job that was stopped for a newer message, and was done before it heard, leaves no more work on
-- the old one. A branch reads a child that was done before the cut, and does not spawn it again.
where (p.superseded_by is null or e.message_key is not null) and not (e.is_child and exists (
  select 1 from jobsworth.branch_reads b
  where b.job_id = e.job_id and jobsworth.inherits_child(b.job_id, e.key)))
  and (e.unique_key is null or jobsworth.window_holder(e.team_id, e.unique_key) is null)
order by e.n
on conflict do nothing
"""


async def _write_jobs(conn: Connection, rows: list[tuple[Origin, JobEffect]]) -> None:
    if not rows:
        return
    documents = [
        {
            "team_id": origin.team_id,
            "thread_id": effect.thread_id or origin.thread_id,
            "trigger_message_id": origin.trigger_message_id,
            "message_key": effect.message_key,
            "job_id": origin.job_id,
            "key": effect.key,
            "is_child": effect.is_child,
            "mode": effect.mode,
            "queue": effect.queue,
            "priority": effect.priority,
            "delay_seconds": _seconds(effect.delay_seconds),
            "lane": effect.lane,
            "unique_key": effect.unique_key,
            "unique_until": effect.unique_until,
            "failures_max": effect.failures_max,
            "timeout_seconds": effect.timeout_seconds,
            "trace_parent": origin.trace_parent,
            "request_id": origin.request_id,
            "run_id": origin.run_id,
            "node": _node(origin, effect),
            "agent_id": effect.agent_id or origin.agent_id,
            "limit_key": effect.limit_key,
            "limit_weight": effect.limit_weight,
            "payload": orjson.Fragment(effect.payload),
            "n": n,
        }
        for n, (origin, effect) in enumerate(rows)
    ]
    encoded, error = _encode(documents), None
    for _ in range(UNIQUE_KEY_TRIES):
        if await execute(conn, JOBS, {"rows": encoded}) == len(rows):
            return
        # None is missing if another open job has its unique key, unless that has just ended.
        error = await swallowed(conn, _wanted("reactive_jobs", rows))
        if error is None:
            return
    if error is not None:
        raise error


async def _write_approvals(conn: Connection, rows: list[tuple[Origin, ApprovalEffect]]) -> None:
    if rows:
        approvals = [
            JobApproval(o.job_id, o.team_id, o.thread_id, o.run_id, effect) for o, effect in rows
        ]
        await questions.write(conn, approvals)


async def _write_memories(conn: Connection, rows: list[tuple[Origin, MemoryEffect]]) -> None:
    if rows:
        made = [JobMemory(o.job_id, o.team_id, o.agent_id, o.thread_id, one) for o, one in rows]
        await _check(conn, "memories", rows, await remembered.write(conn, made))


ARTIFACTS: LiteralString = """
insert into jobsworth.artifacts (
  team_id, job_id, effect_key, name, media_type, bytes, sha256, content, uri, step_name, metadata)
select e.team_id, e.job_id, e.key, e.name, e.media_type, e.bytes, e.sha256,
  case when e.sha256 is not null then (%(contents)b::bytea[])[e.n] end, e.uri, e.step_name,
  e.metadata::jsonb
from jsonb_to_recordset(%(rows)s::jsonb) as e (
  team_id uuid, job_id uuid, key text, name text, media_type text, bytes bigint, sha256 text,
  uri text, step_name text, metadata text, n int)
on conflict do nothing
"""


async def _write_artifacts(conn: Connection, rows: list[tuple[Origin, ArtifactEffect]]) -> None:
    for some in _by_size(rows):
        documents = [
            {
                "team_id": origin.team_id,
                "job_id": origin.job_id,
                "key": effect.key,
                "name": effect.name,
                "media_type": effect.media_type,
                "uri": effect.uri,
                "step_name": effect.step_name,
                "metadata": effect.metadata,
                "n": n,
                **measured(effect.content),
            }
            for n, (origin, effect) in enumerate(some, start=1)
        ]
        contents = [effect.content or b"" for _, effect in some]
        values = {"rows": to_document(documents), "contents": contents}
        await _check(conn, "artifacts", some, await execute(conn, ARTIFACTS, values))


METRICS: LiteralString = """
insert into jobsworth.run_metrics (team_id, run_id, job_id, effect_key, name, value)
select e.team_id, e.run_id, e.job_id, e.key, e.name, e.value
from jsonb_to_recordset(%(rows)s::jsonb) as e (
  team_id uuid, run_id uuid, job_id uuid, key text, name text, value float8)
on conflict do nothing
"""


async def _write_metrics(conn: Connection, rows: list[tuple[Origin, MetricEffect]]) -> None:
    if not rows:
        return
    documents = [
        {
            "team_id": origin.team_id,
            "run_id": origin.run_id,
            "job_id": origin.job_id,
            "key": effect.key,
            "name": effect.name,
            "value": effect.value,
        }
        for origin, effect in rows
    ]
    written = await execute(conn, METRICS, {"rows": _encode(documents)})
    await _check(conn, "run_metrics", rows, written)


async def _check(
    conn: Connection, table: str, rows: Sequence[tuple[Origin, Effect]], written: int
) -> None:
    if written < len(rows) and (error := await swallowed(conn, _wanted(table, rows))):
        raise error


def _wanted(table: str, rows: Sequence[tuple[Origin, Effect]]) -> list[Wanted]:
    return [
        Wanted(table, origin.job_id, effect.key, origin.team_id, effect.unique_key, effect.is_child)
        if isinstance(effect, JobEffect)
        else Wanted(table, origin.job_id, effect.key)
        for origin, effect in rows
    ]


def _author(origin: Origin, effect: MessageEffect) -> UUID | None:
    """Only assistant messages, and messages to an agent, have the job's agent as author."""
    has_author = effect.role == "assistant" or effect.recipient_agent_id is not None
    return origin.agent_id if has_author else None


def _node(origin: Origin, effect: JobEffect) -> str | None:
    """The node of a new job: the same in every run that consists of the same jobs. It is short
    enough for an index, however long the chain of jobs that started each other.
    """
    if origin.run_id is None:
        return None
    maker = origin.node or str(origin.job_id)
    if len(f"{maker}/{effect.key}".encode()) <= NODE_BYTES_MAX:
        return f"{maker}/{effect.key}"
    digest = hashlib.sha256(maker.encode()).hexdigest()[:16]
    return f"{maker[:NODE_CHARACTERS_KEPT]}…{digest}/{effect.key}"


def _by_size(
    rows: list[tuple[Origin, ArtifactEffect]],
) -> Iterable[list[tuple[Origin, ArtifactEffect]]]:
    some: list[tuple[Origin, ArtifactEffect]] = []
    size = 0
    for origin, effect in rows:
        some.append((origin, effect))
        size += size_of(effect)
        if size >= STATEMENT_CONTENT_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


# JSON has neither infinity nor NaN: they would become null, and the job would run at once.
def _seconds(value: float | None) -> float | None:
    if value is not None and not isfinite(value):
        raise InvalidInput(f"a delay of {value} seconds is not finite", "pass a finite number")
    return value


def _encode(documents: list[dict[str, Any]]) -> str:
    try:
        return orjson.dumps(list(map(without_nulls, documents))).decode()
    except orjson.JSONEncodeError as error:
        raise InvalidInput(f"an effect cannot be written: {error}", "use Unicode text") from error


def _of(effects: Iterable[tuple[Origin, Effect]], kind: type[E]) -> list[tuple[Origin, E]]:
    return [(origin, effect) for origin, effect in effects if isinstance(effect, kind)]
