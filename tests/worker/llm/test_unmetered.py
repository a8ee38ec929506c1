"""What would be sent without a row in the books is refused in one line, before it is sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent, RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.concurrency import ConcurrencyLimitedModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from db.queue.jobs import JobStatus
from jobsworth import Fail, Job, handler
from tests.providers.openai_stub import SERVER_ERROR, OpenAIStub
from tests.worker.job_api import JobApi
from tests.worker.llm.support import calls_of, model_at
from worker.llm.unmetered import check_sent_once


async def test_an_agent_that_a_tool_runs_without_the_job_is_refused(
    api: JobApi, provider: OpenAIStub
) -> None:
    inner, outer = Agent(model_at(provider)), Agent(model_at(provider))

    @outer.tool_plain
    async def research() -> str:
        return (await inner.run("look it up")).output

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("draft", outer, "[[call research {} ;; say {results}]]")

    job = await api.run("work")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert "run inside job.agent('draft') without job.agent" in (job.error or "")
    assert "call job.agent there too" in (job.error or "")
    assert len(provider.requests) == len(await calls_of(api, job.id)) == 1


async def test_an_agent_that_a_tool_runs_by_the_job_is_in_the_books_and_recorded(
    api: JobApi, provider: OpenAIStub
) -> None:
    inner, outer = Agent(model_at(provider)), Agent(model_at(provider), deps_type=Job)

    @outer.tool
    async def research(ctx: RunContext[Job], about: str) -> str:
        return await ctx.deps.agent(f"research {about}", inner, f"what of {about}")

    @handler("work")
    async def work(job: Job) -> str:
        prompt = '[[call research {"about": "a"} + call research {"about": "b"} ;; say {results}]]'
        answer = await job.agent("draft", outer, prompt, deps=job, effects={"research": None})
        if job.attempt == 1:
            raise ConnectionError("after the answer")
        return answer

    job = await api.run("work")
    assert job.result == "You said: what of a, You said: what of b", job.error
    assert len(provider.bill) == len(await calls_of(api, job.id)) == 4


class Stubborn(WrapperModel):
    """Asks again by itself, as wrappers do."""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        asked = (messages, model_settings, model_request_parameters)
        try:
            return await super().request(*asked)
        except ModelHTTPError:
            return await super().request(*asked)


def wrapped(kind: str, model: Model) -> Model:
    match kind:
        case "limited":
            return ConcurrencyLimitedModel(FallbackModel(model, model), 1)
        case _:
            return Stubborn(model)


@pytest.mark.parametrize("kind", ["limited", "stubborn"])
async def test_of_a_wrapper_each_request_that_it_makes_is_in_the_books(
    api: JobApi, provider: OpenAIStub, kind: str
) -> None:
    provider.script(SERVER_ERROR)
    agent = Agent(wrapped(kind, model_at(provider)))

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, "hi")

    job = await api.run("work")
    assert (job.result, job.failures) == ("You said: hi", 0)
    calls = await calls_of(api, job.id)
    assert [call.status for call in calls] == ["unknown", "ok"]
    sent = [request.headers["X-Request-Id"] for request in provider.requests]
    assert sent == [call.request_id for call in calls]


async def test_answers_in_the_providers_background_are_refused(
    api: JobApi, provider: OpenAIStub
) -> None:
    settings: Any = {"openai_background": True}
    agent = Agent(model_at(provider), model_settings=settings)

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, "hi")

    job = await api.run("work")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert "background mode (openai_background) is not supported" in (job.error or "")
    assert provider.requests == []


class Bedrock(TestModel):
    """As pydantic-ai's, whose SDK is not installed here: it cannot be told not to retry."""

    unsupported_settings = frozenset({"max_retries"})

    def __init__(self, attempts: int) -> None:
        super().__init__()
        config = SimpleNamespace(retries={"mode": "legacy", "total_max_attempts": attempts})
        self.client = SimpleNamespace(meta=SimpleNamespace(config=config))

    @property
    def system(self) -> str:
        return "bedrock"


def test_a_model_whose_sdk_cannot_be_told_not_to_retry_is_refused_with_the_way_out() -> None:
    with pytest.raises(Fail, match=r"bedrock:test cannot be metered.*total_max_attempts': 1"):
        check_sent_once(Bedrock(5))
    check_sent_once(Bedrock(1))


class TenacityTransport(httpx2.AsyncBaseTransport):
    """By this name pydantic-ai's are known."""


class AsyncHTTPX2TenacityTransport(TenacityTransport):
    pass


def test_a_client_with_a_retrying_transport_is_refused() -> None:
    client = AsyncOpenAI(
        api_key="k", http_client=httpx2.AsyncClient(transport=AsyncHTTPX2TenacityTransport())
    )
    model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
    with pytest.raises(Fail, match=r"openai:m cannot be metered.*retrying transport"):
        check_sent_once(model)
