"""A run to start: its nodes and options, and the checks of each node.

In: nodes and options, as the caller gave them. Out: checked values, as JSON for the database, which
checks the nodes together (unique names, unknown needs, circles), so that each language gets the
same errors. A mistake is found here before anything is sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict, cast
from uuid import UUID

import orjson

from db.documents import to_payload
from db.errors import InvalidInput, shown
from db.queue.new_job import PAYLOAD_BYTES_MAX, NewJob

ON_FAILURE = ("fail", "skip", "run")


@dataclass(frozen=True, slots=True)
class After:
    """The node that another comes after, and what happens if it fails or is canceled.

    on_failure: "fail" (the later node fails too), "skip" (it is canceled) or "run" (it runs
    anyway).
    """

    node: str
    on_failure: str = "fail"

    def __post_init__(self) -> None:
        if self.on_failure not in ON_FAILURE:
            raise InvalidInput(
                f"on_failure {shown(self.on_failure)} of {shown(self.node)} is unknown",
                f"give one of {', '.join(ON_FAILURE)}",
            )


@dataclass(frozen=True, slots=True)
class Node:
    """A job of a run; raises `InvalidInput` when an option is not usable.

    node: its name, unique in the run. after: the nodes it comes after, by name or as `After`. lane:
    nodes run beside each other unless they share one. The other options are those of `NewJob`.
    """

    node: str
    mode: str
    payload: Mapping[str, Any] | None = None
    after: Sequence[str | After] = ()
    queue: str = "default"
    priority: int = 3
    lane: str | None = None
    failures_max: int | None = None
    crashes_max: int | None = None
    timeout_seconds: float | None = None
    delay: timedelta | float | None = None
    run_at: datetime | None = None
    holds_lane: bool = False
    agent_id: UUID | None = None

    def __post_init__(self) -> None:
        if not isinstance(cast(object, self.node), str) or not self.node.strip():
            raise InvalidInput(f"{shown(self.node)} is not the name of a node", "give it a name")
        if isinstance(self.after, str) or not isinstance(cast(object, self.after), Sequence):
            raise InvalidInput(
                f"node {shown(self.node)} comes after {shown(self.after)}, which is not a list",
                'write a list of names, as after=["first"]',
            )
        wrong = [need for need in self.after if not isinstance(cast(object, need), str | After)]
        if wrong:
            raise InvalidInput(
                f"node {shown(self.node)} comes after {shown(wrong[0])}, which names no node",
                "name it by text, or with After",
            )
        self.as_job()

    def as_job(self) -> NewJob:
        """The job that the node becomes, checked."""
        return NewJob(
            self.mode,
            self.payload,
            queue=self.queue,
            priority=self.priority,
            run_at=self.run_at,
            delay=self.delay,
            lane=self.lane,
            failures_max=self.failures_max,
            crashes_max=self.crashes_max,
            timeout_seconds=self.timeout_seconds,
            holds_lane=self.holds_lane,
            agent_id=self.agent_id,
        )


class RunOptions(TypedDict, total=False):
    """Options of a run, as keyword arguments: its request, and what it belongs to."""

    request: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    actor: str | None
    thread_id: UUID | None
    agent_id: UUID | None
    team_id: UUID | None
    session_id: UUID | None
    project_id: UUID | None
    trace_id: str | None
    idempotency_key: str | None


class StartOptions(RunOptions, total=False):
    """`RunOptions`, and how the run starts.

    trigger_message_id, trace_parent and request_id are given to its jobs. status: "executing", or
    "planning" until the first of its jobs has ended or parked.
    """

    trigger_message_id: UUID | None
    trace_parent: str | None
    request_id: str | None
    status: str


def nodes_json(nodes: Sequence[Node] | str, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> str:
    """The nodes as JSON text for the SQL function `start_run`. Raises `InvalidInput`."""
    if isinstance(nodes, str):
        return nodes
    if not isinstance(cast(object, nodes), Sequence):
        raise InvalidInput(f"nodes is {shown(nodes)}, not a list", "pass a list of jobsworth.Node")
    wrong = [node for node in nodes if not isinstance(cast(object, node), Node)]
    if wrong:
        raise InvalidInput(
            f"nodes holds {shown(wrong[0])}, which is not a Node", "make it one: jobsworth.Node(…)"
        )
    return orjson.dumps([_document(node, payload_bytes_max) for node in nodes]).decode()


def object_json(value: Mapping[str, Any] | None, thing: str) -> str | None:
    """A document of a run (`thing` names it) as JSON text, or None. Raises `InvalidInput`."""
    if value is None:
        return None
    if not isinstance(cast(object, value), Mapping):
        raise InvalidInput(f"{thing} is {shown(value)}, not an object", "pass a dict")
    return to_payload(dict(value), thing)


def _document(node: Node, payload_bytes_max: int) -> dict[str, Any]:
    delay = node.as_job().delay_interval()
    options = {
        "queue": node.queue,
        "priority": node.priority,
        "lane": node.lane,
        "failures_max": node.failures_max,
        "crashes_max": node.crashes_max,
        "timeout_seconds": node.timeout_seconds,
        "delay": None if delay is None else delay.total_seconds(),
        "run_at": node.run_at,
        "agent_id": node.agent_id,
        "holds_lane": node.holds_lane or None,
    }
    return {
        "node": node.node,
        "mode": node.mode,
        "payload": orjson.Fragment(node.as_job().payload_json(payload_bytes_max)),
        "after": [_need(need) for need in node.after],
        **{name: value for name, value in options.items() if value is not None},
    }


def _need(need: str | After) -> str | dict[str, str]:
    if isinstance(need, After):
        return {"node": need.node, "on_failure": need.on_failure}
    return need
