"""What a handler wants to commit with its attempt: messages, jobs, files, metrics, memories.

In: what the methods of `Job` are given. Out: effects in the attempt's state. Invariant: what cannot
be written is refused here, so that the commit of an attempt does not fail for its effects.
"""

import mimetypes
from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

from orjson import loads

from db.arguments import check_uri
from db.documents import to_document, to_metadata, to_payload, to_text
from db.errors import InvalidInput
from db.memory.remembered import MemoryEffect
from db.queue import effects_made, enqueue_middleware
from db.queue.effects import (
    ARTIFACT_BYTES_MAX,
    ArtifactEffect,
    JobEffect,
    MessageEffect,
    MetricEffect,
)
from db.queue.new_job import NewJob
from worker.attempt_state import AttemptState
from worker.memory import memory_ways
from worker.steps.changed import StepChanged
from worker.steps.declaration import check_name
from worker.steps.waits import Child

# What a handler does not set by an option of `enqueue` or `spawn`.
_NOT_OPTIONS = {"key", "mode", "payload", "is_child", "thread_id", "message_key"}
JOB_OPTIONS = frozenset(JobEffect.__dataclass_fields__) - _NOT_OPTIONS
IDENTIFYING = ("queue", "lane", "unique_key", "agent_id")


def say(
    state: AttemptState,
    text: str,
    *,
    thread_id: UUID | None,
    name: str | None,
    role: str,
    metadata: Mapping[str, Any] | None,
    model: str | None,
    input_tokens: int | None,
    output_tokens: int | None,
    latency_ms: int | None,
) -> None:
    """A message in `thread_id`, or else in the job's thread."""
    if thread_id is None:
        _require_thread(state, "say")
    state.effects.append(
        MessageEffect(
            key=state.key("message", name, text, role, thread_id),
            text=to_text(text),
            role=role,
            thread_id=thread_id,
            metadata=to_metadata(metadata, "a message"),
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            latency_ms=latency_ms,
        )
    )


def send(
    state: AttemptState,
    agent_id: UUID,
    text: str,
    *,
    mode: str,
    thread_id: UUID | None,
    name: str | None,
) -> None:
    """A message to another agent, and the job of that agent that the message triggers."""
    # A run without a thread has one of its own for its agents, with the run's id.
    thread = thread_id or state.job.thread_id or state.job.run_id or _require_thread(state, "send")
    key = state.key("send", name, agent_id, text, mode, thread)
    state.effects.append(
        MessageEffect(
            key=key,
            text=to_text(text),
            role="user",
            thread_id=thread,
            recipient_agent_id=agent_id,
        )
    )
    # A follow-up in the job's own thread takes the job's place in the lane, if it has one.
    follows = thread == state.job.thread_id and state.job.lane is not None
    state.effects.append(
        JobEffect(
            key=key,
            mode=mode,
            agent_id=agent_id,
            thread_id=thread,
            message_key=key,
            lane=None if follows else str(thread),
        )
    )


def metric(state: AttemptState, name: str, value: float, key: str | None) -> None:
    """A finite number under a name."""
    made = MetricEffect(state.key("metric", key, name, value), to_text(name), value)
    state.effects.append(made)


def enqueue(
    state: AttemptState,
    mode: str,
    payload: Mapping[str, Any] | None,
    name: str | None,
    options: Mapping[str, Any],
) -> None:
    """A follow-up job."""
    _add_job(state, "job", name, mode, payload, options)


def spawn(
    state: AttemptState,
    mode: str,
    payload: Mapping[str, Any] | None,
    name: str | None,
    options: Mapping[str, Any],
) -> Child:
    """A child job, to be gathered."""
    ends = "children end with their parent unless it gathers them: use enqueue instead"
    state.require_loop("spawn", ends)
    _check_child(state, options)
    return Child(_add_job(state, "child", name, mode, payload, options))


def save(
    state: AttemptState,
    name: str,
    content: bytes | str | None,
    *,
    uri: str | None,
    media_type: str | None,
    step: str | None,
    metadata: Mapping[str, Any] | None,
) -> None:
    """An artifact: its content, or its address."""
    if (content is None) == (uri is None):
        raise InvalidInput(f"artifact {name!r} needs either content or uri", "pass one of them")
    check_uri(f"artifact {name!r}", uri)
    if step is not None:
        check_name("step", step)
    if not isinstance(cast(object, content), bytes | bytearray | memoryview | str | None):
        raise InvalidInput(
            f"the content of artifact {name!r} is a {type(content).__name__}",
            "pass bytes or text, like json.dumps(…)",
        )
    data = content.encode(errors="replace") if isinstance(content, str) else content
    if data is not None and len(data) > ARTIFACT_BYTES_MAX:
        raise InvalidInput(
            f"artifact {name!r} has {len(data):,} bytes;"
            f" at most {ARTIFACT_BYTES_MAX:,} are allowed",
            "store the file elsewhere, and save its uri",
        )
    guessed = mimetypes.guess_type(name)[0]
    fallback = "text/plain" if isinstance(content, str) else "application/octet-stream"
    state.effects.append(
        ArtifactEffect(
            key=state.key("artifact", name),
            name=name,
            media_type=media_type or guessed or fallback,
            content=None if data is None else bytes(data),
            uri=uri,
            step_name=step,
            metadata=to_metadata(metadata, "a file"),
        )
    )


