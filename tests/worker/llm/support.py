"""What the tests of agents share: a model at the provider under test, and what a job left."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

from anthropic import AsyncAnthropic
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from db.money import calls
from db.money.calls import Call
from tests.providers.openai_stub import OpenAIStub
from tests.worker.job_api import JobApi

STEPS: LiteralString = """
select s.name from jobsworth.steps s
where s.job_id = %(job_id)s and s.kind <> 'recall'
order by s.name
"""


def model_at(
    provider: OpenAIStub, name: str = "chat-1", settings: ModelSettings | None = None
) -> OpenAIChatModel:
    """As a user builds one: with the SDK's own retries."""
    at = OpenAIProvider(base_url=provider.url, api_key="sk-test")
    return OpenAIChatModel(name, provider=at, settings=settings)


def model_by(protocol: str, provider: OpenAIStub) -> Model:
    """As a user builds one that has a price, by each protocol; its SDK would retry."""
    if protocol == "anthropic":
        client = AsyncAnthropic(base_url=provider.root, api_key="sk-test")
        return AnthropicModel(
            "claude-sonnet-5-5", provider=AnthropicProvider(anthropic_client=client)
        )
    kind = OpenAIChatModel if protocol == "chat" else OpenAIResponsesModel
    return kind("gpt-5-mini", provider=OpenAIProvider(base_url=provider.url, api_key="sk-test"))


async def calls_of(api: JobApi, job_id: UUID) -> list[Call]:
    async with api.database.connection() as connection:
        return await calls.list_calls(connection, job_id)


async def steps_of(api: JobApi, job_id: UUID) -> list[str]:
    return [row["name"] for row in await api.rows(STEPS, job_id=job_id)]
