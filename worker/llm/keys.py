"""Keys of the providers, and which names of models can be used.

In: a model's name, and what the operator has set. Out: the key to send. Nothing is loaded and
nothing is sent.
"""

import os
from importlib.util import find_spec

from db.errors import ExtraMissing, InvalidInput

# By provider: the variable in which the provider's own tools expect the key.
KEYS = {
    "openai": "OPENAI_API_KEY",
    "openai-responses": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
}
# Sent to a server that wants no key: OpenAI's client cannot do without one.
NO_KEY = "none"


def key_of(name: str, url: str | None, key: str | None) -> str:
    """The key to send for the model `name` (`provider:model`).

    That is `key`, else the provider's usual variable; a server at `url` is taken to want no key.
    Raises `InvalidInput` for an unknown provider, and for a key that is missing or malformed.
    """
    provider, _, model = name.partition(":")
    if provider not in KEYS or not model:
        raise InvalidInput(
            f"{name!r} is not a model that can be used",
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