def remember(
    state: AttemptState,
    text: str,
    *,
    kind: str,
    source_id: str | None,
    metadata: Mapping[str, Any] | None,
    name: str | None,
    ways: Mapping[str, Any],
) -> None:
    """A text to embed after the job has finished; `ways` are `MemoryWays`."""
    given = memory_ways.checked(ways)
    state.effects.append(
        MemoryEffect(
            key=state.key("memory", name, text, kind, source_id),
            text=to_text(text),
            source_kind=to_text(kind),
            source_id=None if source_id is None else to_text(source_id),
            metadata=to_document(dict(metadata or {}), "the metadata of a memory"),
            **given,
        )
    )


async def check_same(state: AttemptState, *, waits: bool) -> None:
    """Raise `StepChanged` if an earlier attempt has committed something else than this one makes.

    So under a name. A child without a name that is another one in each attempt would be spawned
    anew whenever the job has waited for it (`waits`), for ever: such a child is told too.
    """
    if state.job.attempt == 1 or not state.effects:
        return
    named = [one for one in state.effects if one.key in state.named]
    children = {one.key: one for one in state.effects if isinstance(one, JobEffect)}
    spawned = {key: one.mode for key, one in children.items() if key.startswith("child#")}
    if not named and not (waits and spawned):
        return
    async with state.tools.database.connection() as connection:
        changed = await effects_made.changed(connection, state.job.id, named)
        before = await effects_made.unnamed_children(connection, state.job.id) if waits else []
    if changed:
        raise StepChanged(
            f"an earlier attempt has made another {changed[0]!r}: what it is differs between"
            " attempts (take what changes from job.step, or give the new one a name of its own)"
        )
    new = {mode for key, mode in spawned.items() if key not in dict(before)}
    for key, mode in before:
        if key not in spawned and mode in new and not state.beside.cut_short:
            raise StepChanged(
                f"the child {key!r} of an earlier attempt was not spawned again, but another one of"
                f" mode {mode!r}: its payload differs between attempts (take what changes from"
                " job.step, or give the child a name)"
            )


def _document(state: AttemptState, mode: str, payload: Mapping[str, Any] | None) -> str:
    size = state.tools.payload_bytes_max
    return to_payload(dict(payload or {}), f"the payload of {mode!r}", size)


def _changed(new: NewJob) -> tuple[str, Mapping[str, Any] | None, dict[str, Any]]:
    """Mode, payload and options of a follow-up as middleware has left them."""
    options = {one: getattr(new, one) for one in JOB_OPTIONS - {"delay_seconds"}}
    delay = new.delay_interval()
    options["delay_seconds"] = None if delay is None else delay.total_seconds()
    return new.mode, new.payload, options


def _check_child(state: AttemptState, options: Mapping[str, Any]) -> None:
    if options.get("lane") is not None and options["lane"] == state.job.lane:
        raise InvalidInput(
            f"a child in the lane {state.job.lane!r} would wait for its parent for ever",
            "leave lane out: a child has no lane of its own",
        )
    if options.get("unique_key") is not None or options.get("unique_until") is not None:
        raise InvalidInput(
            f"a child cannot have a unique_key: another job may hold {options.get('unique_key')!r},"
            " and then there would be no child to gather",
            "leave it out: a replay spawns each child once anyway",
        )


def _require_thread(state: AttemptState, method: str) -> UUID:
    if state.job.thread_id is None:
        raise InvalidInput(
            f"job {state.job.id} has no thread to {method} a message in",
            f"enqueue it with thread_id, or pass thread_id to job.{method}",
        )
    return state.job.thread_id


def _add_job(
    state: AttemptState,
    kind: str,
    name: str | None,
    mode: str,
    payload: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> str:
    unknown = options.keys() - JOB_OPTIONS
    if unknown:
        raise InvalidInput(
            f"{', '.join(sorted(unknown))} is not an option of a job",
            f"the options are {', '.join(sorted(JOB_OPTIONS))}",
        )
    wanted = dict(options)
    new = NewJob(mode, payload, delay=wanted.pop("delay_seconds", None), **wanted)  # checks them
    document = _document(state, mode, payload)
    # What the job is, and not how it is to be run: a delay may be another one in each attempt. A
    # name stands for all of it.
    identifying: tuple[object, ...] = ()
    if name is None:
        identifying = (mode, loads(document), *(options.get(one) for one in IDENTIFYING))
    key = state.key(kind, name, *identifying)
    if enqueue_middleware.declared:
        # After the key is made, so that a replay is known by what the handler says.
        mode, payload, options = _changed(enqueue_middleware.through(new))
        document = _document(state, mode, payload)
        if kind == "child":
            _check_child(state, options)
    state.effects.append(
        JobEffect(key=key, mode=mode, payload=document, is_child=kind == "child", **options)
    )
    return key
