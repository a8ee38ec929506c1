"""The options of `job.agent`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from worker.steps.declaration import StepEffect

if TYPE_CHECKING:
    from pydantic_ai.agent import EventStreamHandler
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models import Model
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.usage import UsageLimits


class AgentOptions(TypedDict, total=False):
    """How `job.agent` runs an agent. Options without a comment go to the agent's own `run`."""

    deps: Any
    model: "Model | str | None"
    message_history: "Sequence[ModelMessage] | None"
    instructions: Any
    model_settings: "ModelSettings | None"
    usage_limits: "UsageLimits | None"
    toolsets: Sequence[Any] | None
    event_stream_handler: "EventStreamHandler[Any] | None"
    effects: "Mapping[str, StepEffect | None] | None"
    """By the name of a tool: "pure", "idempotent" (the default), "unsafe", or None: the tool is
    not recorded, and runs in every replay."""
    approval_seconds: float | None
    """How long a tool call may wait for its approval; after that it counts as rejected."""
    if_changed: Literal["fail", "reuse"]
    """What happens when an answer is recorded, and the agent now asks something else: "fail" (the
    default) fails the job, "reuse" goes on with the recorded answer."""
