"""Which model the operator chose for agents that have none of their own.

In: settings. Out: the model, built when it is first asked for. Invariant: choosing loads nothing; a
daemon that runs no agent never imports a provider's SDK.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread

from db.errors import ExtraMissing, InvalidInput

if TYPE_CHECKING:
    from pydantic_ai.models import Model

T = TypeVar("T")

OFFLINE = "offline"
# By provider: the variable in which its own tools expect the key.
KEYS = {
    "openai": "OPENAI_API_KEY",
    "openai-responses": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
}
# What a server that wants no key is sent, as OpenAI's client cannot send none.
NO_KEY = "none"


def key_of(name: str, url: str | None, key: str | None) -> str:
    """The key that the provider of `name` is sent; `key`, or the provider's usual variable.

    A server at `url` is taken to want none. Raises `InvalidInput` for a name that is no model's,
    where there is no key, and for one that could not be sent.
    """
    provider, _, model = name.partition(":")
    if provider not in KEYS or not model:
        raise InvalidInput(
            f"{name!r} is no model that can be used",
            f"write provider:name, with one of the providers {', '.join(KEYS)}",
        )
    given = key or os.environ.get(KEYS[provider]) or (NO_KEY if url else None)
    if given is None:
        raise InvalidInput(
            f"there is no key for {name!r}", f"set JOBSWORTH_MODEL_KEY or {KEYS[provider]}"
        )
    if not (given.isascii() and given.isprintable() and " " not in given):
        raise InvalidInput(
            f"the key for {name!r} has a character that no key has",
            "copy it again: letters, digits and signs, on one line",
        )
    return given


def require_sdk(name: str) -> None:
    """Raise `ExtraMissing` where the SDK of the provider of `name` is not installed."""
    if name.startswith("anthropic:") and find_spec("anthropic") is None:
        raise ExtraMissing(
            f"the model {name!r} needs Anthropic's SDK, which is not installed",
            "anthropic",
            "set another JOBSWORTH_MODEL",
        )


@dataclass(slots=True)
class ModelChoice:
    """`name` as `provider:model`; None or "offline": no model of a provider."""

    name: str | None = None
    url: str | None = None
    key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 600.0
    _built: "Model | None" = field(default=None, init=False, repr=False)
    _made: Any = field(default=None, init=False, repr=False)
    _imported: bool = field(default=False, init=False, repr=False)
    _lock: RLock = field(default_factory=RLock, init=False, repr=False)

    @property
    def offline(self) -> bool:
        return self.name in (None, OFFLINE)

    def check(self) -> None:
        """Raise `InvalidInput` for what would fail in every job; loads nothing."""
        if self.name is not None and not self.offline:
            key_of(self.name, self.url, self.key)
            require_sdk(self.name)

    async def ready(self) -> None:
        """Have imported what every agent needs, which takes a second: in a thread, and by one at a
        time, since two that import the same modules at once may meet half-loaded ones.
        """
        if not self._imported:
            await anyio.to_thread.run_sync(self._import)

    def _import(self) -> None:
        with self._lock:
            import_module("worker.llm.agents")
            self._imported = True

    def model(self) -> "Model | None":
        """The model, the same one each time; None offline. Raises `InvalidInput`."""
        with self._lock:
            if self._built is None and self.name is not None and not self.offline:
                from worker.llm.providers import model_of

                self._built = model_of(
                    self.name, url=self.url, key=self.key, timeout_seconds=self.timeout_seconds
                )
            return self._built

    async def loaded(self) -> "Model | None":
        """As `model`, built in a thread: to load a provider's SDK takes a second."""
        if self._built is None and not self.offline:
            return await anyio.to_thread.run_sync(self.model)
        return self._built

    async def once(self, make: Callable[["Model | None"], T]) -> T:
        """What `make` made of the model when it was first called, in a thread."""
        if self._made is not None:
            return self._made
        return await anyio.to_thread.run_sync(self._make, make)

    def _make(self, make: Callable[["Model | None"], T]) -> T:
        with self._lock:
            if self._made is None:
                self._made = make(self.model())
            return self._made
