"""Models by name: `openai:gpt-5.1`, `anthropic:claude-sonnet-5-5`, any OpenAI-compatible server.

In: a name, an address and a key. Out: a model whose client does not retry by itself, with a bounded
wait. Invariant: a mistake in the name, or a missing key, is reported before anything is sent.
"""

from pydantic_ai.models import Model

from worker.llm.keys import key_of, require_sdk

CONNECT_SECONDS = 10.0


def model_of(
    name: str, *, url: str | None = None, key: str | None = None, timeout_seconds: float = 600.0
) -> Model:
    """The model `provider:name`; `url` is the provider's base URL, if it is not the usual one.

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
        return _anthropic(model, url, given, timeout_seconds)
    return _openai(model, url, given, timeout_seconds, responses=provider == "openai-responses")


def _openai(model: str, url: str | None, key: str, seconds: float, *, responses: bool) -> Model:
    from openai import AsyncOpenAI, Timeout
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    timeout = Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
    client = AsyncOpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0)
    kind = OpenAIResponsesModel if responses else OpenAIChatModel
    return kind(model, provider=OpenAIProvider(openai_client=client))


def _anthropic(model: str, url: str | None, key: str, seconds: float) -> Model:
    from anthropic import AsyncAnthropic, Timeout
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    timeout = Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
    client = AsyncAnthropic(base_url=url, api_key=key, timeout=timeout, max_retries=0)
    return AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client))
