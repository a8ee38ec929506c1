"""Requests that would not be in the books are refused.

In: a model that is about to be asked; a request that was not booked. Out: `Fail`, with what to do.
Invariant: inside `job.agent`, each request that pydantic-ai sends is a call in the books, and is
sent once.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pydantic_ai import models
from pydantic_ai._run_context import get_current_run_context
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings

from worker.outcomes import Fail

# Part of the names of the classes by which pydantic-ai makes HTTP clients retry.
RETRYING_TRANSPORT = "TenacityTransport"
REMEDIES = {
    "bedrock": "make the client with Config(retries={'total_max_attempts': 1}), and give it to "
    "BedrockProvider",
}
REMEDY = (
    "use the provider's OpenAI-compatible address with OpenAIChatModel, or its own SDK in job.call"
)

# The name of the `job.agent` that this code runs in; None outside, and while it sends a request.
_within: ContextVar[str | None] = ContextVar("jobsworth_agent", default=None)


def check_sent_once(model: Model) -> None:
    """Raise `Fail` for a model whose client sends a request again by itself."""
    if "max_retries" in ignored(model) and not _bedrock_sends_once(model):
        remedy = REMEDIES.get(model.system, REMEDY)
        raise Fail(
            f"{model.model_id} cannot be metered: its SDK sends a request again by itself, and "
            f"pydantic-ai cannot turn that off; {remedy}"
        )
    if _transport_retries(model):
        raise Fail(
            f"{model.model_id} cannot be metered: its HTTP client sends a request again by itself "
            "(a retrying transport); give its provider a client without, as the job is tried again"
        )


def check_asked_once(settings: ModelSettings) -> None:
    """Raise `Fail` for a setting that takes many requests for one answer."""
    if settings.get("openai_background"):
        raise Fail(unmetered("the provider's background mode (openai_background)"))


def sends_again(model: Model) -> bool:
    """Whether the model's SDK sends a request again unless the request says otherwise.

    For a request that says so, pydantic-ai makes a copy of the SDK's client: 30 objects in a cycle.
    """
    client = getattr(model, "client", None)
    return "max_retries" not in ignored(model) and getattr(client, "max_retries", None) != 0


def ignored(model: Model) -> frozenset[str]:
    """The settings that this model ignores, with a warning."""
    return model._unsupported_settings()  # pyright: ignore[reportPrivateUsage]


def unmetered(what: str) -> str:
    """The message for something whose cost would not be in the books."""
    return (
        f"{what} is not supported inside job.agent: what it costs would not be in the books; "
        "turn it off for agents that run in jobs"
    )


@contextmanager
def within(name: str) -> Generator[None]:
    """Within the block, requests to models are refused, except for those within `sending`."""
    _guard_requests()
    token = _within.set(name)
    try:
        yield
    finally:
        _within.reset(token)


@contextmanager
def sending() -> Generator[None]:
    """Within the block, requests go out: the one that is sent is in the books."""
    token = _within.set(None)
    try:
        yield
    finally:
        _within.reset(token)


class GuardedSwitch:
    """Replaces pydantic-ai's ALLOW_MODEL_REQUESTS, which each model reads before it sends.

    Refuses only the requests of an agent's run: a tool may embed texts, say.
    """

    def __init__(self, allowed: object) -> None:
        self._allowed = allowed

    def __bool__(self) -> bool:
        name = _within.get()
        if name is not None and get_current_run_context() is not None:
            raise Fail(
                f"an agent is run inside job.agent({name!r}) without job.agent, so its requests "
                "would not be in the books; call job.agent there too, with a name of its own (give "
                "the tool the job as its deps, and declare effects={tool: None})"
            )
        return bool(self._allowed)


def _guard_requests() -> None:
    switch: Any = models.ALLOW_MODEL_REQUESTS
    if not isinstance(switch, GuardedSwitch):
        guarded: Any = GuardedSwitch(switch)
        models.ALLOW_MODEL_REQUESTS = guarded


def _bedrock_sends_once(model: Model) -> bool:
    meta: Any = getattr(getattr(model, "client", None), "meta", None)
    retries: Any = getattr(getattr(meta, "config", None), "retries", None)
    return bool(retries) and retries.get("total_max_attempts") == 1


def _transport_retries(model: Model) -> bool:
    """True if the transport beneath the SDK's client retries."""
    inner = getattr(getattr(model, "client", None), "_client", None)
    transport = getattr(inner, "_transport", None)
    return any(RETRYING_TRANSPORT in kind.__name__ for kind in type(transport).__mro__)
