"""Models by name: `openai:gpt-5.1`, `anthropic:claude-sonnet-5-5`, any OpenAI-compatible server.

In: a name, an address and a key. Out: a model whose client does not retry by itself, with a bounded
wait. Invariant: a mistake in the name, or a missing key, is reported before anything is sent.
"""

from collections.abc import Callable

import httpx2
from pydantic_ai.models import Model

from worker.llm.connections import CONNECTIONS_OF_CLIENT, ManyClients
from worker.llm.keys import key_of, require_sdk

CONNECT_SECONDS = 10.0


def model_of(
    name: str,
    *,
    url: str | None = None,
    key: str | None = None,
    timeout_seconds: float = 600.0,
    connections_max: int = 1_000,
) -> Model:
    """The model `provider:name`; `url` is the provider's base URL, if it is not the usual one.

    At most `connections_max` requests are open at once; further ones wait, and are not booked yet.
    "openai" speaks Chat Completions, which every compatible server does; "openai-responses" speaks
    the Responses API. Without `key`, the provider's usual variable is read, and a server at `url`
    is taken to want no key; without `url`, the SDK reads OPENAI_BASE_URL or ANTHROPIC_BASE_URL.
    Raises `InvalidInput` as `key_of` does.
    """
    given = key_of(name, url, key)
    require_sdk(name)
    provider, _, model = name.partition(":")
    if provider == "anthropic":
        # Anthropic's SDK adds /v1 by itself; OpenAI's does not, so people write it here as well.
        url = url and url.rstrip("/").removesuffix("/v1")
        return _anthropic(model, url, given, timeout_seconds, connections_max)
    responses = provider == "openai-responses"
    return _openai(model, url, given, timeout_seconds, connections_max, responses=responses)


def _openai(
    model: str, url: str | None, key: str, seconds: float, connections: int, *, responses: bool
) -> Model:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    timeout, http = _timeout(seconds), _http_client(DefaultAsyncHttpxClient, seconds, connections)
    client = AsyncOpenAI(
        base_url=url, api_key=key, timeout=timeout, max_retries=0, http_client=http
    )
    kind = OpenAIResponsesModel if responses else OpenAIChatModel
    return kind(model, provider=OpenAIProvider(openai_client=client))


def _anthropic(model: str, url: str | None, key: str, seconds: float, connections: int) -> Model:
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    timeout, http = _timeout(seconds), _http_client(DefaultAsyncHttpxClient, seconds, connections)
    client = AsyncAnthropic(
        base_url=url, api_key=key, timeout=timeout, max_retries=0, http_client=http
    )
    return AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client))


def _timeout(seconds: float) -> httpx2.Timeout:
    return httpx2.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))


def _http_client(
    client_of_sdk: Callable[..., httpx2.AsyncClient], seconds: float, connections: int
) -> ManyClients:
    # To read the certificates takes 20 ms, so all clients share them.
    context = httpx2.create_ssl_context()
    limits = httpx2.Limits(
        max_connections=CONNECTIONS_OF_CLIENT, max_keepalive_connections=CONNECTIONS_OF_CLIENT
    )
    return ManyClients(
        lambda: client_of_sdk(timeout=_timeout(seconds), limits=limits, verify=context),
        connections,
    )
