"""What the tests of agents share: a model at the provider under test, and what a job left."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from db import tokens
from db.tokens import Call
from tests.openai_stub import OpenAIStub
from tests.worker.job_api import JobApi

STEPS: LiteralString = """
select s.name from jobsworth.steps s
where s.job_id = %(job_id)s
order by s.name
"""


def model_at(provider: OpenAIStub, name: str = "chat-1") -> OpenAIChatModel:
    """As a user builds one: with the SDK's own retries."""
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=provider.url, api_key="sk-test"))


async def calls_of(api: JobApi, job_id: UUID) -> list[Call]:
    async with api.database.connection() as connection:
        return await tokens.list_calls(connection, job_id)


async def steps_of(api: JobApi, job_id: UUID) -> list[str]:
    return [row["name"] for row in await api.rows(STEPS, job_id=job_id)]
