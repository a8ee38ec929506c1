"""`PlainJob`: the part of `Job` that plain handlers can use as well.

What the job is, and effects: what commits with the attempt's ending. Nothing here waits, so it
works in a thread and in a process of its own.
"""

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack
from uuid import UUID

import structlog

from db.queue.unique_options import UniqueUntil
from worker import effects
from worker.arguments import checks_arguments
from worker.attempt_state import AttemptState
from worker.memory.memory_ways import MemoryWays


class ChildOptions(TypedDict, total=False):
    """Options of `job.spawn`; what is left out is as for any new job."""

    queue: str
    priority: int
    """1 (urgent) to 4; 3 if left out."""
    delay_seconds: float | None
    lane: str | None
    failures_max: int | None
    timeout_seconds: float | None
    agent_id: UUID | None


class FollowUpOptions(ChildOptions, total=False):
    """Options of `job.enqueue`."""

    unique_key: str | None
    """While a job of the team holds this key, no second one is enqueued."""
    unique_until: UniqueUntil | None
    """"end" (the default) or "start": until when the new job holds its key."""


@checks_arguments
class PlainJob:
    """What the job is, and what commits when its attempt ends well.

    What differs from attempt to attempt (a time, a random number) is something else to a replay. So
    take it from a step; under a `name` the job fails with `StepChanged` instead.
    """

    __slots__ = ("_state",)

    def __init__(self, state: AttemptState) -> None:
        self._state = state

    @property
    def id(self) -> UUID:
        """The job's id, the same in all attempts."""
        return self._state.job.id

    @property
    def mode(self) -> str:
        """The mode: the name under which this handler is registered."""
        return self._state.job.mode

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1. Waits and rescues count, as retries do."""
        return self._state.job.attempt

    @property
    def payload(self) -> dict[str, Any]:
        """The whole payload, as it was enqueued."""
        return self._state.job.payload

    @property
    def team_id(self) -> UUID | None:
        """The team that the job belongs to."""
        return self._state.job.team_id

    @property
    def thread_id(self) -> UUID | None:
        """The chat thread that the job belongs to."""
        return self._state.job.thread_id

    @property
    def trigger_message_id(self) -> UUID | None:
        """The message that the job was enqueued for."""
        return self._state.job.trigger_message_id

    @property
    def run_id(self) -> UUID | None:
        """The run that the job is part of."""
        return self._state.job.run_id

    @property
    def node(self) -> str | None:
        """The job's name within its run."""
        return self._state.job.node

    @property
    def agent_id(self) -> UUID | None:
        """The agent that the job is for."""
        return self._state.job.agent_id

    @property
    def trace_parent(self) -> str | None:
        """The W3C `traceparent` that the job was enqueued with."""
        return self._state.job.trace_parent

    @property
    def trace_id(self) -> str | None:
        """The trace id within `trace_parent`."""
        return trace_id(self.trace_parent)

    @property
    def request_id(self) -> str | None:
        """The request that the job works for; its messages, follow-ups and children have it too."""
        return self._state.job.request_id

    @property
    def is_stopped(self) -> bool:
        """Whether this attempt was told to end: what becomes of it is discarded.

        A batch handler can leave such a job out, a plain function in a thread can return. A
        deadline that has passed shows in batches only.
        """
        return self._state.told_to_stop or self._state.stopped_by is not None

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A logger whose lines carry the job's id, lease, mode, request and trace id."""
        if self._state.in_batch:  # which belongs to several jobs
            job = self._state.job
            ids = {"job_id": str(job.id), "lease_no": job.lease_no, "mode": job.mode}
            return structlog.get_logger("handler").bind(**ids)
        return structlog.get_logger("handler")

    # Effects: they commit with the attempt's ending.

    def say(
        self,
        text: str,
        *,
        role: str = "assistant",
        metadata: Mapping[str, Any] | None = None,
        model: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        latency_ms: int | None = None,
        thread_id: UUID | None = None,
        name: str | None = None,
    ) -> None:
        """Write a message into the job's thread, or into `thread_id`; `metadata` is your own.

        It commits when the attempt ends well. A replay that says it again writes nothing: messages
        are told apart by `name`, or by their text. Raises `InvalidInput` if there is no thread.
        """
        effects.say(
            self._state,
            text,
            thread_id=thread_id,
            name=name,
            role=role,
            metadata=metadata,
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            latency_ms=latency_ms,
        )

    def send(
        self,
        agent_id: UUID,
        text: str,
        *,
        mode: str = "answer",
        thread_id: UUID | None = None,
        name: str | None = None,
    ) -> None:
        """Write a message to another agent, and enqueue the job (of `mode`) that it triggers.

        Both commit together when the attempt ends well. The message goes into the job's thread, or
        into `thread_id`; in a run without a thread into one that is opened for it, with the run's
        id. A replay writes neither again: messages are told apart by `name`, or by their text. An
        agent that the job's team does not have fails the attempt. Raises `InvalidInput` if there is
        neither thread nor run.
        """
        effects.send(self._state, agent_id, text, mode=mode, thread_id=thread_id, name=name)

    def metric(self, name: str, value: float, *, key: str | None = None) -> None:
        """Record a number under a name; several of one name show its course over time.

        It commits when the attempt ends well. A replay records none twice: they are told apart by
        `key`, or by name and value. Raises `InvalidInput` unless the number is finite.
        """
        effects.metric(self._state, name, value, key)

    def enqueue(
        self,
        mode: str,
        payload: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        **options: Unpack[FollowUpOptions],
    ) -> None:
        """Enqueue a follow-up job: in the same thread, at the same place in its lane.

        It commits when the attempt ends well. A replay enqueues none twice: they are told apart by
        `name`, or by mode and payload. Raises `InvalidInput` for an unknown option, and for a
        payload that is not JSON or too large.
        """
        effects.enqueue(self._state, mode, payload, name, options)

    def save(
        self,
        name: str,
        content: bytes | str | None = None,
        *,
        uri: str | None = None,
        media_type: str | None = None,
        step: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Save a file of this job: its content (at most 100 MiB), or the `uri` where it is stored.

        It commits when the attempt ends well; a replay saves nothing twice. `step` names the step
        that made it, `metadata` is your own. Without `media_type` the type is guessed from the
        name. Raises `InvalidInput` for a name that this attempt has
        saved already, and unless exactly one of content and uri is given.
        """
        effects.save(
            self._state,
            name,
            content,
            uri=uri,
            media_type=media_type,
            step=step,
            metadata=metadata,
        )

    def remember(
        self,
        text: str,
        *,
        kind: str = "note",
        source_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        name: str | None = None,
        **ways: Unpack[MemoryWays],
    ) -> None:
        """Remember a text: once the job has finished it is embedded, and `recall` finds it.

        It commits when the attempt ends well. A replay remembers none twice: they are told apart by
        `name`, or by their text. An embedder that is down delays the memory, not the job.
        `MemoryWays` explains the other options: type, importance, confidence, valid_from, valid_to,
        messages, step, file, supersedes. Raises `InvalidInput`.
        """
        effects.remember(
            self._state,
            text,
            kind=kind,
            source_id=source_id,
            metadata=metadata,
            name=name,
            ways=ways,
        )


def state_of(job: PlainJob) -> AttemptState:
    """The state behind a job, for the modes that are shipped with the worker."""
    return job._state  # pyright: ignore[reportPrivateUsage]


def trace_id(trace_parent: str | None) -> str | None:
    """The trace id of a W3C `traceparent` header: version-traceid-parentid-flags."""
    if trace_parent is None:
        return None
    parts = trace_parent.split("-")
    return parts[1] if len(parts) == 4 else None
