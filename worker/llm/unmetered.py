"""What would be sent behind our back, and is refused: each request is one row of the books.

In: a model that is about to be asked; and requests that nobody booked. Out: a refusal in one line.
Invariant: inside `job.agent`, no request of pydantic-ai's goes out that is not a call in the books,
and none more than once.
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

# In the classes of pydantic-ai that make its HTTP clients retry.
RETRYING_TRANSPORT = "TenacityTransport"
REMEDIES = {
    "bedrock": "make the client with Config(retries={'total_max_attempts': 1}), and give it to "
    "BedrockProvider",
}
REMEDY = (
    "use the provider's OpenAI-compatible address with OpenAIChatModel, or its own SDK in job.call"
)

# The `job.agent` that this code runs in, while it is not the one that sends.
_within: ContextVar[str | None] = ContextVar("jobsworth_agent", default=None)


def check_sent_once(model: Model) -> None:
    """Raises `Fail` for a model whose client sends a request again by itself, for good."""
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
    """Raises `Fail` for a setting by which one answer comes in many requests."""
    if settings.get("openai_background"):
        raise Fail(unmetered("the provider's background mode (openai_background)"))


def ignored(model: Model) -> frozenset[str]:
    """Settings that this model would only warn about."""
    return model._unsupported_settings()  # pyright: ignore[reportPrivateUsage]


def unmetered(what: str) -> str:
    return (
        f"{what} is not supported inside job.agent: what it costs would not be in the books; "
        "turn it off for agents that run in jobs"
    )


@contextmanager
def within(name: str) -> Generator[None]:
    """Inside, requests to models are refused, but for those made in `sending`."""
    _watch()
    token = _within.set(name)
    try:
        yield
    finally:
        _within.reset(token)


@contextmanager
def sending() -> Generator[None]:
    """Inside, a request goes out that is in the books."""
    token = _within.set(None)
    try:
        yield
    finally:
        _within.reset(token)


class Watched:
    """In place of pydantic-ai's switch for all requests, which each model asks before it sends.

    Only those of an agent's run are looked at: a tool may embed texts.
    """

    def __init__(self, allowed: object) -> None:
        self._allowed = allowed

    def __bool__(self) -> bool:
        name = _within.get()
        if name is not None and get_current_run_context() is not None:
            raise Fail(
                f"an agent is run inside job.agent({name!r}) without the job, so that its requests "
                "would not be in the books; call job.agent there too, with a name of its own (give "
                "the tool the job as its deps, and declare effects={tool: None})"
            )
        return bool(self._allowed)


def _watch() -> None:
    switch: Any = models.ALLOW_MODEL_REQUESTS
    if not isinstance(switch, Watched):
        watched: Any = Watched(switch)
        models.ALLOW_MODEL_REQUESTS = watched


def _bedrock_sends_once(model: Model) -> bool:
    meta: Any = getattr(getattr(model, "client", None), "meta", None)
    retries: Any = getattr(getattr(meta, "config", None), "retries", None)
    return bool(retries) and retries.get("total_max_attempts") == 1


def _transport_retries(model: Model) -> bool:
    """Beneath the client of the SDK, and whatever else wraps it."""
    inner = getattr(getattr(model, "client", None), "_client", None)
    transport = getattr(inner, "_transport", None)
    return any(RETRYING_TRANSPORT in kind.__name__ for kind in type(transport).__mro__)
